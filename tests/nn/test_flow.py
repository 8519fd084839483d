"""The flow: a bijection whose density is right by brute force, and the hand-made numbers of its parts."""

import functools
import math

import jax
import jax.numpy as jnp
from jhmr.nn import flow
from jhmr.nn.coupling import BatchNorm, moments
from jhmr.nn.flow import Affine, ConditionalGlow, actnorm_from_data
import numpy as np
import pytest

SMALL = ConditionalGlow(dim=6, context=5, hidden=32)


@functools.cache
def randomised(net, seed=0, scale=0.5):
  """Variables of `net` that make nothing the identity; the same object every time."""
  fresh = jax.jit(net.init)(jax.random.key(seed), jnp.zeros((1, 1, net.dim)), jnp.zeros((1, net.context)))
  rng = np.random.default_rng(seed)

  def change(path, x):
    names, normal = [p.key for p in path], rng.normal(size=x.shape).astype(np.float32)
    if names[-1] == "var":
      return x * rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
    if names[-1] == "kernel":
      return scale * normal * x.shape[0] ** -0.5
    size = {"log_scale": 0.7, "shift": 0.5, "lower_entries": 0.3, "upper_entries": 0.3}.get(names[-1], 0.2)
    return x + scale * size * normal

  return jax.tree_util.tree_map_with_path(change, fresh)


