"""What systems with several hypotheses share, against loops: joints, the best one, sets that stand for all."""

import functools

import jax
import jax.numpy as jnp
from jhmr import joint_prior, multi_hypothesis, regression
from jhmr.body import rotations, smpl
from jhmr.errors import InputError
from jhmr.state import Prediction
import numpy as np
import pytest
from systems import multi_config

B, S = 4, 12


@pytest.fixture(scope="module")
def assets():
  return multi_config.get_assets()


@pytest.fixture(scope="module")
def found(assets):
  """A Prediction of B x S bodies, and what distances between them are measured in."""
  rng = np.random.default_rng(0)
  pose = rotations.axis_angle_to_matrix(0.5 * rng.normal(size=(B, S, 24, 3)).astype(np.float32))
  prediction = Prediction.of(pose, rng.normal(size=(B, S, 10)).astype(np.float32),
                             rng.normal(size=(B, S, 3)).astype(np.float32))
  return prediction, jax.jit(multi_hypothesis.clustered)(prediction, assets)


def test_joints_of_all_are_those_of_each_body(found, assets):
  prediction, points = found
  body = assets["keypoint_body"]

  @jax.jit
  def one(body, prediction):
    pose = prediction.pose
    return smpl.keypoints(body, smpl.forward(body, prediction.betas, pose), "spin49")[..., 25:, :]

  expected = np.array(one(body, prediction))
  expected -= expected[:, :, [2, 3]].mean(2, keepdims=True)
  np.testing.assert_allclose(points, expected, atol=1e-5)


def labels(assets):
  """Images with measured joints, with a body alone, with both, with neither; confidences of all kinds."""
  batch = multi_config.get_batch(assets, B)
  batch |= {"has_keypoints3d": np.float32([1, 0, 1, 0]), "has_pose": np.float32([0, 1, 1, 1]),
            "has_betas": np.float32([1, 1, 1, 0])}
  rng = np.random.default_rng(1)
  for name in ("keypoints2d", "keypoints3d"):
    batch[name] = np.array(batch[name])
    batch[name][..., -1] = rng.random((B, 49)) * (rng.random((B, 49)) < 0.7)
  batch["keypoints3d"][..., :3] += 0.3  # so that measured joints are not those of the label's body
  return batch


def test_joints_of_the_labels_body_stand_in_for_measured_ones(assets):
  batch = labels(assets)
  whole = jax.device_get(jax.jit(multi_hypothesis.with_joints)(batch, assets))
  np.testing.assert_array_equal(whole["has_keypoints3d"], [1, 1, 1, 0])
  np.testing.assert_array_equal(whole["keypoints3d"][[0, 2]], batch["keypoints3d"][[0, 2]])
  made = batch["keypoints3d"][1, :, :3] - 0.3  # the batch's joints are of its bodies
  np.testing.assert_allclose(whole["keypoints3d"][1, :, :3], made, atol=1e-5)
  np.testing.assert_array_equal(whole["keypoints3d"][1, :, 3], 1)
  assert all(np.array_equal(whole[k], batch[k]) for k in batch if "keypoints3d" not in k)


def nearest(points, projected, batch, supervision):
  """Eq. 1 in loops: squared errors times confidence, between the hips in 3D; in 2D where there is no 3D label."""
  two, three = regression.JOINTS_2D[supervision], regression.JOINTS_3D[supervision]
  best = []
  for b in range(B):
    errors = []
    for m in range(S):
      if batch["has_keypoints3d"][b]:
        hips = lambda x: (x[three[2]] + x[three[3]]) / 2  # right and left in the 14 and the 24
        x, y = np.asarray(points[b, m], np.float64), np.asarray(batch["keypoints3d"][b], np.float64)
        errors.append(sum(y[k, 3] * np.sum((x[k] - hips(x) - y[k, :3] + hips(y[:, :3])) ** 2) for k in three))
      else:
        x, y = projected[b, m], batch["keypoints2d"][b]
        errors.append(sum(y[k, 2] * np.sum((x[k] - y[k, :2]) ** 2) for k in two))
    best.append(int(np.argmin(errors)))
  return best


@pytest.mark.parametrize("supervision", regression.SUPERVISION)
def test_the_best_hypothesis_is_that_of_a_loop(supervision, assets):
  rng = np.random.default_rng(2)
  points = rng.normal(size=(B, S, 49, 3)).astype(np.float32)
  projected = rng.normal(size=(B, S, 49, 2)).astype(np.float32)
  choose = lambda *args: np.asarray(jax.jit(multi_hypothesis.selected, static_argnums=3)(*args))
  batch = labels(assets)
  best = choose(points, projected, batch, supervision)
  np.testing.assert_array_equal(best, nearest(points, projected, batch, supervision))
  # Where a body is says nothing in 3D, everything in 2D; and the other way round for what was not labelled.
  np.testing.assert_array_equal(choose(points + rng.normal(size=(B, S, 1, 3)), projected, batch, supervision), best)
  np.testing.assert_array_equal(choose(points, projected[:, ::-1], batch, supervision)[[0, 2]], best[[0, 2]])
  np.testing.assert_array_equal(choose(points[:, ::-1], projected, batch, supervision)[[1, 3]], best[[1, 3]])


