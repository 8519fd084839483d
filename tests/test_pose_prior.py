"""A pose VAE as a prior for fits: what it decodes are poses, and its weights are arguments."""

import jax
import jax.numpy as jnp
from jhmr import pose_prior
from jhmr.body import rotations
from jhmr.errors import InputError
from jhmr.nn import pose_vae
import numpy as np
import pytest


@pytest.fixture(scope="module", params=[1, 2])
def prior(request):
  net = pose_vae.PoseVae(version=request.param, hidden=16, latent=6)
  variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 63)), jnp.zeros((1, 6)))
  noisy = jax.tree.map(lambda x: x + 0.3 * jax.random.uniform(jax.random.key(x.size), x.shape), variables)
  return pose_prior.PosePrior(noisy["params"], noisy["batch_stats"], net)


encode, decode = jax.jit(pose_prior.encode), jax.jit(pose_prior.decode)


def poses(*lead):
  turns = 0.7 * np.random.default_rng(1).normal(size=(*lead, 23, 3)).astype(np.float32)
  return rotations.axis_angle_to_matrix(turns)


def test_latents_decode_to_rotations_and_hands_that_do_not_turn(prior):
  made = decode(prior, 3 * jax.random.normal(jax.random.key(1), (2, 4, 6)))
  assert made.shape == (2, 4, 23, 3, 3)
  np.testing.assert_allclose(made @ jnp.swapaxes(made, -1, -2), np.broadcast_to(np.eye(3), made.shape), atol=1e-5)
  np.testing.assert_allclose(jnp.linalg.det(made), 1, atol=1e-5)
  np.testing.assert_array_equal(made[..., 21:, :, :], np.broadcast_to(np.eye(3), (2, 4, 2, 3, 3)))


def test_hands_do_not_matter_to_latents(prior):
  pose = poses(5)
  mean, std = encode(prior, pose)
  assert mean.shape == std.shape == (5, 6) and np.all(std > 0)
  np.testing.assert_array_equal(encode(prior, pose.at[:, 21:].set(jnp.eye(3)))[0], mean)
  assert np.any(encode(prior, pose.at[:, 20].set(jnp.eye(3)))[0] != mean)


def test_people_are_independent_of_each_other(prior):
  pose = poses(4)
  all_at_once = encode(prior, pose)[0]
  np.testing.assert_allclose(all_at_once[2], encode(prior, pose[2])[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(encode(prior, pose.reshape(2, 2, 23, 3, 3))[0].reshape(4, 6), all_at_once, rtol=1e-5,
                             atol=1e-5)


def test_a_fit_moves_latents_to_a_pose_and_other_weights_compile_nothing(prior):
  target = decode(prior, jnp.full((1, 6), 0.8))
  count = []

  @jax.jit
  def descend(prior, latent):
    count.append(1)
    loss = lambda z: jnp.sum((pose_prior.decode(prior, z) - target) ** 2)
    return jax.lax.fori_loop(0, 200, lambda _, z: z - 0.02 * jax.grad(loss)(z), latent)

  start = jnp.zeros((1, 6))
  found = descend(prior, start)
  gap = lambda z: float(jnp.max(jnp.abs(decode(prior, z) - target)))
  assert gap(found) < 0.2 * gap(start)
  descend(jax.tree.map(lambda x: 1.01 * x, prior), start)
  assert len(count) == 1


def test_gradients_are_finite_at_the_rest_pose(prior):
  value = lambda pose: jnp.sum(pose_prior.encode(prior, pose)[0])
  assert np.all(np.isfinite(jax.jit(jax.grad(value))(jnp.broadcast_to(jnp.eye(3), (1, 23, 3, 3)))))


def test_runs_of_other_systems_are_refused(tmp_path):
  with pytest.raises(InputError, match="no run"):
    pose_prior.load(str(tmp_path))
  (tmp_path / "config.json").write_text('{"system": "hmr"}')
  with pytest.raises(InputError, match="run of 'hmr', not a pose prior"):
    pose_prior.load(str(tmp_path))
