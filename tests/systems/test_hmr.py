"""HMR: its losses by hand, its step on one and eight devices, and what it must not look at."""

import jax
import jax.numpy as jnp
from jhmr import losses
from jhmr import regression
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import smpl
from jhmr.errors import InputError
from jhmr.state import AXIS
from jhmr.systems import hmr
import ml_collections
import numpy as np
import optax
import pytest

from systems import hmr_config as setting

ADVERSARIAL = {"weights.adversarial": 0.1}


@pytest.fixture(scope="module")
def assets():
  return setting.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  return setting.get_batch(assets)


def start(config, batch, assets):
  system = hmr.build(config)
  return system, system.init(jax.random.key(0), batch, assets)


@pytest.fixture(scope="module")
def plain(batch, assets):
  """The smallest system, a fresh state, and its compiled step on one device."""
  system, state = start(setting.get_config(), batch, assets)
  return system, state, setting.on_devices(system.step, 1)


@pytest.fixture(scope="module")
def adversarial(batch, assets):
  """The same with a critic, on one device and on eight; steps small enough for rounding to stay rounding."""
  config = setting.get_config(**ADVERSARIAL, **{f"{o}.{k}": v for o in ("optim", "critic_optim")
                                                for k, v in {"learning_rate": 1e-4, "eps": 1e-6}.items()})
  system, state = start(config, batch, assets)
  return state, setting.on_devices(system.step, 1), setting.on_devices(system.step, 8)


def run(step, state, batch, assets, num):
  history = []
  for _ in range(num):
    state, metrics = step(state, batch, assets)
    history.append({k: float(v) for k, v in metrics.items()})
  return state, history


def assert_trees_close(a, b, atol):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


# --- the step


def test_loss_falls_tenfold_on_one_repeated_batch(plain, batch, assets):
  _, state, step = plain
  _, history = run(step, state, batch, assets, 60)
  assert history[-1]["loss"] < history[0]["loss"] / 10
  assert history[-1]["pose"] < history[0]["pose"] and history[-1]["betas"] < history[0]["betas"]


def test_one_and_eight_devices_agree_with_most_labels_missing(adversarial, batch, assets):
  state, one, eight = adversarial
  partly = setting.hide_labels(batch)
  (state_one, history_one), (state_eight, history_eight) = (run(f, state, partly, assets, 10) for f in (one, eight))
  for a, b in zip(history_one, history_eight):
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)
  assert_trees_close(state_one.params, state_eight.params, 1e-5)
  assert_trees_close(state_one.stats, state_eight.stats, 1e-5)
  moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), state.params, state_one.params)
  assert min(jax.tree.leaves(moved)) > 1e-5, "every parameter learns"


def test_a_batch_in_parts_is_the_batch_labels_missing_and_critic_included(batch, assets):
  change = ADVERSARIAL | {"net.batch_norm": "frozen"}  # else the parts are normalised by themselves
  partly, ends = setting.hide_labels(batch), []
  for num_parts in (1, 4):
    config = ml_collections.ConfigDict(setting.get_config(**change).to_dict() | {"accumulate": num_parts})
    system, state = start(config, batch, assets)
    ends.append(run(setting.on_devices(system.step, 2), state, partly, assets, 1))
  (whole, (metrics,)), (parts, (again,)) = ends
  np.testing.assert_allclose(list(metrics.values()), list(again.values()), rtol=1e-5)
  assert metrics.keys() == again.keys() and metrics["adversarial"] > 0
  first_moments = lambda state: {n: optax.tree.get(s, "mu") for n, s in state.opt_state.items()}  # a tenth of gradients
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), first_moments(whole),
               first_moments(parts))


def test_remat_changes_memory_not_numbers(batch, assets):
  ends = []
  for remat in (False, True):
    config = ml_collections.ConfigDict(setting.get_config().to_dict())
    config.net.remat = remat
    system, state = start(config, batch, assets)
    ends.append(run(setting.on_devices(system.step, 1), state, batch, assets, 1)[1][0])
  np.testing.assert_allclose(list(ends[0].values()), list(ends[1].values()), rtol=1e-5)


def test_critic_tells_real_from_made_up_and_the_net_answers(adversarial, batch, assets):
  state, step, _ = adversarial
  _, history = run(step, state, batch, assets, 20)
  assert history[-1]["critic"] < history[0]["critic"]
  assert {"adversarial", "grad_norm_critic"} <= set(history[0])


def test_a_batch_without_any_label_changes_nothing(plain, batch, assets):
  _, state, step = plain
  unlabelled = batch | {"mask": 0 * batch["mask"]}
  after, metrics = step(state, unlabelled, assets)
  assert metrics["loss"] == 0
  jax.tree.map(np.testing.assert_array_equal, state.params, after.params)