def test_the_choice_has_no_gradient(assets):
  batch, rng = labels(assets), np.random.default_rng(3)
  points, projected = (rng.normal(size=(B, S, 49, n)).astype(np.float32) for n in (3, 2))

  def value(points):
    return jnp.sum(multi_hypothesis.rows(points, multi_hypothesis.selected(points, projected, batch, "spin")) ** 2)

  grad, best = jax.jit(jax.grad(value))(points), nearest(points, projected, batch, "spin")
  for b in range(B):
    np.testing.assert_array_equal(np.flatnonzero(np.any(grad[b] != 0, (1, 2))), [best[b]])


def test_the_best_guess_is_the_hypothesis_in_the_middle(found):
  prediction, points = found
  flat = np.asarray(points).reshape(B, S, -1)
  weights = np.random.default_rng(4).normal(size=(B, S)).astype(np.float32)
  for log_weights in (0 * weights, weights, weights + 50 * (np.arange(S) == 7)):
    first, moved = jax.jit(multi_hypothesis.best_first)(prediction.replace(log_prob=jnp.asarray(log_weights)), points)
    for b in range(B):
      mean = np.average(flat[b], axis=0, weights=np.exp(log_weights[b].astype(np.float64)))
      middle = int(np.argmin(np.sum((flat[b] - mean) ** 2, -1)))
      order = [middle, *(m for m in range(S) if m != middle)]
      np.testing.assert_array_equal(first.betas[b], prediction.betas[b][np.array(order)])
      np.testing.assert_array_equal(moved[b], points[b][np.array(order)])
      assert log_weights[b, 7] < 40 or middle == 7


@functools.partial(jax.jit, static_argnums=(3, 4))
def quantised(prediction, points, keys, num, keep_first):
  return multi_hypothesis.quantised(prediction, points, keys, num, keep_first)


@pytest.mark.parametrize("keep_first", [False, True])
def test_sets_are_real_hypotheses_of_their_image(keep_first, found):
  prediction, points = found
  keys = jax.random.split(jax.random.key(0), B)
  few = quantised(prediction, points, keys, 5, keep_first)
  assert isinstance(few, Prediction) and few.body_pose.shape == (B, 5, 23, 3, 3)
  for b in range(B):
    ids = [int(np.flatnonzero((prediction.betas[b] == few.betas[b, i]).all(-1))[0]) for i in range(5)]
    assert len(set(ids)) == 5 and (ids[0] == 0 or not keep_first)
    for name in ("global_orient", "body_pose", "camera"):
      np.testing.assert_array_equal(getattr(few, name)[b], getattr(prediction, name)[b][np.array(ids)])


def test_one_is_the_best_guess_all_are_all_and_more_is_one_clear_line(found):
  prediction, points = found
  keys = jax.random.split(jax.random.key(0), B)
  np.testing.assert_array_equal(multi_hypothesis.quantised(prediction, points, keys, 1, False).betas,
                                prediction.betas[:, :1])
  np.testing.assert_array_equal(multi_hypothesis.quantised(prediction, points, keys, S, True).betas, prediction.betas)
  for num in (S + 1, 0):
    with pytest.raises(InputError, match=f"{num} hypotheses asked for, but there are 12: ask for 1 to 12") as said:
      multi_hypothesis.quantised(prediction, points, keys, num, False)
    assert "\n" not in str(said.value)


def test_the_likely_ones_stand_for_their_cluster(found):
  """Two heaps of hypotheses and a set of two: one of each heap, by weight the one in the middle or a likely one."""
  prediction, _ = found
  rng = np.random.default_rng(5)
  heap = np.arange(S) % 2
  points = (10.0 * heap[:, None] + rng.normal(size=(B, S, 24 * 3))).astype(np.float32).reshape(B, S, 24, 3)
  likely = jnp.broadcast_to(jnp.where(jnp.arange(S) == 5, 60.0, 0.0), (B, S))
  few = quantised(prediction.replace(log_prob=likely), points, jax.random.split(jax.random.key(1), B), 2, False)
  for b in range(B):
    ids = [int(np.flatnonzero((prediction.betas[b] == few.betas[b, i]).all(-1))[0]) for i in range(2)]
    assert {heap[i] for i in ids} == {0, 1} and 5 in ids


def test_hypotheses_weigh_what_the_prior_says_of_their_pose(found, assets):
  prediction, _ = found
  assert multi_hypothesis.weighed(prediction, assets) is prediction
  prior = multi_config.get_prior()

  @jax.jit
  def both(prediction, assets):
    points = joint_prior.upright(assets["keypoint_body"], prediction.body_pose, prediction.betas)
    turned = prediction.replace(global_orient=prediction.global_orient[:, ::-1])
    return [multi_hypothesis.weighed(p, assets).log_prob for p in (prediction, turned)], joint_prior.log_prob(
        assets["joint_prior"], points)

  (log_prob, turned), expected = both(prediction, assets | {"joint_prior": prior})
  np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
  np.testing.assert_allclose(turned, expected, rtol=1e-5)
  assert np.ptp(log_prob) > 1
