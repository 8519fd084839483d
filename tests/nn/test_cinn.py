"""The conditional invertible network: a bijection, block by block what the equations at the top of its file say."""

import functools

import jax
import jax.numpy as jnp
from jhmr.nn import cinn
import numpy as np
import pytest

NET = cinn.ConditionalInn(dim=8, inputs=5, condition_hidden=6, features=3, blocks=3, hidden=7)
PLAIN = NET.clone(features=0)

# Source: numpy's legacy generator, as FrEIA's `PermuteRandom` calls it with the seeds 0 and 7.
FIRST = (29, 4, 26, 30, 32, 37, 34, 40, 7, 10, 11, 31, 33, 27, 47, 2, 46, 18, 15, 28, 22, 16, 41, 20, 42, 8, 13, 25, 5,
         17, 35, 14, 38, 1, 12, 43, 24, 6, 23, 36, 21, 19, 9, 39, 45, 3, 0, 44)
LAST = (13, 15, 22, 36, 40, 24, 1, 20, 10, 34, 29, 44, 32, 18, 17, 33, 27, 41, 9, 2, 30, 16, 21, 5, 31, 43, 6, 35, 38,
        11, 0, 12, 7, 46, 37, 26, 45, 8, 42, 14, 28, 39, 23, 19, 3, 25, 4, 47)


@functools.cache
def randomised(net, seed=0):
  """Variables that make nothing the identity, and nothing so steep that float32 could not undo it."""
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 1, net.dim)), jnp.zeros((1, net.inputs))))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: rng.normal(size=s.shape, scale=0.4).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(net, method, variables, x, condition):
  return net.apply(variables, x, net.apply(variables, condition, method="project"), method=method)


def points(*shape, seed=1):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(params, x, condition, clamp=2.0):
  """The equations at the top of cinn.py, of one pose in float64, the features appended to every net's inputs."""
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

  def net(layers, x):
    h = np.maximum(x @ layers["fc0"]["kernel"] + layers["fc0"]["bias"], 0)
    return h @ layers["fc2"]["kernel"] + layers["fc2"]["bias"]

  features, log_det = net(params["condition"], condition) if "condition" in params else condition[:0], 0.0
  half = len(x) // 2
  for k in range(len(params) - ("condition" in params)):
    a, b = x[:half], x[half:]
    for name in ("s2", "s1"):
      r = net(params[f"coupling_{k}"][name], np.concatenate([b if name == "s2" else a, features]))
      scale = clamp * 0.636 * np.arctan(r[:half] / clamp)
      if name == "s2":
        a = np.exp(scale) * a + r[half:]
      else:
        b = np.exp(scale) * b + r[half:]
      log_det += scale.sum()
    x = np.concatenate([a, b])[np.random.RandomState(k).permutation(2 * half)]
  return x, log_det


