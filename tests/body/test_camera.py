"""Cameras: the numbers of the original conventions, inverses, and agreement of crop and whole image."""

import jax
import jax.numpy as jnp
from jhmr.body import camera
import numpy as np
import pytest

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (40, 3)).astype(np.float32)
solve = jax.jit(camera.solve_translation)


def test_depth_of_a_crop_camera():
  t = camera.weak_to_translation(np.float32([[.9, 0, 0], [1, .2, -.3]]))
  np.testing.assert_allclose(t, [[0, 0, 49.603175], [.2, -.3, 44.642857]], rtol=1e-6)


def test_translation_applies_before_scale():
  """x = s (X + tx) is 0.36 here and 0.3593 in true perspective; the other convention, s X + tx, would say 0.37."""
  x = camera.project_crop(np.float32([[.3, .4, .1]]), np.float32([.9, .1, -.05]))
  assert x[0, 0] == pytest.approx(.3592757, abs=1e-6)
  assert x[0, 1] == pytest.approx(.9 * .35 * .3592757 / .36, abs=1e-6)


@pytest.mark.parametrize("lead", [(), (5,), (2, 1, 3)])
def test_translation_to_weak_is_the_inverse(lead):
  weak = np.concatenate([RNG.uniform(.3, 1.5, (*lead, 1)), RNG.normal(size=(*lead, 2))], -1).astype(np.float32)
  there = camera.weak_to_translation(weak)
  np.testing.assert_allclose(camera.translation_to_weak(there), weak, rtol=1e-6)
  there = camera.weak_to_translation(weak, focal_px=1100., image_size=256.)
  np.testing.assert_allclose(camera.translation_to_weak(there, 1100., 256.), weak, rtol=1e-6)


def test_zero_scale_is_finite():
  assert np.isfinite(jax.jacrev(camera.weak_to_translation)(jnp.zeros(3))).all()


def test_perspective_broadcasts_per_image():
  points = np.stack([POINTS + [0, 0, 3], POINTS + [0, 0, 5]]).astype(np.float32)
  focal, center = np.float32([800, 900]), np.float32([[100, 90], [10, 20]])
  got = camera.perspective(points, focal, center)
  for b in range(2):
    for k in range(40):
      np.testing.assert_allclose(got[b, k], focal[b] * points[b, k, :2] / points[b, k, 2] + center[b], rtol=1e-5)


def test_one_set_of_points_in_many_cameras():
  focal, center = np.float32([800, 900]), np.float32([[100, 90], [10, 20]])
  far = POINTS + np.float32([0, 0, 4])
  got = camera.perspective(far, focal, center)
  for b in range(2):
    np.testing.assert_allclose(got[b], camera.perspective(far, focal[b], center[b]), rtol=1e-6)


def test_batches_need_no_rank_promotion():
  points, two = np.ones((2, 40, 3), np.float32), np.ones((2, 2), np.float32)
  with jax.numpy_rank_promotion("raise"):
    camera.perspective(points, 5000., np.zeros(2, np.float32))
    camera.project_crop(points, np.ones((2, 3), np.float32))
    camera.crop_to_full(np.ones((2, 3), np.float32), two, two[:, 0], two, two[:, 1])
    camera.solve_translation(points, points[..., :2], points[..., 2], 5000., np.zeros(2, np.float32))


def test_crop_to_full_projects_where_the_crop_does():
  """The same pixel either way, to the parallax of a camera of another distance: none for points at pelvis depth."""
  weak = np.float32([[.9, .1, -.05], [.7, -.2, .3]])
  center, side, size = np.float32([[700, 300], [200, 500]]), np.float32([250, 400]), np.float32([[1000, 800]] * 2)
  focal = np.float32([1200, 5000])
  flat = np.broadcast_to(POINTS * np.float32([1, 1, 0]), (2, 40, 3))
  crop = camera.project_crop(flat, weak)  # [-1, 1] of the box
  want = np.asarray(crop) * side[:, None, None] / 2 + center[:, None]
  t = camera.crop_to_full(weak, center, side, size, focal)
  np.testing.assert_allclose(camera.perspective(flat + t[:, None], focal, size / 2), want, atol=.02)


def test_crop_to_full_of_the_same_camera_is_the_crop_camera():
  weak = np.float32([.8, .1, -.2])
  t = camera.crop_to_full(weak, np.float32([112, 112]), np.float32(224), np.float32([224, 224]), np.float32(5000))
  np.testing.assert_allclose(t, camera.weak_to_translation(weak), rtol=1e-6)
  deep = POINTS[None]
  np.testing.assert_allclose(camera.perspective(deep + t, 5000., np.float32([112, 112])),
                             (camera.project_crop(deep, weak) + 1) * 112, atol=1e-3)


def test_least_squares_translation_of_three_points():
  points = np.float32([(0, 0, 0), (.3, .1, .05), (-.2, .5, -.1)])
  pixels = np.float32([(114.2222, 100.8889), (147.5161, 112.0000), (91.9555, 156.5434)])
  t = solve(points, pixels, np.ones(3, np.float32), 5000., np.float32([112, 112]))
  np.testing.assert_allclose(t, [.02, -.1, 45], rtol=1e-4, atol=1e-6)


def test_least_squares_translation_is_the_weighted_normal_equations():
  points, weight = POINTS[:12].astype(np.float64), RNG.uniform(size=12)
  u = 900 * (points[:, :2] + [.3, -.2]) / (points[:, 2:] + 4) + [500, 400] + RNG.normal(size=(12, 2))
  rows, right = [], []
  for (x, y, z), (a, b), w in zip(points, u - [500, 400], weight):
    rows += [np.sqrt(w) * np.array([900, 0, -a]), np.sqrt(w) * np.array([0, 900, -b])]
    right += [np.sqrt(w) * (a * z - 900 * x), np.sqrt(w) * (b * z - 900 * y)]
  want = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
  got = solve(points.astype(np.float32), u.astype(np.float32), weight.astype(np.float32), 900., np.float32([500, 400]))
  np.testing.assert_allclose(got, want, rtol=2e-4)


def test_least_squares_translation_ignores_points_without_confidence():
  t = np.float32([.1, -.3, 30])
  pixels = np.array(camera.perspective(POINTS + t, 5000., np.float32([112, 112])))
  pixels[::2] = 0
  got = solve(POINTS, pixels, np.arange(40, dtype=np.float32) % 2, 5000., np.float32([112, 112]))
  np.testing.assert_allclose(got, t, rtol=2e-4)


@pytest.mark.parametrize("seen", [0, 1])
def test_least_squares_translation_is_finite_without_enough_points(seen):
  weight = np.float32(np.arange(40) < seen)
  args = (POINTS, np.full((40, 2), 50, np.float32), weight, 5000., np.float32([112, 112]))
  assert np.isfinite(solve(*args)).all() and (seen or (np.asarray(solve(*args)) == 0).all())
  assert np.isfinite(jax.jacrev(solve)(*args)).all()
