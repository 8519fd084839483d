"""HMR's critic: is this a human pose, and is this a human shape?"""

from flax import linen as nn
import jax.numpy as jnp


class Critic(nn.Module):
  """25 small critics: 23 of single joints (they share two layers), one of the shape, one of the whole pose.

  Source: HMR (Kanazawa et al. 2018), section 3.3 and authors' `Discriminator_separable_rotations`. Layer names,
    initial values and order of outputs (joints, shape, pose) as in ProHMR's port of it, `discriminator.py`.
  Differs: the last layers of the joints, 23 modules there, are stacked here.
  """
  hidden: int = 1024

  @nn.compact
  def __call__(self, body_pose, betas):
    """Scores near 1 mean real, near 0 mean made up; there is no sigmoid.

    Args:
      body_pose: [B, J, 3, 3] rotation matrices of the 23 body joints, root excluded.
      betas: [B, L] shape coefficients.
    Returns:
      [B, J + 2] scores, float32.
    """
    dense = lambda size, name: nn.Dense(size, kernel_init=nn.initializers.xavier_uniform(), name=name)
    batch, joints = body_pose.shape[:2]
    x = body_pose.reshape(batch, joints, 9)
    x = nn.relu(dense(32, "D_conv1")(x))  # a 1x1 convolution over joints is a dense layer
    x = nn.relu(dense(32, "D_conv2")(x))

    # The 23 last layers are one array, or they would be 23 products of 32 numbers.
    init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", batch_axis=(0,))
    kernel = self.param("pose_out_kernel", init, (joints, 32, 1))
    per_joint = jnp.einsum("bjc,jco->bj", x, kernel) + self.param("pose_out_bias", nn.initializers.zeros, (1, joints))

    shape = nn.relu(dense(10, "betas_fc1")(betas))
    shape = dense(1, "betas_out")(nn.relu(dense(5, "betas_fc2")(shape)))

    whole = jnp.swapaxes(x, 1, 2).reshape(batch, -1)  # channels first, so that torch weights fit
    whole = nn.relu(dense(self.hidden, "D_alljoints_fc1")(whole))
    whole = dense(1, "D_alljoints_out")(nn.relu(dense(self.hidden, "D_alljoints_fc2")(whole)))
    return jnp.concatenate([per_joint, shape, whole], axis=1)


def scores(critic, params, pose, betas):
  """Scores [B, T, 25] of T bodies of each image; pose [B, T, 24, 3, 3] with its root, which is left out."""
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  return critic.apply({"params": params}, flat(pose[:, :, 1:]), flat(betas)).reshape(*betas.shape[:2], -1)
