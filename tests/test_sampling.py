"""Samples that can be drawn again, whatever is drawn beside them; densities of known poses; walks between latents."""

import functools

import jax
import jax.numpy as jnp
from jhmr import sampling
from jhmr.body import rotations, smpl
from jhmr.systems import prohmr
import latents
import numpy as np
import pytest

from body import random_body
from systems import prohmr_config

B = 4
NAMES = ["anna", "bob_0", "bob_1", "photo"]


@pytest.fixture(scope="module")
def scene():
  """(latent, state, encoded, assets) of an untrained ProHMR, of which ActNorm has seen poses."""
  assets = prohmr_config.get_assets()
  batch = prohmr_config.get_batch(assets, batch_size=B)
  system = prohmr.build(prohmr_config.get_config(**{"weights.adversarial": 0.0}))  # no critic
  state = system.init(jax.random.key(0), batch, assets)
  return system.latent, state, jax.jit(system.latent.encode)(state, batch, assets), assets


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def sample(latent, state, encoded, assets, keys, num, chunk):
  return sampling.sample(latent, state, encoded, assets, keys, num, chunk)


@pytest.fixture(scope="module")
def drawn(scene):
  return sample(*scene, sampling.keys_of(0, NAMES), 7, 64)


def close(a, b, atol=1e-4):
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=atol), a, b)


def test_the_mode_is_first_and_is_z_zero(scene, drawn):
  np.testing.assert_array_equal(drawn.z[:, 0], 0)
  close(jax.tree.map(lambda x: x[:, :1], drawn), jax.jit(sampling.mode, static_argnums=0)(*scene))
  assert (drawn.log_prob[:, :1] > drawn.log_prob[:, 1:]).all()
  np.testing.assert_allclose(np.linalg.det(drawn.pose), 1, atol=1e-4)


def test_chunks_and_later_samples_change_nothing(scene, drawn):
  keys = sampling.keys_of(0, NAMES)
  close(sample(*scene, keys, 7, 3), drawn)
  close(sample(*scene, keys, 4, 3), jax.tree.map(lambda x: x[:, :4], drawn))


def test_a_person_is_sampled_alike_in_any_company(scene, drawn):
  latent, state, encoded, assets = scene
  order = [3, 1]
  some = sample(latent, state, jax.tree.map(lambda x: x[np.array(order)], encoded), assets,
                sampling.keys_of(0, [NAMES[i] for i in order]), 7, 64)
  np.testing.assert_array_equal(some.z, drawn.z[np.array(order)])
  close(some, jax.tree.map(lambda x: x[np.array(order)], drawn))


def test_seeds_names_and_numbers_give_other_samples():
  keys = jnp.concatenate([sampling.keys_of(seed, names) for seed, names in ((0, NAMES), (1, NAMES[:1]), (0, [""]))])
  z = np.asarray(sampling.noise(keys, jnp.arange(1, 5), 3))
  assert len(np.unique(z)) == 6 * 4 * 3


def test_samples_are_standard_normal():
  z = np.asarray(sampling.noise(sampling.keys_of(0, ["a"]), jnp.arange(1, 2001), 8))[0]
  np.testing.assert_allclose(z.mean(0), 0, atol=0.1)
  np.testing.assert_allclose(np.cov(z.T), np.eye(8), atol=0.12)


def test_no_more_than_a_chunk_is_decoded_at_a_time():
  seen, encoded = [], latents.encode((), {"id": jnp.arange(2)}, {})

  def spy(state, z, *rest):
    seen.append(z.shape)
    return latents.decode(state, z, *rest)

  latent, keys = latents.LATENT._replace(decode=spy), sampling.keys_of(0, NAMES[:2])
  many = sampling.sample(latent, (), encoded, {}, keys, 30, 8)
  again = sampling.decode(latent, (), many.z, encoded, {}, 7)
  assert set(seen) == {(2, 8, latents.DIM), (2, 7, latents.DIM)}
  close(again, many)
  with pytest.raises(ValueError, match="at least 1"):
    sampling.sample(latent, (), encoded, {}, keys, 0)


@pytest.mark.parametrize("density", ["prohmr", "linear"])
def test_known_poses_come_back_from_their_latents_with_their_density(scene, density):
  latent, state, encoded, assets = scene
  if density == "linear":
    latent, state, encoded = latents.LATENT, (), latents.encode((), {"id": jnp.arange(B)}, {})
  turns = 0.5 * np.random.default_rng(0).normal(size=(B, 3, 24, 3)).astype(np.float32)
  pose = rotations.axis_angle_to_matrix(turns)

  @jax.jit
  def there_and_back(pose, state, encoded, assets):
    found, z = sampling.log_prob(latent, state, pose, encoded, assets)
    return found, z, sampling.decode(latent, state, z, encoded, assets, 2)

  found, z, back = there_and_back(pose, state, encoded, assets)
  np.testing.assert_allclose(back.pose, pose, atol=2e-3)  # ActNorm of four poses may multiply by 1,000
  np.testing.assert_allclose(back.log_prob, found, rtol=1e-4, atol=0.1)
  np.testing.assert_array_equal(back.z, z)
  with pytest.raises(ValueError, match="24, 3, 3"):
    sampling.log_prob(latent, state, turns, encoded, assets)


