"""The similarity of least squares, said again in float64."""

import numpy as np


def aligned(points, target):
  """points [..., K, 3] moved onto target [..., K, 3]: scale, rotation without reflection, translation. Umeyama 1991."""
  points, target = np.broadcast_arrays(np.float64(points), np.float64(target))
  middle = target.mean(-2, keepdims=True)
  a, b = points - points.mean(-2, keepdims=True), target - middle
  u, s, vt = np.linalg.svd(a.swapaxes(-1, -2) @ b)
  flip = np.ones_like(s)
  flip[..., 2] = np.sign(np.linalg.det(u @ vt))
  scale = (s * flip).sum(-1) / (a ** 2).sum((-1, -2))
  return scale[..., None, None] * a @ (u * flip[..., None, :]) @ vt + middle


def distances(points, target):
  """What that leaves: [..., K]."""
  return np.linalg.norm(aligned(points, target) - target, axis=-1)
