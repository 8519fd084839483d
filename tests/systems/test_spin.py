"""SPIN: what it learns from by hand, what its table remembers, and what no gradient passes through."""

import jax
import jax.numpy as jnp
from jhmr import fits_memory
from jhmr import guard
from jhmr import regression
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.errors import InputError
from jhmr.state import AXIS
from jhmr.systems import spin
import numpy as np
import optax
import pytest

from systems import spin_config as setting

NAMES = joints.names("spin49")
points_of = jax.jit(lambda body, betas, pose: smpl.keypoints(body, smpl.forward(body, betas, pose), "spin49"))
mesh_of = jax.jit(lambda body, betas, pose: smpl.forward(body, betas, pose).vertices)
matrices_of = jax.jit(lambda pose: rotations.axis_angle_to_matrix(pose.reshape(-1, 24, 3)))
quality_of = jax.jit(lambda points, keypoints: spin.quality(points, spin.targets_of(keypoints), setting.IGNORED))


@pytest.fixture(scope="module")
def assets():
  return setting.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  zeros = np.zeros(8, np.float32)
  return setting.hide_labels(setting.get_batch(assets)) | {"flip": zeros, "angle_rad": zeros}


def start(batch, assets, **overrides):
  system = spin.build(setting.get_config(**overrides))
  return system, system.init(jax.random.key(0), batch, assets)


@pytest.fixture(scope="module")
def loop(batch, assets):
  """A fresh state with an empty table, and the compiled step on one device; whatever the fits are like, they teach."""
  system, state = start(batch, assets, **{"fitting.threshold": 1e9})
  return state, setting.on_devices(guarded(system), 1)


def guarded(system):
  step = guard.guarded(system.step)
  return lambda state, batch, assets: step(guard.prepared(state, 0.0), batch, assets)


def numbers(metrics):
  return {k: float(v) for k, v in metrics.items()}


def assert_trees_close(a, b, atol):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


# --- the losses


def solved(points, px, weight):
  """Translation by SPIN's normal equations, float64."""
  rows, right = [], []
  for (x, y, z), (u, v), w in zip(points, px - 112.0, weight):
    rows += [np.sqrt(w) * np.array([5000.0, 0, -u]), np.sqrt(w) * np.array([0, 5000.0, -v])]
    right += [np.sqrt(w) * (u * z - 5000 * x), np.sqrt(w) * (v * z - 5000 * y)]
  return np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]


def quality_by_hand(points, keypoints):
  px, confidence = 112.0 * (keypoints[:, :2] + 1.0), keypoints[:, 2]
  moved = points + solved(points[25:], px[25:], confidence[25:])
  total = 0.0
  for k, name in enumerate(NAMES):
    for error in 5000 * moved[k, :2] / moved[k, 2] + 112 - px[k]:
      total += (name not in setting.IGNORED) * confidence[k]**2 * 1e4 * error**2 / (1e4 + error**2)
  return total / 49


def targets_by_hand(fits, batch, assets, threshold):
  """Quality and (pose, betas, betas of the mesh) or None of each example, from SPIN's definitions."""
  body, qualities, targets = assets["keypoint_body"], [], []
  matrices = np.asarray(matrices_of(fits["pose"]))
  points = np.asarray(points_of(body, fits["betas"], matrices), np.float64)
  for b, i in enumerate(batch["id"]):
    qualities.append(quality_by_hand(points[i], batch["keypoints2d"][b].astype(np.float64)) if fits["known"][i]
                     else np.inf)
    valid = qualities[-1] < threshold
    betas = np.zeros(10) if np.abs(fits["betas"][i]).max() > 3 else fits["betas"][i]
    pose, mesh = matrices[i], fits["betas"][i]
    if has_pose := batch["has_pose"][b]:
      pose = np.concatenate([batch["global_orient"][b], batch["body_pose"][b]])
    if has_betas := batch["has_betas"][b]:
      betas = mesh = batch["betas"][b]
    targets.append((pose if has_pose or valid else None, betas if has_betas or valid else None, mesh))
  return np.array(qualities), targets


