"""The flow's way from z to x for many samples: everything that does not depend on the sample is worked out once."""

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class Net:
  """The network of a coupling; batch norms are factors and offsets, the second one of a block is in its kernel."""
  first: jax.Array    # [half, hidden]
  factors: tuple      # per residual block [hidden]
  offsets: tuple      # per residual block [hidden]
  inner: tuple        # per residual block [hidden, hidden]
  inner_bias: tuple   # per residual block [hidden]
  outer: tuple        # per residual block but the last [hidden, hidden]
  outer_bias: tuple   # per residual block but the last [hidden]
  last: jax.Array     # [hidden, half], of the sum that the last block adds to
  through: jax.Array  # [hidden, half], of what the last block adds
  bias: jax.Array     # [half]


@struct.dataclass
class Folded:
  """A flow with its running statistics, for `inverse`. Entries of x are in two halves inside: even ones, odd ones."""
  nets: tuple          # of Net
  matrices: tuple      # [D, D] per block: towards x, its rows in halves, its columns too except in block 0
  shifts: tuple        # [D] per block
  log_det: jax.Array   # [] log|det dz/dx|, one number


def halves(dim):
  """The even entries, then the odd ones."""
  return np.concatenate([np.arange(0, dim, 2), np.arange(1, dim, 2)])


def inverse(flow, z, projected):
  """What `ConditionalGlow.inverse` returns, in evaluation: x [B, S, D] and log|det dx/dz| [B, S].

  Args:
    flow: Folded, of `ConditionalGlow.fold`.
    z: [B, S, D].
    projected: [B, blocks, hidden], of `ConditionalGlow.project`.
  """
  half = z.shape[-1] // 2
  x = z[..., halves(z.shape[-1])]
  for i in reversed(range(len(flow.nets))):
    even, odd = x[..., :half], x[..., half:]
    if i % 2:
      even = even - _shift(flow.nets[i], odd, projected[:, i, None])
    else:
      odd = odd - _shift(flow.nets[i], even, projected[:, i, None])
    x = jnp.matmul(jnp.concatenate([even, odd], -1), flow.matrices[i], precision=jax.lax.Precision.HIGHEST)
    x = x + flow.shifts[i]
  return x, jnp.broadcast_to(-flow.log_det, x.shape[:-1])


def _shift(net, x, projected):
  """The coupling's network on half of the entries, [B, S, half] -> [B, S, half]."""
  product = lambda x, kernel: jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
  h = product(x, net.first) + projected
  for i, kernel in enumerate(net.inner):
    t = product(nn.relu(h * net.factors[i] + net.offsets[i]), kernel)
    t = nn.relu(t + net.inner_bias[i])
    if i < len(net.outer):
      h = h + product(t, net.outer[i]) + net.outer_bias[i]
  return product(h, net.last) + product(t, net.through) + net.bias
