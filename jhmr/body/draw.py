"""Drawing on the host, for people to look at: skeletons, overlays, sheets, shaded bodies. NumPy in, NumPy out.

Images are uint8 RGB [H, W, 3]; pixels x right, y down. Nothing here is fast enough, or meant, for training.
"""

import functools

import cv2
import jax
from jhmr.body import raster
from jhmr.body import render
import numpy as np

BODY_RGB = (150, 185, 220)
LIGHT = (-0.33, -0.42, -0.50)  # over the viewer's left shoulder, in the camera frame
AMBIENT = 0.36
SUPERSAMPLE = 3                # a side; the shaded edge of a body is that smooth


def skeleton(image, keypoints_px, edges, colors=None, thickness=2):
  """Draws bones and joints.

  Args:
    image: uint8 [H, W, 3]; not changed.
    keypoints_px: [K, 3] x, y, confidence, or [K, 2]; those with confidence <= 0, or not finite, are left out.
    edges: pairs (i, j) of keypoints, as `joints.edges` gives.
    colors: RGB per edge, or one RGB; None goes round the colour wheel.
  Returns:
    uint8 [H, W, 3].
  """
  image, points = np.ascontiguousarray(image).copy(), np.asarray(keypoints_px, np.float64)
  seen = np.all(np.isfinite(points), -1) & (points[:, 2] > 0 if points.shape[1] > 2 else True)
  seen &= np.all(np.abs(np.nan_to_num(points[:, :2])) < 1e4, -1)  # cv2 counts in 32 bits
  colors = _wheel(len(edges)) if colors is None else np.broadcast_to(np.asarray(colors), (len(edges), 3))
  place = lambda i: tuple(int(v) for v in np.round((points[i, :2] - 0.5) * 16))  # 1/16 pixels; cv2 puts 0 at a centre
  for (i, j), color in zip(edges, colors):
    if seen[i] and seen[j]:
      cv2.line(image, place(i), place(j), [int(c) for c in color], thickness, cv2.LINE_AA, 4)
  for i in np.flatnonzero(seen):
    cv2.circle(image, place(i), int(16 * 1.2 * thickness), (255, 255, 255), -1, cv2.LINE_AA, 4)
    cv2.circle(image, place(i), int(16 * 0.7 * thickness), (60, 60, 60), -1, cv2.LINE_AA, 4)
  return image


