"""Refinement of several views: fixed points, agreement, masks; and averaged rotations in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fitting import fake_latent
from jhmr.body import rotations
from jhmr.fitting import multiview


@functools.partial(jax.jit, static_argnames=("mode", "num_steps"))
def refine(encoded, mask, mode="vmap", num_steps=None):
  return multiview.refine(fake_latent.decode, encoded, mask, dim=fake_latent.DIM, mode=mode, num_steps=num_steps)


def people(num, views, seed=0):
  flat = fake_latent.encoded(num * views, seed)
  return jax.tree.map(lambda x: x.reshape(num, views, *x.shape[1:]), flat)


def single(encoded):
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), encoded)
  pose = fake_latent.decode(jnp.zeros((flat.betas.shape[0], 1, fake_latent.DIM)), flat)
  return pose.reshape(*encoded.betas.shape[:2], 24, 3, 3)


def spread(pose, mask):
  return jax.vmap(multiview.disagreement)(pose[:, :, 1:], mask)


def test_the_objective_is_equation_12_in_slow_numpy():
  encoded, z = jax.tree.map(lambda x: x[0], people(1, 3)), np.random.default_rng(0).normal(size=(3, 144))
  mask = np.array([1.0, 0.0, 1.0], np.float32)
  pose = np.asarray(fake_latent.decode(jnp.asarray(z[:, None], jnp.float32), encoded)[:, 0], np.float64)
  mean = (pose[0, 1:] + pose[2, 1:]) / 2
  total = 90000 * sum(np.sum((pose[n, 1:] - mean) ** 2) for n in (0, 2)) + np.sum(z[[0, 2]] ** 2)
  value = multiview.energy(fake_latent.decode, encoded, jnp.asarray(mask))(jnp.asarray(z, jnp.float32))
  np.testing.assert_allclose(value, total, rtol=1e-4)


def test_identical_views_are_a_fixed_point():
  encoded = jax.tree.map(lambda x: jnp.repeat(x[:, :1], 4, 1), people(2, 1))
  for mode in ("vmap", "joint"):
    refined = refine(encoded, jnp.ones((2, 4)), mode=mode)
    np.testing.assert_allclose(refined.z, 0, atol=1e-3)
    np.testing.assert_allclose(refined.pose, single(encoded), atol=1e-4)


def test_refinement_makes_body_poses_agree_and_leaves_roots_alone():
  encoded, mask = people(2, 4), jnp.ones((2, 4))
  before = spread(single(encoded), mask)
  for mode in ("vmap", "joint"):
    refined = refine(encoded, mask, mode=mode)
    assert np.all(spread(refined.pose, mask) < 1e-3 * before)
    assert np.all(refined.losses[:, -1] < 0.01 * refined.losses[:, 0])
    roots = refined.pose[:, :, 0]
    assert float(jnp.max(rotations.angle_between_rad(roots[:, 0], roots[:, 1]))) > 0.05
    np.testing.assert_allclose(refined.betas, encoded.betas.mean(1), atol=1e-6)


def test_views_that_do_not_exist_change_nothing():
  encoded, mask = people(2, 4), jnp.array([[1.0, 1, 1, 0], [1.0, 1, 1, 0]])
  changed = jax.tree.map(lambda x: x.at[:, 3].add(0.3), encoded)
  a, b = refine(encoded, mask), refine(changed, mask)
  np.testing.assert_array_equal(a.z[:, :3], b.z[:, :3])
  np.testing.assert_array_equal(a.z[:, 3], 0)
  np.testing.assert_allclose(a.betas, encoded.betas[:, :3].mean(1), atol=1e-6)
  nobody = refine(encoded, jnp.zeros((2, 4)))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(nobody)) and not np.any(nobody.z)


def test_averaged_rotations_about_one_axis_are_the_mean_angle():
  angles = jnp.array([0.2, 0.5, 1.1])
  turns = rotations.rotation_about("y", angles)[:, None]
  mask = jnp.ones(3)
  expected = jnp.arctan2(jnp.sin(angles).mean(), jnp.cos(angles).mean())
  np.testing.assert_allclose(multiview.average_rotations(turns, mask)[0], rotations.rotation_about("y", expected),
                             atol=1e-6)
  np.testing.assert_allclose(multiview.average_rotations(turns, jnp.array([0.0, 0, 1]))[0], turns[2, 0], atol=1e-6)


def test_averages_are_rotations_even_where_the_mean_is_none():
  half_turns = jnp.stack([jnp.eye(3), jnp.diag(jnp.array([1.0, -1, -1]))])[:, None]
  for mask in (jnp.ones(2), jnp.zeros(2)):
    average = multiview.average_rotations(half_turns, mask)
    np.testing.assert_allclose(np.linalg.det(average), 1, atol=1e-5)
    np.testing.assert_allclose(average[0] @ average[0].T, np.eye(3), atol=1e-5)
  rng = np.random.default_rng(0)
  pose = jnp.asarray(rotations.six_d_to_matrix(rng.normal(size=(2, 3, 24, 6)), "prohmr"), jnp.float32)
  mean = np.asarray(pose[:, :, 1:], np.float64).mean(1)
  u, _, vt = np.linalg.svd(mean)
  u[..., 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
  averaged = multiview.average_pose(pose, jnp.ones((2, 3)))
  np.testing.assert_allclose(averaged[:, 1, 1:], u @ vt, atol=1e-4)
  np.testing.assert_array_equal(averaged[:, :, 0], pose[:, :, 0])
