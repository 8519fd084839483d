"""Graph convolutions Y = A (X W) + b on meshes, A the row-normalised adjacency with self loops, and their blocks.

Features are vertex-major, [B, n, C]. A is applied in one of these forms, which `prepare` chooses and lays out:
  "dense"   an n x n product.
  "blocks"  vertices in reverse Cuthill-McKee order have their neighbours nearby, so A is a band; cut into blocks of
            rows at least as high as the band is wide, each block reads three blocks of columns.
  "gather"  a padded table of neighbours, and that of the transpose for the gradient.
  "sparse"  jax.experimental.sparse's BCOO.
One layer's output and gradients, 16 images, 1,723 vertices, 128 channels, on two CPU cores (`python -m jhmr.benchmark
graph_conv`): blocks 116.8 ms, sparse 147.6, dense 170.4, gather 325.0. So "auto" is blocks but for small meshes.
"""

from typing import Any

from flax import linen as nn
from flax import struct
import jax
from jax.experimental import sparse as jax_sparse
import jax.numpy as jnp
from jhmr import sparse
import numpy as np

FORMS = ("auto", "dense", "blocks", "gather", "sparse")
_WHOLE = 128      # vertices up to which the dense product is no slower
_GROUP = 8        # channels of a group of group norm
_EPSILON = 1e-5


@struct.dataclass
class Adjacency:
  """A in one form; the fields of the others are None."""
  order: Any = None   # [n] int32, which vertex stands at each place inside the network; None: as they come
  place: Any = None   # [n] int32, its inverse
  dense: Any = None   # [n, n]
  blocks: Any = None  # [k, h, 3 h], rows of k blocks against the blocks before, at and after them
  table: Any = None   # sparse.Table
  sparse: Any = None  # BCOO [n, n]


def prepare(table, form="auto"):
  """The Adjacency of a sparse.Table [n, n] of NumPy arrays with a symmetric pattern.

  Raises:
    ValueError: for a form that does not exist.
  """
  if form not in FORMS:
    raise ValueError(f"form {form!r} is not one of {FORMS}")
  if form == "auto":
    form = "dense" if len(table.ids) <= _WHOLE else "blocks"
  if form == "gather":
    return Adjacency(table=table)
  matrix = sparse.dense(table)
  if form == "dense":
    return Adjacency(dense=matrix)
  if form == "sparse":
    return Adjacency(sparse=jax_sparse.BCOO.fromdense(matrix))
  order = narrow_order(table)
  return Adjacency(order=order, place=np.argsort(order).astype(np.int32), blocks=_blocks(matrix[order][:, order]))


def narrow_order(table):
  """Reverse Cuthill-McKee order [n] int32 of a table's vertices: neighbours stand close to each other.

  Source: Cuthill and McKee 1969; George 1971 for reversing it; starts from a vertex far from the others, as Gibbs,
    Poole and Stockmeyer 1976 find it.
  """
  neighbours = [np.unique(row[weight != 0]) for row, weight in zip(np.asarray(table.ids), np.asarray(table.weights))]
  degree = np.array([len(row) for row in neighbours])
  order, left = [], np.ones(len(degree), bool)
  while left.any():  # once for each connected part
    start = min(np.flatnonzero(left), key=lambda v: degree[v])
    for _ in range(3):
      start = _by_distance(neighbours, degree, start)[-1]
    part = _by_distance(neighbours, degree, start)
    left[part] = False
    order += part
  return np.array(order[::-1], np.int32)


def _by_distance(neighbours, degree, start):
  """Vertices connected to start, breadth first, of small degree first."""
  order, seen = [start], {start}
  for vertex in order:  # grows meanwhile
    fresh = sorted((v for v in neighbours[vertex].tolist() if v not in seen), key=lambda v: degree[v])
    seen.update(fresh)
    order += fresh
  return order


