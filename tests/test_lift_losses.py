"""Losses of lifting: values made by hand, slow loops written from the equations, and gradients on several devices."""

import functools

import jax
import jax.numpy as jnp
from jhmr import lift_losses
from jhmr.state import AXIS
import numpy as np
import pytest

A, B = (np.array(x, np.float32) for x in ([[0, 0], [1, 0]], [[1, 0], [2, 0]]))
ONES = np.ones(2, np.float32)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


covariance = jax.jit(lambda points, *rest: lift_losses.covariance(lift_losses.spread(points), *rest))
best_of = jax.jit(lift_losses.best_of, static_argnums=2)


@functools.partial(jax.jit, static_argnames="estimator")
def mmd(*args, estimator="paper"):
  return lift_losses.mmd(*args, estimator, None)


def kernel(x, y):
  return sum(a ** 2 / (a ** 2 + np.sum((x - y) ** 2)) for a in (0.05, 0.2, 0.9))


def mmd_by_pairs(x, y, estimator):
  """Eq. 6 of the paper, pair by pair; with "code" the pairs of a point with itself, too."""
  n, total = len(x), 0.0
  for i, j in np.ndindex(n, n):
    if estimator == "code":
      total += (kernel(x[i], x[j]) + kernel(y[i], y[j])) / n ** 2
    elif i != j:
      total += (kernel(x[i], x[j]) + kernel(y[i], y[j])) / (n * (n - 1))
    total -= 2 * kernel(x[i], y[j]) / n ** 2
  return total


def test_mmd_of_sets_made_by_hand():
  assert float(mmd(A, A, ONES, estimator="code")) == pytest.approx(0, abs=1e-6)
  assert float(mmd(A, B, ONES, estimator="code")) == pytest.approx(1.410538, abs=1e-5)
  assert float(mmd(A[:1], B[:1], ONES[:1], estimator="code")) == pytest.approx(5.023062, abs=1e-5)
  assert float(lift_losses.kernel(A[:1], A[:1])[0, 0]) == 3
  # Both sets have one pair, at distance 1; across there are two at 1, one at 0 and one at 2.
  one, two = kernel(A[0], A[1]), kernel(A[0], B[1])
  assert float(mmd(A, B, ONES)) == pytest.approx(2 * one - (2 * one + 3 + two) / 2, abs=1e-5)


@pytest.mark.parametrize("estimator", lift_losses.ESTIMATORS)
def test_mmd_is_its_equation_over_the_examples_that_count(estimator):
  x, y, weight = 0.3 * normal(6, 4), 0.3 * normal(6, 4, seed=1), np.array([1, 1, 0, 1, 0, 1], np.float32)
  x[2], y[4], kept = np.inf, np.nan, weight > 0
  found, gradient = jax.jit(jax.value_and_grad(lambda x: mmd(x, y, weight, estimator=estimator)))(x)
  assert float(found) == pytest.approx(mmd_by_pairs(x[kept], y[kept], estimator), abs=1e-5)
  assert np.isfinite(gradient).all() and (gradient[~kept] == 0).all()
  expected = np.zeros((4, 4))
  for i, j in np.ndindex(4, 4):
    for sign in (1e-4, -1e-4):
      moved = x[kept].astype(np.float64)
      moved[i, j] += sign
      expected[i, j] += mmd_by_pairs(moved, y[kept], estimator) / (2 * sign)
  np.testing.assert_allclose(gradient[kept], expected, atol=1e-3)


@pytest.mark.parametrize("estimator", lift_losses.ESTIMATORS)
def test_mmd_of_several_devices_is_that_of_their_examples_together(estimator):
  x, y, weight = 0.3 * normal(8, 4), 0.3 * normal(8, 4, seed=1), np.array([1, 1, 0, 1, 1, 0, 1, 1], np.float32)
  one = jax.jit(jax.value_and_grad(lambda x: mmd(x, y, weight, estimator=estimator)))(x)
  shard = lambda a: a.reshape(4, 2, *a.shape[1:])
  each = lambda x, y, w: jax.value_and_grad(lambda x: lift_losses.mmd(x, y, w, estimator))(x)
  value, gradient = jax.pmap(each, AXIS, devices=jax.devices()[:4])(shard(x), shard(y), shard(weight))
  np.testing.assert_allclose(np.mean(value), one[0], atol=1e-6)
  np.testing.assert_allclose(np.reshape(gradient, x.shape) / 4, one[1], atol=1e-6)  # parameters get the mean of devices


