"""ProHMR's model of skeletons beside numbers of the authors' code, recorded by `goldens/record_lifting.py`."""

import pathlib

import jax
from jhmr.nn import flow
from jhmr.released import prohmr_skeleton
from jhmr.systems import prohmr_lift
import ml_collections
import numpy as np
import pytest
from released import lifting_inputs as inputs
from systems import prohmr_inputs

NET = ml_collections.ConfigDict(dict(hidden=1024, blocks=2, dropout=0.5, batch_norm="device", flow=dict(
    blocks=4, hidden=1024, depth=2, dropout=0.5, legacy_lu=False)))


@pytest.mark.slow
def test_modes_samples_and_densities_are_theirs():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "lifting.npz") as recorded:
    theirs, weights = dict(recorded), inputs.skeleton_weights()
  prohmr_inputs.check(theirs, weights, "skeleton")
  found, given = prohmr_skeleton.convert(weights, NET, "checkpoint.ckpt"), inputs.skeletons()
  nets = prohmr_lift.networks(NET)

  @jax.jit
  def looked_at(params, stats, x, z, pose):
    context = nets.encoder.apply(prohmr_lift.variables_of(params, stats, "encoder"), x)
    variables = prohmr_lift.variables_of(params, stats, "flow")
    projected = nets.flow.apply(variables, context, method="project")
    made, log_det = flow.decode(nets.flow, variables, z, projected)
    return context, made, flow.log_normal(z) - log_det, nets.flow.apply(variables, pose, context)

  z = np.concatenate([np.zeros_like(given["z"][:, :1]), given["z"]], 1)
  pose = given["pose"].reshape(inputs.PEOPLE, 1, inputs.DIM)
  noisy = pose + 0.005 * given["noise"].reshape(pose.shape)
  context, made, sampled, (log_prob, latent) = looked_at(
      found.params, found.stats, given["x"].reshape(inputs.PEOPLE, -1), z, np.concatenate([pose, noisy], 1))
  np.testing.assert_allclose(context[:, ::16], theirs["skeleton_features"], atol=1e-5)
  np.testing.assert_allclose(made.reshape(inputs.PEOPLE, -1, 16, 3), theirs["skeleton_poses"], atol=1e-5)
  np.testing.assert_allclose(sampled, theirs["skeleton_sample_log_prob"], atol=1e-4)
  np.testing.assert_allclose(latent[:, :1], theirs["skeleton_z"], atol=1e-4)
  np.testing.assert_allclose(log_prob[:, :1], theirs["skeleton_log_prob"], rtol=1e-5)
  np.testing.assert_allclose(-log_prob[:, 1].mean(), theirs["skeleton_nll"], rtol=1e-5)
  np.testing.assert_allclose(np.abs(made[:, :1] - pose).sum() / inputs.PEOPLE, theirs["skeleton_l1"], rtol=1e-5)
