"""The network that lifts a 2D pose to features, by residual blocks of linear layers, and the heads that read them.

A layer is, in this order, x kernel + bias, batch norm, ReLU, dropout: one from the pose to `hidden` features, then
blocks of two each, added to their input. With `max_norm` a kernel that is used is

    kernel min(1, 1 / |kernel|)                      |.| the root of the sum of all squares

a function of the whole matrix, through which gradients go; the parameter itself is never cut. As kernels begin, it
divides those of 1,024 features by 40, and batch norm brings their scale back.

Source: Martinez, Hossain, Romero, Little, "A simple yet effective baseline for 3D human pose estimation", ICCV 2017;
authors' `linear_model.py`. Li and Lee, CVPR 2019, authors' `mix_den_model.py`, for the heads of a mixture. ProHMR
(Kolotouros et al. 2021), authors' `models/backbones/fcresnet.py`, for the constants of "torch".
"""

import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jhmr.nn.coupling import BatchNorm
from jhmr.nn.regressor import axis_of, learns, torch_bias, torch_dense
import jax.numpy as jnp

# Batch norm of each convention. Source: `tf.layers.batch_normalization`, `torch.nn.BatchNorm1d`.
CONVENTIONS = {"tf": dict(epsilon=1e-3, rate=0.01, unbiased=False),
               "torch": dict(epsilon=1e-5, rate=0.1, unbiased=True)}
SMALLEST_WEIGHT = 1e-8                         # of a component
LOG_SIGMA = (math.log(1e-15), math.log(1e15))  # limits
_TINY = 1e-30  # a sum of squares below it has no gradient, which would divide by zero


class Mixture(NamedTuple):
  """K Gaussians over D numbers for each of B poses, each with one standard deviation."""
  means: jax.Array        # [B, K, D]
  log_weights: jax.Array  # [B, K], of weights that sum to one, cut to SMALLEST_WEIGHT and more
  log_sigma: jax.Array    # [B, K]


def clipped(kernel):
  """The kernel min(1, 1 / its Frobenius norm). Source: Martinez et al., `tf.clip_by_norm(w, 1)` in authors' code."""
  square = jnp.sum(kernel * kernel)
  norm = jnp.sqrt(jnp.maximum(square, _TINY))
  return kernel / jnp.maximum(norm, 1.0)


def _kaiming(key, shape, dtype=jnp.float32):
  """A normal cut at two deviations, times sqrt(2 / the first axis), of biases too. Source: authors' `kaiming`."""
  return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) * math.sqrt(2.0 / shape[0])


class Linear(nn.Module):
  """x [B, C] kernel + bias -> [B, features], of initial values as in a convention.

  Attributes:
    features: of the output.
    convention: a key of CONVENTIONS.
    max_norm: use the kernel `clipped`.
  """
  features: int
  convention: str = "tf"
  max_norm: bool = False

  @nn.compact
  def __call__(self, x):
    kernel_init, bias_init = (_kaiming, _kaiming) if self.convention == "tf" else (
        torch_dense, torch_bias(x.shape[-1]))
    kernel = self.param("kernel", kernel_init, (x.shape[-1], self.features), jnp.float32)
    bias = self.param("bias", bias_init, (self.features,), jnp.float32)
    return x @ (clipped(kernel) if self.max_norm else kernel) + bias


class LiftMlp(nn.Module):
  """Features of 2D poses.

  Attributes:
    hidden: features.
    blocks: of two layers each.
    dropout: probability of a hidden unit to be dropped while training.
    convention: "tf" | "torch": initial values and constants of batch norm.
    max_norm: cut the norm of every kernel to one, see `clipped`.
    batch_norm: "device" | "sync" | "frozen", see `regressor.ImageRegressor`.
    axis_name: the mapped axis, for "sync".
  Layers are fc, bn; block_0_fc_0, block_0_bn_0, block_0_fc_1, block_0_bn_1; ...
  """
  hidden: int = 1024
  blocks: int = 2
  dropout: float = 0.5
  convention: str = "tf"
  max_norm: bool = True
  batch_norm: str = "device"
  axis_name: Any = None

  @nn.compact
  def __call__(self, x, train=False, weight=None):
    """x [B, C] -> [B, hidden].

    Args:
      train: whether to drop units (needs a "dropout" key) and to normalise with the statistics of these rows, which
        also move the running ones ("batch_stats" must be mutable).
      weight: [B] in {0, 1}: rows that count in the statistics; None for all. Others may hold anything.
    Raises:
      ValueError: for a convention or batch_norm that does not exist.
    """
    if self.convention not in CONVENTIONS:
      raise ValueError(f"convention is {self.convention!r}, not one of {', '.join(CONVENTIONS)}")
    if weight is not None:
      weight = weight[:, None].astype(jnp.float32)
      x = jnp.where(weight > 0, x, 0.0)

    def layer(x, block, name):
      x = Linear(self.hidden, self.convention, self.max_norm, name=f"{block}fc{name}")(x)
      x = BatchNorm(self.hidden, axis_of(self), **CONVENTIONS[self.convention], name=f"{block}bn{name}")(
          x, learns(self, train), weight)
      return nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))

    x = layer(x, "", "")
    for i in range(self.blocks):
      x = x + layer(layer(x, f"block_{i}_", "_0"), f"block_{i}_", "_1")
    return x


class Regression(nn.Module):
  """The network of Martinez et al.: a body, then one linear layer.

  Attributes:
    body: a LiftMlp.
    size: of the output.
  """
  body: LiftMlp
  size: int = 48

  @nn.compact
  def __call__(self, x, train=False, weight=None):
    """x [B, C] -> [B, size]; train and weight as in `LiftMlp`."""
    h = self.body(x, train, weight)
    return Linear(self.size, self.body.convention, self.body.max_norm, name="head")(h)


class MixtureDensity(nn.Module):
  """The network of Li and Lee: a body, then a linear layer each for means, deviations and weights of a mixture.

  Attributes:
    body: a LiftMlp.
    components: K.
    size: D.
  A deviation is elu(x) + 1. Columns of the layer of the means have the component fastest: mean d of component k is
  column d K + k. The norm of the weights' layer is never cut.
  """
  body: LiftMlp
  components: int = 5
  size: int = 48

  @nn.compact
  def __call__(self, x, train=False, weight=None):
    """x [B, C] -> Mixture; train and weight as in `LiftMlp`."""
    h, count = self.body(x, train, weight), self.components
    linear = lambda size, name, clip: Linear(size, self.body.convention, clip and self.body.max_norm, name=name)(h)
    means = linear(self.size * count, "means", True).reshape(-1, self.size, count)
    sigma, alpha = linear(count, "sigma", True), linear(count, "alpha", False)
    log_sigma = jnp.where(sigma > 0, jnp.log1p(jnp.maximum(sigma, 0.0)), sigma)  # log(elu(x) + 1), which underflows
    log_weights = jnp.maximum(jax.nn.log_softmax(alpha, -1), math.log(SMALLEST_WEIGHT))
    return Mixture(jnp.swapaxes(means, 1, 2), log_weights, jnp.clip(log_sigma, *LOG_SIGMA))
