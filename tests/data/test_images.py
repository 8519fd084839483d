"""Crops put pixels where the affine says, without a half-pixel shift, at any scale."""

import numpy as np
import pytest

from jhmr.data import images


def blob(height, width, center):
  """A bright Gaussian at (x, y) pixels, half-pixel centres."""
  y, x = np.mgrid[:height, :width] + 0.5
  value = 255 * np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / 50)
  return np.repeat(value[..., None], 3, -1).astype(np.uint8)


def centroid(image):
  y, x = np.mgrid[:image.shape[0], :image.shape[1]] + 0.5
  w = image[..., 0].astype(float)
  return np.array([(x * w).sum(), (y * w).sum()]) / w.sum()


@pytest.mark.parametrize("side, angle", [(40.0, 0.0), (80.0, 0.4), (163.0, -1.0), (330.0, 0.2), (700.0, 0.0)])
def test_a_blob_lands_where_the_affine_sends_it(side, angle):
  point = np.array([203.0, 120.0])
  affine = images.crop_affine((200.0, 125.0), side, 96, angle)
  seen = images.warp(blob(261, 383, point), affine, 96)
  np.testing.assert_allclose(centroid(seen), affine[:, :2] @ point + affine[:, 2], atol=0.35 if side > 300 else 0.15)


def test_positive_angles_turn_counter_clockwise_on_the_screen():
  affine = images.crop_affine((50, 50), 100, 100, np.pi / 2)
  right_of_center = affine @ [60, 50, 1]
  np.testing.assert_allclose(right_of_center, [50, 40], atol=1e-9)  # now above it (y is down)


def test_identity_crop_keeps_every_pixel():
  image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
  np.testing.assert_array_equal(images.crop(image, (32, 32), 64, 64), image)


def test_outside_the_image_is_black():
  seen = images.crop(np.full((20, 20, 3), 200, np.uint8), (0, 0), 20, 40)
  assert seen[:19, :19].max() == 0 and seen[22:, 22:].min() == 200


def test_normalise_round_trip_is_exact_on_bytes():
  image = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, -1)
  np.testing.assert_array_equal(images.to_uint8(images.normalize(image)), image)
