"""What a fit minimises: how far a body's projected keypoints are from detected ones. All of one person.

Pixels are those of the camera a fit happens in: the 224-pixel crop that a network saw, or the whole image. Both are
perspective cameras; `crop_camera` and `full_camera` make the one person's `Target` for either.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr.body import camera as camera_lib
from jhmr.body import joints
from jhmr.body import smpl
import numpy as np

SIGMA_PX = 100.0     # where an error counts as an outlier. Source: ProHMR's authors' `optimization/losses.py`
REFERENCE_PX = 1000.0  # images count as if their longer side were this many pixels. Source: SMPLify-X
NEAREST_M = 0.1      # no point is projected as if it were nearer to the camera
# Joints of any set that detectors and bodies place differently.
HIPS = ("op_mid_hip", "op_right_hip", "op_left_hip", "mid_hip", "right_hip", "left_hip", "pelvis")


class Target(NamedTuple):
  """One person's keypoints and the camera that sees them; leading axes [P] for several."""
  keypoints: jax.Array   # [K, 3] x, y in pixels and confidence >= 0; missing ones have confidence 0
  focal_px: jax.Array    # []
  center_px: jax.Array   # [2] principal point
  image_size: jax.Array  # [2] width and height of what the camera sees, in pixels


def hips_left_out(set_name):
  """[K] float32, 0 for hips and pelvis of a joint set, 1 for all others.

  Source: ProHMR's authors' `keypoint_fitting.py`, where they are left out of detections but not of annotations.
  """
  return np.array([name not in HIPS for name in joints.names(set_name)], np.float32)


def crop_target(keypoints_px):
  """The Target of keypoints [..., K, 3] in pixels of a 224-pixel crop, whose camera looks at its middle."""
  side = jnp.full((*keypoints_px.shape[:-2], 2), camera_lib.CROP_PX, jnp.float32)
  return Target(keypoints_px, jnp.full_like(side[..., 0], camera_lib.FOCAL_PX), side / 2, side)


def crop_camera(keypoints_px, camera, box_center_px, box_size_px):
  """(Target, start translation [..., 3]) of fits in crops.

  Args:
    keypoints_px: [..., K, 3] pixels of the image, confidence.
    camera: [..., 3] weak cameras (s, tx, ty) of the crops.
    box_center_px: [..., 2]; box_size_px: [...], the crops' boxes in the image.
  Source: ProHMR's authors' `keypoint_fitting.py` with full_frame=False.
  """
  size, center = jnp.asarray(box_size_px)[..., None, None], jnp.asarray(box_center_px)[..., None, :]
  crop = (jnp.asarray(keypoints_px)[..., :2] - center) * (camera_lib.CROP_PX / size) + camera_lib.CROP_PX / 2
  target = crop_target(jnp.concatenate([crop, keypoints_px[..., 2:]], -1))
  return target, camera_lib.weak_to_translation(camera)


def full_camera(keypoints_px, camera, box_center_px, box_size_px, image_size_wh, focal_px, center_px=None):
  """(Target, start translation [..., 3]) of fits in whole images.

  Args:
    image_size_wh: [..., 2] width and height.
    focal_px: [...] focal length of the image's camera in pixels.
    center_px: [..., 2] its principal point; None is the middle of the image.
    keypoints_px, camera, box_center_px, box_size_px: as in `crop_camera`.
  Source: ProHMR's authors' `keypoint_fitting.py` with full_frame=True; their focal length is always 5000.
  """
  size = jnp.asarray(image_size_wh, jnp.float32)
  center = size / 2 if center_px is None else jnp.asarray(center_px)
  focal = jnp.broadcast_to(jnp.asarray(focal_px, jnp.float32), size.shape[:-1])
  target = Target(jnp.asarray(keypoints_px), focal, center, size)
  return target, camera_lib.crop_to_full(camera, box_center_px, box_size_px, 2 * center, focal)


def geman_mcclure(error, sigma=SIGMA_PX):
  """sigma^2 e^2 / (sigma^2 + e^2), elementwise: e^2 for small errors, at most sigma^2.

  Source: ProHMR's authors' `optimization/losses.py:gmof`; SMPLify (Bogo et al. 2016), Eq. 2.
  """
  square = (error / sigma) ** 2
  return sigma**2 * square / (1 + square)


def project(points, translation, target):
  """Points [K, 3] of a body, metres, moved by translation [3] -> [K, 2] pixels of the target's camera.

  Differs: points nearer than NEAREST_M, or behind the camera, are projected from that distance and stay finite.
  """
  moved = points + translation
  depth = jnp.maximum(moved[:, 2:], NEAREST_M)
  return camera_lib.perspective(jnp.concatenate([moved[:, :2], depth], -1), target.focal_px, target.center_px)


def keypoints2d(points, translation, target, sigma=SIGMA_PX):
  """(1000 / max(W, H))^2 sum_j c_j^2 sum_xy rho(projected - detected) -> [], no unit.

  Args:
    points: [K, 3] metres, before translation [3].
  Source: ProHMR (Kolotouros et al. 2021), E_J of Eq. 11, as in the authors' `keypoint_fitting_loss`.
  Differs: what has no confidence adds exactly nothing, even when its coordinates are not finite.
  """
  detected, confidence = known(target.keypoints)
  error = project(points, translation, target) - detected
  scale = REFERENCE_PX / jnp.max(target.image_size)
  return scale**2 * jnp.sum(confidence[:, None]**2 * geman_mcclure(error, sigma))


def known(keypoints):
  """Keypoints [..., K, 3] -> (pixels [..., K, 2], confidence [..., K]), zeros where there is none or a coordinate is
  not finite."""
  seen = (keypoints[..., 2] > 0) & jnp.all(jnp.isfinite(keypoints), -1)
  clean = jnp.where(seen[..., None], keypoints, 0.0)
  return clean[..., :2], clean[..., 2]


def mean_reprojection_px(points, translation, target):
  """Mean distance of projected and detected keypoints that have confidence -> [] pixels of the target's camera."""
  detected, confidence = known(target.keypoints)
  gap = jnp.linalg.norm(project(points, translation, target) - detected, axis=-1)
  return jnp.sum(jnp.where(confidence > 0, gap, 0.0)) / jnp.maximum(jnp.sum(confidence > 0), 1)


def body_points(body, betas, pose, set_name):
  """Points [K, 3] of a joint set that a (part of a) body makes of betas [L] and pose [24, 3, 3]."""
  return smpl.keypoints(body, smpl.forward(body, betas, pose), set_name)
