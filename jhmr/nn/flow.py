"""ProHMR's conditional flow: an image's features in, a density over poses out that can be sampled and evaluated.

A pose x and a latent z are two names of one point: `forward` takes x to z, through the blocks 0, 1, ..., and `inverse`
takes z to x, through ..., 1, 0. A block is, towards z,

    x <- exp(log_scale) x + shift        ActNorm
    x <- L U x + bias                    LULinear; L has ones on its diagonal, U softplus(u) + 1e-3
    x_t <- x_t + net(x_i, context)       additive coupling; i are the even entries in blocks 0, 2, ..., else the odd

so that log p(x | context) = log N(z; 0, 1) + log|det dz/dx|, whose last term is one number, whatever x and context:
the mode of the density is z = 0.
"""

import functools
import math
from typing import Any

import distrax
from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr.nn import folded
from jhmr.nn.coupling import Coupling, moments
from jhmr.nn.regressor import BATCH_NORM
from jhmr.nn.triangular import inverse_lower
import numpy as np

MIN_DIAGONAL = 1e-3  # of U
MIN_STD = 1e-3       # of ActNorm's initial values: poses have entries that never change
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)  # ActNorm may multiply by 1,000


def log_normal(z):
  """log N(z; 0, 1) of the last axis: [..., D] -> [...]."""
  return -0.5 * jnp.sum(z * z, axis=-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]


class Affine(distrax.Bijector):
  """ActNorm, then LULinear: y = W (s x + t) + b.

  Towards x it is one product with inverse(W) / s, made once, so that no sample needs a triangular solve.

  Source: authors' `ActNorm` and `LULinear`.
  Differs: with `legacy`, y = L^T U^T (s x + t), as their density was computed before they corrected it; the way back is
    the same in both, and so is the log-determinant.
  """

  def __init__(self, log_scale, shift, lower, upper, bias, legacy):
    super().__init__(event_ndims_in=1, is_constant_jacobian=True)
    self.log_scale, self.shift, self.lower, self.upper, self.bias = log_scale, shift, lower, upper, bias
    self.legacy = legacy
    self.log_det = jnp.sum(log_scale) + jnp.sum(jnp.log(jnp.diagonal(upper)))

  def forward_and_log_det(self, x):
    # ActNorm is not folded here: s x and t may be thousands that cancel, which they best do before they are summed.
    x = jnp.exp(self.log_scale) * x + self.shift
    if self.legacy:
      y = _matmul(x, _matmul(self.upper, self.lower))
    else:
      y = _matmul(x, _matmul(self.lower, self.upper).T) + self.bias
    return y, jnp.broadcast_to(self.log_det, x.shape[:-1])

  def inverse_and_log_det(self, y):
    matrix, offset = self.towards_x()
    return _matmul(y, matrix) + offset, jnp.broadcast_to(-self.log_det, y.shape[:-1])

  def towards_x(self):
    """(matrix [D, D], offset [D]) with x = y matrix + offset."""
    lower, upper = inverse_lower(jnp.stack([self.lower, self.upper.T]))
    inverse, scale = _matmul(lower.T, upper), jnp.exp(-self.log_scale)  # transposed: inverse(W).T
    return inverse * scale, -(_matmul(self.bias, inverse) + self.shift) * scale


class AdditiveCoupling(distrax.Bijector):
  """y_i = x_i, y_t = x_t + net(x_i); i are the entries odd, odd + 2, ... and t the others. Its log-determinant is 0."""

  def __init__(self, net, odd):
    super().__init__(event_ndims_in=1, is_constant_log_det=True)
    self.net, self.odd = net, odd

  def _shift(self, x):
    shift = self.net(x[..., self.odd::2])
    pair = (jnp.zeros_like(shift), shift)
    return jnp.stack(pair[::-1] if self.odd else pair, axis=-1).reshape(x.shape)

  def forward_and_log_det(self, x):
    return x + self._shift(x), jnp.zeros(x.shape[:-1], x.dtype)

  def inverse_and_log_det(self, y):
    return y - self._shift(y), jnp.zeros(y.shape[:-1], y.dtype)


class ActNorm(nn.Module):
  """Parameters of ActNorm."""
  dim: int

  @nn.compact
  def __call__(self):
    """-> (log_scale [D], shift [D])."""
    return tuple(self.param(name, nn.initializers.zeros, (self.dim,), jnp.float32) for name in ("log_scale", "shift"))