def test_missing_labels_may_hold_anything(plain, batch, assets):
  _, state, step = plain
  partly = setting.hide_labels(batch)
  junk = dict(partly)
  for name, flag in (("betas", "has_betas"), ("body_pose", "has_pose"), ("global_orient", "has_pose"),
                     ("keypoints3d", "has_keypoints3d")):
    gone = partly[flag].reshape(-1, *[1] * (partly[name].ndim - 1)) == 0
    junk[name] = np.where(gone, np.float32(7), partly[name])
  junk["keypoints2d"] = np.where(partly["keypoints2d"][..., 2:] == 0, np.float32([7, 7, 0]), partly["keypoints2d"])
  a, b = (step(state, x, assets)[0].params for x in (partly, junk))
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_state_keeps_its_types_so_a_step_compiles_once(plain, adversarial, batch, assets):
  for state, step in (plain[1:], adversarial[:2]):
    after = step(state, batch, assets)[0]
    kinds = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]
    assert kinds(state) == kinds(after)
    assert not any(weak for _, _, weak in kinds(state))
    assert after.step == 1 and set(state.params) == set(state.opt_state)


def test_without_adversarial_weight_there_is_no_critic(plain, adversarial):
  assert set(plain[1].params) == {"net"}
  assert set(adversarial[0].params) == {"net", "critic"}


def test_the_step_never_touches_the_full_mesh_unless_vertices_are_weighed(batch, assets):
  joints_only = {k: assets[k] for k in ("keypoint_body", "mean")}

  def trace(config, assets):
    system = hmr.build(config)
    state = jax.eval_shape(lambda b, a: system.init(jax.random.key(0), b, a), batch, assets)
    step = jax.vmap(system.step, axis_name=AXIS, in_axes=(None, 0, None))
    return jax.eval_shape(step, state, jax.tree.map(lambda x: x[None], batch), assets)

  trace(setting.get_config(), joints_only)
  weighed = setting.get_config(**{"weights.vertices": 1.0})
  with pytest.raises(KeyError, match="body"):
    trace(weighed, joints_only)
  assert "vertices" in trace(weighed, assets)[1]


@pytest.mark.parametrize("mode", ["device", "frozen"])
def test_batch_norm_modes(mode, batch, assets):
  config = setting.get_config(**{"net.batch_norm": mode})
  system, state = start(config, batch, assets)
  after = setting.on_devices(system.step, 8)(state, batch, assets)[0].stats["net"]
  if mode == "frozen":
    jax.tree.map(np.testing.assert_array_equal, state.stats["net"], after)
    return
  # The running mean of the first layer is a tenth of the mean over devices of their own means.
  kernel = state.params["net"]["backbone"]["conv1"]["kernel"]
  x = jax.lax.conv_general_dilated(batch["image"], kernel, (2, 2), ((1, 1), (1, 1)),
                                   dimension_numbers=("NHWC", "HWIO", "NHWC"))
  np.testing.assert_allclose(after["backbone"]["bn1"]["mean"], 0.1 * x.mean((0, 1, 2)), atol=1e-5)
  within = np.mean([np.var(row, axis=(0, 1)) for row in np.asarray(x)], 0)  # one row per device
  np.testing.assert_allclose(after["backbone"]["bn1"]["var"], 0.9 + 0.1 * within, atol=1e-4)


def test_bfloat16_with_dropout_depends_on_seed_and_step_alone(batch, assets):
  config = setting.get_config(**{"net.dtype": "bfloat16", "net.dropout": 0.5})
  system, state = start(config, batch, assets)
  step = setting.on_devices(system.step, 1)
  later = state.replace(step=state.step + 1)
  (first, a), (again, b), (_, other) = (step(s, batch, assets) for s in (state, state, later))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert a["loss"] == b["loss"] != other["loss"]
  assert {x.dtype for x in jax.tree.leaves((first.params, first.stats))} == {np.dtype(np.float32)}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(first.params))


# --- the losses