def inputs(net, images=3, samples=20, seed=1):
  """(vectors [B, S, D], context [B, C])."""
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(images, samples, net.dim)).astype(np.float32),
          rng.normal(size=(images, net.context)).astype(np.float32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(net, method, variables, *args):
  return net.apply(variables, *args, method=method)


def there(net, variables, x, context, method="forward"):
  return run(net, method, variables, x, run(net, "project", variables, context))


# Laws.

@pytest.mark.parametrize("samples", [1, 20])  # few rows and many rows take different products
@pytest.mark.parametrize("spread", [1.0, 1000.0])
def test_inverse_undoes_forward_and_forward_inverse(samples, spread):
  variables = jax.tree.map(np.copy, randomised(SMALL))
  variables["params"]["actnorm_0"]["log_scale"][-1] += math.log(spread)  # as after poses with constant entries
  z, context = inputs(SMALL, samples=samples)
  x, log_det_x = there(SMALL, variables, z, context, "inverse")
  again, log_det_z = there(SMALL, variables, x, context)
  np.testing.assert_allclose(again, z, atol=1e-5)  # 3e-6 measured
  np.testing.assert_allclose(log_det_x, -log_det_z, atol=1e-5)
  np.testing.assert_allclose(there(SMALL, variables, again, context, "inverse")[0], x, atol=2e-5)


def test_density_integrates_to_one_for_every_context():
  net = ConditionalGlow(dim=2, context=3, hidden=16, blocks=4)
  variables, (_, context) = randomised(net), inputs(net)
  samples = run(net, "sample", variables, np.random.default_rng(2).normal(size=(3, 4000, 2)).astype(np.float32),
                context)[0]
  for i in range(3):
    low, high = np.min(samples[i], 0), np.max(samples[i], 0)
    low, high = low - (high - low), high + (high - low)  # everything, with a margin
    axes = [np.linspace(a, b, 600, dtype=np.float32) for a, b in zip(low, high)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 2)
    log_prob, _ = run(net, "log_prob", variables, grid, context[i:i + 1])
    total = np.exp(np.float64(log_prob)).sum() * np.prod((high - low) / 599)
    assert total == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("legacy", [False, True])
def test_log_prob_is_the_brute_force_jacobians(legacy):
  net = SMALL.clone(legacy_lu=legacy)
  variables, (x, context) = randomised(net), inputs(net, samples=4)
  log_prob, z = run(net, "log_prob", variables, x, context)
  to_z = lambda x, c: run(net, "log_prob", variables, x[None, None], c[None])[1][0, 0]
  jacobians = jax.jit(jax.vmap(jax.vmap(jax.jacobian(to_z), (0, None))))(x, context)
  normal = -0.5 * np.sum(np.square(z), -1) - 3 * np.log(2 * np.pi)
  np.testing.assert_allclose(log_prob, normal + np.linalg.slogdet(np.float64(jacobians))[1], rtol=1e-5, atol=1e-4)


def test_a_samples_log_prob_is_the_log_prob_of_the_sample():
  variables, (z, context) = randomised(SMALL), inputs(SMALL)
  x, log_prob = run(SMALL, "sample", variables, z, context)
  again, z_again = run(SMALL, "log_prob", variables, x, context)
  np.testing.assert_allclose(again, log_prob, atol=2e-5)
  np.testing.assert_allclose(z_again, z, atol=1e-5)


def test_the_legacy_convention_changes_the_density_only():
  variables, (z, context) = randomised(SMALL), inputs(SMALL)
  legacy = SMALL.clone(legacy_lu=True)
  for ours, other in zip(run(SMALL, "sample", variables, z, context), run(legacy, "sample", variables, z, context)):
    np.testing.assert_array_equal(ours, other)
  assert np.abs(there(SMALL, variables, z, context)[0] - there(legacy, variables, z, context)[0]).max() > 0.1


def test_the_mode_has_the_highest_density_and_no_gradient():
  variables, (z, context) = randomised(SMALL), inputs(SMALL, samples=500)
  mode, best = run(SMALL, "sample", variables, 0 * z[:, :1], context)
  assert np.all(run(SMALL, "sample", variables, z, context)[1] < best)
  near = np.concatenate([mode + 1e-2 * z[:, :20], mode], axis=1)
  log_prob, _ = run(SMALL, "log_prob", variables, near, context)
  assert np.all(np.argmax(log_prob, axis=1) == 20)


def test_log_det_is_one_number_whatever_x_and_context():
  variables, (x, context) = randomised(SMALL), inputs(SMALL)
  log_det = np.asarray(there(SMALL, variables, x, context)[1])
  assert log_det.shape == (3, 20) and np.ptp(log_det) == 0 and log_det[0, 0] != 0
  params = variables["params"]
  expected = sum(np.sum(params[f"actnorm_{i}"]["log_scale"])
                 + np.sum(np.log(np.logaddexp(0, params[f"lu_{i}"]["unconstrained_upper_diag"]) + 1e-3))
                 for i in range(4))
  np.testing.assert_allclose(log_det[0, 0], expected, rtol=1e-5)


def test_a_projected_context_is_the_context_concatenated_to_every_sample():
  variables, (x, context) = randomised(SMALL), inputs(SMALL)
  params, stats = (jax.tree.map(np.float64, variables[k]["coupling_0"]) for k in ("params", "batch_stats"))
  dense = lambda h, name: h @ params[name]["kernel"] + params[name]["bias"]
  norm = lambda h, name: ((h - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + 1e-5) * params[name]["scale"]
                          + params[name]["bias"])
  h = dense(np.concatenate([x[..., ::2], np.repeat(context[:, None], 20, axis=1)], -1), "initial_layer")
  for i in range(2):
    t = dense(np.maximum(norm(h, f"block_{i}_bn_0"), 0), f"block_{i}_linear_0")
    h = h + dense(np.maximum(norm(t, f"block_{i}_bn_1"), 0), f"block_{i}_linear_1")
  one = ConditionalGlow(dim=6, context=5, hidden=32, blocks=1)
  pick = {k: {n: v for n, v in variables[k].items() if n.endswith("_0")} for k in variables}
  identity = [jax.tree.map(jnp.zeros_like, pick["params"][name]) for name in ("actnorm_0", "lu_0")]
  identity[1]["unconstrained_upper_diag"] += math.log(math.expm1(1 - 1e-3))
  pick["params"] = pick["params"] | {"actnorm_0": identity[0], "lu_0": identity[1]}
  z, _ = there(one, pick, x, context)
  np.testing.assert_allclose(z[..., 1::2], x[..., 1::2] + dense(h, "final_layer"), atol=1e-5)
  np.testing.assert_allclose(z[..., ::2], x[..., ::2], atol=1e-6)


def test_blocks_take_turns_in_what_they_transform():
  for block in range(4):
    layer = flow.AdditiveCoupling(lambda x: 10 + x, block % 2)
    y = np.asarray(layer.forward(jnp.arange(6.0)))
    changed = [1, 3, 5] if block % 2 == 0 else [0, 2, 4]
    np.testing.assert_array_equal(np.flatnonzero(y != np.arange(6)), changed)
    np.testing.assert_array_equal(layer.inverse(y), np.arange(6))


# Numbers made by hand.

@pytest.mark.parametrize("dim, expected", [(144, -132.3271488), (48, -44.1090496)])
def test_log_normal_at_zero(dim, expected):
  assert float(flow.log_normal(jnp.zeros(dim))) == pytest.approx(expected, rel=1e-6)


def test_lu_by_hand():
  arrays = [jnp.array(a, jnp.float32) for a in ([0, 0], [0, 0], [[1, 0], [.5, 1]], [[2, 3], [0, 1]], [1, -1])]
  x = jnp.array([1.0, 2.0])
  ours, legacy = Affine(*arrays, legacy=False), Affine(*arrays, legacy=True)
  np.testing.assert_allclose(ours.forward(x), [9, 5], rtol=1e-6)
  np.testing.assert_allclose(legacy.forward(x), [4.5, 5], rtol=1e-6)
  for layer in (ours, legacy):
    np.testing.assert_allclose(layer.inverse(jnp.array([9.0, 5.0])), x, rtol=1e-6)
    assert float(layer.forward_log_det_jacobian(x)) == pytest.approx(math.log(2))
    assert float(layer.inverse_log_det_jacobian(x)) == pytest.approx(-math.log(2))


def test_triangles_are_stored_row_by_row():
  layer = flow.LULinear(5)
  params = layer.init(jax.random.key(0))["params"]
  params = params | {"lower_entries": jnp.arange(1.0, 11), "upper_entries": -jnp.arange(1.0, 11)}
  lower, upper, _ = layer.apply({"params": params})
  np.testing.assert_array_equal(np.asarray(lower)[np.tril_indices(5, -1)], np.arange(1, 11))
  np.testing.assert_array_equal(np.asarray(upper)[np.triu_indices(5, 1)], -np.arange(1, 11))
  np.testing.assert_allclose(np.tril(upper), np.eye(5), atol=1e-6)
  np.testing.assert_array_equal(np.triu(lower), np.eye(5))


@pytest.mark.parametrize("dim, context, count", [(144, 2048, 25_893_856), (48, 1024, 21_231_264)])
def test_parameter_count_is_the_papers(dim, context, count):
  net = ConditionalGlow(dim=dim, context=context)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 1, dim)), jnp.zeros((1, context))))
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
  assert shapes["params"]["coupling_3"]["initial_layer"]["kernel"].shape == (dim // 2 + context, 1024)


def test_a_fresh_flow_is_nearly_the_identity():
  net = SMALL
  x, context = inputs(net)
  variables = jax.jit(net.init)(jax.random.key(0), x, context)
  z, log_det = there(net, variables, x, context)
  np.testing.assert_allclose(z, x, atol=0.1)
  np.testing.assert_allclose(log_det, 0, atol=1e-5)


# Training.

@functools.partial(jax.jit, static_argnums=0)
def train_forward(net, variables, x, context, key=0, weight=None):
  out, changed = net.apply(variables, x, context, train=True, weight=weight, method="log_prob",
                           mutable=["batch_stats"], rngs={"dropout": jax.random.key(key)})
  return out, changed["batch_stats"]


def test_running_statistics_follow_torchs_rule():
  net = BatchNorm(4, None)
  x = np.random.default_rng(0).normal(2, 3, size=(3, 5, 4)).astype(np.float32)
  y, changed = net.apply(net.init(jax.random.key(0), x, False, None), x, True, None, mutable=["batch_stats"])
  rows = x.reshape(15, 4)
  np.testing.assert_allclose(y.reshape(15, 4), (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5), atol=1e-5)
  np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.1 * rows.mean(0), rtol=1e-5)
  np.testing.assert_allclose(changed["batch_stats"]["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_every_statistic_moves_in_training_and_none_when_frozen():
  variables, (x, context) = randomised(SMALL), inputs(SMALL)
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), train_forward(SMALL, variables, x, context)[1],
                       variables["batch_stats"])
  assert all(jax.tree.leaves(moved)) and len(jax.tree.leaves(moved)) == 32
  frozen = SMALL.clone(batch_norm="frozen")
  for a, b in zip(*map(jax.tree.leaves, (train_forward(frozen, variables, x, context)[1], variables["batch_stats"]))):
    np.testing.assert_array_equal(a, b)


