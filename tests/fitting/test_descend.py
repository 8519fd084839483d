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


@pytest.mark.parametrize("tx, steps", [(descend.lbfgs(), 12), (optax.adam(0.1), 300)])
def test_it_reaches_the_minimum_of_a_bowl(tx, steps):
  x, losses = jax.jit(lambda x: descend.descend(bowl, x, tx, steps))(START)
  np.testing.assert_allclose(x["a"], 1, atol=2e-3)
  np.testing.assert_allclose(x["b"], -2, atol=2e-3)
  assert losses.shape == (steps + 1,) and losses[0] == pytest.approx(535)
  assert float(bowl(x)) == pytest.approx(float(losses.min()), abs=1e-5)


def test_the_end_is_the_best_point_even_of_steps_that_climb():
  x, losses = descend.descend(bowl, START, optax.sgd(0.1), 5)  # diverges
  assert losses[-1] > losses[0]
  np.testing.assert_array_equal(x["a"], START["a"])


def test_a_loss_that_is_not_finite_is_never_chosen():
  cliff = lambda x: jnp.where(x > 0.5, jnp.nan, (x - 1) ** 2)
  for tx in (descend.lbfgs(), optax.adam(0.2)):
    x, _ = jax.jit(lambda x, tx=tx: descend.descend(cliff, x, tx, 8))(jnp.zeros(()))
    assert np.isfinite(x) and float(cliff(x)) <= 1


def test_losses_are_those_of_the_points_on_the_way():
  tx, x, seen = optax.adam(0.3), START, []
  opt = tx.init(x)
  for _ in range(4):
    seen.append(float(bowl(x)))
    updates, opt = tx.update(jax.grad(bowl)(x), opt, x)
    x = optax.apply_updates(x, updates)
  np.testing.assert_allclose(descend.descend(bowl, START, tx, 4)[1], [*seen, float(bowl(x))], rtol=1e-5)
