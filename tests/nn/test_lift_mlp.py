"""The lifting network: sizes as published, its layers by hand, the norm that is cut in the forward graph, masks."""

import functools

import jax
import jax.numpy as jnp
from jhmr.nn import lift_mlp
import numpy as np
import pytest

SMALL = dict(hidden=6, blocks=1, dropout=0.0)


def points(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def fresh(net, inputs=4):
  """Variables of which none is zero or one."""
  variables = jax.tree.map(np.asarray, jax.jit(net.init)(jax.random.key(0), jnp.zeros((2, inputs))))
  moved = lambda x: np.asarray(x) + np.abs(points(*x.shape, seed=x.size)) + 0.1
  return variables | {"batch_stats": jax.tree.map(moved, variables["batch_stats"])}


@functools.partial(jax.jit, static_argnums=(0,))
def train(net, variables, x, weight=None):
  out, new = net.apply(variables, x, True, weight, mutable=["batch_stats"])
  return out, new["batch_stats"]


def count(net, inputs):
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, inputs)))
  return sum(x.size for x in jax.tree.leaves(shapes["params"]))


def test_sizes_are_those_of_the_authors():
  assert count(lift_mlp.Regression(lift_mlp.LiftMlp()), 32) == 4_291_632
  assert count(lift_mlp.MixtureDensity(lift_mlp.LiftMlp()), 32) == 4_498_682
  assert count(lift_mlp.LiftMlp(convention="torch", max_norm=False), 34) == 4_244_480


def test_a_norm_above_one_is_cut_to_one_and_no_other_is():
  twice = 2 * jnp.eye(1024)
  np.testing.assert_allclose(lift_mlp.clipped(twice), twice / 64, rtol=1e-6)
  small = 0.1 * points(3, 4) / 4
  np.testing.assert_array_equal(lift_mlp.clipped(small), small)
  np.testing.assert_allclose(np.linalg.norm(lift_mlp.clipped(points(5, 7))), 1, rtol=1e-6)


def test_the_gradient_goes_through_the_norm():
  """Of w / |w| it is (g - w (w . g) / |w|^2) / |w|; within the norm it is g; at zero too."""
  w, g = points(5, 7), points(5, 7, seed=1)
  pull = jax.jit(lambda w: jax.vjp(lift_mlp.clipped, w)[1](g)[0])
  size = np.linalg.norm(w)
  np.testing.assert_allclose(pull(w), (g - w * np.sum(w * g) / size ** 2) / size, atol=1e-6)
  np.testing.assert_allclose(pull(w / size / 2), g, rtol=1e-6)
  np.testing.assert_allclose(pull(0 * w), g, rtol=1e-6)


def test_kernels_begin_so_large_that_all_of_them_are_cut():
  def begun(convention):
    variables = lift_mlp.Linear(512, convention).init(jax.random.key(0), jnp.zeros((1, 512)))
    return (np.asarray(variables["params"][n]) for n in ("kernel", "bias"))

  kernel, bias = begun("tf")
  np.testing.assert_allclose(np.linalg.norm(kernel), np.sqrt(2 * 512 * 0.774), rtol=0.01)
  assert np.abs(kernel).max() <= 2 * np.sqrt(2 / 512) and 0.7 < bias.std() / kernel.std() < 1.3
  kernel, bias = begun("torch")
  assert 0.95 * 512 ** -0.5 < np.abs(bias).max() <= 512 ** -0.5 and np.abs(kernel).max() <= 512 ** -0.5