@pytest.mark.parametrize("net", [NET, PLAIN], ids=["condition", "no condition"])
def test_blocks_are_the_equations_and_the_condition_counts_once_for_an_image(net):
  variables, x, condition = randomised(net), points(2, 3, 8), points(2, 5, seed=2)
  found = run(net, "forward", variables, x, condition)
  for i in range(2):
    for j in range(3):
      for ours, expected in zip(found, by_hand(variables["params"], x[i, j], condition[i])):
        np.testing.assert_allclose(ours[i, j], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first, then", [("forward", "inverse"), ("inverse", "forward")])
def test_inverse_undoes_forward_and_log_determinants_cancel(first, then):
  x, condition = points(2, 3, 8), points(2, 5, seed=2)
  moved, there = run(NET, first, randomised(NET), x, condition)
  again, back = run(NET, then, randomised(NET), moved, condition)
  assert there.shape == (2, 3) and np.abs(moved - x).max() > 0.5
  np.testing.assert_allclose(again, x, atol=2e-5)
  np.testing.assert_allclose(there, -back, atol=2e-5)


def test_log_determinants_are_those_of_the_jacobian():
  x, condition, variables = points(1, 4, 8), points(1, 5, seed=2), randomised(NET)
  _, back = jax.vjp(lambda x: run(NET, "inverse", variables, x, condition)[0], x)
  rows = jax.vmap(lambda i: back(jnp.broadcast_to(jnp.eye(8)[i], (1, 4, 8)))[0][0], out_axes=1)(jnp.arange(8))
  expected = np.linalg.slogdet(np.asarray(rows, np.float64))[1]
  np.testing.assert_allclose(run(NET, "inverse", variables, x, condition)[1][0], expected, atol=1e-4)


def test_the_condition_moves_poses_unless_there_is_none():
  x, conditions = points(1, 2, 8), (points(1, 5), points(1, 5, seed=3))
  with_it, without = ([run(net, "forward", randomised(net), x, c)[0] for c in conditions] for net in (NET, PLAIN))
  assert np.abs(with_it[0] - with_it[1]).max() > 0.1
  np.testing.assert_array_equal(*without)
  assert "condition" not in randomised(PLAIN)["params"]


def test_scales_are_clamped_softly():
  found = cinn.soft_clamp(jnp.asarray([0.0, 1.0, 2.0, 10.0, -10.0, 1e9]), 2.0)
  np.testing.assert_allclose(found, [0, 0.58976, 0.99903, 1.74697, -1.74697, 1.99805], atol=1e-5)


def test_permutations_are_those_of_the_authors_network():
  np.testing.assert_array_equal(cinn.permutation(0, 48), FIRST)
  np.testing.assert_array_equal(cinn.permutation(7, 48), LAST)
  x = points(2, 48)
  for k in range(8):
    order, move = cinn.permutation(k, 48), cinn.Permutation(cinn.permutation(k, 48))
    np.testing.assert_array_equal(move.forward(x), x[:, order])
    np.testing.assert_array_equal(move.inverse(x), x[:, np.argsort(order)])


def test_sizes_and_names_are_the_authors():
  net = cinn.ConditionalInn()
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 1, 48)), jnp.zeros((1, 78))))["params"]
  count = lambda tree: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
  assert count(shapes) == 2_157_176 and count(shapes["condition"]) == 34_616
  assert set(shapes) == {"condition"} | {f"coupling_{k}" for k in range(8)}
  assert shapes["coupling_7"]["s1"]["fc0"]["kernel"].shape == (80, 1028)
  assert shapes["coupling_7"]["s2"]["fc2"]["bias"].shape == (48,)


def test_a_new_network_has_small_normal_weights_but_in_the_condition():
  net = cinn.ConditionalInn(blocks=2)
  params = jax.jit(cinn.fresh, static_argnums=0)(net, jax.random.key(0))
  inner = [x for name, tree in params.items() if name != "condition" for x in jax.tree.leaves(tree)]
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 1, 48)), jnp.zeros((1, 78))))["params"]
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
  assert np.abs(params["coupling_0"]["s1"]["fc0"]["bias"] - params["coupling_1"]["s1"]["fc0"]["bias"]).max() > 0.01
  assert np.std(np.concatenate([x.ravel() for x in inner])) == pytest.approx(0.05, rel=0.02)
  assert abs(params["condition"]["fc0"]["kernel"]).max() <= 78 ** -0.5


@pytest.mark.parametrize("x, condition", [((2, 3, 6), (2, 5)), ((2, 8), (2, 5)), ((3, 1, 8), (2, 5))])
def test_shapes_that_do_not_fit_are_refused(x, condition):
  with pytest.raises(ValueError, match="poses are"):
    run(NET, "forward", randomised(NET), np.zeros(x, np.float32), np.zeros(condition, np.float32))


def test_an_odd_number_of_dimensions_is_refused():
  with pytest.raises(ValueError, match="dim is 9, not even"):
    NET.clone(dim=9).init(jax.random.key(0), jnp.zeros((1, 1, 9)), jnp.zeros((1, 5)))
