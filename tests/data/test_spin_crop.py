"""The authors' crops, byte by byte, and labels pasted back where they came from."""

import pathlib

import numpy as np
import pytest

from jhmr.data import images
from jhmr.data import spin_crop
import spin_pictures


@pytest.fixture(scope="module")
def recorded():
  return np.load(pathlib.Path(__file__).parent / "goldens" / "spin_crops.npz")


def test_crops_are_the_authors_bytes(recorded):
  for i, (image, _, center, scale) in enumerate(spin_pictures.all_of_them()):
    np.testing.assert_array_equal(spin_crop.crop(image, center, scale, spin_pictures.SIZE), recorded[f"crop{i}"])


def test_pasted_labels_are_the_authors(recorded):
  for i, (image, labels, center, scale) in enumerate(spin_pictures.all_of_them()):
    pasted = spin_crop.uncrop(labels, center, scale, image.shape[:2])
    np.testing.assert_array_equal(pasted, recorded[f"uncrop{i}"])


@pytest.mark.parametrize("center, scale, low, high", [  # numbers of the authors' code for crops of 224
    ((320.3, 240.7), 1.37, (183, 103), (457, 377)), ((75.5, 108), 0.71, (4, 37), (146, 179)),
    ((100, 120), 1, (0, 19), (200, 220))])  # 19: the numerical inverse gives 19.999...
def test_corners_are_truncated(center, scale, low, high):
  found = spin_crop.corners(center, scale, 224)
  assert [tuple(x) for x in found] == [low, high]


def test_the_exact_crop_puts_keypoints_where_the_authors_do_before_they_truncate():
  # Their transform counts from one and ends at whole pixels: of these they keep (168, 124) + 1 and (166, 94) + 1.
  point = [150.3, 130.9, 1]
  upright, turned = (images.crop_affine((100, 120), 200, 224, np.deg2rad(a)) for a in (0, 30))
  np.testing.assert_allclose(upright @ point, [168.336, 124.208], atol=1e-9)
  np.testing.assert_allclose(turned @ point, [166.892, 94.404], atol=6e-4)


def test_resizing_is_pillows():
  image_lib = pytest.importorskip("PIL.Image")
  rng = np.random.default_rng(0)
  for old, new in (((31, 30), 20), ((20, 20), 20), ((15, 16), 33), ((260, 261), 64)):
    image = rng.integers(0, 256, (*old, 3), dtype=np.uint8)
    pillow = np.asarray(image_lib.fromarray(image).resize((new, new), image_lib.BILINEAR))
    np.testing.assert_array_equal(spin_crop.resize_bilinear(image, new), pillow)


def test_a_crop_is_nearly_the_exact_one_where_nothing_is_stretched():
  image = np.clip(np.add.outer(np.arange(120.0), np.arange(150.0))[..., None] + [0, 5, 10], 0, 255).astype(np.uint8)
  image[60, 70], image[62, 70] = 0, 255  # the whole range is there already
  theirs, ours = spin_crop.crop(image, (75, 60), 0.4, 40), images.crop(image, (75, 60), 80, 40)
  assert np.median(np.abs(theirs.astype(int) - ours)) <= 1


@pytest.mark.parametrize("values, bytes_", [([2, 4, 6], [0, 128, 255]), ([7, 7, 7], [0, 0, 0])])
def test_the_range_is_stretched(values, bytes_):
  assert spin_crop.stretch(np.array(values, np.uint8)).tolist() == bytes_


def test_boxes_out_of_the_picture_are_black_and_empty_ones_an_error():
  image = np.full((20, 20, 3), 9, np.uint8)
  for center in ((-200, 10), (500, 500)):
    assert not spin_crop.crop(image, center, 0.2, 16).any()
    assert not spin_crop.uncrop(np.ones((16, 16), np.uint8), center, 0.2, (20, 20)).any()
  with pytest.raises(ValueError, match="no pixel"):
    spin_crop.crop(image, (10.5, 10.5), 0.001, 16)


def test_a_full_mask_stays_full():
  assert spin_crop.uncrop(np.ones((16, 16), np.uint8), (10, 10), 0.1, (20, 20)).all()
