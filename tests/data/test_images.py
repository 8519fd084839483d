"""Crops put pixels where the affine says, without a half-pixel shift, at any scale."""

import numpy as np
import pytest

from jhmr.data import images
import disk


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


@pytest.mark.parametrize("side, angle", [(90.0, 0.0), (150.0, 0.3), (201.0, -0.8), (390.0, 0.0), (397.0, 1.0),
                                         (800.0, 0.2)])
def test_reduced_decoding_puts_pixels_where_full_decoding_does(side, angle):
  """Crops of 96 pixels from 1 to 8 times as many; odd sizes, so that halves do not come out even."""
  point = np.array([205.0, 137.0])
  affine = images.crop_affine((200.0, 145.0), side, 96, angle)
  y, x = np.mgrid[:301, :407] + 0.5
  blob = np.repeat(255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 200)[..., None], 3, -1).astype(np.uint8)
  data = disk.jpeg(blob)
  assert images.decode(data, cover=side / 96)[1] == {90.0: 1, 150.0: 1, 201.0: 2, 800.0: 8}.get(side, 4)
  seen = disk.cropped(data, affine, 96)
  np.testing.assert_allclose(centroid(seen), affine[:, :2] @ point + affine[:, 2], atol=0.1)
  full = images.warp(images.decode(data)[0], affine, 96)[..., ::-1]
  assert np.abs(centroid(seen) - centroid(full)).max() < 0.1 and np.abs(seen.astype(int) - full).mean() < 1.0


@pytest.mark.parametrize("center, side, angle", [((30.0, 40.0), 33.0, 0.4), ((0.0, 70.0), 70.0, 0.0),
                                                 ((36.0, 36.0), 300.0, 0.0), ((-500.0, 36.0), 60.0, 0.0)])
def test_encoded_and_decoded_pictures_are_cropped_alike(center, side, angle):
  data = disk.png(disk.picture(3))
  affine = images.crop_affine(center, side, 48, angle)
  expected = images.warp(disk.picture(3)[..., ::-1], affine, 48).astype(int)
  np.testing.assert_allclose(disk.cropped(data, affine, 48), expected, atol=2 if side < 100 else 12)


def test_a_turn_asked_for_in_exif_is_not_made():
  """Labels are in the pixels of the file, as TFDS and Pillow's `open` see them."""
  data = disk.jpeg(disk.picture(4, 40, 60))
  exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
  turned = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
  for cover in (1, 2):
    np.testing.assert_array_equal(images.decode(turned, cover=cover)[0], images.decode(data, cover=cover)[0])
