"""RealNVP: a bijection whose density is right by brute force, coupling by coupling what the paper's equations say."""

import functools

import jax
import jax.numpy as jnp
from jhmr.nn import realnvp
import numpy as np
import pytest

SMALL = realnvp.RealNvp(dim=4, couplings=5, hidden=8, dropout=0.3)
PLANE = realnvp.RealNvp(dim=2, couplings=4, hidden=8)


@functools.cache
def randomised(net, seed=0):
  """Variables that make nothing the identity, every second mask the opposite of the one before."""
  fresh = jax.jit(net.init)(jax.random.key(seed), jnp.zeros((1, net.dim)))
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda x: x + 0.4 * rng.normal(size=x.shape).astype(np.float32), fresh["params"])
  mask = (np.arange(net.dim) + np.arange(net.couplings)[:, None]) % 2
  return {"params": params, realnvp.MASKS: {"mask": mask.astype(np.float32)}}


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(net, method, variables, *args):
  return net.apply(variables, *args, method=method)


def points(*shape, seed=1):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("lead", [(), (7,), (2, 3)])
def test_inverse_undoes_forward_and_log_determinants_cancel(lead):
  z = points(*lead, 4)
  x, there = run(SMALL, "forward", randomised(SMALL), z)
  again, back = run(SMALL, "inverse", randomised(SMALL), x)
  assert x.shape == z.shape and there.shape == lead and np.abs(x - z).max() > 0.1
  np.testing.assert_allclose(again, z, atol=1e-5)
  np.testing.assert_allclose(there, -back, atol=1e-5)


def test_log_determinants_are_those_of_the_jacobian():
  z, variables = points(5, 4), randomised(SMALL)
  for method in ("forward", "inverse"):
    move = lambda x, method=method: SMALL.apply(variables, x, method=method)[0]
    jacobian = jax.jit(jax.vmap(jax.jacfwd(move)))(z)
    sign, expected = np.linalg.slogdet(np.asarray(jacobian, np.float64))
    assert (sign > 0).all()
    np.testing.assert_allclose(run(SMALL, method, variables, z)[1], expected, atol=1e-5)


def by_hand(variables, z):
  """The equations at the top of realnvp.py, one coupling after the other, of one vector in float64."""
  layers, log_det = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"]), 0.0
  for i, mask in enumerate(variables[realnvp.MASKS]["mask"]):
    found = {}
    for name in ("scale", "shift"):
      h = mask * z
      for j in (1, 2, 3):
        h = h @ layers[f"{name}_fc{j}_kernel"][i] + layers[f"{name}_fc{j}_bias"][i]
        h = np.where(h > 0, h, 0.01 * h) if j < 3 else h
      found[name] = h
    scale = np.tanh(found["scale"])
    z = mask * z + (1 - mask) * (z * np.exp(scale) + found["shift"])
    log_det += np.sum((1 - mask) * scale)
  return z, log_det


def test_couplings_are_the_equations_in_their_order():
  z = points(4)
  for ours, expected in zip(run(SMALL, "forward", randomised(SMALL), z), by_hand(randomised(SMALL), z)):
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_the_density_integrates_to_one_over_a_plane():
  edge, count = 15.0, 500
  grid = np.stack(np.meshgrid(*[np.linspace(-edge, edge, count, dtype=np.float32)] * 2), -1)
  density = np.exp(run(PLANE, "log_prob", randomised(PLANE), grid))
  normal = np.exp(-0.5 * np.sum(grid ** 2, -1)) / (2 * np.pi)
  assert np.abs(density - normal).max() > 0.05, "not the normal it begins as"
  np.testing.assert_allclose(density.sum() * (2 * edge / (count - 1)) ** 2, 1, atol=2e-3)


def test_samples_are_as_dense_as_the_density_says():
  """The mean of log p over samples is minus the entropy: that of the normal, less the mean of log|det dx/dz|."""
  x, log_det = run(PLANE, "forward", randomised(PLANE), z := points(20000, 2))
  found = run(PLANE, "log_prob", randomised(PLANE), x)
  np.testing.assert_allclose(found, -0.5 * np.sum(z ** 2, -1) - np.log(2 * np.pi) - log_det, atol=1e-4)


def test_networks_of_zeros_leave_the_normal_and_sizes_are_the_authors():
  net = realnvp.RealNvp()
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 72))))
  assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes)) == 13_480_160
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  zeros[realnvp.MASKS]["mask"] = jnp.asarray(np.arange(20 * 72).reshape(20, 72) % 2, jnp.float32)
  assert float(run(net, "log_prob", zeros, jnp.zeros(72))) == pytest.approx(-66.16357, abs=1e-4)


def test_a_new_flow_is_the_normal_with_masks_of_zeros_and_ones():
  fresh = jax.jit(SMALL.init)(jax.random.key(3), jnp.zeros((1, 4)))
  mask = np.asarray(fresh[realnvp.MASKS]["mask"])
  assert mask.shape == (5, 4) and set(mask.ravel()) == {0.0, 1.0}
  x = points(6, 4)
  np.testing.assert_allclose(run(SMALL, "log_prob", fresh, x), -0.5 * np.sum(x ** 2, -1) - 2 * np.log(2 * np.pi),
                             rtol=1e-5)


def test_units_drop_by_key_while_training_alone():
  drop = jax.jit(lambda v, x, key: SMALL.apply(v, x, True, rngs={"dropout": key}))
  x, variables = points(3, 4), randomised(SMALL)
  one, same, other = (drop(variables, x, jax.random.key(k)) for k in (0, 0, 1))
  np.testing.assert_array_equal(one, same)
  assert np.all(one != other) and np.isfinite(one).all()
  plain = run(SMALL, "log_prob", variables, x)
  assert np.all(one != plain)
