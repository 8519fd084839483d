"""The network inside a coupling of the flow: a residual MLP whose context can be the same for many samples."""

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr.nn import folded
from jhmr.nn.regressor import axis_of, learns, torch_bias, torch_dense

EPSILON = 1e-5  # of batch norm


def uniform(bound):
  """An initialiser, U(-bound, bound)."""
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _product(a, b, dtype):
  """a @ b of factors rounded to dtype, summed in float32 or better."""
  return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.promote_types(dtype, jnp.float32))


class Linear(nn.Module):
  """x @ kernel + bias; the product's factors are rounded to `dtype`, sums are float32 or better."""
  inputs: int
  outputs: int
  kernel_init: Any
  bias_init: Any
  dtype: Any

  def setup(self):
    self.kernel = self.param("kernel", self.kernel_init, (self.inputs, self.outputs), jnp.float32)
    self.bias = self.param("bias", self.bias_init, (self.outputs,), jnp.float32)

  def product(self, x, rows=slice(None)):
    """x times some rows of the kernel."""
    return _product(x, self.kernel[rows], self.dtype)

  def __call__(self, x):
    return self.product(x) + self.bias


class BatchNorm(nn.Module):
  """Batch norm of rows, some of which may not count.

  Attributes:
    size: C.
    axis_name: the mapped axis whose rows are averaged too, or None.
    epsilon: added to the variance.
    rate: how far running statistics move towards those of a batch.
    unbiased: whether the running variance is the unbiased one.
  The default constants are torch's.
  """
  size: int
  axis_name: Any
  epsilon: float = EPSILON
  rate: float = 0.1
  unbiased: bool = True

  def setup(self):
    self.scale = self.param("scale", nn.initializers.ones, (self.size,), jnp.float32)
    self.bias = self.param("bias", nn.initializers.zeros, (self.size,), jnp.float32)
    self.mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(self.size, jnp.float32))
    self.var = self.variable("batch_stats", "var", lambda: jnp.ones(self.size, jnp.float32))

  def fold(self):
    """(factor [C], offset [C]) of evaluation."""
    factor = self.scale * jax.lax.rsqrt(self.var.value + self.epsilon)
    return factor, self.bias - factor * self.mean.value

  def __call__(self, x, train, weight):
    """x [..., C], weight [..., 1] in {0, 1} or None for ones; with train, running statistics change."""
    mean, var = self.mean.value, self.var.value
    if train:
      ones = jnp.ones(x.shape[:-1] + (1,), x.dtype)
      mean, var, count = moments(x, ones if weight is None else weight, self.axis_name)
      if not self.is_initializing():
        spread = var * count / jnp.maximum(count - 1, 1) if self.unbiased else var
        rate = jnp.where(count > 1, self.rate, 0.0)  # one row has no variance
        self.mean.value += rate * (mean - self.mean.value)
        self.var.value += rate * (spread - self.var.value)
    y = (x - mean) * (self.scale * jax.lax.rsqrt(var + self.epsilon)) + self.bias
    # Rows that do not count may be far from the statistics of few others: infinite, after some layers.
    return y if weight is None else jnp.where(weight > 0, y, 0.0)


def moments(x, weight, axis_name=None):
  """Mean [C], biased variance [C] and number [] of the rows of x [..., C] whose weight [..., 1] is 1; 0 without any."""
  def total(values):
    values = jnp.sum(values, axis=range(values.ndim - 1))
    return values if axis_name is None else jax.lax.psum(values, axis_name)

  count = total(weight)[0]
  mean = total(weight * x) / jnp.maximum(count, 1)
  return mean, total(weight * (x - mean) ** 2) / jnp.maximum(count, 1), count


class Coupling(nn.Module):
  """The network of one coupling: a residual MLP on half of the entries and on the context.

  Layers, in order: initial_layer on [entries, context]; per residual block bn_0, relu, linear_0, bn_1, relu, dropout,
  linear_1, added to its input; final_layer.

  Source: authors' `nflows/nn/nets/resnet.py:ResidualNet`, names of layers and initial values included.
  """
  half: int
  context: int
  hidden: int
  depth: int
  dropout: float
  batch_norm: str
  axis_name: Any
  dtype: Any

  def setup(self):
    torch_linear = lambda n, m: Linear(n, m, torch_dense, torch_bias(n), self.dtype)
    small_linear = lambda n, m, bound: Linear(n, m, uniform(bound), uniform(bound), self.dtype)
    self.initial_layer = torch_linear(self.half + self.context, self.hidden)
    for i in range(self.depth):
      for j in range(2):
        setattr(self, f"block_{i}_bn_{j}", BatchNorm(self.hidden, axis_of(self)))
      setattr(self, f"block_{i}_linear_0", torch_linear(self.hidden, self.hidden))
      setattr(self, f"block_{i}_linear_1", small_linear(self.hidden, self.hidden, 1e-3))
    self.final_layer = small_linear(self.hidden, self.half, 0.01 * self.hidden ** -0.5)
    self.drop = nn.Dropout(self.dropout)

  def project(self, context):
    """[B, C] -> [B, hidden], the context's share of the first layer and its bias."""
    return self.initial_layer.product(context, slice(self.half, None)) + self.initial_layer.bias

  def __call__(self, x, projected, train, weight):
    """x [B, S, half], projected [B, 1, hidden], weight [B, S, 1] or None -> [B, S, half]."""
    norm = lambda i, j, h: getattr(self, f"block_{i}_bn_{j}")(h, learns(self, train), weight)
    linear = lambda i, j: getattr(self, f"block_{i}_linear_{j}")
    h = self.initial_layer.product(x, slice(None, self.half)) + projected
    for i in range(self.depth):
      t = linear(i, 0)(nn.relu(norm(i, 0, h)))
      t = self.drop(nn.relu(norm(i, 1, t)), deterministic=not train)
      if i < self.depth - 1 or train or math.prod(x.shape[:-1]) < 4 * self.half:
        h = h + linear(i, 1)(t)
      else:
        # Only the last layer reads this sum, so the product of both kernels, made once, saves one product of
        # hidden x hidden for each sample: a quarter of the arithmetic. It pays for a few times `half` samples.
        return self.final_layer(h + linear(i, 1).bias) + self._last_two(t, linear(i, 1).kernel)
    return self.final_layer(h)

  def _last_two(self, t, kernel):
    return _product(t, self.final_layer.product(kernel), self.dtype)

  def fold(self):
    """The folded.Net of evaluation."""
    part = lambda name, j: [getattr(self, f"block_{i}_{name}_{j}") for i in range(self.depth)]
    before, between = ([norm.fold() for norm in part("bn", j)] for j in range(2))
    inner, outer, final = part("linear", 0), part("linear", 1), self.final_layer
    rounded = lambda x: x.astype(self.dtype)
    exact = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return folded.Net(
        first=rounded(self.initial_layer.kernel[:self.half]),
        factors=tuple(f for f, _ in before), offsets=tuple(o for _, o in before),
        inner=tuple(rounded(layer.kernel * f) for layer, (f, _) in zip(inner, between)),
        inner_bias=tuple(layer.bias * f + o for layer, (f, o) in zip(inner, between)),
        outer=tuple(rounded(layer.kernel) for layer in outer[:-1]),
        outer_bias=tuple(layer.bias for layer in outer[:-1]),
        last=rounded(final.kernel), through=rounded(exact(outer[-1].kernel, final.kernel)),
        bias=final.bias + exact(outer[-1].bias, final.kernel))
