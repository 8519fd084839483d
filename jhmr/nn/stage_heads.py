"""M answers of one regressor to M features: the heads of 3D Multi-bodies' released networks.

The last stage of the backbone is there twice: as it was, and with a last layer M times as wide, whose M groups of
channels are pooled into one feature for each hypothesis.
"""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp
from jhmr.nn import resnet
from jhmr.nn.regressor import axis_of, backbone_of, learns, Regressor


class WideStage(nn.Module):
  """The last stage of a residual network, its last layer M times as wide: [B, H, W, C] -> features [B, M, C'].

  Blocks and layers are named as those of the stage it stands beside, of a stage "layer5".
  Source: 3D Multi-bodies, authors' `hmr_condspin.py:_make_layer`, `encode`.
  """
  architecture: str
  hypotheses: int
  axis_name: Any = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train):
    arch = resnet.ARCHITECTURES[self.architecture]
    stage = len(arch.blocks) - 1
    for i in range(arch.blocks[-1]):
      stride, copies = arch.strides[-1] if i == 0 else 1, self.hypotheses if i == arch.blocks[-1] - 1 else 1
      x = resnet.Block(arch.width * 2 ** stage, stride, arch.expansion, self.axis_name, self.dtype, copies,
                       name=f"layer{stage + 2}_{i}")(x, train)
    x = jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))
    return x.reshape(len(x), self.hypotheses, -1)


def wide_layers(architecture):
  """Which layers of a `WideStage` are M times as wide: (the block's name, names of its layers)."""
  arch = resnet.ARCHITECTURES[architecture]
  count = 3 if arch.expansion > 1 else 2
  return f"layer{len(arch.blocks) + 1}_{arch.blocks[-1] - 1}", (f"conv{count}", f"bn{count}")


class StageImageRegressor(nn.Module):
  """A residual backbone, M features of its wide last stage, and the iterative regressor on each of them.

  The parameters "backbone" and "head" are those of `regressor.ImageRegressor`, tree and all; "stage" is what is new.

  Attributes: as in `regressor.ImageRegressor`;
    hypotheses: M.
  Source: 3D Multi-bodies, authors' `hmr_condspin.py`.
  Differs: the feature of the stage as it was, SPIN's own answer there, is computed for "backbone" to be whole, and not
    returned.
  """
  backbone: str = "resnet50"
  iterations: int = 3
  hidden: int = 1024
  dropout: float = 0.5
  activation: str = "none"
  dtype: str = "float32"
  batch_norm: str = "device"
  remat: bool = False
  hypotheses: int = 100
  axis_name: Any = None

  @nn.compact
  def __call__(self, image, start, train):
    """Normalised crops [B, S, S, 3] -> pose_six_d [B, M, 144], betas [B, M, L], camera [B, M, 3]."""
    if resnet.ARCHITECTURES[self.backbone].locate:
      raise ValueError(f"backbone {self.backbone!r} has features that are not means of its last stage")
    train_norm = learns(self, train)
    _, before = backbone_of(self)(image, train_norm, True)
    features = WideStage(self.backbone, self.hypotheses, axis_of(self), jnp.dtype(self.dtype), name="stage")(
        before, train_norm)
    head = Regressor(self.iterations, self.hidden, self.dropout, self.activation, name="head")
    found = head(features.reshape(-1, features.shape[-1]), start, train)
    return tuple(x[:, -1].reshape(*features.shape[:2], -1) for x in found)