def by_hand(variables, x, epsilon, cut, stats=None):
  """The layers as the top of lift_mlp.py has them, in float64; statistics of the rows where none are given."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
  params, found = params.get("body", params), {}

  def layer(x, name):
    kernel = params[name]["kernel"]
    x = x @ (kernel / max(np.linalg.norm(kernel), 1) if cut else kernel) + params[name]["bias"]
    norm = name.replace("fc", "bn")
    mean, var = (x.mean(0), x.var(0)) if stats is None else (stats[norm]["mean"], stats[norm]["var"])
    found[norm] = mean, var
    return np.maximum((x - mean) / np.sqrt(var + epsilon) * params[norm]["scale"] + params[norm]["bias"], 0)

  x = layer(x.astype(np.float64), "fc")
  return x + layer(layer(x, "block_0_fc_0"), "block_0_fc_1"), found


@pytest.mark.parametrize("convention,epsilon,rate,factor", [("tf", 1e-3, 0.01, 1.0), ("torch", 1e-5, 0.1, 5 / 4)])
def test_layers_and_statistics_are_those_of_each_convention(convention, epsilon, rate, factor):
  cut = convention == "tf"
  net = lift_mlp.LiftMlp(**SMALL, convention=convention, max_norm=cut)
  variables, x = fresh(net), 0.01 * points(5, 4)  # so small that epsilon shows
  stats = variables["batch_stats"]
  expected, moments = by_hand(variables, x, epsilon, cut)
  out, new = train(net, variables, x)
  np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)
  for name, (mean, var) in moments.items():
    np.testing.assert_allclose(new[name]["mean"], (1 - rate) * stats[name]["mean"] + rate * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new[name]["var"], (1 - rate) * stats[name]["var"] + rate * factor * var, rtol=1e-4)
  expected, _ = by_hand(variables, x, epsilon, cut, stats)
  np.testing.assert_allclose(jax.jit(net.apply)(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_rows_that_do_not_count_change_nothing():
  net = lift_mlp.LiftMlp(**SMALL)
  variables, x = fresh(net), points(5, 4)
  out, stats = train(net, variables, x, np.ones(5, np.float32))
  more = np.concatenate([x, np.full((2, 4), np.inf, np.float32)])
  longer, same = train(net, variables, more, np.float32([1, 1, 1, 1, 1, 0, 0]))
  np.testing.assert_allclose(longer[:5], out, atol=1e-6)
  assert np.isfinite(longer).all()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, same)
  out, alone = train(net, variables, x, np.float32([1, 0, 0, 0, 0]))
  jax.tree.map(np.testing.assert_array_equal, alone, variables["batch_stats"])  # one row has no variance
  assert np.isfinite(out).all()


def test_frozen_statistics_stay_and_are_used():
  net = lift_mlp.LiftMlp(**SMALL, batch_norm="frozen")
  variables, x = fresh(net), points(5, 4)
  out, stats = train(net, variables, x)
  np.testing.assert_allclose(out, jax.jit(net.apply)(variables, x), atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


@pytest.mark.parametrize("wrong", [{"convention": "jax"}, {"batch_norm": "group"}])
def test_what_does_not_exist_is_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong.values()))):
    jax.eval_shape(lift_mlp.LiftMlp(**wrong).init, jax.random.key(0), jnp.zeros((1, 4)))


def test_a_mixture_by_hand():
  """Component fastest; elu + 1; softmax; the layer of the weights is not cut, those of means and deviations are."""
  net = lift_mlp.MixtureDensity(lift_mlp.LiftMlp(**SMALL), components=3, size=2)
  variables, x = fresh(net), points(5, 4)
  sigma = variables["params"]["sigma"] | {"bias": np.float32([1.5, 0.5, -0.5])}
  variables = variables | {"params": variables["params"] | {"sigma": sigma}}
  body = {kind: tree["body"] for kind, tree in variables.items()}
  h = np.float64(jax.jit(net.body.apply)(body, x))
  head = jax.tree.map(np.float64, {n: variables["params"][n] for n in ("means", "sigma", "alpha")})
  cut = lambda k: k / max(np.linalg.norm(k), 1)
  assert all(np.linalg.norm(layer["kernel"]) > 1 for layer in head.values())
  raw = {name: h @ (layer["kernel"] if name == "alpha" else cut(layer["kernel"])) + layer["bias"]
         for name, layer in head.items()}
  found = jax.jit(net.apply)(variables, x)
  for k in range(3):
    np.testing.assert_allclose(found.means[:, k], raw["means"][:, [k, 3 + k]], rtol=1e-4, atol=1e-5)
  elu = np.where(raw["sigma"] > 0, raw["sigma"], np.exp(raw["sigma"]) - 1)
  assert (raw["sigma"] > 0).any() and (raw["sigma"] < 0).any()
  np.testing.assert_allclose(np.exp(found.log_sigma), elu + 1, rtol=1e-4)
  weights = np.exp(raw["alpha"])
  np.testing.assert_allclose(np.exp(found.log_weights), weights / weights.sum(1, keepdims=True), rtol=1e-4)


def test_a_mixture_of_extreme_outputs_is_finite_and_so_are_its_gradients():
  net = lift_mlp.MixtureDensity(lift_mlp.LiftMlp(**SMALL), components=3, size=2)
  variables, x = fresh(net), points(5, 4)

  def total(params):
    found = net.apply(variables | {"params": params}, x)
    return sum(jnp.sum(v) for v in found)

  both = jax.jit(lambda params: (net.apply(variables | {"params": params}, x), jax.grad(total)(params)))
  for bias in (-1e4, 0.0, 1e4):
    far = {name: variables["params"][name] | {"bias": np.float32([bias, 0, -bias])} for name in ("sigma", "alpha")}
    found, grads = both(variables["params"] | far)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, grads)))
    assert float(found.log_sigma.min()) >= np.log(1e-15) - 1e-4 and float(found.log_weights.min()) > np.log(0.9e-8)