def test_dropout_acts_only_in_training():
  variables, (x, context) = randomised(SMALL), inputs(SMALL)
  with_key = lambda key: train_forward(SMALL, variables, x, context, key)[0][1]
  assert np.abs(with_key(0) - with_key(1)).max() > 1e-3
  np.testing.assert_array_equal(with_key(0), with_key(0))
  np.testing.assert_array_equal(*(there(SMALL, variables, x, context)[0] for _ in range(2)))


def test_rows_of_weight_zero_change_nothing():
  net, (x, context) = SMALL.clone(dropout=0.0), inputs(SMALL, images=5)
  variables, weight = randomised(net), np.array([1, 0, 1, 1, 0], np.float32)
  kept = weight > 0
  (log_prob, _), stats = train_forward(net, variables, np.where(kept[:, None, None], x, np.nan), context,
                                       weight=weight)
  (expected, _), expected_stats = train_forward(net, variables, x[kept], context[kept])
  np.testing.assert_allclose(log_prob[kept], expected, rtol=1e-4, atol=1e-4)
  for a, b in zip(*map(jax.tree.leaves, (stats, expected_stats))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  (log_prob, _), stats = train_forward(net, variables, x, context, weight=0 * weight)
  assert np.all(np.isfinite(log_prob))
  for a, b in zip(*map(jax.tree.leaves, (stats, variables["batch_stats"]))):
    np.testing.assert_array_equal(a, b)


def test_synced_statistics_are_those_of_the_whole_batch():
  devices = jax.devices()[:2]
  net, (x, context) = SMALL.clone(dropout=0.0, blocks=2), inputs(SMALL, images=4)
  variables = randomised(net)
  (whole, _), stats = train_forward(net, variables, x, context)
  synced = net.clone(axis_name="data", batch_norm="sync")
  split = lambda a: a.reshape(2, 2, *a.shape[1:])
  step = jax.pmap(lambda x, c: train_forward(synced, variables, x, c), "data", devices=devices)
  (parts, _), parts_stats = step(split(x), split(context))
  np.testing.assert_allclose(parts.reshape(4, -1), whole, rtol=1e-4, atol=1e-4)
  for a, b in zip(*map(jax.tree.leaves, (parts_stats, stats))):
    np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_and_reach_every_parameter():
  net = SMALL.clone(blocks=2)
  variables, (x, context) = randomised(net), inputs(net)

  def loss(params, x, context):
    (log_prob, _), _ = net.apply({**variables, "params": params}, x, context, True, mutable=["batch_stats"],
                                 rngs={"dropout": jax.random.key(0)})
    sample, _ = net.apply({**variables, "params": params}, x, context, method="sample")
    return jnp.mean(log_prob) + jnp.mean(sample ** 2)

  for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(variables["params"], x, context)):
    assert np.all(np.isfinite(leaf)) and np.any(leaf != 0)


