"""Optimisers: schedules, clipping and decay by hand; states that checkpoint and do not retrace."""

import jax
import jax.numpy as jnp
from jhmr import optim
from jhmr.errors import InputError
import ml_collections
import numpy as np
import optax
import pytest


def steps(config, grads, param, num_steps=10):
  tx = optim.make_optimizer(config, num_steps)
  state, path = tx.init(param), [param]
  for g in grads:
    updates, state = tx.update(jnp.float32(g), state, path[-1])
    path.append(optax.apply_updates(path[-1], updates))
  return np.array(path), state


def test_adam_follows_its_equations():
  path, _ = steps({"learning_rate": 0.1}, [1.0, -2.0, 0.5], jnp.float32(3))
  m = v = 0.0
  x = 3.0
  for t, g in enumerate([1.0, -2.0, 0.5], 1):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    x -= 0.1 * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    np.testing.assert_allclose(path[t], x, rtol=1e-5)


def test_adamw_decays_beside_the_gradient():
  path, _ = steps({"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.5}, [0.0], jnp.float32(2))
  np.testing.assert_allclose(path[1], 2 - 0.1 * 0.5 * 2, rtol=1e-6)


def test_clipping_bounds_the_global_norm_before_adam():
  big, _ = steps({"learning_rate": 0.1, "clip_norm": 1.0}, [1e6, 1.0], jnp.float32(0))
  unit, _ = steps({"learning_rate": 0.1}, [1.0, 1.0], jnp.float32(0))
  np.testing.assert_allclose(big, unit, rtol=1e-5)


def test_cosine_with_warm_up_rises_then_ends_at_zero():
  schedule = optim.make_schedule({"learning_rate": 2.0, "schedule": "cosine", "warmup": "4 steps"}, 12)
  rates = [float(schedule(i)) for i in range(13)]
  np.testing.assert_allclose(rates[:5], [0, 0.5, 1, 1.5, 2], rtol=1e-6)
  np.testing.assert_allclose(rates[4:], 1 + np.cos(np.pi * np.arange(9) / 8), atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "staircase", "exponential"])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_state_is_strongly_typed_before_and_after_a_step(name, schedule):
  config = {"name": name, "schedule": schedule, "warmup": "2", "decay_every": "3", "weight_decay": 1e-4,
            "clip_norm": 1.0}
  tx, params = optim.make_optimizer(config, 10), {"w": jnp.ones((2,), jnp.float32)}
  before = tx.init(params)
  after = jax.jit(lambda s, p: tx.update(p, s, p)[1])(before, params)
  kinds = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]
  assert kinds(before) == kinds(after)
  assert not any(weak for _, _, weak in kinds(before))
  assert {dtype for _, dtype, _ in kinds(before)} == {np.dtype(np.float32), np.dtype(np.int32)}


def test_a_staircase_goes_down_by_its_factor_after_every_tread():
  schedule = optim.make_schedule({"learning_rate": 2.0, "schedule": "staircase", "decay_every": "3", "decay": 0.5}, 9)
  np.testing.assert_allclose([float(schedule(i)) for i in range(9)], [2] * 3 + [1] * 3 + [0.5] * 3, rtol=1e-6)


def test_an_exponential_goes_down_by_its_factor_over_every_duration():
  fields = {"learning_rate": 2.0, "schedule": "exponential", "decay_every": "3 steps", "decay": 0.5}
  schedule = optim.make_schedule(fields, 9)
  np.testing.assert_allclose([float(schedule(i)) for i in range(9)], 2 * 0.5 ** (np.arange(9) / 3), rtol=1e-6)


def test_a_schedule_counts_steps_where_each_has_several_updates():
  rates = {"learning_rate": 1.0, "schedule": "staircase", "decay_every": "2", "decay": 0.5}
  tx, gradient = optim.make_optimizer(rates, 10, updates=3), jnp.ones(())
  state, moves = tx.init(gradient), []
  for _ in range(8):
    update, state = tx.update(gradient, state, gradient)
    moves.append(float(update))
  np.testing.assert_allclose(moves, [-1.0] * 6 + [-0.5] * 2, rtol=1e-4)


