"""The iterative head: its size, and the two checks that fix what it computes."""

import jax
import jax.numpy as jnp
from jhmr.nn.regressor import ImageRegressor, Regressor
import numpy as np
import pytest

START = (np.linspace(-1, 1, 144, dtype=np.float32), np.arange(10, dtype=np.float32), np.array([0.9, 0, 0], np.float32))


def variables(net, channels, seed=0):
  return jax.jit(lambda key: net.init(key, jnp.zeros((1, channels)), START, False))(jax.random.key(seed))


def run(net, params, features):
  """The last estimates side by side, [B, 157]."""
  out = jax.jit(lambda p, f: net.apply(p, f, START, False))(params, features)
  return np.concatenate([x[:, -1] for x in out], axis=-1)


def test_parameter_count_is_the_papers():
  shapes = jax.eval_shape(lambda: variables(Regressor(), 2048))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 3_469_469
  assert shapes["params"]["fc1"]["kernel"].shape == (2205, 1024)


def test_zero_decoders_give_the_start_after_every_iteration():
  net = Regressor(hidden=16)
  zeroed = jax.tree_util.tree_map_with_path(lambda p, x: x * 0 if "dec" in str(p) else x, variables(net, 8))
  out = jax.jit(lambda p: net.apply(p, jnp.ones((4, 8)), START, False))(zeroed)
  for value, start in zip(out, START):
    np.testing.assert_array_equal(value, np.broadcast_to(start, (4, 3, start.size)))


def test_without_activation_the_head_is_affine():
  net = Regressor(hidden=32, activation="none")
  params, f = variables(net, 8), np.random.default_rng(0).normal(size=(2, 1, 8)).astype(np.float32)
  out = lambda net: run(net, params, np.concatenate([f[0] + f[1], f[0], f[1], 0 * f[0]]))
  bend = lambda y: y[0] - y[1] - y[2] + y[3]
  np.testing.assert_allclose(bend(out(net)), 0, atol=1e-5)
  assert np.abs(bend(out(Regressor(hidden=32)))).max() > 1e-4


def test_iterations_follow_the_recurrence():
  net = Regressor(hidden=16)
  params, f = variables(net, 8), np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
  pose, betas, camera = jax.jit(lambda: net.apply(params, f, START, False))()
  layer = lambda x, name: x @ params["params"][name]["kernel"] + params["params"][name]["bias"]
  estimate = [np.tile(s, (3, 1)) for s in START]
  for t in range(3):
    x = np.concatenate([f, *estimate], axis=-1)
    x = np.maximum(layer(np.maximum(layer(x, "fc1"), 0), "fc2"), 0)
    estimate = [e + layer(x, n) for e, n in zip(estimate, ("decpose", "decshape", "deccam"))]
    for ours, expected in zip((pose, betas, camera), estimate):
      np.testing.assert_allclose(ours[:, t], expected, atol=1e-5)


def test_dropout_acts_only_in_training():
  net = Regressor(hidden=16)
  params, f = variables(net, 8), np.ones((1, 8), np.float32)
  noisy = jax.jit(lambda key: net.apply(params, f, START, True, rngs={"dropout": key})[0])
  assert np.abs(noisy(jax.random.key(0)) - noisy(jax.random.key(1))).max() > 0
  jax.jit(lambda: net.apply(params, f, START, False))()  # needs no key


def test_estimates_are_float32_after_a_bfloat16_backbone():
  net, image = ImageRegressor(backbone="resnet_tiny", dtype="bfloat16"), jnp.zeros((2, 32, 32, 3))
  out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), image, START, False), image, START, False))
  assert {x.dtype for x in out} == {jnp.dtype(jnp.float32)}
  assert [x.shape for x in out] == [(2, 3, 144), (2, 3, 10), (2, 3, 3)]


def test_first_corrections_are_small():
  net = Regressor()
  out = run(net, variables(net, 64), np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32))
  assert np.abs(out - np.concatenate(START)).max() < 0.3


def test_unknown_activation_is_refused():
  with pytest.raises(ValueError, match="activation"):
    variables(Regressor(activation="gelu"), 8)


def test_the_whole_network_has_as_many_parameters_as_spins():
  net, image = ImageRegressor(), jnp.zeros((1, 64, 64, 3))
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image, START, False))
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 26_977_501