def test_bfloat16_couplings_stay_close_and_have_float32_gradients():
  full = SMALL.clone(blocks=2)
  half, variables, (z, context) = full.clone(dtype=jnp.bfloat16), randomised(full), inputs(full)
  x, _ = there(half, variables, z, context, "inverse")
  np.testing.assert_allclose(x, there(full, variables, z, context, "inverse")[0], atol=0.05)
  loss = lambda p: jnp.sum(half.apply({**variables, "params": p}, z, context)[0])
  grads = jax.jit(jax.grad(loss))(variables["params"])
  assert all(g.dtype == jnp.float32 and np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("change", [{"dim": 5}, {"batch_norm": "none"}])
def test_impossible_settings_raise(change):
  with pytest.raises(ValueError, match=str(list(change.values())[0])):
    jax.eval_shape(SMALL.clone(**change).init, jax.random.key(0), jnp.zeros((1, 1, 6)), jnp.zeros((1, 5)))


def test_wrong_shapes_raise():
  variables, (x, context) = randomised(SMALL), inputs(SMALL)
  for bad in (x[0], x[:2]):
    with pytest.raises(ValueError, match="S, D"):
      SMALL.apply(variables, bad, context)


# ActNorm's start from data.

initialise = jax.jit(actnorm_from_data, static_argnums=0)


def test_actnorm_by_hand():
  net = ConditionalGlow(dim=2, context=3, hidden=8, blocks=1)
  variables = randomised(net)
  params = initialise(net, variables, np.array([[1, 2], [3, 2]], np.float32), np.ones(2), np.ones((2, 3), np.float32))
  np.testing.assert_allclose(params["actnorm_0"]["log_scale"], [-0.346574, 6.907755], rtol=1e-5)
  np.testing.assert_allclose(params["actnorm_0"]["shift"], [-1.414214, -2000], rtol=1e-5)


def test_every_actnorm_starts_with_zero_mean_and_unit_variance():
  net = SMALL.clone(dropout=0.0, blocks=3)
  variables, (x, context) = randomised(net), inputs(net, images=64, samples=1)
  params = initialise(net, variables, x[:, 0], np.ones(64), context)
  same = jax.tree.map(np.array_equal, {k: v for k, v in params.items() if "actnorm" not in k},
                      {k: v for k, v in variables["params"].items() if "actnorm" not in k})
  assert all(jax.tree.leaves(same))
  for blocks in range(3):  # a flow that stops before an ActNorm gives what that one sees, in train mode
    seen = x
    if blocks:
      (_, seen), _ = train_forward(net.clone(blocks=blocks), {**variables, "params": params}, x, context)
    actnorm = params[f"actnorm_{blocks}"]
    y = np.exp(actnorm["log_scale"]) * seen[:, 0] + actnorm["shift"]
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(0, ddof=1), 1, atol=1e-4)


