"""Keypoints with people on the last axis are those of the whole body, and the statics give autodiff's gradient."""

import jax
import jax.numpy as jnp
from jhmr.body import landmarks
from jhmr.body import people_last
from jhmr.body import rotations
from jhmr.body import smpl
import numpy as np
import pytest

from body import random_body

SETS = ("spin49", "prohmr44")


@pytest.fixture(scope="module")
def whole():
  return smpl.from_arrays(random_body.arrays(num_vertices=60))


@pytest.fixture(scope="module")
def rigid(whole):
  return landmarks.rigid_body(whole, SETS)


def people(num=5, spread=0.8, seed=0):
  """Shapes and axis-angle poses, among them no rotation at all, a tiny one and nearly half a turn."""
  rng = np.random.default_rng(seed)
  pose = spread * rng.normal(size=(num, 24, 3))
  pose[0, 3], pose[0, 4], pose[0, 5], pose[1] = 0, 1e-5, [np.pi - 1e-4, 0, 0], 0
  return jnp.asarray(rng.normal(size=(num, 10)), jnp.float32), jnp.asarray(pose, jnp.float32)


def last(x):
  return jnp.moveaxis(x, 0, -1)


@pytest.mark.parametrize("set_name", SETS)
def test_keypoints_are_those_of_the_whole_mesh(whole, rigid, set_name):
  betas, pose = people()
  expected = smpl.keypoints(whole, smpl.forward_axis_angle(whole, betas, pose.reshape(-1, 72)), set_name)
  found = people_last.keypoints(rigid, last(betas), people_last.matrices(last(pose)), set_name)
  np.testing.assert_allclose(jnp.moveaxis(found, -1, 0), expected, atol=2e-6)


def test_the_gradient_is_autodiffs_at_zero_and_near_pi_too(whole, rigid):
  betas, pose = people()
  weights = jnp.asarray(np.random.default_rng(1).normal(size=(5, 49, 3)), jnp.float32)

  def ours(betas, pose):
    points = people_last.keypoints(rigid, betas, people_last.matrices(pose), "spin49")
    return jnp.sum(last(weights) * points + points**2)

  def theirs(betas, pose):
    points = smpl.keypoints(whole, smpl.forward_axis_angle(whole, betas, pose.reshape(-1, 72)), "spin49")
    return jnp.sum(weights * points + points**2)

  found = jax.jit(jax.grad(ours, (0, 1)))(last(betas), last(pose))
  for f, e in zip(found, jax.jit(jax.grad(theirs, (0, 1)))(betas, pose)):
    np.testing.assert_allclose(jnp.moveaxis(f, -1, 0), e, rtol=1e-4, atol=2e-5 * float(jnp.abs(e).max()))


def test_the_gradient_of_matrices_moves_rotations_as_autodiff_does(rigid):
  betas, pose = people(seed=2)
  six_d = rotations.matrix_to_six_d(rotations.axis_angle_to_matrix(pose), "spin") * 1.3  # not orthonormal
  score = lambda points: jnp.sum(jnp.sin(3 * points))

  def ours(six_d):
    return score(people_last.keypoints(rigid, last(betas), last(rotations.six_d_to_matrix(six_d, "spin")), "spin49"))

  def theirs(six_d):
    posed = smpl.forward(rigid, betas, rotations.six_d_to_matrix(six_d, "spin"))
    return score(smpl.keypoints(rigid, posed, "spin49"))

  found, expected = jax.jit(jax.grad(ours))(six_d), jax.jit(jax.grad(theirs))(six_d)
  np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_a_body_that_several_joints_move_is_refused(whole):
  betas, pose = people()
  with pytest.raises(ValueError, match="rigid_body"):
    people_last.keypoints(whole, last(betas), people_last.matrices(last(pose)), "spin49")
