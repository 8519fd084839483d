"""GraphCMR: which loss teaches what, label masks over devices, and that it learns a batch."""

import jax
import jax.numpy as jnp
from jhmr import sparse
from jhmr.errors import InputError
from jhmr.systems import graphcmr
import numpy as np
import pytest
from systems import graphcmr_config

SMPL_ONLY = {name: 1.0 if name in graphcmr.SMPL_TERMS else 0.0
             for name in graphcmr.GRAPH_TERMS + graphcmr.SMPL_TERMS}


@pytest.fixture(scope="module")
def assets():
  return graphcmr_config.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  return graphcmr_config.get_batch(assets, batch_size=8)


def started(config, batch, assets):
  system = graphcmr.build(config)
  return system, system.init(jax.random.key(0), batch, assets)


def test_it_learns_a_batch(assets, batch):
  """Both meshes do: their losses fall, and what is predicted has their shapes."""
  config = graphcmr_config.get_config(net__batch_norm="device", optim__learning_rate=3e-3)
  system, state = started(config, batch, assets)
  step = graphcmr_config.on_devices(system.step, 1)
  state, first = step(state, batch, assets)
  for _ in range(150):
    state, last = step(state, batch, assets)
  assert set(first) == {"loss", "grad_norm_net", "grad_norm_smpl", *graphcmr.GRAPH_TERMS, *graphcmr.SMPL_TERMS}
  for name in ("vertices", "keypoints2d", "keypoints3d", "smpl_vertices", "pose"):
    assert last[name] < first[name] / 2, name
  found = jax.jit(system.predict)(state, batch, assets)
  assert found.vertices.shape == (8, 1, 60, 3) and found.body_pose.shape == (8, 1, 23, 3, 3)
  np.testing.assert_allclose(np.linalg.det(found.body_pose), 1, atol=1e-5)


def test_no_gradient_goes_from_the_body_to_the_mesh_or_its_camera(assets, batch):
  config = graphcmr_config.get_config(**{f"weights__{name}": value for name, value in SMPL_ONLY.items()})
  system, state = started(config, batch, assets)
  _, metrics = graphcmr_config.on_devices(system.step, 1)(state, batch, assets)
  assert metrics["grad_norm_net"] == 0 and metrics["grad_norm_smpl"] > 0


@pytest.mark.parametrize("supervision", graphcmr.SUPERVISION)
def test_labels_may_be_missing_and_devices_many(supervision, assets, batch):
  """The step of eight devices is that of one, whoever has which label; without any label it is finite."""
  config = graphcmr_config.get_config(supervision=supervision)
  system, state = started(config, batch, assets)
  hidden = graphcmr_config.hide_labels(batch)
  steps = [graphcmr_config.on_devices(system.step, n) for n in (1, 4)]
  (_, alone), (_, together) = (step(state, hidden, assets) for step in steps)
  for name, value in alone.items():
    np.testing.assert_allclose(together[name], value, rtol=2e-3, atol=1e-5, err_msg=name)
  nothing = {k: np.zeros_like(v) if k.startswith("has_") or k == "mask" else v for k, v in batch.items()}
  state, metrics = steps[0](state, nothing, assets)
  assert metrics["loss"] == 0 and all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, metrics)))


def test_each_of_two_steps_leaves_the_other_network_alone(assets, batch):
  same = lambda a, b: all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)))
  for train, learning in (("graph", "net"), ("parameters", "smpl")):
    system, state = started(graphcmr_config.get_config(train=train), batch, assets)
    before = jax.tree.map(np.array, state)
    after, metrics = graphcmr_config.on_devices(system.step, 1)(state, batch, assets)
    for name in ("net", "smpl"):
      kept = same(after.params[name], before.params[name]) and same(after.stats[name], before.stats[name])
      assert kept == (name != learning), (train, name)
    assert set(metrics) - {"loss"} == {f"grad_norm_{learning}", *(
        graphcmr.GRAPH_TERMS if train == "graph" else graphcmr.SMPL_TERMS)}


def test_losses_by_hand(assets, batch):
  """A mesh moved by a centimetre pays a centimetre; hidden joints count as zeros in the authors' mean alone."""
  coarse = jnp.asarray(np.random.default_rng(0).normal(size=(8, graphcmr_config.NUM_COARSE, 3)), jnp.float32)
  target = sparse.multiply(assets["upsampling"], coarse) + 0.01
  camera = jnp.tile(jnp.array([0.9, 0.1, -0.05]), (8, 1))
  points = jnp.einsum("kn,bnc->bkc", assets["mesh_joints"], coarse, precision="highest")
  shifted = np.asarray(camera[:, None, :1] * (points[..., :2] + camera[:, None, 1:])) + 0.2
  seen = np.zeros((8, 24, 1), np.float32)
  seen[:, 3] = 1
  labels = dict(batch)
  labels["keypoints2d"] = np.array(batch["keypoints2d"])
  labels["keypoints2d"][:, 25:] = np.concatenate([shifted, seen], -1)
  for supervision, wanted in (("paper", 0.2), ("code", 0.04 / 24)):
    errors = graphcmr.graph_errors(coarse, camera, target, labels, assets, supervision)
    np.testing.assert_allclose(errors["vertices"], 0.01, rtol=1e-3)
    np.testing.assert_allclose(errors["keypoints2d"], wanted, rtol=1e-3)


def test_wrong_choices_are_named():
  for field in ("train", "supervision", "net__mesh", "net__conv", "net__determinant", "net__start"):
    with pytest.raises(InputError, match=field.replace("__", ".")):
      graphcmr.build(graphcmr_config.get_config(**{field: "wrong"}))
