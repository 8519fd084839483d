"""Singular values of 3 x 3 matrices: against NumPy in float64, whatever the matrix, however many."""

import jax
import jax.numpy as jnp
from jhmr.body import svd
import numpy as np
import pytest

RNG = np.random.default_rng(0)
NUM = 5000  # XLA splits arrays of this size among its workers
signed = jax.jit(svd.signed)


def normal(*shape):
  return RNG.normal(size=shape)


def turns(num):
  return np.linalg.qr(normal(num, 3, 3))[0]


def with_values(*values):
  return turns(NUM) * np.array(values) @ turns(NUM)


KINDS = {
    "any": normal(NUM, 3, 3), "rank 2": normal(NUM, 3, 2) @ normal(NUM, 2, 3),
    "rank 1": normal(NUM, 3, 1) * normal(NUM, 1, 3),
    "zero": np.zeros((4, 3, 3)), "identity": np.eye(3)[None], "mirror": -np.eye(3)[None], "orthogonal": turns(NUM),
    "two alike": with_values(1, 1, .2), "nearly alike": with_values(1 + 1e-6, 1, 1 - 1e-6),
    "far apart": with_values(1, 1e-3, 1e-6), "diagonal": np.eye(3) * normal(NUM, 1, 3),
    "one column": normal(NUM, 3, 1) * [0, 1, 0], "small integers": RNG.integers(-1, 2, (NUM, 3, 3)),
    "tiny": 1e-25 * normal(NUM, 3, 3), "huge": 1e25 * normal(NUM, 3, 3)}


@pytest.mark.parametrize("matrix", KINDS.values(), ids=KINDS.keys())
def test_two_rotations_and_the_singular_values(matrix):
  matrix = np.float32(matrix)
  u, s, v = (np.float64(x) for x in signed(matrix))
  exact, size = np.float64(matrix), np.abs(np.float64(matrix)).max((1, 2), keepdims=True) + 1e-300
  for rotation in (u, v):
    np.testing.assert_allclose(rotation.swapaxes(1, 2) @ rotation, np.broadcast_to(np.eye(3), matrix.shape), atol=2e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=2e-6)
  np.testing.assert_allclose(u * s[:, None] @ v.swapaxes(1, 2) / size, exact / size, atol=3e-6)
  want = np.linalg.svd(exact)[1]
  want[:, 2] *= np.where(np.linalg.det(exact / size) < 0, -1, 1)
  np.testing.assert_allclose(s / size[:, 0], want / size[:, 0], atol=3e-6)
  assert (s[:, 0] >= s[:, 1] - 1e-6 * size[:, 0, 0]).all()


def test_float64_is_as_exact_as_it_can_be():
  with jax.enable_x64(True):
    matrix = normal(100, 3, 3)
    u, s, v = svd.signed(jnp.asarray(matrix))
    np.testing.assert_allclose(u * s[:, None] @ jnp.swapaxes(v, 1, 2), matrix, atol=1e-14)
    np.testing.assert_allclose(np.abs(s), np.linalg.svd(matrix)[1], atol=1e-14)


def test_leading_axes_and_none():
  matrix = np.float32(normal(2, 3, 3, 3))
  for i, found in enumerate(zip(*signed(matrix))):
    for got, want in zip(found, signed(matrix[i, 1])):
      np.testing.assert_allclose(got[1], want, atol=1e-6)
  assert [x.shape for x in signed(np.zeros((0, 3, 3), np.float32))] == [(0, 3, 3), (0, 3), (0, 3, 3)]
