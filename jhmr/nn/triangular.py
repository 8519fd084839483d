"""Inverses of triangular matrices from products alone: what XLA solves column after column costs 5 ms at 144 x 144 on a
CPU, and is serial on accelerators."""

import functools

import jax
import jax.numpy as jnp

BASE = 16  # widest block that is inverted as a power series
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@jax.custom_jvp
def inverse_lower(matrix):
  """The inverse of lower triangular matrices.

  Args:
    matrix: [..., D, D] float32; what is above the diagonal is not looked at.
  Returns:
    [..., D, D] lower triangular; infinite where a diagonal entry is 0.
  Source: inverse([[A, 0], [B, C]]) = [[inverse(A), 0], [-inverse(C) B inverse(A), inverse(C)]], all blocks of a level
    at once; blocks of at most BASE: inverse(1 - N) = (1 + N)(1 + N^2)(1 + N^4)..., exact since N is nilpotent.
  """
  size, levels = matrix.shape[-1], 0
  while -(-size // 2**levels) > BASE:
    levels += 1
  width = -(-size // 2**levels)
  diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
  rows = jnp.tril(matrix, -1) / diagonal[..., None]  # ones on the diagonal are left out
  extra = width * 2**levels - size
  rows = jnp.pad(rows, [(0, 0)] * (matrix.ndim - 2) + [(0, extra)] * 2)
  inverse = _series(-_blocks(rows, width, 0), width)
  for _ in range(levels):
    first, second, below = inverse[..., ::2, :, :], inverse[..., 1::2, :, :], _blocks(rows, width, 1)
    corner = -_matmul(_matmul(second, below), first)
    upper = jnp.concatenate([first, jnp.zeros_like(corner)], -1)
    inverse = jnp.concatenate([upper, jnp.concatenate([corner, second], -1)], -2)
    width *= 2
  return inverse[..., 0, :size, :size] / diagonal[..., None, :]


@inverse_lower.defjvp
def _inverse_lower_jvp(primals, tangents):
  inverse = inverse_lower(*primals)
  return inverse, -_matmul(_matmul(inverse, jnp.tril(tangents[0])), inverse)


def _blocks(matrix, width, below):
  """Diagonal blocks [..., n, width, width] of [..., n width, n width], or those below every other one of them."""
  count = matrix.shape[-1] // width
  cut = matrix.reshape(*matrix.shape[:-2], count, width, count, width)
  rows, columns = (range(1, count, 2), range(0, count, 2)) if below else (range(count), range(count))
  return jnp.stack([cut[..., i, :, j, :] for i, j in zip(rows, columns)], -3)


def _series(power, width):
  """inverse(1 - power) of strictly lower triangular blocks [..., width, width]."""
  inverse, reached = jnp.eye(width, dtype=power.dtype) + power, 2
  while reached < width:
    power = _matmul(power, power)
    inverse, reached = inverse + _matmul(inverse, power), 2 * reached
  return inverse