def by_hand(pose, betas, cam, batch, assets, supervision):
  """Every term with loops, from HMR's and SPIN's definitions."""
  body, names = assets["keypoint_body"], joints.names("spin49")
  points = np.asarray(smpl.keypoints(body, smpl.forward(body, betas, pose), "spin49"))
  projected = np.asarray(camera.project_crop(points, cam))
  gt24 = range(25, 49)
  lsp14 = range(25, 39)
  face = [names.index(n) for n in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")]
  squared, power, joints2d, joints3d = ((False, 1, [*lsp14, *face], lsp14) if supervision == "hmr" else
                                        (True, 2, gt24 if supervision == "spin" else range(49), gt24))
  two, three, rotation, shape = [], [], [], []
  hips = [names.index("right_hip"), names.index("left_hip")]
  for b in np.flatnonzero(batch["mask"]):
    for k in joints2d:
      confidence = batch["keypoints2d"][b, k, 2]
      if confidence > 0 or squared:
        two += list(confidence * np.abs(projected[b, k] - batch["keypoints2d"][b, k, :2]) ** power)
    if batch["has_keypoints3d"][b]:
      label = batch["keypoints3d"][b]
      for k in joints3d:
        error = points[b, k] - points[b, hips].mean(0) - label[k, :3] + label[hips, :3].mean(0)
        three += list(label[k, 3] * error ** 2)
    if batch["has_pose"][b]:
      rotation += list(((pose[b, 0] - batch["global_orient"][b, 0]) ** 2).ravel())
      rotation += list(((pose[b, 1:] - batch["body_pose"][b]) ** 2).ravel())
    if batch["has_betas"][b]:
      shape += list((betas[b] - batch["betas"][b]) ** 2)
  scale = [np.exp(-10 * cam[b, 0]) ** 2 for b in np.flatnonzero(batch["mask"])]
  return {n: np.mean(v) for n, v in {"keypoints2d": two, "keypoints3d": three, "pose": rotation, "betas": shape,
                                     "camera": scale}.items()}


@pytest.mark.parametrize("supervision", regression.SUPERVISION)
def test_terms_are_the_papers_over_eight_devices(supervision, batch, assets):
  partly = setting.hide_labels(batch)
  if supervision == "spin49":  # as HMR uses it: detected ones are zeros in the mean
    partly = jax.device_get(regression.weighed(jax.tree.map(jnp.asarray, partly)))
    assert not partly["keypoints2d"][:, :25, 2].any() and partly["keypoints2d"][:, 25:, 2].any()
  pose = np.concatenate([batch["global_orient"], batch["body_pose"]], 1)[::-1]
  betas, cam = batch["betas"][::-1], np.tile(np.float32([0.8, 0.1, -0.1]), (8, 1))
  weights = {n: 1.0 for n in hmr.TERMS} | {"vertices": 0.0}
  terms = jax.pmap(lambda *a: jax.lax.pmean(regression.image_terms(*a, weights, supervision), AXIS),
                   AXIS, in_axes=(0, 0, 0, 0, None), out_axes=None)(
                       *jax.tree.map(lambda x: x[:, None], (pose, betas, cam, partly)), assets)
  expected = by_hand(pose, betas, cam, partly, assets, supervision)
  assert set(terms) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)


def test_true_labels_cost_nothing(batch, assets):
  pose = np.concatenate([batch["global_orient"], batch["body_pose"]], 1)
  body = assets["keypoint_body"]
  points = smpl.keypoints(body, smpl.forward(body, batch["betas"], pose), "spin49")
  hips = [joints.index("spin49", "right_hip"), joints.index("spin49", "left_hip")]
  assert losses.keypoints3d(points, batch["keypoints3d"], hips).max() < 1e-10


# --- predictions


def test_zero_decoders_predict_the_mean(plain, batch, assets):
  system, state, _ = plain
  zeroed = jax.tree_util.tree_map_with_path(lambda p, x: x * 0 if "dec" in str(p) else x, state.params)
  out = jax.jit(system.predict)(state.replace(params=zeroed), batch, assets)
  for value, mean in ((out.global_orient, assets["mean"]["pose"][:1]), (out.body_pose, assets["mean"]["pose"][1:]),
                      (out.betas, assets["mean"]["betas"]), (out.camera, assets["mean"]["camera"])):
    assert value.shape == (8, 1, *mean.shape)
    np.testing.assert_allclose(value, np.broadcast_to(mean, value.shape), atol=1e-6)
  np.testing.assert_array_equal(out.log_prob, np.zeros((8, 1)))


def test_a_prediction_depends_on_its_own_image_alone(plain, batch, assets):
  system, state, _ = plain
  predict = jax.jit(system.predict)
  whole = predict(state, batch, assets)
  alone = predict(state, {"image": batch["image"][2:3]}, assets)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x[2:3], y, atol=1e-5), whole, alone)
  pose = np.concatenate([whole.global_orient, whole.body_pose], 2)
  np.testing.assert_allclose(pose @ np.swapaxes(pose, -1, -2), np.broadcast_to(np.eye(3), pose.shape), atol=1e-5)


# --- configs


@pytest.mark.parametrize("change, message", [
    ({"net.backbone": "vgg"}, "net.backbone is 'vgg'"), ({"net.batch_norm": "none"}, "net.batch_norm is 'none'"),
    ({"net.dtype": "float16"}, "net.dtype is 'float16'"), ({"supervision": "eft"}, "supervision is 'eft'"),
    ({"optim.name": "lamb"}, "name is 'lamb'")])
def test_unknown_choices_are_refused_at_once(change, message):
  with pytest.raises(InputError, match=message):
    hmr.build(setting.get_config(**change))


def test_weights_must_name_every_loss_once():
  config = setting.get_config()
  for change in (lambda w: w.update(smoothness=1.0), lambda w: w.pop("pose")):
    weights = dict(config.weights)
    change(weights)
    with pytest.raises(InputError, match="smoothness|pose"):
      hmr.build(ml_collections.FrozenConfigDict(config.to_dict() | {"weights": weights}))
