"""The iterative regressor of HMR: features and an estimate in, a better estimate out, three times."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr.nn.resnet import ResNet

BATCH_NORM = ("device", "sync", "frozen")

torch_dense = jax.nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")  # U(-1/sqrt(in), 1/sqrt(in))
small_xavier = jax.nn.initializers.variance_scaling(1e-4, "fan_avg", "uniform")     # Xavier uniform, gain 0.01


def torch_bias(fan_in):
  """torch's bias of a linear layer, U(-1/sqrt(in), 1/sqrt(in)); flax initialisers do not see the input's size."""
  return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -fan_in ** -0.5, fan_in ** -0.5)


class Regressor(nn.Module):
  """Features -> estimates of pose, shape and camera, one for each iteration.

  Attributes:
    iterations: how often the estimate is corrected.
    hidden: width of the two hidden layers.
    dropout: probability of a hidden unit to be dropped while training.
    activation: "relu" (HMR) | "none" (SPIN, whose head is affine in the features when not training).
  Source: HMR (Kanazawa et al. 2018), section 3.2; SPIN, authors' `models/hmr.py` for 6D poses, layer names and
    initial values.
  """
  iterations: int = 3
  hidden: int = 1024
  dropout: float = 0.5
  activation: str = "relu"

  @nn.compact
  def __call__(self, features, start, train):
    """Corrects `start`, the same for every image, `iterations` times.

    Args:
      features: [B, C] of the crop.
      start: pose_six_d [144] (24 joints in SPIN's layout, root first), betas [L] and camera [3] (s, tx, ty).
      train: whether to drop hidden units; needs a "dropout" key then.
    Returns:
      pose_six_d [B, T, 144], betas [B, T, L], camera [B, T, 3]: float32 estimates, the last of T is the result.
    Raises:
      ValueError: for an unknown activation.
    """
    if self.activation not in ("relu", "none"):
      raise ValueError(f"activation is {self.activation!r}, not 'relu' or 'none'")
    act = nn.relu if self.activation == "relu" else lambda x: x
    drop = lambda x: nn.Dropout(self.dropout, deterministic=not train)(x)
    dense = lambda size, fan_in, init, name: nn.Dense(size, kernel_init=init, bias_init=torch_bias(fan_in), name=name)
    sizes = [x.shape[-1] for x in start]
    hidden_layers = [dense(self.hidden, features.shape[-1] + sum(sizes), torch_dense, "fc1"),
                     dense(self.hidden, self.hidden, torch_dense, "fc2")]
    decoders = [dense(size, self.hidden, small_xavier, name)
                for size, name in zip(sizes, ("decpose", "decshape", "deccam"))]

    estimate, history = [jnp.broadcast_to(x, (features.shape[0], x.shape[-1])).astype(jnp.float32) for x in start], []
    for _ in range(self.iterations):
      x = jnp.concatenate([features, *estimate], axis=-1)
      for layer in hidden_layers:
        x = drop(act(layer(x)))
      estimate = [e + decode(x) for e, decode in zip(estimate, decoders)]
      history.append(estimate)
    return tuple(jnp.stack(steps, axis=1) for steps in zip(*history))


def axis_of(module):
  """The axis over which a network's `batch_norm` averages, if any. Raises ValueError for one that does not exist."""
  if module.batch_norm not in BATCH_NORM:
    raise ValueError(f"batch_norm is {module.batch_norm!r}, not one of {BATCH_NORM}")
  return module.axis_name if module.batch_norm == "sync" else None


def learns(module, train):
  """Whether a network's batch norm uses, and moves, the statistics of the batch."""
  return train and module.batch_norm != "frozen"


def backbone_of(module):
  """The backbone of a network with the attributes of `ImageRegressor`; for its `__call__` or `setup`."""
  return ResNet(module.backbone, jnp.dtype(module.dtype), axis_of(module), module.remat, name="backbone")


class ImageRegressor(nn.Module):
  """A residual backbone and the iterative regressor on its features: the network of HMR and SPIN.

  Attributes:
    backbone: a key of `resnet.ARCHITECTURES`.
    iterations, hidden, dropout, activation: of the regressor.
    dtype: "float32" | "bfloat16", of the backbone; everything else is float32, since rounding a correction to 8 bits
      turns limbs by a quarter of a degree, and the head is a four-hundredth of the work.
    batch_norm: which statistics a training batch is normalised with.
      "device": each device's own rows, as in the papers; results then depend on the number of devices.
      "sync": those of all devices; results do not depend on their number.
      "frozen": the running ones, which stay as they are; for warm starts and very small batches.
    remat: recompute the backbone's blocks in the backward pass, to save memory.
    axis_name: the mapped axis, for "sync".
  """
  backbone: str = "resnet50"
  iterations: int = 3
  hidden: int = 1024
  dropout: float = 0.5
  activation: str = "relu"
  dtype: str = "float32"
  batch_norm: str = "device"
  remat: bool = False
  axis_name: Any = None

  @nn.compact
  def __call__(self, image, start, train):
    """Normalised crops [B, S, S, 3] -> what `Regressor` returns; with train, statistics change and units drop."""
    features = backbone_of(self)(image, learns(self, train))
    head = Regressor(self.iterations, self.hidden, self.dropout, self.activation, name="head")
    return head(features, start, train)


class ShapeCamera(nn.Module):
  """Features -> betas and camera, as offsets from a start.

  Source: ProHMR, authors' `models/heads/fc_head.py`: two layers, the second one small at the beginning.
  """
  hidden: int = 1024

  @nn.compact
  def __call__(self, features, betas, camera):
    """features [B, C], start betas [L] and camera [3] -> betas [B, L], camera [B, 3]; float32."""
    tiny_xavier = jax.nn.initializers.variance_scaling(4e-4, "fan_avg", "uniform")  # Xavier uniform, gain 0.02
    x = nn.relu(nn.Dense(self.hidden, kernel_init=torch_dense, bias_init=torch_bias(features.shape[-1]),
                         name="fc1")(features))
    size = betas.shape[-1]
    offset = nn.Dense(size + 3, kernel_init=tiny_xavier, bias_init=torch_bias(self.hidden), name="fc2")(x)
    return betas + offset[:, :size], camera + offset[:, size:]