@pytest.mark.parametrize("weight", [np.zeros(2, np.float32), np.array([1, 0], np.float32)])
def test_mmd_of_too_few_is_nothing(weight):
  value, gradient = jax.jit(jax.value_and_grad(mmd))(A, B, weight)
  assert value == 0 and not np.any(gradient)


def test_an_estimator_that_does_not_exist_is_refused():
  with pytest.raises(ValueError, match="estimator is 'mean', not one of"):
    mmd(A, B, ONES, estimator="mean")


def test_covariance_is_its_equation():
  points, mask = 0.03 * normal(3, 20, 4, 2), np.float32(np.random.default_rng(3).random((3, 4)) < 0.6)
  target = 0.001 * np.abs(normal(3, 4, 3, seed=1))
  found = covariance(points, target, mask)
  expected = np.zeros((3, 4))
  for b, j in np.ndindex(3, 4):
    (xx, xy), (_, yy) = np.cov(points[b, :, j].T)
    t = target[b, j]
    expected[b, j] = mask[b, j] * np.sqrt(max(t[0] - xx, 0) ** 2 + max(t[2] - yy, 0) ** 2 + (t[1] - xy) ** 2)
  assert 0 < mask.sum() < mask.size
  np.testing.assert_allclose(found, expected.mean(1), rtol=1e-4)


def test_covariance_asks_for_more_variance_alone():
  wide = np.array([[-1, -1], [1, 1], [-1, 1], [1, -1]], np.float32)[None, :, None]  # variances 4/3, not correlated
  one, mask = np.ones((1, 1, 1), np.float32), np.ones((1, 1), np.float32)
  enough = covariance(wide, np.float32([1, 0, 1]) * one, mask)
  lacks = covariance(wide, np.float32([2, 0, 1]) * one, mask)
  tilted = covariance(wide, np.float32([1, 0.5, 1]) * one, mask)
  np.testing.assert_allclose([enough[0], lacks[0], tilted[0]], [0, 2 / 3, 0.5], atol=1e-6)
  gradient = jax.jit(jax.grad(lambda p, t: covariance(p, t * one, mask)[0]))
  for target in ([1, 0, 1], [2, 0, 1]):
    for points in (wide, np.zeros_like(wide)):
      assert np.isfinite(gradient(points, np.float32(target))).all()


def test_best_of_is_the_mean_of_the_nearest():
  points, target = normal(4, 7, 5, 3), normal(4, 5, 3, seed=1)
  for num in (1, 3, 7):
    loss = lambda p, num=num: jnp.sum(best_of(p, target, num))
    found, gradient = best_of(points, target, num), jax.jit(jax.grad(loss))(points)
    for b in range(4):
      order = np.argsort(np.linalg.norm(points[b] - target[b], axis=-1).mean(-1))
      mean = points[b, order[:num]].mean(0)
      np.testing.assert_allclose(found[b], np.abs(mean - target[b]).mean(), rtol=1e-5)
      expected = np.zeros((7, 5, 3))
      expected[order[:num]] = np.sign(mean - target[b]) / (15 * num)
      np.testing.assert_allclose(gradient[b], expected, atol=1e-6)


def test_a_critic_pays_for_its_slope_between_the_two():
  slope = np.float32([3, 4, 0])
  real, fake, share = normal(2, 3), normal(2, 3, seed=1), np.float32([[0.2], [0.9]])
  paid = lambda score: jax.jit(lambda *given: lift_losses.slope_penalty(score, *given))(real, fake, share)
  np.testing.assert_allclose(paid(lambda x: x @ slope), [16, 16], rtol=1e-5)  # (5 - 1)^2, wherever
  mixed = share * real + (1 - share) * fake
  np.testing.assert_allclose(paid(lambda x: jnp.sum(x ** 2, -1)), (2 * np.linalg.norm(mixed, axis=-1) - 1) ** 2,
                             rtol=1e-5)
  flat = jax.grad(lambda w: jnp.sum(paid(lambda x: x @ w)))(np.zeros(3, np.float32))
  assert np.isfinite(flat).all()


def test_absolute_is_a_mean_over_entries():
  np.testing.assert_allclose(lift_losses.absolute(np.float32([[1, -1], [0, 3]]), np.float32([[0, 1], [0, 0]])),
                             [1.5, 1.5])
