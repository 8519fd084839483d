"""ProHMR: its losses by hand, its step on one and eight devices, its density, and what it must not look at."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jhmr.body import camera, joints, smpl
from jhmr.errors import InputError
from jhmr.state import AXIS
from jhmr.systems import prohmr
from systems import prohmr_config as setting


@pytest.fixture(scope="module")
def assets():
  return setting.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  return setting.get_batch(assets)


@pytest.fixture(scope="module")
def made(batch, assets):
  """(system, fresh state)."""
  system = prohmr.build(setting.get_config())
  return system, system.init(jax.random.key(0), batch, assets)


def run(step, state, batch, assets, num):
  history = []
  for _ in range(num):
    state, metrics = step(state, batch, assets)
    history.append({k: float(v) for k, v in metrics.items()})
  return state, history


def test_loss_falls_and_every_parameter_learns(made, batch, assets):
  system, state = made
  after, history = run(setting.on_devices(system.step, 1), state, batch, assets, 40)
  assert set(prohmr.TERMS) < set(history[0])
  for term in ("keypoints3d_mode", "keypoints2d_mode", "body_pose_mode", "nll"):
    assert history[-1][term] < 0.7 * history[0][term], term
  still = [p for (p, a), (_, b) in zip(jax.tree_util.tree_leaves_with_path(state.params),
                                       jax.tree_util.tree_leaves_with_path(after.params)) if np.array_equal(a, b)]
  assert not still


def test_one_and_eight_devices_agree_when_nothing_is_drawn(batch, assets):
  """Samples and label noise differ between devices, so both are left out: the mode's losses and the critic."""
  change = {f"weights.{n}": 0.0 for n in prohmr.TERMS if n.endswith("_exp") or n == "nll"}
  config = setting.get_config(train_samples=1, **change, **{"optim.learning_rate": 1e-4, "optim.eps": 1e-6,
                                                            "critic_optim.learning_rate": 1e-4,
                                                            "critic_optim.eps": 1e-6, "net.batch_norm": "frozen"})
  system = prohmr.build(config)
  state, partly = system.init(jax.random.key(0), batch, assets), setting.hide_labels(batch)
  ends = [run(setting.on_devices(system.step, n), state, partly, assets, 5) for n in (1, 8)]
  for a, b in zip(ends[0][1], ends[1][1]):
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=2e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ends[0][0].params, ends[1][0].params)


def numpy_terms(pose, six_d, betas, cam, log_prob, batch, assets):
  """The losses as the authors' code reduces them, with loops."""
  count, size = pose.shape[1], pose.shape[0]
  found = {n: 0.0 for n in prohmr.TERMS if n != "adversarial"}
  pelvis, body = joints.index("prohmr44", "pelvis"), assets["keypoint_body"]
  for b in range(size):
    label = np.concatenate([batch["global_orient"][b], batch["body_pose"][b]])
    for s in range(count):
      kind, share = ("mode", 1.0) if s == 0 else ("exp", 1.0 / (count - 1))
      points = np.asarray(smpl.keypoints(body, smpl.forward(body, betas[b], pose[b, s]), "spin49"))[:44]
      pixels = np.asarray(camera.project_crop(points, cam[b])) / 2
      two, three = batch["keypoints2d"][b, :44], batch["keypoints3d"][b, :44]
      found[f"keypoints2d_{kind}"] += share * (two[:, 2:] * np.abs(pixels - two[:, :2] / 2)).sum()
      error = np.abs((points - points[pelvis]) - (three[:, :3] - three[pelvis, :3]))
      found[f"keypoints3d_{kind}"] += share * batch["has_keypoints3d"][b] * (three[:, 3:] * error).sum()
      wrong = (pose[b, s] - label) ** 2 * batch["has_pose"][b]
      found[f"global_orient_{kind}"] += share * wrong[0].sum()
      found[f"body_pose_{kind}"] += share * wrong[1:].sum()
      for joint in six_d[b, s]:
        a = np.stack([joint[:3], joint[3:]], 1)
        found["orthogonal"] += share * ((a.T @ a - np.eye(2)) ** 2).mean() / 24
    found["betas"] += batch["has_betas"][b] * ((betas[b] - batch["betas"][b]) ** 2).sum()
  found = {n: v / size for n, v in found.items()}
  known = batch["has_pose"] > 0
  return found | {"nll": -log_prob[known].mean()}


def test_terms_are_the_authors_reductions_over_eight_devices(batch, assets):
  rng = np.random.default_rng(0)
  batch = dict(setting.hide_labels(batch), mask=np.ones(8, np.float32))
  six_d = rng.normal(size=(8, 3, 24, 6)).astype(np.float32)
  pose = np.asarray(prohmr.to_pose(six_d.reshape(8, 3, 144))[0])
  betas = rng.normal(size=(8, 10)).astype(np.float32)
  cam = (np.array([0.9, 0, 0]) + 0.05 * rng.normal(size=(8, 3))).astype(np.float32)
  log_prob = rng.normal(size=8).astype(np.float32)
  weights = dict(setting.get_config().weights)

  def terms(state, rows, assets):
    del state
    totals = prohmr.losses.totals({"images": rows["batch"]["mask"],
                                   "poses": rows["batch"]["mask"] * rows["batch"]["has_pose"]})
    made = prohmr.terms_of(*(rows[k] for k in ("pose", "six_d", "betas", "cam", "log_prob", "batch")), assets, weights,
                           "spin49", totals)
    return jax.lax.pmean(made, AXIS)
  rows = dict(pose=pose, six_d=six_d, betas=betas, cam=cam, log_prob=log_prob, batch=batch)
  ours = setting.on_devices(terms, 8)(jnp.zeros(()), rows, assets)
  for name, value in numpy_terms(pose, six_d, betas, cam, log_prob, batch, assets).items():
    np.testing.assert_allclose(ours[name], value, rtol=1e-4, err_msg=name)