def test_actnorm_sees_labelled_rows_alone():
  variables, (x, context) = randomised(SMALL), inputs(SMALL, images=12, samples=1)
  weight = np.arange(12) % 3 != 0
  params = initialise(SMALL, variables, np.where(weight[:, None], x[:, 0], np.nan), weight, context)
  expected = initialise(SMALL, variables, x[weight, 0], np.ones(8), context[weight])
  for i in range(4):
    for name in ("log_scale", "shift"):
      np.testing.assert_allclose(params[f"actnorm_{i}"][name], expected[f"actnorm_{i}"][name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("labelled", [0, 1])
def test_without_labels_actnorm_stays_as_it_is(labelled):
  variables, (x, context) = randomised(SMALL), inputs(SMALL, samples=1)
  params = initialise(SMALL, variables, x[:, 0], np.arange(3) < labelled, context)
  jax.tree.map(np.testing.assert_array_equal, params, variables["params"])


def test_actnorm_with_dropout_needs_a_key_and_differs():
  variables, (x, context) = randomised(SMALL), inputs(SMALL, images=12, samples=1)
  without, with_key = (initialise(SMALL, variables, x[:, 0], np.ones(12), context, *key)
                       for key in ((), (jax.random.key(0),)))
  np.testing.assert_array_equal(without["actnorm_0"]["shift"], with_key["actnorm_0"]["shift"])
  assert np.abs(without["actnorm_1"]["shift"] - with_key["actnorm_1"]["shift"]).max() > 1e-3


def test_moments_of_no_rows_are_zero():
  mean, var, count = moments(jnp.ones((3, 2)), jnp.zeros((3, 1)))
  assert float(count) == 0 and not np.any(mean) and not np.any(var)
