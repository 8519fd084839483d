"""What lifting networks see of a pose, and what detectors' heatmaps tell them: pure functions of arrays.

Vectors of a pose are coordinate-major, x of every joint, then y, then z, and their y points up. 2D joints are in the
order of joints.names("lift16"), 3D joints in that of NET16: "lift17" without the pelvis. The network is left to learn
how the two orders belong together; where a 2D joint meets its 3D one, the tables below do it by name.

A Gaussian is what `fitting.gaussians` makes of a heatmap: amplitude, mean x and y, sigma x, theta, sigma y, in pixels.

Source: Wehrbein et al. 2021, section 3 and 4; authors' `data_utils.py`.
"""

import jax.numpy as jnp
import numpy as np

from jhmr.body import joints
from jhmr.fitting.gaussians import SIGMA_PX

NET16 = joints.names("lift17")[1:]  # of the 3D vectors
HIPS = tuple(NET16.index(name) for name in ("right_hip", "left_hip"))
# Joints whose Gaussians are looked at: 3D poses are centred at the pelvis, so it and the hips hardly vary.
MATCHED = tuple(name for name in joints.names("lift16") if name not in ("right_hip", "left_hip", "pelvis"))
MATCHED_2D = tuple(joints.index("lift16", name) for name in MATCHED)
MATCHED_3D = tuple(NET16.index(name) for name in MATCHED)  # of NET16

CERTAIN_PX = 1.05 * SIGMA_PX      # a detector with a smaller sigma is sure
HARD_PX = 2.5 * SIGMA_PX          # a pose with a larger one is ambiguous
_MAX_AMPLITUDE, _MAX_MEAN_PX = 1.2, 63.0
_SIGMAS_PX = 0.1 * SIGMA_PX, 5.0 * SIGMA_PX
_UNIT_PX = 10 * SIGMA_PX          # covariances of the condition are in units of its square
# 10 mm for the detector's sigma; sigmas above CERTAIN_PX count twice by then: 10 mm a pixel.
_UNIT_M = 0.010 / SIGMA_PX * _UNIT_PX
_FLIP = np.array([1.0, -1.0, -1.0], np.float32)  # y down, z forward <-> y up, z backward


def normalise2d(pose2d):
  """Any pixels [..., 16, 2] -> [..., 32]: each axis centred, y up, all 32 numbers divided by their spread.

  Poses of one point have no spread, and become zero.
  Source: Wehrbein et al. 2021, section 4.1; authors' `normalize_poses`.
  """
  centred = (pose2d - jnp.mean(pose2d, -2, keepdims=True)) * _FLIP[:2]
  variance = jnp.mean(centred**2, (-2, -1), keepdims=True)  # the mean of all 32 is zero
  return _vector(centred / jnp.sqrt(jnp.where(variance > 0, variance, 1.0)))


def normalise3d(pose3d):
  """Metres [..., 17, 3] in the camera's frame -> [..., 48] metres of NET16: each axis centred, y up, z backward.

  Source: Wehrbein et al. 2021, section 4.1; authors' `normalize_poses`.
  """
  pose = pose3d[..., 1:, :]
  return _vector((pose - jnp.mean(pose, -2, keepdims=True)) * _FLIP)


def to_pose3d(vector):
  """[..., 48] of a network -> [..., 17, 3] metres in the camera's frame; the pelvis, half way between the hips, at 0.

  The inverse of `normalise3d` for poses whose pelvis is there.
  Source: Wehrbein et al. 2021, authors' `reinsert_root_joint_torch`, `root_center_poses`.
  """
  pose = jnp.swapaxes(vector.reshape(*vector.shape[:-1], 3, len(NET16)), -1, -2) * _FLIP
  pelvis = jnp.mean(pose[..., HIPS, :], -2, keepdims=True)
  return jnp.concatenate([jnp.zeros_like(pelvis), pose - pelvis], -2)


def _vector(pose):
  """[..., K, C] -> [..., C K]."""
  return jnp.swapaxes(pose, -1, -2).reshape(*pose.shape[:-2], -1)


def condition(gaussians):
  """What a network is told of the heatmaps.

  Args:
    gaussians: [..., 16, 6] of every joint of "lift16", as fitted.
  Returns:
    [..., 78]: of each joint of MATCHED amplitude, mean x and y as `normalise2d` has them, and the covariance's xx, xy
    and yy, y up, in units of (20 px)^2. Sigmas above CERTAIN_PX count twice.
  Source: Wehrbein et al. 2021, section 3.2; authors' `preprocess_gaussian_fits`.
  """
  amplitude = jnp.clip(gaussians[..., :1], 0.0, _MAX_AMPLITUDE)
  means = normalise2d(jnp.clip(gaussians[..., 1:3], 0.0, _MAX_MEAN_PX))
  means = jnp.swapaxes(means.reshape(*means.shape[:-1], 2, -1), -1, -2)
  found = jnp.concatenate([amplitude, means, _covariance(gaussians)], -1)[..., MATCHED_2D, :]
  return found.reshape(*found.shape[:-2], -1)


def _covariance(gaussians):
  """[..., 6] -> xx, xy, yy of the covariance [..., 3], y up, in units of (20 px)^2.

  The fit's theta turns clockwise where y points down, so counter-clockwise here.
  """
  sigma = jnp.clip(gaussians[..., 3::2], *_SIGMAS_PX)
  sigma = jnp.where(sigma > CERTAIN_PX, 2 * sigma, sigma) / _UNIT_PX
  theta = jnp.mod(gaussians[..., 4], np.pi)
  cos, sin, (one, two) = jnp.cos(theta), jnp.sin(theta), jnp.moveaxis(sigma**2, -1, 0)
  return jnp.stack([one * cos**2 + two * sin**2, (one - two) * sin * cos, one * sin**2 + two * cos**2], -1)


def covariance_target(gaussians):
  """How much hypotheses of a joint should vary.

  Args:
    gaussians: [..., 16, 6] of every joint of "lift16", as fitted.
  Returns:
    (target [..., 13, 3] square metres: xx, xy and yy, y up, of each joint of MATCHED; mask [..., 13]: 1 where the
    detector was unsure along x or y). A sigma of 2 px asks for 10 mm, one of 3 px for 30 mm.
  Source: Wehrbein et al. 2021, Eq. 3 and 4; authors' `covariance_loss`.
  Differs: the paper's scale is 10 mm a pixel; the authors' code has 5 mm, of sigmas that count twice once they matter.
  """
  target = _covariance(gaussians)[..., MATCHED_2D, :] * _UNIT_M**2
  threshold = (CERTAIN_PX / _UNIT_PX * _UNIT_M) ** 2
  return target, jnp.any(target[..., ::2] > threshold, -1).astype(jnp.float32)


def hard(gaussians):
  """Whether a pose counts as ambiguous, [..., 16, 6] -> [...] bool: any fitted sigma is above HARD_PX.

  Source: Wehrbein et al. 2021, section 4.1, H36MA; authors' `data_h36m.py`.
  """
  return jnp.any(gaussians[..., 3::2] > HARD_PX, (-2, -1))
