"""A critic of 3D poses that sees, beside the joints, lengths of bones and angles between them."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr.nn.regressor import torch_bias, torch_dense
import numpy as np


def chain_space(pose, bones):
  """Products of all bones with each other: the kinematic chain space.

  Args:
    pose: [..., 3 J], x of all joints, then y, then z.
    bones: pairs (i, j) of joints; a bone is the difference of joint i and joint j.
  Returns:
    [..., len(bones), len(bones)]: squared lengths on the diagonal, else lengths times lengths times cosines.
  Source: Wandt and Rosenhahn, "RepNet", CVPR 2019; Wehrbein et al. 2021, authors' `KCSLayer`.
  """
  points = pose.reshape(*pose.shape[:-1], 3, -1)
  first, second = np.array(bones).T
  identity = np.eye(points.shape[-1], dtype=np.float32)
  exact = jax.lax.Precision.HIGHEST  # a difference of joints that are close
  vectors = jnp.matmul(points, (identity[first] - identity[second]).T, precision=exact)
  return jnp.matmul(jnp.swapaxes(vectors, -1, -2), vectors, precision=exact)


class PoseCritic(nn.Module):
  """A score for each pose, higher for real ones; a difference of scores is what means something.

  One path sees the joints, one the chain space; both are joined at the end.

  Attributes:
    bones: pairs of joints, see `chain_space`.
    hidden, chain_hidden: width of the two paths.
  Source: Wehrbein et al. 2021, section 3.3; authors' `models/critic_network.py`, names and order of layers included.
  """
  bones: Any
  hidden: int = 100
  chain_hidden: int = 1000

  @nn.compact
  def __call__(self, pose):
    """[..., 3 J], as in `chain_space` -> [...]."""
    def dense(x, size, name):
      return nn.Dense(size, kernel_init=torch_dense, bias_init=torch_bias(x.shape[-1]), name=name)(x)

    first = nn.leaky_relu(dense(pose, self.hidden, "fc1"))
    x = nn.leaky_relu(dense(first, self.hidden, "fc2"))
    x = nn.leaky_relu(dense(x, self.hidden, "fc3") + first)
    x = dense(x, self.hidden, "fc4")

    chain = chain_space(pose, self.bones)
    first = nn.leaky_relu(dense(chain.reshape(*pose.shape[:-1], -1), self.chain_hidden, "fc5"))
    chain = nn.leaky_relu(dense(first, self.chain_hidden, "fc6"))
    chain = dense(chain, self.chain_hidden, "fc7") + first

    x = nn.leaky_relu(dense(jnp.concatenate([x, chain], -1), self.hidden, "fc8"))
    return dense(x, 1, "fc9")[..., 0]
