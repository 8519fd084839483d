"""Residual networks that turn a crop into one feature vector (He et al. 2016).

The two large ones are torchvision's: v1.5, where the 3x3 convolution of a bottleneck has the stride,
and their parameters map one to one onto torchvision's keys ("layer1_0/conv1/kernel" is
"layer1.0.conv1.weight", "downsample_0" is "downsample.0"). All paddings are written out, since "SAME"
pads stride-2 convolutions on the other side than torch does. `resnet_tiny` is for crops of 64 to 96
pixels on a CPU.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp


class Architecture(NamedTuple):
  """What tells one residual network from another."""
  stem: int           # side of the first convolution, which has stride 2
  pool: bool          # a 3x3 max-pool of stride 2 after the stem
  blocks: tuple       # blocks per stage
  width: int          # channels of the stem and of the first stage; each stage doubles them
  expansion: int      # 4: bottlenecks (1x1, 3x3, 1x1 of 4 times the width); 1: two 3x3
  strides: tuple = (1, 2, 2, 2)  # of the stages
  locate: bool = False           # features also say where each channel is strongest

  @property
  def features(self):
    return self.width * 2 ** (len(self.blocks) - 1) * self.expansion * (3 if self.locate else 1)


ARCHITECTURES = {
    "resnet50": Architecture(stem=7, pool=True, blocks=(3, 4, 6, 3), width=64, expansion=4),
    "resnet18": Architecture(stem=7, pool=True, blocks=(2, 2, 2, 2), width=64, expansion=1),
    # No max-pool: its backward pass is half the time of such a small net on a CPU (0.21 against 0.12 s
    # for a step of 32 crops of 64 pixels), so the first stage has the stride instead. With `locate` it
    # regresses 3D joints as well from 12,800 images as without from 19,200.
    "resnet_tiny": Architecture(stem=3, pool=False, blocks=(1, 1, 1), width=32, expansion=1, strides=(2, 2, 1),
                                locate=True),
}


def batch_norm(train, axis_name, dtype, name):
  """Batch norm as in torch; while training, statistics are averaged over `axis_name` (None: each device alone)."""
  return nn.BatchNorm(use_running_average=not train, axis_name=axis_name if train else None, momentum=0.9,
                      epsilon=1e-5, dtype=dtype, name=name)


def conv(features, size, stride, dtype, name):
  """A convolution without bias that pads (size - 1) / 2 on every side, as torch does."""
  return nn.Conv(features, (size, size), strides=stride, padding=(size - 1) // 2, use_bias=False, dtype=dtype,
                 kernel_init=jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal"), name=name)


class Block(nn.Module):
  """A basic block (expansion 1) or a bottleneck (expansion 4), with a projection where the shape changes.

  With `copies`, its last layer is as many times wider, and its input is added to each copy of the channels.
  """
  width: int
  stride: int
  expansion: int
  axis_name: Any
  dtype: Any
  copies: int = 1

  @nn.compact
  def __call__(self, x, train):
    norm = lambda name: batch_norm(train, self.axis_name, self.dtype, name)
    out = self.width * self.expansion
    if self.expansion == 1:
      layers = ((self.width, 3, self.stride), (out * self.copies, 3, 1))
    else:
      layers = ((self.width, 1, 1), (self.width, 3, self.stride), (out * self.copies, 1, 1))
    y = x
    for i, (features, size, stride) in enumerate(layers, 1):
      y = conv(features, size, stride, self.dtype, f"conv{i}")(y)
      y = norm(f"bn{i}")(y)
      y = nn.relu(y) if i < len(layers) else y
    if x.shape != (*y.shape[:-1], out):
      x = conv(out, 1, self.stride, self.dtype, "downsample_0")(x)
      x = norm("downsample_1")(x)
    return nn.relu(y + (jnp.tile(x, self.copies) if self.copies > 1 else x))


class ResNet(nn.Module):
  """Crop -> features, [B, S, S, 3] -> [B, architecture.features] float32.

  Parameters and batch-norm statistics are float32 whatever `dtype` is.

  Attributes:
    architecture: a key of ARCHITECTURES.
    dtype: of the computation inside; bfloat16 halves memory and time on accelerators.
    axis_name: mapped axis over which a training batch's statistics are averaged ("sync" batch norm).
    remat: recompute each block in the backward pass: less memory, about a third more time.
  Source: He et al. 2016, table 1; torchvision `resnet.py` for v1.5, paddings and initial values.
  Differs: torch keeps the unbiased variance as running statistic, flax the biased one.
  """
  architecture: str = "resnet50"
  dtype: Any = jnp.float32
  axis_name: Any = None
  remat: bool = False

  @nn.compact
  def __call__(self, image, train, before_last=False):
    """[B, S, S, 3] -> [B, features]; with before_last, that and the maps [B, H, W, C] that enter the last stage."""
    arch = ARCHITECTURES[self.architecture]
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    x = conv(arch.width, arch.stem, 2, self.dtype, "conv1")(image.astype(self.dtype))
    x = nn.relu(batch_norm(train, self.axis_name, self.dtype, "bn1")(x))
    if arch.pool:
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for stage, count in enumerate(arch.blocks):
      entering = x
      for i in range(count):
        x = block(arch.width * 2 ** stage, arch.strides[stage] if i == 0 else 1, arch.expansion, self.axis_name,
                  self.dtype, name=f"layer{stage + 1}_{i}")(x, train)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(x, axis=(1, 2))
    if not arch.locate:
      return (mean, entering) if before_last else mean
    maps = nn.Dense(x.shape[-1], use_bias=False, name="where")(x)  # a softmax over the map would undo a bias
    features = jnp.concatenate([mean, locate(maps)], -1)
    return (features, entering) if before_last else features


def locate(x):
  """The expected position of each channel, its softmax over the map as probability.

  Args:
    x: [B, H, W, C].
  Returns:
    [B, 2 C], first all y, then all x, in -1..1.
  Source: Finn et al. 2016, "Deep Spatial Autoencoders for Visuomotor Learning", section V.
  """
  weight = jax.nn.softmax(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1).reshape(x.shape)
  axis = lambda size: jnp.linspace(-1.0, 1.0, size)
  return jnp.concatenate([jnp.einsum("bhwc,h->bc", weight, axis(x.shape[1])),
                          jnp.einsum("bhwc,w->bc", weight, axis(x.shape[2]))], -1)
