"""Sparse matrices as padded tables, applied to rows of features without a scatter, in either direction.

The gradient of a gather is a scatter-add, which is slow on every backend and not deterministic on some. A fixed matrix
needs none: its transpose is another table, made once.
"""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class Table:
  """An m x n matrix; rows are padded with weight 0."""
  ids: jax.Array           # [m, K] int32 columns of a row
  weights: jax.Array       # [m, K] float32
  back_ids: jax.Array      # [n, K'] int32, of the transpose
  back_weights: jax.Array  # [n, K']


def from_rows(ids, weights, num_columns):
  """Table from the padded rows of a matrix: ids [m, K] and weights [m, K], NumPy; entries of weight 0 are padding."""
  ids, weights = np.asarray(ids), np.asarray(weights, np.float32)
  rows, slots = np.nonzero(weights)
  columns, values = ids[rows, slots], weights[rows, slots]
  by_column = np.argsort(columns, kind="stable")
  return Table(ids.astype(np.int32), weights, *padded(columns[by_column], rows[by_column], values[by_column],
                                                      num_columns))


def padded(rows, columns, values, num_rows):
  """Padded rows of a matrix from its entries, which must be sorted by row.

  Args:
    rows, columns: [e] int; values: [e].
  Returns:
    ids [num_rows, K] int32, padded with 0, weights [num_rows, K] float32, padded with 0.
  """
  counts = np.bincount(rows, minlength=num_rows)
  slot = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
  ids = np.zeros((num_rows, max(int(counts.max(initial=0)), 1)), np.int32)
  weights = np.zeros(ids.shape, np.float32)
  ids[rows, slot], weights[rows, slot] = columns, values
  return ids, weights


@jax.custom_vjp
def multiply(table, x):
  """The matrix times x: [..., n, C] -> [..., m, C]; differentiable in x alone."""
  return _gathered(table.ids, table.weights, x)


def _gathered(ids, weights, x):
  """Slot by slot, which keeps memory at the size of the result."""
  return sum(weights[:, k, None].astype(x.dtype) * jnp.take(x, ids[:, k], axis=-2, mode="clip")
             for k in range(ids.shape[1]))


def _forward(table, x):
  return multiply(table, x), table


def _backward(table, gradient):
  return jax.tree.map(lambda _: None, table), _gathered(table.back_ids, table.back_weights, gradient)


multiply.defvjp(_forward, _backward)


def dense(table):
  """The same matrix [m, n] with its zeros, NumPy."""
  out = np.zeros((len(table.ids), len(table.back_ids)), np.float32)
  np.add.at(out, (np.arange(len(table.ids))[:, None], np.asarray(table.ids)), np.asarray(table.weights))
  return out
