"""Weak-perspective crop cameras, full perspective, and translations between crops and whole images.

Camera frame: x right, y down, z forward, metres. Pixels: x right, y down. A weak-perspective camera (s, tx, ty) of a
crop projects a point to s (X + tx), s (Y + ty) in crop coordinates, -1 to 1 over the crop: scale s has no unit,
tx and ty are metres.
"""

import jax.numpy as jnp

FOCAL_PX = 5000.0  # of the crop's camera. Source: HMR and SPIN
CROP_PX = 224.0    # side of the crop. Source: HMR and SPIN
BOX_SCALE = 1.2    # of a person's box over what their keypoints cover. Source: ProHMR's authors' `openpose_dataset.py`


def weak_to_translation(camera, focal_px=FOCAL_PX, image_size=CROP_PX):
  """[..., 3] weak camera (s, tx, ty) -> [..., 3] translation in metres for a crop of image_size pixels.

  Source: SPIN, t = (tx, ty, 2 f / (image_size s + 1e-9)).
  """
  s, tx, ty = jnp.moveaxis(jnp.asarray(camera), -1, 0)
  return jnp.stack([tx, ty, 2 * focal_px / (image_size * s + 1e-9)], -1)


def translation_to_weak(translation, focal_px=FOCAL_PX, image_size=CROP_PX):
  """The inverse of `weak_to_translation`: [..., 3] metres, z > 0 -> [..., 3] (s, tx, ty)."""
  x, y, z = jnp.moveaxis(jnp.asarray(translation), -1, 0)
  return jnp.stack([(2 * focal_px / z - 1e-9) / image_size, x, y], -1)


def perspective(points, focal_px, center_px):
  """Projects points [..., K, 3] (camera frame, metres) to pixels [..., K, 2].

  Args:
    focal_px: [...] focal length in pixels, a scalar or one per leading index.
    center_px: [..., 2] principal point in pixels.
  """
  points = jnp.asarray(points)
  focal, center = _intrinsics(points.shape[:-2], focal_px, center_px)
  return focal * points[..., :2] / points[..., 2:] + center


def _intrinsics(lead, focal_px, center_px):
  """(focal [..., 1, 1], centre [..., 1, 2]) with at least the leading axes `lead`, to go with [..., K, 2]."""
  lead = jnp.broadcast_shapes(lead, jnp.shape(focal_px), jnp.shape(center_px)[:-1])
  return jnp.broadcast_to(focal_px, lead)[..., None, None], jnp.broadcast_to(center_px, (*lead, 2))[..., None, :]


def project_crop(points, camera):
  """Projects points [..., K, 3] (metres, before translation) to crop coordinates [..., K, 2] in -1..1.

  The true perspective of a camera 2 f / (224 s) metres away, close to s (X + tx), s (Y + ty).
  Source: SPIN, projection with f = 5000 and centre 0, divided by half the crop.
  """
  moved = jnp.asarray(points) + weak_to_translation(camera)[..., None, :]
  return perspective(moved, FOCAL_PX, jnp.zeros(2, moved.dtype)) / (CROP_PX / 2)


def project_weak(points, camera):
  """Projects points [..., K, 3] (metres, before translation) to crop coordinates [..., K, 2]: s (X + tx), s (Y + ty).

  Unlike `project_crop`, it stays finite when a scale is 0 or below.
  Source: GraphCMR, authors' `utils/geometry.py:orthographic_projection`.
  """
  camera = jnp.asarray(camera)
  return camera[..., None, :1] * (jnp.asarray(points)[..., :2] + camera[..., None, 1:])


def crop_to_full(camera, box_center_px, box_size_px, image_size_wh, focal_px):
  """Translation [..., 3] in the camera of the whole image that projects a body where its crop camera does.

  Args:
    camera: [..., 3] weak camera (s, tx, ty) of the crop.
    box_center_px: [..., 2] centre of the crop's box in the image.
    box_size_px: [...] side of the box in image pixels.
    image_size_wh: [..., 2] width and height of the image; its principal point is the middle.
    focal_px: [...] focal length of the image's camera in pixels.
  Source: ProHMR's full-frame camera, t_z = 2 f / (h s), t_xy = (tx, ty) + (c - c0) t_z / f.
  """
  s, tx, ty = jnp.moveaxis(jnp.asarray(camera), -1, 0)
  z = 2 * focal_px / (box_size_px * s + 1e-9)
  offset = (jnp.asarray(box_center_px) - jnp.asarray(image_size_wh) / 2) * (z / focal_px)[..., None]
  return jnp.stack([tx + offset[..., 0], ty + offset[..., 1], z], -1)


def solve_translation(points, keypoints_px, confidence, focal_px, center_px):
  """Translation [..., 3] that best projects points onto keypoints, by weighted least squares.

  Args:
    points: [..., K, 3] metres, before translation.
    keypoints_px: [..., K, 2] pixels.
    confidence: [..., K] weights >= 0.
    focal_px: [...] focal length; center_px: [..., 2] principal point.
  Returns:
    metres; 0 when all confidences are 0, and z is 0 when fewer than two distinct keypoints have any.
  Source: SPIN, estimate_translation: rows f t_x - (u - c_x) t_z = (u - c_x) Z - f X, likewise y, times sqrt(w).
  Differs: solved by elimination of t_x, t_y instead of 3 x 3 normal equations, which float32 cannot hold.
  """
  points, weight = jnp.asarray(points), jnp.asarray(confidence)[..., None]
  focal, center = _intrinsics(points.shape[:-2], focal_px, center_px)
  ray = (jnp.asarray(keypoints_px) - center) / focal  # [..., K, 2]
  total = jnp.sum(weight, -2)
  mean = lambda x: jnp.sum(weight * x, -2) / jnp.where(total > 0, total, 1.0)
  right = ray * points[..., 2:] - points[..., :2]
  ray_mean, right_mean = mean(ray), mean(right)
  ray_off, right_off = ray - ray_mean[..., None, :], right - right_mean[..., None, :]
  spread = jnp.sum(weight * ray_off * ray_off, (-2, -1))
  defined = spread > 1e-10 * total[..., 0]  # keypoints further apart than rounding
  z = -jnp.sum(weight * ray_off * right_off, (-2, -1)) / jnp.where(defined, spread, 1.0)
  z = jnp.where(defined, z, 0.0)[..., None]
  return jnp.concatenate([right_mean + z * ray_mean, z], -1)
