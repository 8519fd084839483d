"""Crops and pixel values, the same for rendered people, data sets and users' images."""

import cv2
import jax.numpy as jnp
import numpy as np

# RGB, in 0..1. Source: ImageNet statistics as torchvision's weights expect them.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalize(image):
  """RGB [..., 3] in 0..255 (uint8 or float) -> float32, what networks see."""
  return (jnp.asarray(image, jnp.float32) / 255.0 - MEAN) / STD


def to_uint8(image):
  """The inverse of `normalize`, on the host: [..., 3] float32 -> uint8."""
  pixels = (np.asarray(image, np.float32) * STD + MEAN) * 255.0
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def crop_affine(center_px, side_px, size, angle_rad=0.0):
  """The 2x3 map from image pixels to pixels of a size x size crop around a box.

  Args:
    center_px: (x, y) of the box, with the middle of the image's first pixel at (0.5, 0.5).
    side_px: its side in image pixels.
    angle_rad: turns what is seen counter-clockwise on the screen, about the box's centre.
  Returns:
    [2, 3] float64, pixel (x, y) -> crop pixel, half-pixel centres on both sides.
  Source: SPIN, `get_transform`: x' = (x - c) size / side + size / 2, then a rotation by -angle, y down.
  Differs: theirs works on integer pixels counted from one and truncates; ours is exact.
  """
  scale = size / side_px
  cosine, sine = scale * np.cos(angle_rad), scale * np.sin(angle_rad)
  linear = np.array([[cosine, sine], [-sine, cosine]])
  return np.hstack([linear, (size / 2 - linear @ np.asarray(center_px, np.float64))[:, None]])


def warp(image, affine, size):
  """Resamples image [H, W, 3] uint8 by a map of half-pixel coordinates, zeros outside; averages when it shrinks."""
  shrink = 1.0 / np.sqrt(abs(np.linalg.det(affine[:, :2])))
  if shrink > 2.0:  # bilinear samples alone would alias: halve first
    factor = 2 ** int(np.log2(shrink))
    whole = np.array(image.shape[1::-1])
    part = np.maximum(whole // factor, 1)
    image = cv2.resize(image, part.tolist(), interpolation=cv2.INTER_AREA)
    affine = np.hstack([affine[:, :2] * (whole / part), affine[:, 2:]])
  # OpenCV puts integer coordinates on the middle of pixels: shift by a half on both sides.
  offset = affine[:, :2] @ [0.5, 0.5] + affine[:, 2] - 0.5
  return cv2.warpAffine(image, np.hstack([affine[:, :2], offset[:, None]]), (size, size), flags=cv2.INTER_LINEAR,
                        borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def crop(image, center_px, side_px, size):
  """Square crop [size, size, 3] uint8 of a box of an RGB image [H, W, 3] uint8; zeros outside the image."""
  return warp(image, crop_affine(center_px, side_px, size), size)