def skeletons(image, keypoints_px, edges, colors, alpha):
  """Draws many skeletons, thin and see-through, one over the other.

  Args:
    image: uint8 [H, W, 3]; not changed.
    keypoints_px: [S, K, 2]; bones with an end that is not finite, or far out, are left out.
    edges: pairs (i, j) of keypoints.  colors: RGB per edge.
    alpha: how strong one of them is, 0..1.
  Returns:
    uint8 [H, W, 3].
  """
  mixed, points = image.astype(np.float32), np.asarray(keypoints_px, np.float64)
  seen = np.all(np.abs(np.nan_to_num(points, nan=1e9)) < 1e4, -1)
  points = np.round((np.where(seen[..., None], points, 0) - 0.5) * 16).astype(int)  # as in `skeleton`
  for one, ok in zip(points, seen):
    for color in sorted(set(map(tuple, colors))):
      cover = np.zeros(image.shape[:2], np.uint8)  # of one skeleton's bones of one colour, which are drawn together
      for (i, j), its in zip(edges, colors):
        if ok[i] and ok[j] and tuple(its) == color:
          cv2.line(cover, one[i].tolist(), one[j].tolist(), 255, 1, cv2.LINE_AA, 4)
      mixed += (alpha / 255 * cover)[..., None] * (np.float32(color) - mixed)
  return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def _wheel(num):
  """num RGB colours around the wheel, soft enough to see a photo between them."""
  hsv = np.stack([np.arange(num) * 180 // max(num, 1), np.full(num, 150), np.full(num, 235)], -1).astype(np.uint8)
  return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] if num else np.zeros((0, 3), np.uint8)


def overlay(image, shaded, mask, alpha=0.9):
  """Lays `shaded` over `image`, both uint8 [H, W, 3], where mask [H, W] says, `alpha` strong.

  mask is boolean, 0..1, or uint8 0..255 such as the last channel of `body_picture`, whose edges are smooth.
  """
  mask = np.asarray(mask)
  weight = alpha * mask.astype(np.float32) / (255 if mask.dtype == np.uint8 else 1)
  mixed = image + weight[..., None] * (np.asarray(shaded, np.float32) - image)
  return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def grid(images, columns, labels=None, margin=4):
  """A sheet of uint8 images [h, w, 3], row by row on white, each centred in its cell and labelled above if asked to."""
  images = [np.asarray(i) for i in images]
  strip = 18 if labels is not None else 0
  high = max((i.shape[0] for i in images), default=1) + strip + margin
  wide = max((i.shape[1] for i in images), default=1) + margin
  sheet = np.full((-(-len(images) // columns) * high + margin, columns * wide + margin, 3), 255, np.uint8)
  for n, image in enumerate(images):
    top, left = n // columns * high + margin, n % columns * wide + margin
    y = top + strip + (high - strip - margin - image.shape[0]) // 2
    x = left + (wide - margin - image.shape[1]) // 2
    sheet[y:y + image.shape[0], x:x + image.shape[1]] = image[..., :3]
    if labels is not None and n < len(labels):
      cell = np.ascontiguousarray(sheet[top:top + strip, left:left + wide - margin])  # long labels end at the cell
      cv2.putText(cell, str(labels[n]), (1, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
      sheet[top:top + strip, left:left + wide - margin] = cell
  return sheet


def side_view(vertices_cam):
  """The mesh [N, 3] (camera frame, metres) turned by 90 degrees about y in its place; what faced us faces left.

  The middle of its box comes to x = 0 and keeps its depth; heights stay as they are.
  """
  vertices = np.asarray(vertices_cam)
  middle = (vertices.min(0) + vertices.max(0)) / 2
  x, y, z = vertices.T
  return np.stack([z - middle[2], y, middle[2] - (x - middle[0])], -1).astype(vertices.dtype)


def body_picture(body_vertices_cam, faces, focal_px, center_px, size, color=BODY_RGB):
  """A shaded body, or several, with smooth edges.

  Args:
    body_vertices_cam: [N, 3] or [P, N, 3] metres, camera frame, faces counter-clockwise seen from outside.
    faces: [F, 3] int.
    focal_px: focal length in pixels.  center_px: (x, y) principal point in pixels.
    size: (H, W).
    color: RGB 0..255; or [P, 3], one for each body.
  Returns:
    uint8 [H, W, 4]: colour and coverage.
  """
  vertices = np.asarray(body_vertices_cam, np.float32)
  vertices = vertices if vertices.ndim == 3 else vertices[None]
  focal, center = np.float32(focal_px * SUPERSAMPLE), np.asarray(center_px, np.float32) * SUPERSAMPLE
  fine = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
  colors = np.broadcast_to(np.asarray(color, np.float32) / 255, (len(vertices), 3))
  windows = _windows(vertices, np.asarray(faces), focal, center, fine)
  shaded, cover = jax.device_get(_picture(vertices, np.asarray(faces, np.int32), focal, center, colors, fine, windows))
  mean = lambda x: x.reshape(size[0], SUPERSAMPLE, size[1], SUPERSAMPLE, -1).mean((1, 3))
  cover = mean(cover.astype(np.float32))
  rgb = mean(shaded) / np.maximum(cover, 1e-6)
  return np.round(255 * np.concatenate([np.clip(rgb, 0, 1), cover], -1)).astype(np.uint8)


def _windows(vertices, faces, focal, center, size):
  """Windows that hold every face of these very vertices, rounded up so that few programs are compiled."""
  front = vertices[..., 2:] > raster.NEAR_M
  pixels = np.where(front, focal * vertices[..., :2] / np.where(front, vertices[..., 2:], 1) + center, np.nan)
  corners = np.clip(pixels, -1, np.array(size[::-1]) + 1)[:, faces]  # [P, F, 3, 2], only what can be seen
  sides = np.nan_to_num(np.ptp(corners, axis=2)).max((0, 2)) + 2
  steps = np.array([4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096])
  windows = raster.cheapest_windows(steps[np.searchsorted(steps, np.minimum(sides, steps[-1]))])
  return windows._replace(num_large=min(len(faces), -(-windows.num_large // 512) * 512))


@functools.partial(jax.jit, static_argnums=(5, 6))
def _picture(vertices, faces, focal, center, colors, size, windows):
  scene = render.render_people(vertices, faces, focal, center, size, windows)
  shaded = render.shade(scene, vertices, faces, colors[:, None], np.float32(LIGHT), AMBIENT)
  return shaded, scene.person >= 0