def test_orthogonality_of_the_sheets_example():
  loss = prohmr.orthogonal(jnp.arange(1.0, 7.0).reshape(1, 1, 1, 6))
  np.testing.assert_allclose(loss, (169 + 1024 + 1024 + 5776) / 4, rtol=1e-6)
  assert prohmr.orthogonal(jnp.asarray([1.0, 0, 0, 0, 1, 0]).reshape(1, 1, 1, 6)) == 0


def test_the_density_is_that_of_its_samples_and_highest_at_the_mode(made, batch, assets):
  system, state = made
  encoded = system.latent.encode(state, batch, assets)
  z = jax.random.normal(jax.random.key(1), (8, 5, 144)).at[:, 0].set(0)
  pose, six_d, density = system.latent.decode(state, z, encoded, assets)
  assert pose.shape == (8, 5, 24, 3, 3) and np.all(density[:, :1] > density[:, 1:])
  flat = prohmr.from_pose(pose).reshape(six_d.shape)
  again, back = system.latent.log_prob(state, pose, encoded, assets)
  orthonormal = np.abs(flat - six_d).max(axis=(-1, -2)) < 1e-4  # only then is the raw 6D that of the rotation
  assert again.shape == (8, 5) and back.shape == z.shape and np.isfinite(again).all()
  np.testing.assert_allclose(np.asarray(again)[orthonormal], np.asarray(density)[orthonormal], rtol=1e-3)
  prediction = system.predict(state, batch, assets)
  np.testing.assert_allclose(prediction.body_pose[:, 0], pose[:, 0, 1:], atol=1e-5)


def test_many_hypotheses_are_those_of_few(made, batch, assets):
  system, state = made
  latent, z = system.latent, jax.random.normal(jax.random.key(2), (8, 2 * prohmr.DIM // 8, prohmr.DIM))
  encoded = latent.encode(state, batch, assets)
  decode = jax.jit(lambda z: latent.decode(state, z, encoded, assets))
  many, few = decode(z), [decode(part) for part in jnp.split(z, 2, 1)]
  for whole, *parts in zip(many, *few):
    np.testing.assert_allclose(whole, np.concatenate(parts, 1), rtol=1e-5, atol=1e-4)


def test_actnorm_starts_from_the_known_poses_alone(made, batch, assets):
  system, _ = made
  half = dict(batch, has_pose=np.arange(8, dtype=np.float32) % 2)
  spoiled = dict(half, body_pose=np.where(half["has_pose"][:, None, None, None] > 0, half["body_pose"], 7.0))
  first, second = (system.init(jax.random.key(0), b, assets).params["net"]["flow"] for b in (half, spoiled))
  jax.tree.map(np.testing.assert_array_equal, first, second)
  shift = first["actnorm_0"]["shift"]
  assert np.abs(shift).max() > 1


def test_a_batch_without_any_label_is_finite_and_trains_the_critic_alone(made, batch, assets):
  system, state = made
  zeros = {n: np.zeros_like(batch[n]) for n in ("mask", "has_pose", "has_betas", "has_keypoints3d", "keypoints2d")}
  after, metrics = setting.on_devices(system.step, 2)(state, batch | zeros, assets)
  assert metrics["loss"] == 0 and all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))


def test_missing_labels_may_hold_anything(made, batch, assets):
  system, state = made
  step, partly = setting.on_devices(system.step, 1), setting.hide_labels(batch)
  odd = dict(partly)
  for name, flag in (("body_pose", "has_pose"), ("global_orient", "has_pose"), ("betas", "has_betas")):
    known = partly[flag].reshape(-1, *[1] * (partly[name].ndim - 1)) > 0
    odd[name] = np.where(known, partly[name], np.float32(1e6))
  (_, a), (_, b) = (step(state, x, assets) for x in (partly, odd))
  for name in a:
    np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)


def test_parts_of_a_batch_have_the_whole_gradient(batch, assets):
  change = {f"weights.{n}": 0.0 for n in prohmr.TERMS if n.endswith("_exp") or n == "nll"}
  ends = []
  for parts in (1, 4):
    config = setting.get_config(train_samples=1, **change, **{"net.batch_norm": "frozen"}).copy_and_resolve_references()
    with config.unlocked():
      config.accumulate = parts
    system = prohmr.build(config)
    state = system.init(jax.random.key(0), batch, assets)
    ends.append(setting.on_devices(system.step, 2)(state, setting.hide_labels(batch), assets))
  (whole, a), (pieces, b) = ends
  np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=2e-5)
  moment = lambda state: optax.tree.get(state.opt_state["net"], "mu")
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-6), moment(whole), moment(pieces))


@pytest.mark.parametrize("change, message", [
    ({"net.backbone": "vgg"}, "net.backbone is 'vgg'"), ({"model_joints": "coco17"}, "model_joints is 'coco17'"),
    ({"train_samples": 0}, "train_samples is 0"), ({"train_samples": 1}, "needs random samples"),
    ({"optim.name": "lamb"}, "name is 'lamb'")])
def test_unknown_choices_are_refused_at_once(change, message):
  with pytest.raises(InputError, match=message):
    prohmr.build(setting.get_config(**change))
