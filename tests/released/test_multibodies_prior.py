"""The flow of 3D Multi-bodies: every key is expected, and it has the authors' densities."""

import pathlib

import jax
from jhmr.errors import InputError
from jhmr.nn import realnvp
from jhmr.released import multibodies_prior
import ml_collections
import numpy as np
import pytest
from released import multibodies_inputs as inputs
from systems import prohmr_inputs

NET = ml_collections.ConfigDict(dict(dim=72, couplings=2, hidden=5, dropout=0.2))


def arrays(**changes):
  """A small flow's, with some arrays changed or, by None, left out."""
  rng = np.random.default_rng(0)
  shapes = {k.removeprefix("module.model_realnvp."): s for k, s in inputs.prior_shapes(2, 5).items()}
  found = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  found = found | {"mask": np.tile(np.float32([0, 1]), (2, 36))} | {k.replace("__", "."): v for k, v in changes.items()}
  return {f"module.model_realnvp.{k}": v for k, v in found.items() if v is not None}


def test_densities_and_poses_are_the_authors():
  recorded = np.load(pathlib.Path(__file__).parent / "goldens" / "multibodies.npz")
  theirs = inputs.prior_weights()
  prohmr_inputs.check(recorded, theirs, "prior")
  assert sum(v.size for v in theirs.values()) == 13_480_160
  full = ml_collections.ConfigDict(dict(dim=72, couplings=20, hidden=512))
  found = multibodies_prior.convert(theirs, full, "a.pth")
  net = realnvp.RealNvp(**full)
  variables = {"params": found.params["net"], realnvp.MASKS: found.stats["net"]}

  @jax.jit
  def both(variables, poses, latents):
    z, _ = net.apply(variables, poses, method="inverse")
    return net.apply(variables, poses), z, net.apply(variables, latents, method="forward")[0]

  for ours, name in zip(both(variables, *inputs.poses()), ("log_prob", "z", "poses")):
    np.testing.assert_allclose(ours, recorded[f"prior_{name}"], atol=1e-4, rtol=1e-5, err_msg=name)


def test_our_flow_has_these_arrays_and_the_network_of_hypotheses_is_left_out():
  beside = {"module.model.model.fc1.weight": np.zeros((2, 2)), "module.smpl_mini.weights": np.zeros(3)}
  found = multibodies_prior.convert(arrays() | beside, NET, "a.pth")
  ours = jax.eval_shape(lambda: realnvp.RealNvp(**NET).init(jax.random.key(0), np.zeros((1, 72), np.float32)))
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(found.params["net"]) == shapes(dict(ours["params"]))
  assert shapes(found.stats["net"]) == shapes(dict(ours[realnvp.MASKS]))
  assert "the network of hypotheses (1), the body (1)" in found.said[0]
  np.testing.assert_array_equal(found.params["net"]["shift_fc2_kernel"][1],
                                arrays()["module.model_realnvp.t.1.3.weight"].T)
  assert multibodies_prior.settings(arrays()) == ("net.couplings=2", "net.hidden=5")


@pytest.mark.parametrize("changes, said", [
    ({"t__1__6__bias": None}, "missing model_realnvp.t.1.6.bias"),
    ({"t__2__6__bias": np.zeros(72)}, "unexpected model_realnvp.t.2.6.bias"),
    ({"mask": np.full((2, 72), 0.5)}, "not made of 0 and 1"),
    ({"s__0__0__weight": np.zeros((5, 71))}, r"\[5, 71\], not \[5, 72\]")])
def test_odd_files_are_refused_by_name(changes, said):
  with pytest.raises(InputError, match=said):
    multibodies_prior.convert(arrays(**changes), NET, "a.pth")


def test_a_file_without_a_flow_is_refused():
  with pytest.raises(InputError, match="holds no model_realnvp"):
    multibodies_prior.convert({"module.model.model.fc1.weight": np.zeros((2, 2))}, NET, "a.pth")
