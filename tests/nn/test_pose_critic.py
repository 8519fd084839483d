"""The chain space knows bones and nothing of where and how a pose stands; the critic is the network it is said to be."""

import jax
import jax.numpy as jnp
from jhmr.nn import pose_critic
import numpy as np
import pytest

BONES = ((0, 1), (1, 2), (3, 1), (0, 2))
NET = pose_critic.PoseCritic(BONES, hidden=4, chain_hidden=6)


def poses(*lead, seed=0):
  return np.random.default_rng(seed).normal(size=(*lead, 12)).astype(np.float32)


def rotated(pose, seed=1):
  q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
  return np.einsum("ij,...jk->...ik", q, pose.reshape(*pose.shape[:-1], 3, 4)).reshape(pose.shape).astype(np.float32)


def test_entries_are_products_of_bones():
  pose = poses(2)
  found = pose_critic.chain_space(pose, BONES)
  for p, psi in zip(pose.reshape(2, 3, 4), np.asarray(found)):
    bones = np.stack([p[:, i] - p[:, j] for i, j in BONES], -1)
    np.testing.assert_allclose(psi, bones.T @ bones, atol=1e-5)
    np.testing.assert_allclose(np.diag(psi), np.linalg.norm(bones, axis=0) ** 2, rtol=1e-5)


def test_it_is_symmetric_positive_of_rank_three_and_grows_with_the_square():
  pose = poses(5)
  found = np.asarray(pose_critic.chain_space(pose, BONES), np.float64)
  np.testing.assert_allclose(found, np.swapaxes(found, 1, 2), atol=1e-6)
  values = np.linalg.eigvalsh(found)
  assert (np.abs(values[:, :-3]) < 1e-5).all() and (values[:, -3:] > -1e-5).all()
  np.testing.assert_allclose(pose_critic.chain_space(3 * pose, BONES), 9 * found, rtol=1e-4, atol=1e-4)


def test_it_does_not_see_where_or_how_a_pose_stands():
  pose = poses(5)
  found = pose_critic.chain_space(pose, BONES)
  np.testing.assert_allclose(pose_critic.chain_space(rotated(pose), BONES), found, atol=1e-5)
  np.testing.assert_allclose(pose_critic.chain_space(pose + np.repeat([1.0, -2.0, 0.5], 4), BONES), found, atol=1e-4)


def test_the_network_is_two_paths_that_join():
  pose = poses(2, 3)
  params = jax.tree.map(lambda s: np.random.default_rng(s.size).normal(size=s.shape).astype(np.float32),
                        jax.eval_shape(lambda: NET.init(jax.random.key(0), pose)))
  found = jax.jit(NET.apply)(params, pose)
  leaky, layers = (lambda x: np.where(x > 0, x, 0.01 * x)), params["params"]
  dense = lambda x, name: x @ layers[name]["kernel"] + layers[name]["bias"]
  for i, j in np.ndindex(2, 3):
    h1 = leaky(dense(pose[i, j], "fc1"))
    x = dense(leaky(dense(leaky(dense(h1, "fc2")), "fc3") + h1), "fc4")
    k1 = leaky(dense(np.asarray(pose_critic.chain_space(pose[i, j], BONES)).ravel(), "fc5"))
    k = dense(leaky(dense(k1, "fc6")), "fc7") + k1
    score = dense(leaky(dense(np.concatenate([x, k]), "fc8")), "fc9")
    np.testing.assert_allclose(found[i, j], score[0], rtol=1e-4)


def test_its_size_is_the_authors():
  net = pose_critic.PoseCritic(tuple((i, i + 1) for i in range(15)) + ((0, 15),))
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 48))))
  assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes)) == 2_404_401


@pytest.mark.parametrize("pose", [np.zeros(12, np.float32), poses()], ids=["all joints in one point", "a pose"])
def test_gradients_of_gradients_are_finite(pose):
  params = jax.jit(NET.init)(jax.random.key(0), pose)
  penalty = lambda p: jnp.sum(jax.grad(lambda x: NET.apply(p, x))(pose) ** 2)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(penalty))(params)))
