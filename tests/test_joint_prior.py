"""The prior over joints: what it sees of a body, and which runs it is read from."""

import jax
from jhmr import joint_prior, multi_hypothesis
from jhmr.body import rotations
from jhmr.errors import InputError
from jhmr.nn import realnvp
import numpy as np
import pytest
from systems import multi_config


@pytest.fixture(scope="module")
def body():
  return multi_config.get_assets()["keypoint_body"]


@pytest.fixture(scope="module")
def seen(body):
  """Of bodies [2, 3]: what the prior sees, and all their joints by another way, the root not turned."""
  rng = np.random.default_rng(0)
  turns, betas = 0.5 * rng.normal(size=(2, 3, 24, 3)), rng.normal(size=(2, 3, 10)).astype(np.float32)
  turns[:, :, 0] = 0

  @jax.jit
  def both(body, turns, betas):
    pose = rotations.axis_angle_to_matrix(turns)
    return joint_prior.upright(body, pose[:, :, 1:], betas), multi_hypothesis.joints_of(body, pose, betas)

  return both(body, turns.astype(np.float32), betas)


def test_it_sees_joints_between_the_hips_of_a_body_that_stands_as_made(seen):
  found, points = seen
  points = points[..., 25:, :]
  hips = points[..., [2, 3], :]  # right and left, as in the 14 of LSP
  np.testing.assert_allclose(found, points - hips.mean(-2, keepdims=True), atol=1e-5)
  np.testing.assert_allclose(found[..., [2, 3], :].mean(-2), 0, atol=1e-6)


def test_densities_are_of_72_numbers_and_weights_are_arguments(seen):
  prior, count = multi_config.get_prior(), []

  @jax.jit
  def density(prior, points):
    count.append(1)
    return joint_prior.log_prob(prior, points)

  points = seen[0]
  found = density(prior, points)
  assert found.shape == (2, 3)
  one = jax.jit(lambda prior, x: prior.net.apply({"params": prior.params, realnvp.MASKS: prior.masks}, x))
  np.testing.assert_allclose(found[1, 2], one(prior, points[1, 2].reshape(72)), rtol=1e-5)
  assert np.all(density(jax.tree.map(lambda x: 0.5 * x, prior), points) != found) and len(count) == 1


def test_runs_of_other_systems_are_refused_in_one_line(tmp_path):
  with pytest.raises(InputError, match="no run") as none:
    joint_prior.load(str(tmp_path))
  (tmp_path / "config.json").write_text('{"system": "hmr"}')
  with pytest.raises(InputError, match="run of 'hmr', not a prior of joints: give one of 'joint_prior'") as other:
    joint_prior.load(str(tmp_path))
  assert all("\n" not in str(e.value) for e in (none, other))
