"""The regressor of a conditional variational autoencoder: features and a latent in, a body out."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr.nn.regressor import backbone_of, learns, Regressor, torch_bias, torch_dense


class CvaeRegressor(nn.Module):
  """An encoder of bodies, a residual backbone, and the iterative regressor on the features and a latent.

  Attributes: as in `regressor.ImageRegressor`;
    latent: size of z.
    encoder_hidden: width of the encoder's two hidden layers.
  Source: 3D Multi-bodies (Biggs et al. 2020), supplement C, SMPL-CVAE.
  """
  backbone: str = "resnet50"
  iterations: int = 3
  hidden: int = 1024
  dropout: float = 0.5
  activation: str = "relu"
  dtype: str = "float32"
  batch_norm: str = "device"
  remat: bool = False
  latent: int = 64
  encoder_hidden: int = 1024
  axis_name: Any = None

  def setup(self):
    self.backbone_net = backbone_of(self)
    self.head = Regressor(self.iterations, self.hidden, self.dropout, self.activation)
    dense = lambda size, fan_in: nn.Dense(size, kernel_init=torch_dense, bias_init=torch_bias(fan_in))
    self.enc_fc1, self.enc_fc2 = nn.Dense(self.encoder_hidden), dense(self.encoder_hidden, self.encoder_hidden)
    self.enc_mean, self.enc_std = (dense(self.latent, self.encoder_hidden) for _ in range(2))

  def __call__(self, image, points, noise, seen, start, train):
    """Encodes the body of the label, draws, decodes.

    Args:
      image: [B, S, S, 3].  points: [B, F] of the label's body.  noise: [B, latent], standard normal.
      seen: [B] 1 where there is a label; the latent is the noise itself elsewhere.
      start, train: as in `regressor.ImageRegressor`.
    Returns:
      (estimates of `Regressor`, mean [B, latent], std [B, latent]).
    """
    mean, std = self.encode(points)
    z = jnp.where(seen[:, None] > 0, mean + std * noise, noise)
    return self.head(jnp.concatenate([self.features(image, train), z], -1), start, train), mean, std

  def features(self, image, train=False):
    """[B, S, S, 3] -> [B, C]."""
    return self.backbone_net(image, learns(self, train))

  def encode(self, points):
    """[B, F] -> (mean [B, latent], std [B, latent])."""
    x = nn.relu(self.enc_fc2(nn.relu(self.enc_fc1(points))))
    return self.enc_mean(x), jax.nn.softplus(self.enc_std(x))

  def decode(self, features, z, start):
    """features [B, C], z [B, S, latent] -> estimates [B, S, ...] of the last iteration."""
    rows, count = z.shape[:2]
    x = jnp.concatenate([jnp.repeat(features, count, 0), z.reshape(rows * count, -1)], -1)
    return tuple(e[:, -1].reshape(rows, count, -1) for e in self.head(x, start, False))
