"""Each loss against slow loops written from its equation; the masked mean over one and eight devices."""

import jax
import jax.numpy as jnp
from jhmr import losses
import numpy as np
import pytest

B, K = 8, 5
RNG = np.random.default_rng(0)
NORMAL = lambda *shape: RNG.normal(size=shape).astype(np.float32)
CONFIDENCE = np.array([[1, 0, 1, 1, 0]] * 4 + [[0] * 5] * 2 + [[1] * 5] * 2, np.float32)[..., None]
POINTS2D = NORMAL(B, K, 2), np.concatenate([NORMAL(B, K, 2), CONFIDENCE], -1)
POINTS3D = NORMAL(B, K, 3), np.concatenate([NORMAL(B, K, 3), CONFIDENCE], -1)


def test_keypoints2d_is_the_mean_over_all_visible_keypoints_of_the_batch():
  predicted, target = POINTS2D
  terms = [abs(predicted[b, k, c] - target[b, k, c]) for b in range(B) for k in range(K) for c in range(2)
           if target[b, k, 2] > 0]
  ours = losses.masked_mean(losses.keypoints2d(predicted, target), losses.visible_count(target[..., 2]), None)
  np.testing.assert_allclose(ours, np.mean(terms), rtol=1e-5)


def test_confidence_weighs_keypoints2d():
  predicted, target = POINTS2D
  half = target * np.array([1, 1, 0.5], np.float32)
  np.testing.assert_allclose(losses.keypoints2d(predicted, half), losses.keypoints2d(predicted, target) / 2, rtol=1e-6)


def test_keypoints2d_squared_counts_invisible_keypoints_as_zeros():
  predicted, target = POINTS2D
  for b, ours in enumerate(losses.keypoints2d_squared(predicted, target)):
    total = sum(target[b, k, 2] * (predicted[b, k, c] - target[b, k, c]) ** 2 for k in range(K) for c in range(2))
    np.testing.assert_allclose(ours, total / (K * 2), rtol=1e-5)


def test_keypoints3d_centres_both_sides_between_the_hips():
  predicted, target = POINTS3D
  for b, ours in enumerate(losses.keypoints3d(predicted, target, (1, 3))):
    total = 0
    for k in range(K):
      for c in range(3):
        p = predicted[b, k, c] - (predicted[b, 1, c] + predicted[b, 3, c]) / 2
        t = target[b, k, c] - (target[b, 1, c] + target[b, 3, c]) / 2
        total += target[b, k, 3] * (p - t) ** 2
    np.testing.assert_allclose(ours, total / (K * 3), rtol=1e-4)
  moved = predicted + NORMAL(B, 1, 3)
  np.testing.assert_allclose(losses.keypoints3d(moved, target, (1, 3)), losses.keypoints3d(predicted, target, (1, 3)),
                             rtol=1e-3, atol=1e-6)


def test_parameter_losses_are_means_over_entries():
  a, b = NORMAL(B, 24, 3, 3), NORMAL(B, 24, 3, 3)
  np.testing.assert_allclose(losses.pose(a, b), [np.sum((x - y) ** 2) / 216 for x, y in zip(a, b)], rtol=1e-5)
  a, b = NORMAL(B, 10), NORMAL(B, 10)
  np.testing.assert_allclose(losses.betas(a, b), [np.sum((x - y) ** 2) / 10 for x, y in zip(a, b)], rtol=1e-5)
  a, b = NORMAL(B, 7, 3), NORMAL(B, 7, 3)
  np.testing.assert_allclose(losses.vertices(a, b), [np.sum(abs(x - y)) / 21 for x, y in zip(a, b)], rtol=1e-5)


def test_hmr_weights_of_pose_and_betas_give_half_the_mean_over_226_numbers():
  pose, betas = (NORMAL(B, 24, 3, 3), NORMAL(B, 24, 3, 3)), (NORMAL(B, 10), NORMAL(B, 10))
  together = [np.concatenate([p.reshape(B, 216), b], -1) for p, b in zip(pose, betas)]
  expected = 0.5 * np.mean((together[0] - together[1]) ** 2, -1)
  ours = 108 / 226 * losses.pose(*pose) + 5 / 226 * losses.betas(*betas)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_camera_loss_punishes_negative_scales():
  values = losses.camera(np.array([[0.9, 5, 5], [0, 1, 2], [-0.1, 0, 0]], np.float32))
  np.testing.assert_allclose(values, [np.exp(-9) ** 2, 1, np.exp(1) ** 2], rtol=1e-5)