def terms_by_hand(pose, betas, cam, targets, batch, assets):
  """Every term with loops, for one prediction that is the same for all examples."""
  points = np.asarray(points_of(assets["keypoint_body"], betas[None], pose[None]))[0]
  projected = np.asarray(camera.project_crop(points, cam))
  poses = np.stack([pose] + [pose if t[0] is None else t[0] for t in targets])
  meshes = np.asarray(mesh_of(assets["body"], np.stack([betas] + [t[2] for t in targets]), poses))
  two, three, rotation, shape, vertices = [], [], [], [], []
  hips = [NAMES.index("right_hip"), NAMES.index("left_hip")]
  for b in np.flatnonzero(batch["mask"]):
    for k in range(49):
      weight = (0.5 if k < 25 else 1.0) * batch["keypoints2d"][b, k, 2]
      two += list(weight * (projected[k] - batch["keypoints2d"][b, k, :2])**2)
    label = batch["keypoints3d"][b]
    if batch["has_keypoints3d"][b]:
      for k in range(25, 49):
        error = points[k] - points[hips].mean(0) - label[k, :3] + label[hips, :3].mean(0)
        three += list(label[k, 3] * error**2)
    to_pose, to_betas, _ = targets[b]
    rotation += [] if to_pose is None else list(((pose - to_pose)**2).ravel())
    shape += [] if to_betas is None else list((betas - to_betas)**2)
    vertices += [] if to_pose is None or to_betas is None else [np.abs(meshes[0] - meshes[b + 1]).mean()]
  return {"keypoints2d": np.mean(two), "keypoints3d": np.mean(three), "pose": np.mean(rotation),
          "betas": np.mean(shape), "vertices": np.mean(vertices), "camera": np.exp(-10 * cam[0])**2}


def test_terms_are_the_papers_for_labels_fits_extreme_shapes_and_failures(batch, assets):
  fits = setting.fits_of(batch)
  rng = np.random.default_rng(1)
  fits["pose"][2:6] += 0.3 * rng.normal(size=(4, 72)).astype(np.float32)  # worse and worse
  fits["pose"][4, :3] *= 0.5
  fits["betas"][1] = fits["betas"][3] = 0.1
  fits["betas"][1, 4], fits["betas"][3, 0] = 3.01, -2.99
  fits["known"][6] = False
  batch = batch | {"has_pose": np.float32([0, 0, 1, 0, 0, 0, 0, 1]), "has_betas": np.float32([0, 0, 1, 0, 1, 0, 0, 0])}
  qualities, _ = targets_by_hand(fits, batch, assets, 0.0)
  threshold = float(np.median(qualities[[0, 1, 3, 4, 5]])) + 0.01
  assert (qualities < threshold).sum() >= 3 and qualities[1] < threshold < qualities[4] and np.isinf(qualities[6])
  config = setting.get_config(**{"fitting.mode": "static", "fits": "some.npz", "fitting.threshold": threshold,
                                 "keypoint_weights.detected": 0.5, "weights.vertices": 1.0})
  mean = assets["mean"]

  def terms(memory, batch, assets):
    predicted = [jnp.repeat(mean[n][None], batch["id"].shape[0], 0) for n in ("pose", "betas", "camera")]
    chosen = spin.choose(memory, predicted, batch, assets, config)
    labels = regression.weighed(batch, **config.keypoint_weights) | chosen.labels
    found = regression.image_terms(*predicted, labels, assets, dict(config.weights), "spin49")
    return memory, jax.lax.pmean(found | spin.fit_metrics(chosen, batch["mask"]), AXIS)

  memory = fits_memory.create(setting.NUM_EXAMPLES, fits)
  metrics = numbers(setting.on_devices(terms, 8)(memory, batch, assets)[1])
  mean = jax.device_get(mean)
  _, targets = targets_by_hand(fits, batch, assets, threshold)
  expected = terms_by_hand(mean["pose"], mean["betas"], mean["camera"], targets, batch, assets)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
  assert metrics["fits_valid"] == pytest.approx((qualities[:7] < threshold).mean())
  assert metrics["fits_quality"] == pytest.approx(qualities[:6].mean(), rel=1e-3)
  assert metrics["fits_improved"] == 0


