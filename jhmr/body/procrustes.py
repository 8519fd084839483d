"""Similarity alignment of point sets: scale, rotation (never a reflection) and translation, in closed form."""

import jax
import jax.numpy as jnp

from jhmr.body import rotations

_EXACT = jax.lax.Precision.HIGHEST


def procrustes(source, target, weights=None):
  """The similarity that takes source nearest to target in the least-squares sense.

  Args:
    source, target: [..., K, 3] metres.
    weights: [..., K] >= 0, or None for all ones.
  Returns:
    (scale [...], R [..., 3, 3], t [..., 3]) such that scale R x + t is near the target. Where the source is a single
    point, or all weights are 0, scale is 0 and t the target's mean. det R = +1 always.
  Source: Umeyama 1991, Eq. 40-42, as in SPIN's reconstruction error.
  """
  source, target = jnp.asarray(source, jnp.float32), jnp.asarray(target, jnp.float32)
  weights = jnp.ones(source.shape[:-1], jnp.float32) if weights is None else jnp.asarray(weights, jnp.float32)
  share = weights / _nonzero(jnp.sum(weights, -1, keepdims=True))
  mean = lambda x: jnp.einsum("...k,...kc->...c", share, x, precision=_EXACT)
  source_mean, target_mean = mean(source), mean(target)
  source, target = source - source_mean[..., None, :], target - target_mean[..., None, :]
  size = jnp.einsum("...k,...kc,...kc->...", share, source, source, precision=_EXACT)
  covariance = jnp.einsum("...k,...ki,...kj->...ij", share, target, source, precision=_EXACT)
  rotation, trace = _best_rotation(covariance)
  scale = trace / _nonzero(size)
  moved = jnp.einsum("...ij,...j->...i", rotation, source_mean, precision=_EXACT)
  return scale, rotation, target_mean - scale[..., None] * moved


def _nonzero(x):
  return jnp.where(x > 0, x, 1.0)


def _best_rotation(covariance):
  """R with det +1 that maximises trace(R^T covariance), and that maximum."""
  # In units of the largest entry: whether a rotation is unique is a question of relative size.
  size = _nonzero(jnp.max(jnp.abs(covariance), (-2, -1)))
  rotation = rotations.to_rotation(covariance / size[..., None, None])
  return rotation, jnp.einsum("...ij,...ij->...", rotation, covariance, precision=_EXACT)


def align(source, target, weights=None):
  """source [..., K, 3] moved onto target [..., K, 3] by `procrustes`; float32, the same shape."""
  scale, rotation, translation = procrustes(source, target, weights)
  moved = jnp.einsum("...ij,...kj->...ki", rotation, jnp.asarray(source, jnp.float32), precision=_EXACT)
  return scale[..., None, None] * moved + translation[..., None, :]