def test_adversarial_losses_are_least_squares():
  scores = NORMAL(2, 3, 25)
  np.testing.assert_allclose(losses.adversarial(scores), ((scores - 1) ** 2).sum(-1), rtol=1e-5)
  np.testing.assert_allclose(losses.critic_real(scores), ((scores - 1) ** 2).sum(-1), rtol=1e-5)
  np.testing.assert_allclose(losses.critic_fake(scores), (scores ** 2).sum(-1), rtol=1e-5)
  assert losses.adversarial(np.ones((1, 25))) == losses.critic_real(np.ones((1, 25))) == 0


ALL = {
    "keypoints2d": (lambda x: losses.keypoints2d(x, POINTS2D[1]), POINTS2D[0]),
    "keypoints2d_squared": (lambda x: losses.keypoints2d_squared(x, POINTS2D[1]), POINTS2D[0]),
    "keypoints3d": (lambda x: losses.keypoints3d(x, POINTS3D[1], (1, 3)), POINTS3D[0]),
    "pose": (lambda x: losses.pose(x, 0 * x), NORMAL(B, 2, 3, 3)),
    "betas": (lambda x: losses.betas(x, 0 * x), NORMAL(B, 10)),
    "vertices": (lambda x: losses.vertices(x, 0 * x), NORMAL(B, 7, 3)),
    "camera": (losses.camera, NORMAL(B, 3)),
    "adversarial": (losses.adversarial, NORMAL(B, 25))}


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_and_zero_when_everything_is_masked(name):
  loss, x = ALL[name]
  value, grad = jax.value_and_grad(lambda x: losses.masked_mean(loss(x), jnp.zeros(B), None))(x)
  assert value == 0
  np.testing.assert_array_equal(grad, 0)


def test_gradients_are_finite_without_visible_keypoints_and_at_the_target():
  target = POINTS2D[1] * np.array([1, 1, 0], np.float32)
  for loss in (losses.keypoints2d, losses.keypoints2d_squared):
    for x in (POINTS2D[0], target[..., :2]):
      assert np.isfinite(jax.grad(lambda x: loss(x, target).sum())(x)).all()


def test_an_unlabelled_example_may_be_infinite():
  values, weight = np.array([1, np.inf, 3], np.float32), np.array([1, 0, 1], np.float32)
  assert losses.masked_mean(values, weight, None) == 2


@pytest.mark.parametrize("weight", [
    np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32),      # most devices have no label at all
    np.array([0.5, 2, 0, 1, 1, 0, 3, 0.25], np.float32),
    np.zeros(8, np.float32)])
def test_averaged_gradients_over_eight_devices_are_those_of_the_whole_batch(weight):
  x, scale = NORMAL(8, 3), jnp.float32(1.3)

  def gradient(scale, x, weight, axis):
    loss = lambda s: losses.masked_mean(jnp.sum((s * x) ** 2, -1), weight, axis)
    value, grad = jax.value_and_grad(loss)(scale)
    return (value, grad) if axis is None else jax.lax.pmean((value, grad), axis)

  one = jax.jit(lambda *a: gradient(*a, None))(scale, x, weight)
  eight = jax.pmap(lambda *a: gradient(*a, "data"), "data", in_axes=(None, 0, 0), out_axes=None)(
      scale, x[:, None], weight[:, None])
  np.testing.assert_allclose(one, eight, rtol=1e-6)
  total = weight.sum()
  expected = sum(w * np.sum((1.3 * r) ** 2) for w, r in zip(weight, x)) / (total if total > 0 else 1)
  np.testing.assert_allclose(one[0], expected, rtol=1e-5)


def test_masked_mean_takes_one_weight_per_example_for_many_samples():
  values = NORMAL(4, 3)
  weight = np.array([1, 0, 2, 0], np.float32)
  np.testing.assert_allclose(losses.masked_mean(values, weight, None), (values[0] + 2 * values[2]).sum() / 9, rtol=1e-5)
  with pytest.raises(ValueError, match="does not fit"):
    losses.masked_mean(values, np.ones((3,), np.float32), None)


def test_weigh_matches_names_exactly():
  one = jnp.ones(())
  assert losses.weigh({"a": 2.0, "b": 3}, {"a": one, "b": one}) == 5
  assert losses.weigh({"a": 2.0, "costly": 0.0}, {"a": one}) == 2
  assert losses.weigh({"a": 0.0}, {"a": jnp.inf * one}) == 0
  with pytest.raises(ValueError, match="without a loss.*'b'"):
    losses.weigh({"a": 2.0, "b": 3.0}, {"a": one})
  with pytest.raises(ValueError, match="without a weight.*'b'"):
    losses.weigh({"a": 2.0}, {"a": one, "b": one})
  assert not losses.weigh({"a": 2.0}, {"a": one}).weak_type
