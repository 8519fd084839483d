"""Optimisers: schedules, clipping and decay by hand; states that checkpoint and do not retrace."""

import jax
import jax.numpy as jnp
from jhmr import optim
from jhmr.errors import InputError
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
  schedule = optim.make_schedule({"learning_rate": 2.0, "schedule": "cosine", "warmup_steps": 4}, 12)
  rates = [float(schedule(i)) for i in range(13)]
  np.testing.assert_allclose(rates[:5], [0, 0.5, 1, 1.5, 2], rtol=1e-6)
  np.testing.assert_allclose(rates[4:], 1 + np.cos(np.pi * np.arange(9) / 8), atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_state_is_strongly_typed_before_and_after_a_step(name, schedule):
  config = {"name": name, "schedule": schedule, "warmup_steps": 2, "weight_decay": 1e-4, "clip_norm": 1.0}
  tx, params = optim.make_optimizer(config, 10), {"w": jnp.ones((2,), jnp.float32)}
  before = tx.init(params)
  after = jax.jit(lambda s, p: tx.update(p, s, p)[1])(before, params)
  kinds = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]
  assert kinds(before) == kinds(after)
  assert not any(weak for _, _, weak in kinds(before))
  assert {dtype for _, dtype, _ in kinds(before)} == {np.dtype(np.float32), np.dtype(np.int32)}


@pytest.mark.parametrize("config, message", [
    ({"name": "sgd"}, "name is 'sgd'"), ({"schedule": "step"}, "schedule is 'step'"),
    ({"warmup_steps": 11}, "warmup_steps is 11"), ({"lr": 1.0}, r"\['lr'\] do not exist")])
def test_unknown_fields_and_values_are_refused(config, message):
  with pytest.raises(InputError, match=message):
    optim.make_optimizer(config, 10)
