"""RealNVP: a density over vectors, by couplings that change some entries as the others say.

A point x and a latent z are two names of one point. A coupling with the mask m in {0, 1}^D is, towards x,

    x <- m x + (1 - m) (x exp(s(m x)) + t(m x))            log|det| = sum of (1 - m) s

couplings 0, 1, ... in this order; towards z, undone from the last to the first. log p(x) = log N(z; 0, 1) +
log|det dz/dx|. The couplings have the same shapes, so that one program runs through them in a scan.

Source: Dinh, Sohl-Dickstein, Bengio 2017; 3D Multi-bodies (Biggs et al. 2020), authors' `realnvp.py` for the networks.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr.nn.flow import log_normal
from jhmr.nn.regressor import torch_bias, torch_dense

MASKS = "masks"  # the collection of what is drawn once and never changes
_SLOPE = 0.01    # of LeakyReLU below zero


class RealNvp(nn.Module):
  """A density over [..., dim].

  Attributes:
    dim: D.
    couplings: how many.
    hidden: width of the two hidden layers of s and of t; s ends in tanh.
    dropout: of hidden units before they bend, while training.
  Masks are drawn, Bernoulli(1/2), and kept in the collection MASKS.
  Differs: the last layers start at zero, so that a new flow is the identity.
  """
  dim: int = 72
  couplings: int = 20
  hidden: int = 512
  dropout: float = 0.2

  def setup(self):
    sizes = (self.dim, self.hidden, self.hidden, self.dim)
    self.layers = {name: [self._layer(f"{name}_fc{i + 1}", *sizes[i:i + 2], last=i == 2) for i in range(3)]
                   for name in ("scale", "shift")}
    draw = lambda: jax.random.bernoulli(self.make_rng("params"), 0.5, (self.couplings, self.dim)).astype(jnp.float32)
    self.mask = self.variable(MASKS, "mask", draw)

  def _layer(self, name, inputs, outputs, last):
    """(kernel [couplings, in, out], bias [couplings, out]) of one layer of every coupling."""
    kernel_init, bias_init = torch_dense, torch_bias(inputs)
    if last:
      kernel_init = bias_init = nn.initializers.zeros
    each = lambda init: lambda key, shape: jax.vmap(lambda k: init(k, shape[1:], jnp.float32))(
        jax.random.split(key, shape[0]))
    return (self.param(f"{name}_kernel", each(kernel_init), (self.couplings, inputs, outputs)),
            self.param(f"{name}_bias", each(bias_init), (self.couplings, outputs)))

  def __call__(self, x, train=False):
    """log p(x): [..., D] -> [...]; `log_prob`."""
    return self.log_prob(x, train)

  def log_prob(self, x, train=False):
    """log p(x) in nats: [..., D] -> [...]; with train, units drop (with the key "dropout")."""
    z, log_det = self.inverse(x, train)
    return log_normal(z) + log_det

  def inverse(self, x, train=False):
    """x [..., D] -> (z [..., D], log|det dz/dx| [...])."""
    def undo(carry, coupling):
      x, log_det = carry
      mask, scale, shift = self._nets(coupling, x, train)
      x = mask * x + (1 - mask) * (x - shift) * jnp.exp(-scale)
      return (x, log_det - jnp.sum((1 - mask) * scale, -1)), None

    return jax.lax.scan(undo, (x, jnp.zeros(x.shape[:-1], x.dtype)), self._stacked(train), reverse=True)[0]

  def forward(self, z):
    """z [..., D] -> (x [..., D], log|det dx/dz| [...])."""
    def apply(carry, coupling):
      x, log_det = carry
      mask, scale, shift = self._nets(coupling, x, False)
      x = mask * x + (1 - mask) * (x * jnp.exp(scale) + shift)
      return (x, log_det + jnp.sum((1 - mask) * scale, -1)), None

    return jax.lax.scan(apply, (z, jnp.zeros(z.shape[:-1], z.dtype)), self._stacked(False))[0]

  def _stacked(self, train):
    """What a scan over the couplings reads: masks, layers, and keys where units drop."""
    keys = jax.random.split(self.make_rng("dropout"), self.couplings) if train and self.dropout else None
    return self.mask.value, self.layers, keys

  def _nets(self, coupling, x, train):
    """(mask, s, t) of one coupling at x."""
    mask, layers, key = coupling
    lead = (1,) * (x.ndim - 1)
    mask = mask.reshape(*lead, -1)
    found = []
    for i, name in enumerate(("scale", "shift")):
      h = mask * x
      for j, (kernel, bias) in enumerate(layers[name]):
        h = jnp.matmul(h, kernel, precision=jax.lax.Precision.HIGHEST) + bias.reshape(*lead, -1)
        if j < 2:
          if train and self.dropout:
            keep = jax.random.bernoulli(jax.random.fold_in(key, 2 * i + j), 1 - self.dropout, h.shape)
            h = jnp.where(keep, h / (1 - self.dropout), 0.0)
          h = nn.leaky_relu(h, _SLOPE)
      found.append(h)
    return mask, jnp.tanh(found[0]), found[1]
