"""Host-side drawing: what changes, what does not, and where."""

from jhmr.body import draw
from jhmr.body import render
import numpy as np
import pytest

GREY = np.full((40, 60, 3), 120, np.uint8)
CUBE = np.float32([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
CUBE_FACES = np.int32([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
                       [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])


def changed(before, after):
  return np.any(before != after, -1)


def test_skeleton_draws_bones_and_leaves_its_input_alone():
  points = np.float32([[10.5, 20.5, 1], [50.5, 20.5, 0.7], [30.5, 5.5, 0]])
  out = draw.skeleton(GREY, points, [(0, 1), (1, 2)], colors=(255, 0, 0))
  assert np.all(GREY == 120) and out.dtype == np.uint8
  assert np.array_equal(out[20, 30], [255, 0, 0])
  rows, columns = np.nonzero(changed(GREY, out))
  assert np.abs(rows - 20).max() <= 4 and columns.min() >= 6 and columns.max() <= 54  # nothing towards the unseen third


@pytest.mark.parametrize("bad", [[np.nan, 3, 1], [np.inf, 3, 1], [1e9, 3, 1], [10, 10, 0], [10, 10, -1]])
def test_skeleton_leaves_out_what_cannot_be_drawn(bad):
  assert np.array_equal(draw.skeleton(GREY, np.float32([bad, bad]), [(0, 1)]), GREY)


def test_skeleton_takes_points_outside_the_image_and_no_points():
  out = draw.skeleton(GREY, np.float32([[-30, 20], [90, 20]]), [(0, 1)])
  assert changed(GREY, out)[20].all()
  assert np.array_equal(draw.skeleton(GREY, np.zeros((0, 3)), []), GREY)


def test_overlay_mixes_inside_the_mask_only():
  shaded, mask = np.full_like(GREY, 220), np.zeros(GREY.shape[:2], bool)
  mask[10:20, 10:20] = True
  out = draw.overlay(GREY, shaded, mask, alpha=0.5)
  assert np.array_equal(changed(GREY, out), mask) and np.all(out[mask] == 170)
  assert np.array_equal(out, draw.overlay(GREY, shaded, mask.astype(np.float32), alpha=0.5))
  assert np.array_equal(out, draw.overlay(GREY, shaded, mask.astype(np.uint8) * 255, alpha=0.5))


def test_grid_places_images_row_by_row():
  images = [np.full((20, 30, 3), i, np.uint8) for i in range(5)]
  plain, labelled = draw.grid(images, 3), draw.grid(images, 3, ["a", "b"])
  assert plain.shape == (2 * 24 + 4, 3 * 34 + 4, 3) and labelled.shape == (2 * 42 + 4, 3 * 34 + 4, 3)
  for i in range(5):
    row, column = divmod(i, 3)
    assert np.all(plain[row * 24 + 4:row * 24 + 24, column * 34 + 4:column * 34 + 34] == i)
  assert np.all(plain[28:, 72:] == 255) and np.any(labelled[4:22, 4:34] < 255) and np.all(labelled[4:22, 72:102] == 255)


def test_side_view_turns_about_the_vertical_in_place():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(50, 3)).astype(np.float32) + np.float32([0.5, 0.2, 7])
  side = draw.side_view(points)
  distance = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)
  np.testing.assert_allclose(distance(side), distance(points), atol=1e-5)
  assert np.array_equal(side[:, 1], points[:, 1])
  middle = (side.min(0) + side.max(0)) / 2
  np.testing.assert_allclose(middle[[0, 2]], [0, (points[:, 2].min() + points[:, 2].max()) / 2], atol=1e-5)
  nearest = points[:, 2].argmin()
  assert side[nearest, 0] == side[:, 0].min()  # what faced us faces left
  frame = np.linalg.lstsq(points - points.mean(0), side - side.mean(0), rcond=None)[0]
  np.testing.assert_allclose(np.linalg.det(frame), 1, atol=1e-4)  # a turn, not a mirror


def test_body_picture_covers_exactly_the_body():
  """A cube seen face on: a square of known area, one shade, and coverage between 0 and 1 only along its rim."""
  vertices = CUBE + np.float32([0, 0, 6])
  picture = draw.body_picture(vertices, CUBE_FACES, 51.0, (30.0, 20.0), (40, 60), (200, 100, 50))
  assert picture.shape == (40, 60, 4) and picture.dtype == np.uint8
  side = 2 * 51 / 5
  one_sample_a_side = 2 / (draw.SUPERSAMPLE * side)
  np.testing.assert_allclose(picture[..., 3].sum() / 255, side**2, rtol=one_sample_a_side)
  assert picture[20, 30, 3] == 255 and picture[20, 3, 3] == 0 and not picture[20, 3].any()
  red = picture[picture[..., 3] == 255][:, 0].astype(float)
  assert red.min() > 0.3 * 200 * draw.AMBIENT and abs(picture[20, 30, 0] / picture[20, 30, 1] - 2) < 0.05


def test_bodies_in_one_picture_hide_each_other():
  vertices = np.stack([CUBE + np.float32([0, 0, 5.5]), CUBE * 0.5 + np.float32([0, 0, 4])])
  picture = draw.body_picture(vertices, CUBE_FACES, 60.0, (30, 20), (40, 60), [(200, 0, 0), (0, 0, 200)]).astype(int)
  assert picture[20, 30, 2] > 60 and picture[20, 30, 0] == 0  # the small near one
  assert picture[8, 20, 0] > 60 and picture[8, 20, 2] == 0    # the far one beside it


@pytest.mark.parametrize("depth_m", [0.3, 1.5, 50.0])
def test_windows_found_for_a_picture_always_hold(depth_m):
  vertices = (CUBE * 0.2 + np.float32([0.05, 0, depth_m]))[None]
  windows = draw._windows(vertices, CUBE_FACES, 80.0, np.float32([30, 20]), (40, 60))
  scene = render.render_people(vertices, CUBE_FACES, 80.0, np.float32([30, 20]), (40, 60), windows)
  assert int(scene.overflow) == 0