@pytest.mark.parametrize("text, steps_", [
    ("6000", 6000), ("6000 steps", 6000), ("1 step", 1), ("2e3 examples", 250), ("3 epochs", 38), ("0.5 epochs", 6),
    ("25 %", 10), ("25%", 10)])
def test_durations_of_any_unit_are_steps_of_this_batch_size(text, steps_):
  assert optim.count_steps(text, "x", batch_size=8, num_examples=100, num_steps=40) == steps_


@pytest.mark.parametrize("text, said", [("", "give a duration"), ("-3 steps", "give a duration"), ("5 days", "give a"),
                                        ("many", "give a"), ("5 %", "give a duration"), ("2 epochs", "never end")])
def test_what_is_no_duration_is_refused(text, said):
  with pytest.raises(InputError, match=f"config.x is .*{said}"):
    optim.count_steps(text, "x", batch_size=8, num_examples=0)


def test_durations_follow_an_overridden_batch_size():
  config = ml_collections.ConfigDict({"duration": "10 epochs", "batch_size": 10, "critic_optim": {"learning_rate": 1.0},
                                      "optim": {"warmup": "1 epochs", "decay_every": "20 %"}})
  small = optim.resolve(config, 100)
  assert (small.num_steps, small.optim.warmup, small.optim.decay_every) == (100, "10", "20")
  config.batch_size = 50
  large = optim.resolve(config, 100)
  assert (large.num_steps, large.optim.warmup, large.optim.decay_every) == (20, "2", "4")
  assert config.optim.warmup == "1 epochs", "the config that is written down stays as it was"


@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(num_parts):
  rng = np.random.default_rng(0)
  batch = {"x": rng.normal(size=(8, 3)).astype(np.float32), "mask": (rng.random(8) < 0.5).astype(np.float32)}
  w, total = jnp.asarray([1.0, -2.0, 0.5]), batch["mask"].sum()

  def part(carry, batch, index):
    loss = lambda w: jnp.sum(jnp.tanh(batch["x"] @ w) ** 2 * batch["mask"]) / total
    value, grad = jax.value_and_grad(loss)(w)
    return carry + 1, ((grad, {"loss": value}), batch["x"][:, 0] + 0 * index)

  count, (grad, metrics), rows = optim.accumulate(part, jnp.zeros(()), batch, num_parts)
  assert count == num_parts
  whole = lambda w: np.sum(np.tanh(batch["x"].astype(np.float64) @ w) ** 2 * batch["mask"]) / total
  np.testing.assert_allclose(metrics["loss"], whole(np.asarray(w, np.float64)), rtol=1e-5)
  at = np.asarray(w, np.float64)
  numeric = [(whole(at + d) - whole(at - d)) / 2e-4 for d in np.eye(3) * 1e-4]
  np.testing.assert_allclose(grad, numeric, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(rows, batch["x"][:, 0])


def test_a_batch_that_does_not_divide_into_parts_is_refused():
  with pytest.raises(ValueError, match="does not divide into 3 parts"):
    optim.accumulate(lambda c, b, i: (c, (b.sum(), b)), 0, jnp.ones(8), 3)


@pytest.mark.parametrize("config, message", [
    ({"name": "sgd"}, "name is 'sgd'"), ({"schedule": "step"}, "schedule is 'step'"),
    ({"warmup": "11 steps"}, "warmup is 11"),
    ({"schedule": "staircase"}, "decay_every"), ({"schedule": "exponential"}, "decay_every"),
    ({"lr": 1.0}, r"\['lr'\] do not exist")])
def test_unknown_fields_and_values_are_refused(config, message):
  with pytest.raises(InputError, match=message):
    optim.make_optimizer(config, 10)
