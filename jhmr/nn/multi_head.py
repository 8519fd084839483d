"""The iterative regressor with M answers: the heads of 3D Multi-bodies."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp
from jhmr.nn.coupling import Linear, uniform
from jhmr.nn.regressor import backbone_of, learns, small_xavier, torch_bias, torch_dense


class MultiRegressor(nn.Module):
  """Features -> M estimates of pose, shape and camera, each corrected by itself.

  Layers and their names are those of `regressor.Regressor`; what is M times larger is the last one. Hypothesis m ends
  in the decoder W + W_m: W is the regressor's own, which every image trains and a trained regressor starts, and the W_m
  are kept apart, by `OwnDecoders`. The image's share of the first layer is computed once, and everything but the last
  layer is as long as the estimates are still one and nothing drops.

  Attributes:
    iterations, hidden, dropout, activation: as in `regressor.Regressor`.
    apart: in how many of the iterations, the last ones, the hypotheses have decoders of their own. With all of them
      (0) an iteration is M passes through the regressor; with one, it is none but the last layer.
  Source: 3D Multi-bodies (Biggs et al. 2020), section 4: the final output layer M times larger.
  """
  iterations: int = 3
  hidden: int = 1024
  dropout: float = 0.5
  activation: str = "relu"
  apart: int = 0

  @nn.compact
  def __call__(self, features, start, own, train):
    """Corrects `start`, the same for every image and hypothesis, `iterations` times.

    Args:
      features: [B, C]; start: pose_six_d [144], betas [L], camera [3].
      own: of `OwnDecoders`, kernel [M, hidden, 147 + L] and bias [M, 147 + L].
      train: whether to drop hidden units; needs a "dropout" key then.
    Returns:
      pose_six_d [B, M, 144], betas [B, M, L], camera [B, M, 3]: the last estimates, float32.
    """
    if self.activation not in ("relu", "none"):
      raise ValueError(f"activation is {self.activation!r}, not 'relu' or 'none'")
    act = nn.relu if self.activation == "relu" else lambda x: x
    drop = lambda x: nn.Dropout(self.dropout, deterministic=not train)(x)
    dense = lambda n, m, init, name: Linear(n, m, init, torch_bias(n), jnp.float32, name=name)
    sizes, channels = [x.shape[-1] for x in start], features.shape[-1]
    fc1 = dense(channels + sum(sizes), self.hidden, torch_dense, "fc1")
    fc2 = dense(self.hidden, self.hidden, torch_dense, "fc2")
    decoders = [dense(self.hidden, size, small_xavier, name)
                for size, name in zip(sizes, ("decpose", "decshape", "deccam"))]
    of_image = (fc1.product(features, slice(None, channels)) + fc1.bias)[:, None]                  # [B, 1, hidden]
    kernel, bias = own
    first_apart = self.iterations - (self.apart or self.iterations)
    start = jnp.concatenate([jnp.asarray(x, jnp.float32) for x in start])
    estimate = jnp.broadcast_to(start[None, None], (features.shape[0], 1, start.shape[0]))
    for i in range(self.iterations):
      if i == first_apart and train and self.dropout:  # from here on units drop for each hypothesis
        estimate = jnp.broadcast_to(estimate, (estimate.shape[0], kernel.shape[0], estimate.shape[-1]))
      x = drop(act(of_image + fc1.product(estimate, slice(channels, None))))
      x = drop(act(fc2(x)))
      estimate = estimate + jnp.concatenate([decode(x) for decode in decoders], -1)
      if i >= first_apart:
        estimate = estimate + _of_each(x, kernel) + bias[None]
    ends = [sum(sizes[:i + 1]) for i in range(len(sizes) - 1)]
    return tuple(jnp.split(estimate, ends, axis=-1))


def _of_each(x, kernel):
  """Features [B, M, hidden], or [B, 1, hidden] of all, times kernels [M, hidden, size] -> [B, M, size]."""
  # Of all too as M products: as one, the kernels, by far the largest array, are laid out anew, forwards and backwards.
  x = jnp.broadcast_to(x, (x.shape[0], kernel.shape[0], x.shape[-1]))
  return jnp.einsum("mbh,mho->mbo", x.swapaxes(0, 1), kernel).swapaxes(0, 1)


class OwnDecoders(nn.Module):
  """What the last layers of M hypotheses have each for itself: kernel [M, hidden, size], bias [M, size].

  At first the kernels are as small as the regressor's, and the biases uniform in -spread..spread (a third of it for
  shape; cameras alike), so that no hypothesis is the nearest one to everybody.
  """
  hypotheses: int
  hidden: int
  sizes: tuple
  spread: float

  @nn.compact
  def __call__(self):
    size = sum(self.sizes)
    init = nn.initializers.variance_scaling(1e-4, "fan_avg", "uniform", batch_axis=(0,))
    kernel = self.param("kernel", init, (self.hypotheses, self.hidden, size), jnp.float32)
    scale = jnp.concatenate([jnp.full((n,), s) for n, s in zip(self.sizes, (1.0, 1.0, 0.0))])

    def offsets(key, shape, dtype=jnp.float32):
      return uniform(self.spread)(key, shape, dtype) * scale[None]

    return kernel, self.param("bias", offsets, (self.hypotheses, size), jnp.float32)


class MultiImageRegressor(nn.Module):
  """A residual backbone and M answers of the iterative regressor on its features.

  The parameters "backbone" and "head" are those of `regressor.ImageRegressor`, tree and all; "own" is what is new.

  Attributes: as in `regressor.ImageRegressor`;
    hypotheses: M.
    apart: see `MultiRegressor`.
    spread: of the first hypotheses, see `OwnDecoders`.
  """
  backbone: str = "resnet50"
  iterations: int = 3
  hidden: int = 1024
  dropout: float = 0.5
  activation: str = "relu"
  dtype: str = "float32"
  batch_norm: str = "device"
  remat: bool = False
  hypotheses: int = 100
  apart: int = 0
  spread: float = 0.1
  axis_name: Any = None

  @nn.compact
  def __call__(self, image, start, train):
    """Normalised crops [B, S, S, 3] -> what `MultiRegressor` returns; with train, statistics change and units drop."""
    features = backbone_of(self)(image, learns(self, train))
    own = OwnDecoders(self.hypotheses, self.hidden, tuple(x.shape[-1] for x in start), self.spread, name="own")()
    head = MultiRegressor(self.iterations, self.hidden, self.dropout, self.activation, self.apart, name="head")
    return head(features, start, own, train)
