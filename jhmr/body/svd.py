"""Singular values of many 3 x 3 matrices at once, by Jacobi rotations: sums and products alone, on any device.

Not `jnp.linalg.svd`: on CPU it gives every matrix to LAPACK, on workers that it waits for while it is one of them, so
that a program with as many of them side by side as there are workers never ends (jaxlib 0.10, two cores, two SVDs).
"""

import jax
import jax.numpy as jnp

_SWEEPS, _SWEEPS_64 = 4, 6  # of float32, float64. With 3 the worst of 300,000 matrices is 3e-5 off, with 4 and 5 2e-6
_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def signed(matrix):
  """M = U diag(s) V^T with two rotations: (U [..., 3, 3], s [..., 3], V [..., 3, 3]) of [..., 3, 3].

  s_0 >= s_1 >= |s_2|, and s_2 has the sign of det M. Any finite matrix has one, that of zero is made of unit matrices.
  It has no gradient of its own: where singular values coincide U and V are not unique. See `rotations.to_rotation`.
  Source: Hestenes 1958, one-sided Jacobi; Golub and Van Loan, Matrix Computations, 8.6.3.
  """
  matrix = jnp.asarray(matrix)
  size = jnp.max(jnp.abs(matrix), (-2, -1))
  size = jnp.where(size > 0, size, 1.0)
  # Columns first, then rows: the matrices lie side by side. In units of the largest entry, else squares underflow.
  m = jnp.moveaxis(matrix / size[..., None, None], (-1, -2), (0, 1))
  v = jnp.broadcast_to(jnp.eye(3, dtype=m.dtype).reshape(3, 3, *[1] * size.ndim), m.shape)

  def turn(_, both):
    """Makes two columns of M V orthogonal, and passes on to the next two."""
    a, b, c = both                                                          # [6, ...]: a column of M V, one of V
    tan = _tangent(_dot(a[:3], a[:3]), _dot(b[:3], b[:3]), _dot(a[:3], b[:3]))
    cos = 1 / jnp.sqrt(1 + tan * tan)
    return cos * (tan * a + b), c, cos * (a - tan * b)

  sweeps = _SWEEPS_64 if m.dtype == jnp.float64 else _SWEEPS
  # A loop, since what is unrolled takes seconds to compile. Three turns bring every column back to its place.
  columns = jax.lax.fori_loop(0, 3 * sweeps, turn, tuple(jnp.concatenate([m, v], 1)))
  pairs = [jnp.stack([x[:3], x[3:]], 1) for x in _sorted(columns)]          # [3, 2, ...]: of M V and of V
  # The product of all turns is a rotation but for rounding.
  frames = _frame(pairs[0], pairs[1])                                       # [3, 3, 2, ...]
  s = jnp.stack([size * _dot(u[:, 0], x[:, 0]) for u, x in zip(frames, pairs)], -1)
  back = lambda x: jnp.moveaxis(x, (0, 1), (-1, -2))
  return back(frames[:, :, 0]), s, back(frames[:, :, 1])


def _dot(a, b):
  return sum(a[i] * b[i] for i in range(3))  # no jnp.sum, which CPUs may be given as a kernel of its own


def _tangent(a, b, product):
  """That of the turn after which two vectors of squared lengths a and b are orthogonal."""
  difference = b - a
  root = jnp.abs(difference) + jnp.sqrt(difference * difference + 4 * product * product)
  return jnp.where(difference < 0, -2.0, 2.0) * product / jnp.where(root > 0, root, 1.0)


def _sorted(columns):
  """The longest first; one of two that change places is negated, which leaves determinants as they are."""
  columns = list(columns)
  for p, q in ((0, 1), (1, 2), (0, 1)):
    a, b = columns[p], columns[q]
    swap = _dot(a[:3], a[:3]) < _dot(b[:3], b[:3])
    columns[p], columns[q] = jnp.where(swap, b, a), jnp.where(swap, -a, b)
  return columns


def _frame(first, second):
  """Three orthogonal unit vectors [3, 3, ...], right-handed: along `first`, near `second`, any where those say nothing.
  """
  axes = jnp.asarray(_AXES, first.dtype).reshape(2, 3, *[1] * (first.ndim - 1))
  square, tiny = _dot(first, first), jnp.finfo(first.dtype).tiny
  first = _unit(jnp.where(square > tiny, first, axes[0]))
  beside = lambda x: x - _dot(x, first) * first
  rest = beside(second)
  said = _dot(rest, rest) > jnp.maximum((4 * jnp.finfo(first.dtype).eps) ** 2 * square, tiny)  # else it is rounding
  axis = beside(jnp.where(jnp.abs(first[0]) > 0.6, axes[1], axes[0]))
  # Beside it twice: once leaves the rounding of what was taken away.
  second = _unit(beside(_unit(jnp.where(said, rest, axis))))
  return jnp.stack([first, second, jnp.cross(first, second, axis=0)])


def _unit(x):
  return x / jnp.sqrt(_dot(x, x))