def test_the_quality_of_true_bodies_is_zero_and_needs_a_keypoint(assets):
  full = setting.get_batch(assets)
  pose = np.concatenate([full["global_orient"], full["body_pose"]], 1)
  points = points_of(assets["keypoint_body"], full["betas"], pose)
  assert np.max(quality_of(points, full["keypoints2d"])) < 1e-3
  moved = full["keypoints2d"].copy()
  moved[:, [NAMES.index(n) for n in setting.IGNORED[:3]], :2] += 0.5  # detected, so no part of the camera either
  assert np.max(quality_of(points, moved)) < 1e-3
  moved[1, :, 2] = 0
  moved[2, 25:, 2] = 0  # detections alone still tell
  values = quality_of(points, moved)
  assert np.isinf(values[1]) and values[2] > 1e-3


# --- the step


def test_loss_falls_and_the_table_only_improves(loop, batch, assets):
  state, step = loop
  history, tables = [], []
  for _ in range(40):
    state, metrics = step(state, batch, assets)
    history.append(numbers(metrics))
    tables.append(jax.device_get(state.memory["fits"]))
  assert history[-1]["loss"] < history[0]["loss"] / 3
  assert history[0]["fits_improved"] == history[0]["fits_valid"] == 1, "every first fit is better than none"
  np.testing.assert_array_equal(tables[-1]["known"], np.isin(np.arange(20), batch["id"][:7]))  # the eighth is padding
  points = lambda t: points_of(assets["keypoint_body"], t["betas"][:8], matrices_of(t["pose"][:8]))
  quality = np.stack([quality_of(points(t), batch["keypoints2d"])[:7] for t in tables])
  assert quality[-1].mean() < quality[0].mean()
  kept = np.array([h["fits_quality"] for h in history])  # means, each fit seen by the camera it was compared with
  assert np.all(kept[1:] <= 1.001 * quality[:-1].mean(1)), "nothing is worse than what it takes the place of"


def test_a_fit_that_is_worse_than_the_known_one_is_not_kept(loop, batch, assets):
  state, step = loop
  fits = setting.fits_of(batch)  # the truth, which nothing betters
  fits["known"][[4, 5]] = False
  before = fits_memory.create(setting.NUM_EXAMPLES, fits)
  after, metrics = step(state.replace(memory={"fits": before}), batch, assets)
  assert float(metrics["fits_improved"]) == pytest.approx(2 / 7)
  known = np.setdiff1d(np.arange(setting.NUM_EXAMPLES), [4, 5])
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a)[known], np.asarray(b)[known]),
               after.memory["fits"], before)
  assert np.all(after.memory["fits"]["known"][:8])


def test_fits_teach_as_if_they_came_from_a_file(loop, batch, assets):
  """So no gradient flows through them, nor anything else."""
  state, step = loop
  after, _ = step(state, batch, assets)
  system, again = start(batch, assets | {"fits": jax.device_get(after.memory["fits"])},
                        **{"fitting.mode": "static", "fits": "some.npz", "fitting.threshold": 1e9})
  taught, _ = setting.on_devices(system.step, 1)(again, batch, assets)
  first_moments = lambda state: optax.tree.get(state.opt_state["net"], "mu")  # a tenth of gradients
  assert_trees_close(first_moments(after), first_moments(taught), 1e-5)
  jax.tree.map(np.testing.assert_array_equal, after.memory, taught.memory)


def test_fits_of_mirrored_and_turned_crops_are_remembered_upright(loop, batch, assets):
  state, step = loop
  turned = batch | {"flip": np.float32([0, 1] * 4), "angle_rad": np.float32([0.5, -1, 0, 0, 1, 2, 0.1, 3])}
  a, b = (step(state, x, assets)[0].memory["fits"] for x in (batch, turned))
  expected = fits_memory.stored(a["pose"][:8], turned["flip"], turned["angle_rad"])
  np.testing.assert_allclose(matrices_of(b["pose"][:8])[:7], matrices_of(expected)[:7], atol=1e-4)
  np.testing.assert_allclose(a["betas"], b["betas"], atol=1e-5)


def test_a_step_that_is_not_finite_leaves_the_table_alone(loop, batch, assets):
  state, step = loop
  after, _ = step(state, batch, assets)
  image = batch["image"].copy()
  image[3] = np.nan
  left, metrics = step(after.replace(skipped=None), batch | {"image": image}, assets)
  assert metrics["skipped"] == 1
  jax.tree.map(np.testing.assert_array_equal, (after.memory, after.params), (left.memory, left.params))


