"""Crops and pixel values, the same for rendered people, data sets and users' images."""

import math

import cv2
import numpy as np

# RGB, in 0..1. Source: ImageNet statistics as torchvision's weights expect them.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalize(image):
  """RGB [..., 3] in 0..255 (uint8 or float) -> float32, what networks see."""
  import jax.numpy as jnp  # here, because worker processes crop pictures and must not load JAX
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


def decode(data, color=True, cover=1.0):
  """Pixels of an encoded image.

  Args:
    data: bytes of a JPEG, PNG or whatever else OpenCV reads; a turn asked for in EXIF is not made, as in TFDS.
    color: False keeps one channel and 16 bits where the file has them.
    cover: how many of its pixels, along a side, a pixel of the result may cover.
  Returns:
    ([h, w, 3] BGR uint8, or [h, w] without color; n = 1, 2, 4 or 8). Only a JPEG gives n > 1: its pixel (i, j) is the
    mean of the file's pixels ni..ni+n-1, nj..nj+n-1, by the inverse cosine transform of the low frequencies.
  Raises:
    ValueError: when it is empty, cut short, or not an image.
  """
  if not data:
    raise ValueError("its image is empty")
  jpeg = data[:3] == b"\xff\xd8\xff"
  if not (_jpeg_ends(data) if jpeg else data[:4] != b"\x89PNG" or b"IEND" in data[-4096:]):
    raise ValueError(f"its {'JPEG' if jpeg else 'PNG'} is truncated")
  reduction = 2 ** int(np.clip(np.log2(max(cover, 1.0)), 0, 3)) if jpeg and color else 1
  image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[reduction] if color else cv2.IMREAD_UNCHANGED)
  if image is None:
    raise ValueError("its image cannot be decoded")
  return image, reduction


_FLAGS = {n: flag | cv2.IMREAD_IGNORE_ORIENTATION for n, flag in (
    (1, cv2.IMREAD_COLOR), (2, cv2.IMREAD_REDUCED_COLOR_2), (4, cv2.IMREAD_REDUCED_COLOR_4),
    (8, cv2.IMREAD_REDUCED_COLOR_8))}


def _jpeg_ends(data):
  """Whether the end marker follows the picture: OpenCV 4 paints what is missing grey and says nothing.

  Headers are stepped over, because a thumbnail in them has an end marker of its own.
  """
  if data[-2:] == b"\xff\xd9":
    return True
  at = 2
  while data[at:at + 1] == b"\xff" and data[at + 1:at + 2] != b"\xda":
    at += 2 + int.from_bytes(data[at + 2:at + 4], "big")
  return data[at + 1:at + 2] == b"\xda" and data.find(b"\xff\xd9", at) >= 0


def warp_encoded(data, affine, size, out):
  """As `warp`, of the encoded image `data`, into out [size, size, 3] uint8 RGB.

  A photograph much larger than its crop is decoded at a half, a quarter or an eighth, which costs a fraction.

  Raises:
    ValueError: as `decode`.
  """
  image, reduction = decode(data, cover=shrink(affine))
  image, affine = _seen(image, np.hstack([affine[:, :2] * reduction, affine[:, 2:]]), size)
  # OpenCV 5 warps four channels in 0.18 ms where three take 0.33 ms (224 x 224), to the same bits.
  crop = warp(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA), affine, size)
  cv2.cvtColor(crop, cv2.COLOR_BGRA2RGB, dst=out)


def _seen(image, affine, size):
  """The part of an image that a crop shows, with a margin for what it is averaged from, and the map from there."""
  corners = np.array([[0, size, 0, size], [0, 0, size, size]]) - affine[:, 2:]
  px = np.linalg.solve(affine[:, :2], corners)
  margin = 4 + 2 * shrink(affine)
  low = np.clip(np.floor(px.min(1) - margin), 0, np.array(image.shape[1::-1]) - 1).astype(int)
  high = np.maximum(np.ceil(px.max(1) + margin), low + 1).astype(int)
  moved = affine[:, 2:] + affine[:, :2] @ low[:, None]
  return image[low[1]:high[1], low[0]:high[0]], np.hstack([affine[:, :2], moved])


def shrink(affine):
  """Source pixels per pixel of the crop, along a side."""
  (a, b), (c, d) = affine[:, :2].tolist()
  return 1.0 / math.sqrt(abs(a * d - b * c))


def warp(image, affine, size):
  """Resamples image [H, W, C] uint8 by a map of half-pixel coordinates, zeros outside; averages when it shrinks."""
  reduction = shrink(affine)
  if reduction > 2.0:  # bilinear samples alone would alias: halve first
    factor = 2 ** int(np.log2(reduction))
    whole = np.array(image.shape[1::-1])
    part = np.maximum(whole // factor, 1)
    image = cv2.resize(image, part.tolist(), interpolation=cv2.INTER_AREA)
    affine = np.hstack([affine[:, :2] * (whole / part), affine[:, 2:]])
  # OpenCV puts integer coordinates on the middle of pixels: shift by a half on both sides.
  offset = affine[:, :2] @ [0.5, 0.5] + affine[:, 2] - 0.5
  return cv2.warpAffine(image, np.hstack([affine[:, :2], offset[:, None]]), (size, size), flags=cv2.INTER_LINEAR,
                        borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def warp_labels(labels, affine, size):
  """As `warp`, of labels [H, W] or [H, W, C], by the nearest pixel: no mixing of labels or of two depths."""
  offset = affine[:, :2] @ [0.5, 0.5] + affine[:, 2] - 0.5
  return cv2.warpAffine(labels, np.hstack([affine[:, :2], offset[:, None]]), (size, size), flags=cv2.INTER_NEAREST,
                        borderValue=0)


def crop(image, center_px, side_px, size):
  """Square crop [size, size, 3] uint8 of a box of an RGB image [H, W, 3] uint8; zeros outside the image."""
  return warp(image, crop_affine(center_px, side_px, size), size)
