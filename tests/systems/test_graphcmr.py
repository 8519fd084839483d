"""GraphCMR: which loss teaches what, label masks over devices and parts, the two steps, and that it learns a batch.

Most tests are of the fully connected network, which compiles in a fraction of the time: the losses are the same.
"""

import functools

import jax
import jax.numpy as jnp
from jhmr import checkpoint
from jhmr import evaluate
from jhmr import sparse
from jhmr import train
from jhmr.body import smpl
from jhmr.errors import InputError
from jhmr.nn import resnet
from jhmr.systems import graphcmr
import numpy as np
import pytest
import runs
from systems import graphcmr_config

CONFIG = str(runs.ROOT / "configs" / "graphcmr.py") + ":smoke"
TERMS = graphcmr.GRAPH_TERMS + graphcmr.SMPL_TERMS
MESH_ONLY = {f"weights__{name}": float(name == "vertices") for name in TERMS}
# Statistics of batch norm would be those of a part, or a device.
QUICK = {"net__backbone": "resnet_dot", "net__mesh": "fc", "net__batch_norm": "frozen"}


@pytest.fixture(scope="module", autouse=True)
def small_backbone():
  with pytest.MonkeyPatch.context() as patch:
    for name, architecture in graphcmr_config.DOT.items():
      patch.setitem(resnet.ARCHITECTURES, name, architecture)
    yield


@pytest.fixture(scope="module")
def assets():
  return graphcmr_config.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  return graphcmr_config.get_batch(assets, batch_size=16)


@pytest.fixture(scope="module")
def quick(assets, batch):
  """(one step on one device, a fresh state) of the quick network."""
  system = graphcmr.build(graphcmr_config.get_config(**QUICK))
  return graphcmr_config.on_devices(system.step, 1), system.init(jax.random.key(0), batch, assets)


def nothing_of(batch):
  """The batch without any label."""
  hidden = {k: np.zeros_like(v) for k, v in batch.items() if k.startswith(("has_", "keypoints"))}
  return batch | hidden


def test_labels_may_be_missing_devices_many_and_batches_in_parts(assets, batch, quick):
  """The step of eight devices, each in two parts, is that of one, whoever has which label."""
  step, state = quick
  system = graphcmr.build(graphcmr_config.get_config(accumulate=2, **QUICK))
  hidden = graphcmr_config.hide_labels(batch)
  (_, alone), (_, together) = step(state, hidden, assets), graphcmr_config.on_devices(system.step, 8)(state, hidden,
                                                                                                      assets)
  assert set(alone) == {"loss", "grad_norm_net", "grad_norm_smpl", *TERMS}
  for name, value in alone.items():
    assert value > 0, name
    np.testing.assert_allclose(together[name], value, rtol=1e-4, err_msg=name)


def test_without_labels_the_step_is_finite_and_changes_nothing(assets, batch, quick):
  step, state = quick
  for empty in (nothing_of(batch), batch | {"mask": np.zeros_like(batch["mask"])}):
    after, metrics = step(state, empty, assets)
    assert all(value == 0 for value in metrics.values()), metrics
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_no_gradient_goes_from_the_body_to_the_mesh_or_its_camera(assets, batch, quick):
  step, state = quick
  _, metrics = step(state, nothing_of(batch) | {"has_pose": batch["has_pose"]}, assets)  # its loss is of the body alone
  assert metrics["pose"] > 0 and metrics["grad_norm_net"] == 0 and metrics["grad_norm_smpl"] > 0
  labels = jax.tree.map(jnp.asarray, batch)
  pose = jnp.tile(assets["mean"]["pose"], (16, 1, 1, 1))

  @jax.jit
  def of_camera(cam):
    weights = dict.fromkeys(TERMS, 1.0)
    target = smpl.forward(assets["body"], labels["betas"], pose).vertices
    errors = graphcmr.smpl_errors(pose, labels["betas"], cam, target, labels, assets, weights, "paper")
    return sum(jnp.sum(e) for e in errors.values())

  assert not np.any(jax.grad(of_camera)(jnp.tile(assets["mean"]["camera"], (16, 1))))


def test_each_of_two_steps_leaves_the_other_network_alone(assets, batch, quick):
  """And a mesh can be learnt from meshes alone, without a camera."""
  same = lambda a, b: jax.tree.all(jax.tree.map(np.array_equal, a, b))
  for mode, learning, other, more in (("graph", "net", "smpl", MESH_ONLY), ("parameters", "smpl", "net", {})):
    system = graphcmr.build(graphcmr_config.get_config(train=mode, **QUICK, **more))
    state = quick[1].replace(opt_state={learning: quick[1].opt_state[learning]})
    after, metrics = graphcmr_config.on_devices(system.step, 1)(state, batch, assets)
    assert same(after.params[other], state.params[other]) and not same(after.params[learning], state.params[learning])
    assert set(after.opt_state) == {learning}
    assert set(metrics) - {"loss"} == {f"grad_norm_{learning}", *(("vertices",) if more else graphcmr.SMPL_TERMS)}
    if more:
      np.testing.assert_array_equal(after.params["net"]["out"]["bias"][-3:], state.params["net"]["out"]["bias"][-3:])


def test_where_the_mesh_alone_learns_it_is_judged():
  judged = lambda mode: evaluate.judged(graphcmr_config.get_config(train=mode))
  assert judged("graph") == "graphcmr mesh" and judged("joint") == judged("parameters") == "graphcmr"


