"""Lifting beside numbers of Wehrbein et al.'s code, recorded by `goldens/record_lifting.py`: what the network sees,
both of its directions, and the scores of an evaluation."""

import pathlib

import jax
import jax.numpy as jnp
from jhmr import lift_scores, lifting
from jhmr.nn import cinn
from jhmr.released import wehrbein
import ml_collections
import numpy as np
import pytest
from released import lifting_inputs as inputs
from systems import prohmr_inputs

NET = ml_collections.ConfigDict(dict(blocks=8, hidden=1028, condition_hidden=256, features=56))


@pytest.fixture(scope="module")
def recorded():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "lifting.npz") as f:
    return dict(f)


@pytest.fixture(scope="module")
def params(recorded):
  weights = inputs.inn_weights()
  prohmr_inputs.check(recorded, weights, "inn")
  return wehrbein.convert(weights, NET, "model.pt").params["net"]


@pytest.fixture(scope="module")
def batch():
  return jax.tree.map(jnp.asarray, inputs.as_batch(inputs.people(inputs.BATCH)))


def test_what_the_network_sees_is_theirs(recorded, batch):
  # They work in millimetres, ours has metres before the means are taken away.
  np.testing.assert_allclose(lifting.normalise3d(batch["pose3d"]), recorded["normalised3d"], atol=2e-6)
  np.testing.assert_allclose(lifting.normalise2d(batch["pose2d"]), recorded["normalised2d"], atol=2e-6)
  np.testing.assert_allclose(lifting.condition(batch["gaussians"]), recorded["condition"], atol=1e-5)


def test_both_directions_are_theirs(recorded, params):
  net, z = cinn.ConditionalInn(), inputs.draws()["rand"]

  @jax.jit
  def both(params, x, v, condition):
    projected = net.apply({"params": params}, condition, method="project")
    apply = lambda a, method: net.apply({"params": params}, a[:, None], projected, method=method)
    return apply(x, "forward"), apply(v, "inverse")

  v = np.concatenate([z, recorded["normalised2d"]], 1)
  (forward, log_det), (inverse, _) = both(params, recorded["normalised3d"], v, recorded["condition"])
  np.testing.assert_allclose(forward[:, 0], recorded["forward"], atol=1e-5)
  np.testing.assert_allclose(log_det[:, 0], recorded["log_det"], atol=2e-5)
  np.testing.assert_allclose(inverse[:, 0], recorded["inverse"], atol=3e-5)


def test_hard_poses_are_theirs(recorded):
  hard = lifting.hard(inputs.as_batch(inputs.alike())["gaussians"])
  np.testing.assert_array_equal(hard, recorded["hard"])
  assert 0 < np.sum(hard) < inputs.POSES


@pytest.fixture(scope="module")
def evaluation(recorded):
  """(guesses [N, S, 17, 3] m, targets [N, 17, 3] m) of the poses they evaluate."""
  target = inputs.as_batch(inputs.alike())["pose3d"][recorded["hard"]]
  guesses = lifting.to_pose3d(jnp.asarray(inputs.guesses(inputs.SETS, len(target))))
  return jnp.swapaxes(guesses, 0, 1), jnp.asarray(target)


def test_the_root_and_units_are_theirs(recorded, evaluation):
  guesses, target = evaluation
  theirs = lambda name: recorded[name].reshape(-1, 3, 17).swapaxes(1, 2) * np.array([1, -1, -1]) / 1000
  np.testing.assert_allclose(target, theirs("eval_target"), atol=1e-6)
  mode = lifting.to_pose3d(inputs.guesses(1, len(target)))[0]
  np.testing.assert_allclose(mode, theirs("eval_mode"), atol=1e-6)


def test_scores_of_sets_are_theirs(recorded, evaluation):
  guesses, target = evaluation
  mode = lift_scores.errors(lifting.to_pose3d(jnp.asarray(inputs.guesses(1, len(target))))[0][:, None], target)
  rows = lift_scores.of_set(guesses, target) | {f"{m}_z0": mode[m][:, 0] for m in lift_scores.ERRORS}
  # Theirs is of ambiguous poses alone: a mean over them, whatever their actions are.
  labels = {"action": np.arange(len(target)) // 3, "hard": np.ones(len(target))}
  found = {name: of["value"] for name, of in lift_scores.summarise(jax.device_get(rows) | labels).items()}
  for number, error in enumerate(lift_scores.ERRORS, 1):
    for ours, theirs in (("z0", "z0"), ("min", "best"), ("mean", "mean"), ("median", "median"), ("worst", "worst")):
      np.testing.assert_allclose(found[f"{error}_{ours}"], recorded[f"eval_{theirs}_p{number}"], rtol=2e-5,
                                 err_msg=f"{error} {theirs}")
  np.testing.assert_allclose(found["pck"], recorded["eval_pck"], rtol=1e-5)
  np.testing.assert_allclose(found["cps"], recorded["eval_cps"], rtol=1e-5)
  np.testing.assert_allclose([found[axis] for axis in lift_scores.AXES], recorded["eval_std"], rtol=1e-4)
