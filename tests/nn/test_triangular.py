"""Inverses of triangular matrices: NumPy's in double precision, gradients by differences, sizes that do not divide."""

import jax
from jhmr.nn.triangular import inverse_lower
import numpy as np
import pytest


def lower(rng, size, *leading):
  matrix = np.tril(rng.normal(0, 0.5 / size**0.5, (*leading, size, size)), -1) + np.eye(size)
  return (matrix * rng.uniform(0.5, 2, (*leading, size, 1))).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 6, 16, 17, 48, 144, 150])
def test_it_is_the_inverse_for_every_size(size):
  matrix = lower(np.random.default_rng(size), size, 3)
  exact = np.linalg.inv(matrix.astype(np.float64))
  np.testing.assert_allclose(inverse_lower(matrix), exact, atol=2e-6 * np.abs(exact).max())


def test_what_lies_above_the_diagonal_is_not_looked_at():
  matrix = lower(np.random.default_rng(0), 20)
  np.testing.assert_array_equal(inverse_lower(matrix + np.triu(np.full((20, 20), 7, np.float32), 1)),
                                inverse_lower(matrix))


def test_gradients_are_those_of_differences():
  rng = np.random.default_rng(1)
  matrix, weight = lower(rng, 24), rng.normal(size=(24, 24))
  found = jax.grad(lambda m: (inverse_lower(m) * weight).sum())(matrix)
  assert not np.triu(found, 1).any()
  for i, j in ((0, 0), (5, 2), (20, 3), (23, 23)):
    step = np.zeros((24, 24))
    step[i, j] = 1e-5
    both = [(np.linalg.inv(matrix.astype(np.float64) + s) * weight).sum() for s in (step, -step)]
    assert found[i, j] == pytest.approx((both[0] - both[1]) / 2e-5, rel=1e-3, abs=1e-3)
