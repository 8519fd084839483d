"""3D Multi-bodies: who learns from which loss, label masks over devices, sets of hypotheses, and that it learns."""

import functools

import jax
import jax.numpy as jnp
from jhmr import multi_hypothesis, regression
from jhmr.body import camera
from jhmr.errors import InputError
from jhmr.nn import resnet, stage_heads
from jhmr.systems import multibodies
import numpy as np
import pytest
from systems import multi_config

M = multi_config.HYPOTHESES
ONE_ONLY = {"weights.keypoints2d_all": 0.0, "weights.camera": 0.0}
TABLE = multi_config.Table()
SMALL = resnet.Architecture(stem=3, pool=False, blocks=(1, 1), width=16, expansion=1, strides=(2, 2))


@pytest.fixture(scope="module")
def assets():
  return multi_config.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  return multi_config.get_batch(assets)


CONFIGS = {"paper": ONE_ONLY, "coded": ONE_ONLY | {"supervise_first": True, "quantise": "code", "infer_joints": False,
                                                  "supervision": "spin49"},
           "whole": {"freeze": True, "optim.weight_decay": 0.1, "optim.eps": 1e-6, "optim.learning_rate": 1e-2}}


def started(batch, assets, **overrides):
  system = multibodies.build(multi_config.get_config("multibodies", **overrides))
  return system, system.init(jax.random.key(0), batch, assets)


@pytest.fixture(scope="module")
def tables(batch, assets):
  """{name: (System of a table of hypotheses in place of a network, fresh state, its step on one device)}."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(multibodies, "network", lambda fields: TABLE)
    made = {name: started(batch, assets, **config) for name, config in CONFIGS.items()}
  return {name: (system, state, multi_config.on_devices(system.step, 1)) for name, (system, state) in made.items()}


def moved(before, after):
  """Which hypotheses learned: Adam's first step moves whatever has a gradient."""
  return np.flatnonzero(np.any(np.asarray(before.params["heads"]["own"] != after.params["heads"]["own"]), axis=1))


def answers(state, batch, assets):
  """The table's bodies and cameras of every image, in the order of the hypotheses."""
  variables = {"params": multibodies.together(state.params), "batch_stats": state.stats["net"]}

  @jax.jit
  def decode(variables, image, mean):
    return regression.decode(TABLE.apply(variables, image, regression.start_values(mean), False))

  return decode(variables, batch["image"], assets["mean"])


def best_of(state, batch, assets):
  """The best hypothesis of every image, by a loop over the 24 joints of the label."""
  pose, betas, _ = answers(state, batch, assets)
  points = np.asarray(jax.jit(multi_hypothesis.joints_of)(assets["keypoint_body"], pose, betas))[:, :, 25:]
  target = batch["keypoints3d"][:, 25:, :3]
  centred = lambda x: x - x[..., [2, 3], :].mean(-2, keepdims=True)
  errors = np.sum((centred(points) - centred(target)[:, None]) ** 2, (2, 3))
  return np.argmin(errors, 1)


@pytest.mark.parametrize("name", ["paper", "coded"])
def test_the_best_of_m_alone_learns_and_in_the_code_the_first_one_too(name, tables, batch, assets):
  _, state, step = tables[name]
  best, always = best_of(state, batch, assets), {"paper": set(), "coded": {0}}[name]
  chosen = next(b for b in range(8) if best[b] > 0)
  alone = batch | {"mask": np.float32(np.arange(8) == chosen)}  # the others' labels count for nothing
  after, metrics = step(state, alone, assets)
  np.testing.assert_array_equal(moved(state, after), sorted({best[chosen]} | always))
  everyone, _ = step(state, batch, assets)
  np.testing.assert_array_equal(moved(state, everyone), sorted({*best} | always))
  assert "keypoints2d_all" not in metrics and "camera" not in metrics