class LULinear(nn.Module):
  """Parameters of LULinear; triangles are stored row by row, in the order of np.tril_indices and np.triu_indices."""
  dim: int

  @nn.compact
  def __call__(self):
    """-> (L [D, D], U [D, D], bias [D])."""
    entries = self.dim * (self.dim - 1) // 2
    zeros = lambda name, size: self.param(name, nn.initializers.zeros, (size,), jnp.float32)
    one = nn.initializers.constant(math.log(math.expm1(1 - MIN_DIAGONAL)))
    diagonal = nn.softplus(self.param("unconstrained_upper_diag", one, (self.dim,), jnp.float32)) + MIN_DIAGONAL
    # Gathered, since scattering entries one by one is slow.
    row, column = np.indices((self.dim, self.dim))
    below, above = zeros("lower_entries", entries), zeros("upper_entries", entries)
    index = np.where(column < row, row * (row - 1) // 2 + column, 0)
    lower = jnp.where(column < row, below[index], jnp.eye(self.dim))
    index = np.where(column > row, entries - (self.dim - row) * (self.dim - row - 1) // 2 + column - row - 1, 0)
    upper = jnp.where(column > row, above[index], jnp.diag(diagonal))
    return lower, upper, zeros("bias", self.dim)


class ConditionalGlow(nn.Module):
  """A density over vectors of `dim` numbers, given a context; all methods are for `apply(..., method="sample")`.

  Attributes:
    dim: even; 144 for 24 joints in 6D, 48 for 16 joints in 3D.
    context: features of an image.
    blocks: ActNorm, LULinear and coupling, so often.
    hidden, depth: width and residual blocks of a coupling's network.
    dropout: probability of a hidden unit to be dropped while training.
    legacy_lu: compute the density direction as the authors' package did before it was corrected; see `Affine`. Samples
      are the same with both.
    axis_name: the mapped axis, for "sync".
    batch_norm: "device" | "sync" | "frozen", see `regressor.ImageRegressor`.
    dtype: of the factors in the couplings' products; sums and everything else are float32.
  Source: ProHMR (Kolotouros et al. 2021), Eq. 1-4; authors' `ConditionalGlow` in their nflows, whose order of layers is
    the one above: the paper's Eq. 3 reads the other way round.
  Differs: the context meets the first layer once per image, not once per sample; where the authors allow one sample per
    image with a given z, here are any number. Results are theirs.
  """
  dim: int = 144
  context: int = 2048
  blocks: int = 4
  hidden: int = 1024
  depth: int = 2
  dropout: float = 0.5
  legacy_lu: bool = False
  axis_name: Any = None
  batch_norm: str = "device"
  dtype: Any = jnp.float32

  def setup(self):
    if self.dim % 2 or self.batch_norm not in BATCH_NORM:
      raise ValueError(f"dim is {self.dim}, not even, or batch_norm {self.batch_norm!r} is not one of {BATCH_NORM}")
    self.actnorm = [ActNorm(self.dim) for _ in range(self.blocks)]
    self.lu = [LULinear(self.dim) for _ in range(self.blocks)]
    self.coupling = [
        Coupling(self.dim // 2, self.context, self.hidden, self.depth, self.dropout, self.batch_norm, self.axis_name,
                 jnp.dtype(self.dtype)) for _ in range(self.blocks)]

  def __call__(self, x, context, train=False):
    """`log_prob`; initialise with this, it touches every parameter."""
    return self.log_prob(x, context, train)

  def project(self, context):
    """The context's share of every block's first layer, and its bias: [B, C] -> [B, blocks, hidden]."""
    return jnp.stack([coupling.project(context) for coupling in self.coupling], axis=1)

  def forward(self, x, projected, train=False, weight=None):
    """Density direction, x -> z.

    Args:
      x: [B, S, D].
      projected: [B, blocks, hidden], of `project`.
      train: whether to drop units (needs a "dropout" key) and to normalise with the statistics of these rows, which
        also move the running ones ("batch_stats" must be mutable). The way back is then another one.
      weight: [B] or [B, S] in {0, 1}: rows that count in the statistics; None for all. Others may hold anything.
    Returns:
      z [B, S, D], log|det dz/dx| [B, S]; rows of weight 0 are finite and mean nothing.
    """
    check(x, projected)
    weight = _spread(weight, x)
    if weight is not None:
      x = jnp.where(weight > 0, x, 0.0)
    return self._chain(projected, train, weight).forward_and_log_det(x)

  def inverse(self, z, projected, train=False, weight=None):
    """Sampling direction: as `forward`, z -> (x [B, S, D], log|det dx/dz| [B, S])."""
    check(z, projected)
    return self._chain(projected, train, _spread(weight, z)).inverse_and_log_det(z)

  def log_prob(self, x, context, train=False, weight=None):
    """log p(x | context) [B, S] and z [B, S, D] of x [B, S, D], context [B, C]; train and weight as in `forward`."""
    z, log_det = self.forward(x, self.project(context), train, weight)
    return log_normal(z) + log_det, z

  def sample(self, z, context, train=False, weight=None):
    """x [B, S, D] and log p(x | context) [B, S] of z [B, S, D], drawn from N(0, 1), or 0 for the mode."""
    x, log_det = self.inverse(z, self.project(context), train, weight)
    return x, log_normal(z) - log_det

  def fold(self):
    """folded.Folded of these parameters and running statistics: the way to x of many samples in evaluation."""
    affine = [Affine(*self.actnorm[i](), *self.lu[i](), self.legacy_lu) for i in range(self.blocks)]
    order, ways = folded.halves(self.dim), [a.towards_x() for a in affine]
    columns = lambda x, i: x[..., order] if i else x
    return folded.Folded(
        nets=tuple(coupling.fold() for coupling in self.coupling),
        matrices=tuple(columns(matrix[order], i) for i, (matrix, _) in enumerate(ways)),
        shifts=tuple(columns(offset, i) for i, (_, offset) in enumerate(ways)),
        log_det=sum(a.log_det for a in affine))

  def actnorm_values(self, x, weight, context):
    """What `actnorm_from_data` puts into the parameters, in train mode: {"actnorm_0": {"log_scale", "shift"}, ...}."""
    x, weight = jnp.where(weight[:, None] > 0, x, 0.0)[:, None], weight.astype(jnp.float32)[:, None, None]
    projected, values = self.project(context), {}
    for i in range(self.blocks):
      _, var, count = moments(x, weight)
      std = jnp.maximum(jnp.sqrt(var * count / jnp.maximum(count - 1, 1)), MIN_STD)
      new = (-jnp.log(std), -moments(x / std, weight)[0])
      new = [jnp.where(count > 1, n, old) for n, old in zip(new, self.actnorm[i]())]
      values[f"actnorm_{i}"] = dict(zip(("log_scale", "shift"), new))
      x = self._block(i, projected, True, weight, new).forward(x)
    return values

  def _chain(self, projected, train, weight):
    blocks = [self._block(i, projected, train, weight, self.actnorm[i]()) for i in range(self.blocks)]
    return distrax.Chain(blocks[::-1])  # a chain applies its last element first

  def _block(self, i, projected, train, weight, actnorm):
    net = functools.partial(self.coupling[i], projected=projected[:, i, None], train=train, weight=weight)
    return distrax.Chain([AdditiveCoupling(net, i % 2), Affine(*actnorm, *self.lu[i](), self.legacy_lu)])


def _spread(weight, x):
  """Weights [B] or [B, S] of rows as [B, S, 1] of x [B, S, D]; None stays."""
  if weight is None:
    return None
  weight = weight.reshape(weight.shape + (1,) * (3 - weight.ndim)).astype(jnp.float32)
  return jnp.broadcast_to(weight, x.shape[:2] + (1,))


def training_call(net, params, moments, x, context, key, method, **options):
  """A call that drops units and changes batch norm's moments: (first result of `method`, moments).

  Args:
    net: a ConditionalGlow.  params, moments: "params" and "batch_stats" of it.
    method: "sample" or "log_prob", of x [B, S, D] (latents or points) and context [B, C], with its options.
  """
  out, new = net.apply({"params": params, "batch_stats": moments}, x, context, True, method=method,
                       rngs={"dropout": key}, mutable=["batch_stats"], **options)
  return out[0], new.get("batch_stats", moments)


def decode(net, variables, z, projected):
  """`inverse` in evaluation, in the way that is the fastest for this many hypotheses.

  From 2 D on, the flow is worth folding: two thirds of the time for thousands.
  """
  if z.shape[0] * z.shape[1] >= 2 * net.dim:
    return folded.inverse(net.apply(variables, method="fold"), z, projected)
  return net.apply(variables, z, projected, method="inverse")


def check(x, projected):
  """Raises ValueError unless x is [B, S, D] and projected [B, blocks, hidden]."""
  if x.ndim != 3 or projected.ndim != 3 or x.shape[0] != projected.shape[0]:
    raise ValueError(f"x is {x.shape}, not [B, S, D] for projected contexts {projected.shape}")


def actnorm_from_data(net, variables, x, weight, context, key=None):
  """Parameters whose ActNorms give these rows zero mean and unit variance, each after the blocks before it.

  Args:
    net: a ConditionalGlow.
    variables: {"params", "batch_stats"} of it.
    x: [M, D]; rows without a label may hold anything.
    weight: [M] in {0, 1}, 1 for labelled rows, which alone count.
    context: [M, C], finite.
    key: for dropout; None drops nothing.
  Returns:
    params, new; the old values where fewer than two rows are labelled, which have no variance. The standard deviation
    is the unbiased one, at least MIN_STD.
  Source: Glow (Kingma and Dhariwal 2018), section 3.1; authors' `ActNorm._initialize`, run by the first training pass,
    so batch norm takes the rows' statistics.
  Differs: their pass also moves batch norm's running statistics; a single row makes their values NaN.
  """
  net = net.clone(axis_name=None, batch_norm="frozen" if net.batch_norm == "frozen" else "device",
                  dropout=0.0 if key is None else net.dropout)
  values, _ = net.apply(variables, x, weight, context, method="actnorm_values", mutable=["batch_stats"],
                        rngs={} if key is None else {"dropout": key})
  return {**variables["params"], **values}