interpolate = jax.jit(sampling.interpolate, static_argnums=(2, 3))


def ends(seed, *shape):
  return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


@pytest.mark.parametrize("path", sampling.PATHS)
def test_a_path_has_its_ends_and_even_steps(path):
  z0, z1 = ends(0, 5, 144)
  z1 = 1.5 * z1
  found = np.asarray(interpolate(z0, z1, 4, path))
  assert found.shape == (5, 6, 144)
  np.testing.assert_allclose(found[:, 0], z0, atol=1e-5)
  np.testing.assert_allclose(found[:, -1], z1, atol=1e-5)
  if path == "linear":
    np.testing.assert_allclose(np.diff(found, axis=1), np.repeat(((z1 - z0) / 5)[:, None], 5, 1), atol=1e-5)
    return
  lengths = np.linalg.norm(found, axis=-1)
  np.testing.assert_allclose(np.diff(lengths, 2, axis=1), 0, atol=1e-4)
  unit = found / lengths[..., None]
  angles = np.arccos(np.sum(unit[:, 1:] * unit[:, :-1], -1))
  np.testing.assert_allclose(angles, angles[:, :1] * np.ones(5), atol=1e-4)


def test_between_samples_the_sphere_keeps_the_length_a_line_loses():
  z0, z1 = ends(1, 500, 144)
  middle = lambda path: np.linalg.norm(interpolate(z0, z1, 1, path)[:, 1], axis=-1).mean()
  np.testing.assert_allclose([middle("spherical"), middle("linear")], [11.98, 8.47], atol=0.1)


@pytest.mark.parametrize("other", ["mode", "the same", "the opposite"])
def test_where_there_is_no_direction_the_path_is_a_line_with_finite_gradients(other):
  z0 = ends(2, 6)[0]
  z1 = {"mode": 0 * z0, "the same": z0, "the opposite": -z0}[other]
  np.testing.assert_allclose(interpolate(z0, z1, 3, "spherical"), interpolate(z0, z1, 3, "linear"), atol=1e-6)
  np.testing.assert_allclose(interpolate(z1, z0, 3, "spherical"), interpolate(z1, z0, 3, "linear"), atol=1e-6)
  slope = jax.jit(jax.grad(lambda *z: jnp.sum(jnp.sin(sampling.interpolate(*z, 3))), argnums=(0, 1)))
  assert all(np.isfinite(grad).all() for grad in slope(z0, z1))


def test_a_walk_passes_every_place():
  z = ends(3, 3, 6).swapaxes(0, 1)  # [B 3, S 2, D]
  z = np.concatenate([0 * z[:, :1], z], 1)
  found = jax.jit(sampling.walk, static_argnums=1)(z, 2)
  assert found.shape == (3, 2, 4, 6)
  np.testing.assert_allclose(found[:, :, 0], z[:, :-1], atol=1e-6)
  np.testing.assert_allclose(found[:, :, -1], z[:, 1:], atol=1e-6)


@pytest.mark.parametrize("num, path", [(-1, "linear"), (1, "shortest")])
def test_no_other_paths_are_taken(num, path):
  with pytest.raises(ValueError, match="path is"):
    sampling.interpolate(jnp.ones(2), jnp.ones(2), num, path)


def test_representatives_are_the_mode_and_one_of_each_group_or_all_of_a_few():
  rng = np.random.default_rng(4)
  group = np.array([9] + [0, 1, 2] * 5)
  joints = 0.01 * rng.normal(size=(2, 16, 24, 3)) + rng.normal(size=(10, 24, 3))[group]
  keys, choose = sampling.keys_of(0, NAMES[:2]), jax.jit(sampling.representatives, static_argnums=2)
  shown = np.asarray(choose(joints.astype(np.float32), keys, 4))
  np.testing.assert_array_equal(shown[:, 0], 0)
  assert all(set(group[row]) == {9, 0, 1, 2} for row in shown)
  np.testing.assert_array_equal(sampling.representatives(joints[:, :3], keys, 4), [[0, 1, 2]] * 2)


def test_joints_need_no_mesh():
  body = smpl.from_arrays(random_body.arrays(60, num_faces=10))
  rng = np.random.default_rng(5)
  betas = rng.normal(size=(2, 10)).astype(np.float32)
  pose = rotations.axis_angle_to_matrix(rng.normal(size=(2, 3, 24, 3)).astype(np.float32))
  bare = sampling.body_of({"body": body})
  assert bare.template.shape[1] == 0
  expected = jax.jit(smpl.forward)(body, betas[:, None], pose).joints
  np.testing.assert_allclose(jax.jit(sampling.joints_of)(bare, betas, pose), expected, atol=1e-5)