def test_every_hypothesis_learns_from_reprojection_and_cameras_and_nothing_frozen_does(tables, batch, assets):
  _, state, step = tables["whole"]
  after, metrics = step(state, batch, assets)
  np.testing.assert_array_equal(moved(state, after), np.arange(M))
  np.testing.assert_array_equal(after.params["net"]["head"], state.params["net"]["head"])  # weight decay or not
  assert metrics["grad_norm_net"] == 0 and metrics["grad_norm_heads"] > 0
  assert np.any(after.stats["net"]["seen"] != 0), "statistics go on"
  pose, betas, cam = answers(state, batch, assets)
  projected = jax.jit(lambda body, *x: camera.project_crop(multi_hypothesis.joints_of(body, *x[:2]), x[2]))(
      assets["keypoint_body"], pose, betas, cam)
  off = np.asarray(projected)[:, :, 25:] - batch["keypoints2d"][:, None, 25:, :2]
  np.testing.assert_allclose(metrics["keypoints2d_all"], np.mean(off ** 2), rtol=1e-4)
  np.testing.assert_allclose(metrics["camera"], np.mean(np.exp(-10 * np.asarray(cam)[..., 0]) ** 2), rtol=1e-4)


@pytest.mark.slow
def test_one_and_eight_devices_agree_with_most_labels_missing(tables, batch, assets):
  system, state, one = tables["whole"]
  hidden, ends = multi_config.hide_labels(batch), []
  for step in (one, multi_config.on_devices(system.step, 8)):
    end = state
    for _ in range(3):
      end, metrics = step(end, hidden, assets)
    ends.append((end.params, metrics))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *ends)


def test_without_any_label_nobody_learns(tables, batch, assets):
  _, state, step = tables["paper"]
  nothing = {k: np.zeros_like(v) if k.startswith("has_") or k == "mask" else v for k, v in batch.items()}
  after, metrics = step(state, nothing, assets)
  assert metrics["loss"] == 0 and not len(moved(state, after))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))


def test_a_labels_body_teaches_its_joints_but_not_as_coded(tables, batch, assets):
  partly = batch | {"has_keypoints3d": np.zeros(8, np.float32)}
  for name in ("paper", "coded"):
    _, state, step = tables[name]
    after, metrics = step(state, partly, assets)
    assert (metrics["keypoints3d"] > 0) == (name == "paper") and metrics["pose"] > 0
    best = set(best_of(state, batch, assets).tolist())  # it says which one is the best
    np.testing.assert_array_equal(moved(state, after), sorted(best | ({0} if name == "coded" else set())))


def test_as_coded_detected_keypoints_weigh_nothing(tables, batch, assets):
  _, state, step = tables["coded"]
  junk = batch | {"keypoints2d": np.array(batch["keypoints2d"])}
  junk["keypoints2d"][:, :25, :2] += 5
  jax.tree.map(np.testing.assert_array_equal, *(step(state, b, assets) for b in (batch, junk)))


def test_hypotheses_learn_a_batch_and_come_near_its_keypoints(tables, batch, assets):
  _, state, step = tables["whole"]
  alone = batch | {"mask": np.float32(np.arange(8) == 0)}  # a table knows one image
  state, first = step(state, alone, assets)
  for _ in range(150):
    state, last = step(state, alone, assets)
  assert set(first) == {"loss", "grad_norm_net", "grad_norm_heads", *multibodies.TERMS} - {"vertices"}
  for name in ("loss", "keypoints3d", "keypoints2d_all"):
    assert last[name] < first[name] / 4, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "coded"])
def test_sets_are_of_what_it_predicts(name, tables, batch, assets):
  system, state, keys = tables[name][0], tables["paper"][1], jax.random.split(jax.random.key(0), 8)
  several = jax.jit(lambda s, b, a, k: (system.predict(s, b, a), system.choose(s, b, a, k, 3)))
  found, few = jax.device_get(several(state, batch, assets, keys))
  assert found.body_pose.shape == (8, M, 23, 3, 3) and few.betas.shape == (8, 3, 10)
  for b in range(8):
    assert all((found.betas[b] == betas).all(-1).any() for betas in few.betas[b])
  every = answers(state, batch, assets)[1]
  np.testing.assert_allclose(np.sort(found.betas, 1), np.sort(every, 1), atol=1e-6)
  if name == "coded":
    np.testing.assert_allclose(found.betas, every, atol=1e-6)
    np.testing.assert_array_equal(few.betas[:, 0], found.betas[:, 0])
  with pytest.raises(InputError, match="6 hypotheses asked for, but there are 5"):
    jax.eval_shape(lambda *args: system.choose(*args, M + 1), state, batch, assets, keys)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [0, 1])
