"""A fixed number of steps that end at the best point seen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jhmr.fitting import descend


def bowl(x):
  return jnp.sum(jnp.array([1.0, 30.0, 500.0]) * (x["a"] - 1) ** 2) + (x["b"] + 2) ** 2


START = {"a": jnp.zeros(3), "b": jnp.zeros(())}


@pytest.mark.parametrize("tx, steps", [(descend.lbfgs(), 40), (optax.adam(0.1), 300)])
def test_it_reaches_the_minimum_of_a_bowl(tx, steps):
  x, losses = jax.jit(lambda x: descend.descend(bowl, x, tx, steps))(START)
  np.testing.assert_allclose(x["a"], 1, atol=2e-3)
  np.testing.assert_allclose(x["b"], -2, atol=2e-3)
  assert losses.shape == (steps,) and losses[0] == pytest.approx(535)
  assert float(bowl(x)) == pytest.approx(float(losses.min()), abs=1e-5)


def test_the_end_is_the_best_point_even_of_steps_that_climb():
  x, losses = descend.descend(bowl, START, optax.sgd(0.1), 5)  # diverges
  assert losses[-1] > losses[0]
  np.testing.assert_array_equal(x["a"], START["a"])


def test_a_loss_that_is_not_finite_is_never_chosen():
  cliff = lambda x: jnp.where(x > 0.5, jnp.nan, (x - 1) ** 2)
  for tx in (descend.lbfgs(), optax.adam(0.2)):
    x, _ = jax.jit(lambda x, tx=tx: descend.descend(cliff, x, tx, 12))(jnp.zeros(()))
    assert np.isfinite(x) and float(cliff(x)) <= 1


def test_losses_are_those_of_the_points_on_the_way():
  tx, x, seen = optax.adam(0.3), START, []
  opt = tx.init(x)
  for _ in range(4):
    seen.append(float(bowl(x)))
    updates, opt = tx.update(jax.grad(bowl)(x), opt, x)
    x = optax.apply_updates(x, updates)
  np.testing.assert_allclose(descend.descend(bowl, START, tx, 4)[1], seen, rtol=1e-5)


def test_steps_that_climb_are_shortened_one_evaluation_each():
  steep = lambda x: jnp.sum(x**4 - x**2)
  x, losses = jax.jit(lambda x: descend.descend(steep, x, descend.lbfgs(), 30))(jnp.array([3.0, 0.1]))
  np.testing.assert_allclose(np.abs(x), np.sqrt(0.5), atol=1e-3)
  assert np.sum(np.diff(np.asarray(losses)) > 1e-3) >= 1, "a trial that climbed is among the losses"


def test_directions_are_those_of_a_dense_bfgs_inverse():
  rng = np.random.default_rng(0)
  memory, inverse = descend.empty_memory(jnp.zeros(4), 3), None
  for _ in range(3):
    s = rng.normal(size=4).astype(np.float32)
    y = (s * np.array([1, 2, 3, 4]) + 0.1 * rng.normal(size=4)).astype(np.float32)
    memory = descend.remember(memory, jnp.asarray(s), jnp.asarray(y))
  inverse = np.eye(4) * float(memory.scale)
  for s, y in zip(np.asarray(memory.steps, np.float64), np.asarray(memory.changes, np.float64)):
    turn = np.eye(4) - np.outer(s, y) / (s @ y)
    inverse = turn @ inverse @ turn.T + np.outer(s, s) / (s @ y)
  grad = rng.normal(size=4)
  np.testing.assert_allclose(descend.two_loops(memory, jnp.asarray(grad, jnp.float32)), -inverse @ grad, rtol=1e-3)