def _blocks(band):
  """[k, h, 3 h] of a band matrix [n, n]."""
  rows, columns = np.nonzero(band)
  num, height = len(band), max(-(-int(np.abs(rows - columns).max(initial=1)) // 8) * 8, 8)
  count = -(-num // height)
  wide = np.zeros((count * height, (count + 2) * height), np.float32)
  wide[:num, height:height + num] = band
  return np.stack([wide[i * height:(i + 1) * height, i * height:(i + 3) * height] for i in range(count)])


def multiply(adjacency, x, precision=None):
  """A times features [B, n, C], which stand in the adjacency's order."""
  if adjacency.table is not None:
    return sparse.multiply(adjacency.table, x)
  if adjacency.dense is not None:
    return jnp.einsum("mn,bnc->bmc", adjacency.dense.astype(x.dtype), x, precision=precision)
  if adjacency.sparse is not None:
    flat = jnp.swapaxes(x, 0, 1).reshape(x.shape[1], -1)
    return jnp.swapaxes((adjacency.sparse @ flat).reshape(x.shape[1], x.shape[0], -1), 0, 1)
  blocks, (batch, num, channels) = adjacency.blocks.astype(x.dtype), x.shape
  count, height, _ = blocks.shape
  parts = jnp.pad(x, ((0, 0), (0, count * height - num), (0, 0))).reshape(batch, count, height, channels)
  none = jnp.zeros_like(parts[:, :1])
  around = jnp.concatenate([jnp.concatenate([none, parts[:, :-1]], 1), parts,
                            jnp.concatenate([parts[:, 1:], none], 1)], 2)
  return jnp.einsum("kvw,bkwc->bkvc", blocks, around, precision=precision).reshape(batch, -1, channels)[:, :num]


def inside(adjacency, x):
  """Rows of vertices [..., n, C] in the order in which the network works."""
  return x if adjacency.order is None else x[..., adjacency.order, :]


def outside(adjacency, x):
  """Back from `inside`."""
  return x if adjacency.place is None else x[..., adjacency.place, :]


def uniform(limit):
  """U(-limit, limit), whatever the shape."""
  return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


def initial(kind, size_in, size_out, conv=False):
  """(kernel, bias) initialisers of a layer.

  kind "authors": linear layers U(-1/(in out), 1/(in out)), so that the mesh is nearly constant at first; convolutions
  U(-6/sqrt(in + out), 6/sqrt(in + out)), six times the variance of Glorot's. "mean": Glorot's, and no biases; systems
  then put the mean camera and body into the last layers' biases.
  Source: GraphCMR, authors' `models/graph_layers.py`.
  """
  if kind == "authors":
    limit = uniform(6.0 / (size_in + size_out) ** 0.5 if conv else 1.0 / (size_in * size_out))
    return limit, limit
  return jax.nn.initializers.glorot_uniform(), jax.nn.initializers.zeros


def linear(features, size_in, start, dtype, precision, name):
  """The same affine map at every vertex: [B, n, C] -> [B, n, features]."""
  kernel, bias = initial(start, size_in, features)
  return nn.Dense(features, kernel_init=kernel, bias_init=bias, dtype=dtype, precision=precision, name=name)


class GraphConv(nn.Module):
  """A (X W) + b: [B, n, C] -> [B, n, features]. Source: GraphCMR, Eq. 2.1 (Kipf and Welling 2017)."""
  features: int
  start: str = "authors"
  precision: Any = None

  @nn.compact
  def __call__(self, x, adjacency):
    kernel, bias = initial(self.start, x.shape[-1], self.features, conv=True)
    kernel = self.param("kernel", kernel, (x.shape[-1], self.features), jnp.float32).astype(x.dtype)
    bias = self.param("bias", bias, (self.features,), jnp.float32).astype(x.dtype)
    return multiply(adjacency, jnp.matmul(x, kernel, precision=self.precision), self.precision) + bias


class NormRelu(nn.Module):
  """ReLU of group norm over 8 channels and all vertices of an image: [B, n, C] -> [B, n, C].

  Source: Wu and He 2018; GraphCMR, authors' `models/graph_layers.py`, groups of 8 channels, always before a ReLU.
  """

  @nn.compact
  def __call__(self, x):
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
    return norm_relu(x, scale, bias)


@jax.custom_vjp
def norm_relu(x, scale, bias):
  """max(0, scale (x - mean) / std + bias), statistics of groups of channels over all vertices, in float32.

  The gradient is written out: XLA's takes a third longer for the whole network on a CPU.

  Args:
    x: [B, n, C], C a multiple of 8.  scale, bias: [C].
  """
  return _norm_relu(x, scale, bias)[0]


def _norm_relu(x, scale, bias):
  wide = x.astype(jnp.float32)
  mean = _of_groups(jnp.mean(wide, axis=1))
  # Of differences, since the mean may be far larger than they are.
  inverse = jax.lax.rsqrt(_of_groups(jnp.mean((wide - mean[:, None]) ** 2, axis=1)) + _EPSILON)
  y = nn.relu((wide - mean[:, None]) * (scale * inverse)[:, None] + bias).astype(x.dtype)
  return y, (x, y, mean, inverse, scale)


def _norm_relu_gradient(saved, gradient):
  x, y, mean, inverse, scale = saved
  gradient = jnp.where(y > 0, gradient, 0).astype(jnp.float32)
  unit = (x.astype(jnp.float32) - mean[:, None]) * inverse[:, None]
  along, along_unit = jnp.sum(gradient, axis=1), jnp.sum(gradient * unit, axis=1)  # [B, C]
  of_mean, of_std = (_of_groups(total * scale / x.shape[1])[:, None] for total in (along, along_unit))
  inner = inverse[:, None] * (gradient * scale - of_mean - unit * of_std)
  return inner.astype(x.dtype), jnp.sum(along_unit, 0), jnp.sum(along, 0)


norm_relu.defvjp(_norm_relu, _norm_relu_gradient)


def _of_groups(values):
  """Means of groups of channels, [B, C] -> [B, C], each channel with its group's."""
  grouped = values.reshape(values.shape[0], -1, _GROUP)
  return jnp.broadcast_to(jnp.mean(grouped, -1, keepdims=True), grouped.shape).reshape(values.shape)


class GraphBlock(nn.Module):
  """Norm, ReLU, linear to half the width, norm, ReLU, convolution, norm, ReLU, linear; added to its input.

  The input goes through a linear layer of its own where the widths differ. Source: GraphCMR, figures 12 and 13;
  authors' `models/graph_layers.py:GraphResBlock`.
  """
  features: int
  start: str = "authors"
  precision: Any = None

  @nn.compact
  def __call__(self, x, adjacency):
    half, size_in = self.features // 2, x.shape[-1]
    layer = lambda size, of, name: linear(size, of, self.start, x.dtype, self.precision, name)
    y = NormRelu(name="pre_norm")(x)
    y = NormRelu(name="norm1")(layer(half, size_in, "lin1")(y))
    y = NormRelu(name="norm2")(GraphConv(half, self.start, self.precision, name="conv")(y, adjacency))
    y = layer(self.features, half, "lin2")(y)
    return y + (x if size_in == self.features else layer(self.features, size_in, "skip_conv")(x))