def test_the_network_learns_a_batch(apart, batch, assets):
  system, state = started(batch, assets, **{"net.batch_norm": "device", "net.apart": apart,
                                            "optim.learning_rate": 3e-3})
  step = multi_config.on_devices(system.step, 1)
  state, first = step(state, batch, assets)
  for _ in range(100):
    state, last = step(state, batch, assets)
  assert last["loss"] < first["loss"] / 4 and last["keypoints3d"] < first["keypoints3d"] / 4
  assert last["keypoints2d_all"] < first["keypoints2d_all"]
  assert set(state.params) == {"net", "heads"} and set(state.params["net"]) == {"backbone", "head"}


def test_freezing_leaves_the_widened_layers_of_a_stage_to_learn():
  net = stage_heads.StageImageRegressor("resnet18", hidden=8, hypotheses=3)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)),
                                           (jnp.zeros(144), jnp.zeros(10), jnp.zeros(3)), False))["params"]
  learns = multibodies.learning({"heads": "stage4", "backbone": "resnet18"})
  names = lambda path: [p.key for p in path]
  found = {"/".join(names(path)): leaf.shape for path, leaf in
           jax.tree_util.tree_flatten_with_path(multibodies.apart(shapes))[0] if learns(names(path))}
  last = "heads/stage/layer5_1"
  assert found == {f"{last}/conv2/kernel": (3, 3, 512, 3 * 512), f"{last}/bn2/bias": (3 * 512,),
                   f"{last}/bn2/scale": (3 * 512,)}
  assert stage_heads.wide_layers("resnet50") == ("layer5_2", ("conv3", "bn3"))


@pytest.mark.slow
def test_heads_of_the_stage_learn_and_freeze(batch, assets):
  """M features of one regressor, as in the authors' code."""
  fields = {"net.heads": "stage4", "net.backbone": "resnet_test", "net.activation": "none", "freeze": True,
            "supervise_first": True, "quantise": "code"}
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(multi_config.NET, "multibodies", multi_config.NET["multibodies"] | {"heads": "output"})
    patch.setitem(resnet.ARCHITECTURES, "resnet_test", SMALL)
    _learn_in_part(*started(batch, assets, **fields), batch, assets)


def _learn_in_part(system, state, batch, assets):
  step = multi_config.on_devices(system.step, 1)
  after, first = step(state, batch, assets)
  learns = multibodies.learning({"heads": "stage4", "backbone": "resnet_test"})
  same = jax.tree_util.tree_map_with_path(
      lambda path, a, b: np.array_equal(a, b) != learns([p.key for p in path]), state.params, after.params)
  assert all(jax.tree.leaves(same)), "exactly the widened layers learn"
  for _ in range(20):
    after, last = step(after, batch, assets)
  assert last["loss"] < first["loss"]
  found = jax.jit(system.predict)(after, batch, assets)
  assert found.betas.shape == (8, M, 10) and np.ptp(found.betas, axis=1).max() > 1e-3


def test_older_runs_go_on_without_the_newer_fields(batch, assets):
  config = multi_config.get_config("multibodies").copy_and_resolve_references()
  with config.unlocked():
    del config["infer_joints"], config["freeze"]
  system = multibodies.build(config)
  state = jax.eval_shape(functools.partial(system.init, jax.random.key(0)), batch, assets)
  assert set(state.params) == {"net", "heads"}


def test_odd_configs_are_refused_in_one_line():
  heads = multi_config.NET["multibodies"]
  for change, said in (({"supervision": "x"}, "config.supervision is 'x': use one of"),
                       ({"quantise": "x"}, "config.quantise is 'x': use one of paper, code"),
                       ({"net.hypotheses": 0}, "config.net.hypotheses is 0: give 1 or more"),
                       ({"net.backbone": "x"}, "config.net.backbone is 'x'"),
                       ({"camera_convention": "x"}, "config.camera_convention is 'x'")):
    with pytest.raises(InputError, match=said) as error:
      multibodies.build(multi_config.get_config("multibodies", **change))
    assert "\n" not in str(error.value)
  config = multi_config.get_config("multibodies").copy_and_resolve_references()
  with config.unlocked():
    config.net = config.net.to_dict() | heads | {"heads": "x"}
  with pytest.raises(InputError, match="config.net.heads is 'x': use one of output, stage4"):
    multibodies.build(config)
  with config.unlocked():
    config.net.heads, config.weights.extra = "output", 1.0
  with pytest.raises(InputError, match="look at extra"):
    multibodies.build(config)
