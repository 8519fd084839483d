"""VPoser: a variational autoencoder of body poses, in the two architectures its authors released."""

from typing import Any

from flax import linen as nn
import jax

NUM_JOINTS = 21  # of the body: SMPL's 23 without the hands
SLOPES = {1: 0.2, 2: 0.01}  # of LeakyReLU below zero, by version


class PoseVae(nn.Module):
  """Poses <-> latents.

  encode: 63 -> batch norm -> hidden -> LeakyReLU -> batch norm -> dropout -> hidden -> (1: LeakyReLU, 2: hidden) ->
    mean, and std = softplus
  decode: latent -> hidden -> LeakyReLU -> dropout -> hidden -> LeakyReLU -> 126, 6D in SPIN's packing

  Source: SMPL-X (Pavlakos et al. 2019); authors' `human_body_prior`: `train/vposer_smpl.py` as of CVPR 2019 for 1,
    `models/vposer_model.py` for 2, where nothing is between the second and the third layer of the encoder.
  """
  version: int = 2
  hidden: int = 512
  latent: int = 32
  dropout: float = 0.1
  axis_name: str | None = None  # the mapped axis over which statistics are averaged while training
  precision: Any = None         # of matrix products; fits want HIGHEST

  def setup(self):
    if self.version not in SLOPES:
      raise ValueError(f"version {self.version} is not one of {tuple(SLOPES)}")
    dense = lambda size: nn.Dense(size, precision=self.precision)
    norm = lambda: nn.BatchNorm(axis_name=self.axis_name, momentum=0.9, epsilon=1e-5, use_fast_variance=False)
    self.enc_bn1, self.enc_fc1, self.enc_bn2, self.enc_fc2 = norm(), dense(self.hidden), norm(), dense(self.hidden)
    if self.version == 2:
      self.enc_fc3 = dense(self.hidden)
    self.enc_mean, self.enc_std = dense(self.latent), dense(self.latent)
    self.dec_fc1, self.dec_fc2, self.dec_out = dense(self.hidden), dense(self.hidden), dense(6 * NUM_JOINTS)
    self.drop = nn.Dropout(self.dropout)

  def __call__(self, axis_angle, noise, train=False):
    """Encodes, draws, decodes.

    Args:
      axis_angle: [..., 63], radians.
      noise: [..., latent], standard normal.
      train: whether batch statistics are used and units dropped (with the key "dropout").
    Returns:
      (six_d [..., 21, 6], mean [..., latent], std [..., latent]).
    """
    mean, std = self.encode(axis_angle, train)
    return self.decode(mean + std * noise, train), mean, std

  def encode(self, axis_angle, train=False):
    """[..., 63] -> (mean [..., latent], std [..., latent])."""
    x = self.enc_fc1(self.enc_bn1(axis_angle, use_running_average=not train))
    x = self.enc_bn2(self._bend(x), use_running_average=not train)
    x = self.enc_fc2(self.drop(x, deterministic=not train))
    x = self._bend(x) if self.version == 1 else self.enc_fc3(x)
    return self.enc_mean(x), jax.nn.softplus(self.enc_std(x))

  def decode(self, latent, train=False):
    """[..., latent] -> [..., 21, 6]."""
    x = self.drop(self._bend(self.dec_fc1(latent)), deterministic=not train)
    x = self.dec_out(self._bend(self.dec_fc2(x)))
    return x.reshape(*x.shape[:-1], NUM_JOINTS, 6)

  def _bend(self, x):
    return nn.leaky_relu(x, SLOPES[self.version])