@pytest.mark.slow
def test_one_and_eight_devices_agree(loop, batch, assets):
  state, one = loop
  system, _ = start(batch, assets, **{"fitting.threshold": 1e9})
  (a, metrics), (b, others) = one(state, batch, assets), setting.on_devices(guarded(system), 8)(state, batch, assets)
  np.testing.assert_allclose(list(numbers(metrics).values()), list(numbers(others).values()), rtol=1e-3, atol=1e-6)
  assert_trees_close(a.memory["fits"]["betas"], b.memory["fits"]["betas"], 1e-3)
  first_moments = lambda state: optax.tree.get(state.opt_state["net"], "mu")  # a tenth of gradients
  assert_trees_close(first_moments(a), first_moments(b), 1e-3)


@pytest.mark.slow
def test_a_batch_in_parts_is_the_batch(batch, assets):
  ends = []
  for num_parts in (1, 4):
    system, state = start(batch, assets, **{"net.batch_norm": "frozen", "accumulate": num_parts})
    ends.append(setting.on_devices(system.step, 2)(state, batch, assets))
  (a, metrics), (b, others) = ends
  assert metrics.keys() == others.keys()
  np.testing.assert_allclose(list(numbers(metrics).values()), list(numbers(others).values()), rtol=1e-4, atol=1e-6)
  assert_trees_close(a.memory, b.memory, 1e-4)
  first_moments = lambda state: optax.tree.get(state.opt_state["net"], "mu")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), first_moments(a), first_moments(b))


def test_unpaired_training_sees_no_3d_label(batch):
  flags = ("has_pose", "has_betas", "has_keypoints3d")
  seen = spin.prepared(batch, setting.get_config(unpaired=True))
  assert not any(np.any(seen[name]) for name in flags) and all(np.any(batch[name]) for name in flags)
  np.testing.assert_array_equal(seen["keypoints2d"], batch["keypoints2d"])


def test_without_fits_there_is_no_table(batch, assets):
  system = spin.build(setting.get_config(**{"fitting.mode": "none", "num_examples": 0}))
  state = jax.eval_shape(lambda *a: system.init(jax.random.key(0), *a), batch, assets)
  step = jax.vmap(system.step, axis_name=AXIS, in_axes=(None, 0, None))
  after, metrics = jax.eval_shape(step, state, jax.tree.map(lambda x: x[None], batch), assets)
  assert state.memory == after.memory == {}
  assert "pose" in metrics and not any(name.startswith("fits") for name in metrics)


def test_state_keeps_its_types_so_a_step_compiles_once(loop, batch, assets):
  state, step = loop
  kinds = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]
  assert kinds(guard.prepared(state, 0.0)) == kinds(step(state, batch, assets)[0])


# --- configs and data


@pytest.mark.parametrize("change, message", [
    ({"fitting.mode": "sometimes"}, "fitting.mode is 'sometimes'"), ({"fitting.method": "eft"}, "fitting.method"),
    ({"fitting.ignored": ("tail",)}, "fitting.ignored is 'tail'"), ({"fitting.steps": 0}, "steps 0"),
    ({"fitting.threshold": 0.0}, "threshold 0.0"), ({"fitting.mode": "static"}, "jhmr.static_fits"),
    ({"num_examples": 0}, "config.data.examples"),
    ({"fitting.mode": "none", "fits": "some.npz"}, "config.fits names 'some.npz'"), ({"net.activation": "gelu"}, "net.activation is 'gelu'")])
def test_unknown_choices_are_refused_at_once(change, message):
  with pytest.raises(InputError, match=message):
    spin.build(setting.get_config(**change))


def test_fits_and_ids_of_other_data_are_refused(batch, assets):
  with pytest.raises(InputError, match="config.fits has 21 rows, the training data 20 examples"):
    start(batch, assets | {"fits": setting.fits_of(batch, 21)})
  with pytest.raises(InputError, match="number them 0..19"):
    start(batch | {"id": batch["id"] + 1000}, assets)
  with pytest.raises(InputError, match="only 1 different ids"):
    start(batch | {"id": 0 * batch["id"]}, assets)