def test_what_is_predicted_are_two_meshes_with_one_camera(assets, batch, quick):
  _, state = quick
  system = graphcmr.build(graphcmr_config.get_config(**QUICK))
  found = jax.eval_shape(system.predict, state, batch, assets)
  shapes = {"global_orient": (1, 3, 3), "body_pose": (23, 3, 3), "betas": (10,), "camera": (3,), "log_prob": (),
            "vertices": (60, 3)}
  assert {name: getattr(found, name).shape for name in shapes} == {n: (16, 1, *s) for n, s in shapes.items()}
  out = state.params["net"]["out"]["kernel"]  # of the fully connected network: the coarse mesh, and the camera
  assert out.shape == (32, 3 * graphcmr_config.NUM_COARSE + 3)
  np.testing.assert_allclose(state.params["net"]["out"]["bias"][-3:], assets["mean"]["camera"])


def test_losses_by_hand(assets, batch):
  """A mesh moved by a centimetre pays a centimetre; hidden joints count as zeros in the authors' mean alone."""
  coarse = jnp.asarray(np.random.default_rng(0).normal(size=(16, graphcmr_config.NUM_COARSE, 3)), jnp.float32)
  target = sparse.multiply(assets["upsampling"], coarse) + 0.01
  camera = jnp.tile(jnp.array([0.9, 0.1, -0.05]), (16, 1))
  points = jnp.einsum("kn,bnc->bkc", assets["mesh_joints"], coarse, precision="highest")
  shifted = np.asarray(camera[:, None, :1] * (points[..., :2] + camera[:, None, 1:])) + 0.2
  seen = np.zeros((16, 24, 1), np.float32)
  seen[:, 3] = 1
  labels = dict(batch)
  labels["keypoints2d"] = np.array(batch["keypoints2d"])
  labels["keypoints2d"][:, 25:] = np.concatenate([shifted, seen], -1)
  for supervision, wanted in (("paper", 0.2), ("code", 0.04 / 24)):
    of = jax.jit(functools.partial(graphcmr.graph_errors, supervision=supervision))
    errors = of(coarse, camera, target, labels, assets)
    np.testing.assert_allclose(errors["vertices"], 0.01, rtol=1e-3)
    np.testing.assert_allclose(errors["keypoints2d"], wanted, rtol=1e-3)


def test_what_each_example_weighs(batch):
  """The paper's mean of 2D errors is over visible joints, the authors' over all; meshes need pose and shape."""
  batch = dict(batch)
  batch["has_betas"] = np.arange(16) % 2
  batch["keypoints2d"] = batch["keypoints2d"] * np.array([1, 1, 0], np.float32)
  batch["keypoints2d"][:3, 30, 2] = 0.7
  paper, code = (graphcmr.label_weights(batch, supervision) for supervision in graphcmr.SUPERVISION)
  assert set(paper) == set(code) == set(TERMS)
  np.testing.assert_array_equal(paper["vertices"], np.arange(16) % 2)
  np.testing.assert_array_equal(paper["keypoints2d"], np.arange(16) < 3)
  np.testing.assert_array_equal(code["smpl_keypoints2d"], np.ones(16))


def test_wrong_choices_are_named():
  for field in ("train", "supervision", "net__mesh", "net__conv", "net__determinant", "net__start"):
    with pytest.raises(InputError, match=field.replace("__", ".")):
      graphcmr.build(graphcmr_config.get_config(**{field: "wrong"}))


def least_error(assets, batch):
  """Mean absolute error of the meshes closest to the labels, in squares: a coarse mesh cannot be every fine one."""
  pose = np.concatenate([batch["global_orient"], batch["body_pose"]], 1)
  target = np.asarray(jax.jit(smpl.forward)(assets["body"], batch["betas"], pose).vertices)
  up = sparse.dense(assets["upsampling"])
  return np.abs(np.einsum("mn,bnc->bmc", up @ np.linalg.pinv(up), target) - target).mean()


@pytest.mark.slow
def test_graph_and_body_learn_a_batch_and_devices_agree(assets, batch):
  config = graphcmr_config.get_config(net__backbone="resnet_dot", optim__learning_rate=3e-3)
  system = graphcmr.build(config)
  state = system.init(jax.random.key(0), batch, assets)
  step, least = graphcmr_config.on_devices(system.step, 1), least_error(assets, batch)
  hidden = graphcmr_config.hide_labels(batch)
  (_, alone), (_, together) = step(state, hidden, assets), graphcmr_config.on_devices(system.step, 8)(state, hidden,
                                                                                                      assets)
  for name, value in alone.items():
    np.testing.assert_allclose(together[name], value, rtol=2e-3, atol=1e-5, err_msg=name)
  state, first = step(state, batch, assets)
  for _ in range(200):
    state, last = step(state, batch, assets)
  for name in ("keypoints2d", "keypoints3d", "smpl_vertices", "pose"):
    assert last[name] < 0.6 * first[name], name
  assert last["vertices"] - least < (first["vertices"] - least) / 2
  found = jax.jit(system.predict)(state, batch, assets)
  np.testing.assert_allclose(np.linalg.det(found.body_pose), 1, atol=1e-5)


@pytest.mark.slow
def test_the_papers_two_steps_leave_the_first_network_as_it_is_to_the_bit(tmp_path, data_set):
  config = lambda *more: runs.config_of(*runs.light(data_set), "duration=2", "eval_every=2", "net.mesh=fc",
                                        "net.backbone=resnet_dot", *more, config=CONFIG)
  train.train(config("train=graph"), str(tmp_path / "graph"))
  train.train(config("train=parameters", f"warm_start={tmp_path / 'graph'}"), str(tmp_path / "both"))
  (first, _), (then, _) = (checkpoint.load_for_inference(str(tmp_path / name)) for name in ("graph", "both"))
  for part in ("params", "stats"):
    jax.tree.map(np.testing.assert_array_equal, then[part]["net"], first[part]["net"])
  moved = lambda a, b: any(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), a, b)))
  assert moved(then["params"]["smpl"], first["params"]["smpl"])
