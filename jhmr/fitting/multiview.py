"""Makes the poses of one person in several uncalibrated views agree: refinement in the latent space, and a baseline.

ProHMR (Kolotouros et al. 2021), Eq. 12: over the latents z_n of N views,

    E(z) = sum_n ||z_n||^2 + 300^2 sum_n ||R_n - mean_m R_m||^2

with the rotation matrices R of the 23 body joints. The root is each view's own, since nothing says where cameras stand.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr.body import rotations
from jhmr.fitting import descend
from jhmr.fitting import joint_lbfgs
from jhmr.fitting import latent

CONSISTENCY = 300.0**2  # Source: ProHMR's authors' `optimization/losses.py:multiview_loss`
NUM_STEPS = 120  # evaluations of L-BFGS for each person


class Refined(NamedTuple):
  """P people in V views each."""
  z: jax.Array       # [P, V, D]
  pose: jax.Array    # [P, V, 24, 3, 3]
  betas: jax.Array   # [P, L] the mean over views
  losses: jax.Array  # [P, steps]; joint: [P, calls]


def mean_over_views(x, mask):
  """Mean of [..., V, *rest] over the views that mask [..., V] keeps -> [..., *rest]; 0 when it keeps none."""
  weight = jnp.expand_dims(mask, tuple(range(mask.ndim, x.ndim)))
  axis = mask.ndim - 1
  return jnp.sum(x * weight, axis) / jnp.maximum(jnp.sum(weight, axis), 1e-9)


def disagreement(body_pose, mask):
  """How far each view's body pose is from the mean of its person.

  Args:
    body_pose: [V, 23, 3, 3] rotation matrices, root excluded.
    mask: [V] in {0, 1}, views that exist.
  Returns:
    [] sum of squared differences to the masked mean; no unit.
  Source: ProHMR, Eq. 12, consistency term, before its weight.
  Differs: the authors have no mask; with every view present the value is theirs.
  """
  gap = body_pose - mean_over_views(body_pose, mask)[None]
  return jnp.sum(mask * jnp.sum(gap**2, (1, 2, 3)))


def energy(decode, encoded, mask, consistency=CONSISTENCY):
  """E(z [V, D]) -> [] of one person; encoded has leading axis V."""
  def total(z):
    pose = decode(z[:, None], encoded)[:, 0]
    return consistency * disagreement(pose[:, 1:], mask) + jnp.sum(mask[:, None] * z**2)
  return total


def refine(decode, encoded, mask, *, dim, num_steps=None, mode="vmap", tx=None):
  """Refines the poses of P people.

  Args:
    decode: (z [B, S, dim], encoded) -> pose [B, S, 24, 3, 3].
    encoded: pytree with leading axes [P, V], and the field betas.
    mask: [P, V] in {0, 1}: people may have fewer than V views. A view of mask 0 stays at its mode.
    num_steps, mode, tx: as in `latent.fit_keypoints`; "joint" is one L-BFGS of PyTorch's kind for each person.
  Returns:
    Refined.
  Raises:
    ValueError: for a mode that does not exist.
  """
  if mode not in latent.MODES:
    raise ValueError(f"mode {mode!r} is not one of {latent.MODES}")

  def one(encoded, mask):
    start = jnp.zeros((mask.shape[0], dim), encoded.betas.dtype)
    total = energy(decode, encoded, mask)
    if mode == "joint":
      z, losses, *_ = joint_lbfgs.minimize(total, start, num_steps or latent.JOINT_CALLS)
    else:
      z, losses = descend.descend(total, start, tx or descend.lbfgs(), num_steps or NUM_STEPS)
    return z, decode(z[:, None], encoded)[:, 0], losses

  z, pose, losses = (jax.lax.map if mode == "joint" else _vmap)(lambda a: one(*a), (encoded, mask))
  return Refined(z, pose, mean_over_views(encoded.betas, mask), losses)


def _vmap(f, xs):
  return jax.vmap(f)(xs)


def average_rotations(matrices, mask):
  """The rotation nearest to the mean of rotation matrices over views.

  Args:
    matrices: [..., V, J, 3, 3].
    mask: [..., V] in {0, 1}.
  Returns:
    [..., J, 3, 3], determinant +1; the identity when no view exists.
  Source: ProHMR, section 4, "rotation averaging": mean, then projection onto SO(3) by an SVD (no code is published).
  """
  mean = mean_over_views(matrices, mask)
  some = jnp.any(mask > 0, -1)[..., None, None, None]
  return rotations.to_rotation(jnp.where(some, mean, jnp.eye(3)))


def average_pose(pose, mask):
  """Pose [..., V, 24, 3, 3] with every view's body pose replaced by the average over views, roots kept."""
  body = average_rotations(pose[..., 1:, :, :], mask)[..., None, :, :, :]
  return jnp.concatenate([pose[..., :1, :, :], jnp.broadcast_to(body, pose[..., 1:, :, :].shape)], -3)
