"""The rasteriser against closed forms, ray casting, finite differences and loops over people."""

import functools

from body.render_scenes import CENTER, CROWD_WINDOWS, SIZE, crowd, flat, images, people, person
import jax
import jax.numpy as jnp
from jhmr.body import raster
from jhmr.body import render
from jhmr.body import rotations
import numpy as np
import pytest


# Against rays

@pytest.mark.parametrize("depth_m", [2.5, 4.2, 14.0])
def test_depth_coverage_and_faces_match_ray_casting(depth_m):
  trimesh = pytest.importorskip("trimesh")
  pytest.importorskip("embreex")
  vertices, faces = person("full")
  vertices = vertices + np.float32([0.1, 0.05, depth_m])
  size, focal, center = (256, 208), 300.0, np.float32([104, 128])
  windows = render.choose_windows(vertices, faces, focal, 2.0)
  scene = people(vertices[None], faces, focal, center, size, windows)
  assert int(scene.overflow) == 0
  columns, rows = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
  rays = np.stack([(columns - center[0]) / focal, (rows - center[1]) / focal, np.ones(size)], -1).reshape(-1, 3)
  mesh = trimesh.Trimesh(vertices, faces, process=False)
  hit = mesh.ray.intersects_first(np.zeros_like(rays), rays)
  ours = np.asarray(scene.face_ids).ravel()
  edge = _near_silhouette(np.asarray(scene.person) >= 0).ravel()
  assert np.array_equal((hit >= 0)[~edge], (ours >= 0)[~edge])
  assert np.mean((hit >= 0) != (ours >= 0)) < 1e-4
  both = (hit >= 0) & (ours >= 0)
  same = both & (hit == ours)
  assert same.sum() > 0.999 * both.sum() and both.sum() > 200
  # Depth of the ray in the plane of the face it hit, in float64: where both see one surface.
  a, b, c = (vertices[faces[hit[both]]].astype(np.float64)[:, k] for k in range(3))
  normal = np.cross(b - a, c - a)
  depth = np.sum(a * normal, -1) / np.sum(rays[both] * normal, -1)
  error = np.abs(np.asarray(scene.depth).ravel()[both] - depth)
  assert error[hit[both] == ours[both]].max() < 1e-4
  assert np.mean(error > 1e-4) < 1e-3


def _near_silhouette(mask):
  grown = np.pad(mask, 1, mode="edge")
  shifted = [grown[1 + i:grown.shape[0] - 1 + i, 1 + j:grown.shape[1] - 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
  return np.any(shifted, 0) != np.all(shifted, 0)


# Closed forms

TRIANGLE_PX = np.float32([[3.2, 5.1], [20.7, 8.4], [9.3, 25.9]])
TRIANGLE_Z = np.float32([2.0, 3.0, 4.5])


def _exact(points_px, z, rows, columns):
  """Barycentrics and depth in float64 at pixel centres, from the linear system of each pixel."""
  system = np.concatenate([points_px.T, np.ones((1, 3))]).astype(np.float64)
  at = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
  screen = np.linalg.solve(system, at)  # [3, pixels]
  depth = 1 / np.sum(screen / z[:, None], 0)
  return screen, depth, screen / z[:, None] * depth


def test_one_triangle_is_exact_at_pixel_centres():
  out = flat(TRIANGLE_PX, TRIANGLE_Z, np.int32([[0, 1, 2]]), SIZE, render.Windows(4, 24, 1))
  rows, columns = (i.ravel() for i in np.indices(SIZE))
  screen, depth, weights = _exact(TRIANGLE_PX, TRIANGLE_Z, rows, columns)
  inside = np.all(screen >= 0, 0)
  assert np.array_equal(np.asarray(out.face_ids).ravel() == 0, inside) and inside.sum() > 100
  np.testing.assert_allclose(np.asarray(out.depth).ravel()[inside], depth[inside], rtol=1e-6)
  np.testing.assert_allclose(np.asarray(out.weights).reshape(-1, 3)[inside], weights.T[inside], atol=1e-6)
  assert np.all(np.asarray(out.depth).ravel()[~inside] == render.BACKGROUND_M) and not np.any(
      np.asarray(out.weights).reshape(-1, 3)[~inside])


def test_both_sides_are_drawn_and_cull_drops_the_inside():
  windows, faces = render.Windows(4, 24, 1), np.int32([[0, 1, 2]])
  there, back = (flat(TRIANGLE_PX, TRIANGLE_Z, f, SIZE, windows) for f in (faces, faces[:, ::-1]))
  assert np.array_equal(there.face_ids, back.face_ids)
  np.testing.assert_allclose(there.depth, back.depth, rtol=1e-6)
  drawn = [np.any(flat(TRIANGLE_PX, TRIANGLE_Z, f, SIZE, windows, cull=True).face_ids >= 0)
           for f in (faces, faces[:, ::-1])]
  assert drawn == [False, True]  # pixels run x right, y down: this triangle runs clockwise seen from behind


@pytest.mark.parametrize("diagonal", [0, 1])
def test_faces_sharing_an_edge_leave_no_hole_and_no_double_winner(diagonal):
  square = np.float32([[2.5, 2.5], [18.5, 2.5], [18.5, 18.5], [2.5, 18.5]])  # the diagonal runs through pixel centres
  faces = np.int32([[[0, 1, 2], [0, 2, 3]], [[1, 2, 3], [3, 0, 1]]][diagonal])
  z, windows = np.full(4, 2, np.float32), render.Windows(4, 24, 2)
  ids = np.asarray(flat(square, z, faces, SIZE, windows).face_ids)
  box = np.zeros(SIZE, bool)
  box[2:19, 2:19] = True
  assert np.array_equal(ids >= 0, box)
  alone = [np.asarray(flat(square, z, np.stack([f, f]), SIZE, windows).face_ids) >= 0 for f in faces]
  assert (alone[0] & alone[1]).sum() == 17  # the shared edge
  assert np.array_equal(ids == 0, alone[0])  # equal depths: the lower id wins


@pytest.mark.parametrize("grid", [None, 4, 3])
def test_a_crooked_sheet_has_no_cracks(grid):
  """Corners on quarters put edges exactly through pixel centres; on thirds, through them but for rounding."""
  rng, n = np.random.default_rng(0), 40
  y, x = np.meshgrid(np.linspace(-3, 68, n), np.linspace(-3, 84, n), indexing="ij")
  points = (np.stack([x, y], -1) + rng.uniform(-0.6, 0.6, (n, n, 2))).reshape(-1, 2)
  points = points if grid is None else np.round(points * grid) / grid
  corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
  faces = np.concatenate([np.stack([corner, corner + 1, corner + n], -1),
                          np.stack([corner + n + 1, corner + n, corner + 1], -1)]).astype(np.int32)
  z = rng.uniform(2, 3, n * n).astype(np.float32)
  out = flat(points.astype(np.float32), z, faces, SIZE, render.Windows(4, 8, 200))
  assert int(out.overflow) == 0 and np.all(np.asarray(out.face_ids) >= 0)
  assert 2 <= float(out.depth.min()) and float(out.depth.max()) <= 3


def test_a_shift_by_whole_pixels_shifts_the_faces():
  vertices, faces = person("small")
  points = np.round((vertices[:, :2] * 25 + [38, 30]) * 256).astype(np.float32) / 256  # shifts stay exact in float32
  windows = render.Windows(3, 6, 300)
  here, there = (flat(points + np.float32(s), vertices[:, 2] + 5, faces, SIZE, windows) for s in ((0, 0), (7, -5)))
  assert np.array_equal(np.asarray(here.face_ids)[5:, :-7], np.asarray(there.face_ids)[:-5, 7:])
  np.testing.assert_allclose(np.asarray(here.depth)[5:, :-7], np.asarray(there.depth)[:-5, 7:], rtol=1e-6)
  assert int(here.overflow) == int(there.overflow) == 0


# Windows

def test_windows_too_small_are_reported_and_the_back_shows_through():
  vertices, faces = person("small")
  vertices = vertices + np.float32([0, 0, 3])
  draw = lambda windows: people(vertices[None], faces, 90.0, CENTER, SIZE, windows)
  good, bad = draw(CROWD_WINDOWS), draw(render.Windows(1, 2, 300))
  assert int(good.overflow) == 0 and int(bad.overflow) > 50
  both = (np.asarray(good.face_ids) >= 0) & (np.asarray(bad.face_ids) >= 0)
  assert np.max((np.asarray(bad.depth) - np.asarray(good.depth))[both]) > 0.1


def test_overflow_counts_each_lost_face_once():
  def needs(side, at):  # a triangle that needs a window of side x side pixels
    return np.float32([[at + 0.2, 1.2], [at + side - 0.2, 1.2], [at + 0.2, 1.2 + side - 0.4]])
  points = np.concatenate([needs(2, 1), needs(5, 5), needs(6, 12), needs(7, 20), needs(12, 30), needs(12, 44)])
  faces, z = np.arange(18, dtype=np.int32).reshape(-1, 3), np.full(18, 2, np.float32)
  lost = lambda *windows: int(flat(points, z, faces, SIZE, render.Windows(*windows)).overflow)
  assert [lost(2, 12, 5), lost(2, 12, 3), lost(2, 8, 3), lost(2, 8, 1)] == [0, 2, 2, 4]
  assert [lost(2, 2, 0), lost(12, 12, 0), lost(6, 8, 0)] == [5, 0, 3]


@pytest.mark.parametrize("seed", range(3))
def test_chosen_windows_hold_every_face(seed):
  vertices, faces = person("small")
  turn = np.asarray(rotations.axis_angle_to_matrix(np.random.default_rng(seed).normal(size=3) * 2))
  vertices = (vertices @ turn.T).astype(np.float32)
  vertices[:, 2] += 2.2 - vertices[:, 2].min()
  windows = render.choose_windows(person("small")[0], faces, 90.0, 2.2)
  assert windows.small <= windows.large <= 6
  assert int(people(vertices[None], faces, 90.0, CENTER, SIZE, windows).overflow) == 0


def test_cheapest_windows_has_least_work():
  sides = np.array([1, 2, 2, 3, 3, 3, 9, 10])
  work = lambda w: len(sides) * (w.small**2 + 5 * (w.num_large > 0)) + w.num_large * w.large**2
  best = raster.cheapest_windows(sides)
  every = [render.Windows(s, 10, int((sides > s).sum())) for s in range(1, 11)]
  assert work(best) == min(map(work, every)) and best.num_large == (sides > best.small).sum()


# Gradients

@functools.partial(jax.jit, static_argnums=(3,))
def depth_gradient(vertices, faces, weights, windows=CROWD_WINDOWS, valid=None):
  def total(v):
    scene = render.render_people(v, faces, 90.0, CENTER, SIZE, windows, valid)
    return jnp.sum(jnp.where(scene.person >= 0, scene.depth, 0) * weights), scene
  return jax.value_and_grad(total, has_aux=True)(vertices)


def _frozen_sum(vertices, faces, scene, weights):
  """Weighted sum of depths in float64 by ray-plane intersection, visibility frozen; and where pixels are drawn."""
  rows, columns = np.nonzero(np.asarray(scene.person) >= 0)
  ids = faces[np.asarray(scene.face_ids)[rows, columns]]
  a, b, c = (vertices[np.asarray(scene.person)[rows, columns], ids[:, k]] for k in range(3))
  ray = np.stack([(columns + 0.5 - CENTER[0]) / 90.0, (rows + 0.5 - CENTER[1]) / 90.0, np.ones(len(rows))], -1)
  normal = np.cross(b - a, c - a)
  return np.sum(weights[rows, columns] * np.sum(a * normal, -1) / np.sum(ray * normal, -1))


def test_gradient_of_depth_is_that_of_finite_differences_with_frozen_faces():
  vertices, faces = crowd(2)
  scene = people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)
  # Pixels of faces nearly edge-on are left out: their derivatives are huge and drown the others in float32.
  steep = np.abs(np.gradient(np.where(np.asarray(scene.person) >= 0, scene.depth, np.nan))).max(0)
  weights = (steep < 0.05).astype(np.float32)
  assert weights.sum() > 300
  (value, scene), gradient = depth_gradient(vertices, faces, weights)
  gradient, exact = np.asarray(gradient, np.float64), vertices.astype(np.float64)
  total = lambda v: _frozen_sum(v, faces, scene, weights)
  np.testing.assert_allclose(float(value), total(exact), rtol=1e-5)
  for direction in (*np.eye(3), *np.random.default_rng(0).normal(size=(3, *vertices.shape))):
    direction = np.broadcast_to(direction, vertices.shape)
    numeric = (total(exact + 1e-6 * direction) - total(exact - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-3, atol=1e-4 * np.abs(gradient).sum())


def test_gradient_is_finite_and_zero_where_nothing_is_seen():
  vertices = np.float32([[0, 0, 2], [0.3, 0, 2], [0, 0.3, 2],               # seen
                         [0.1, 0.1, 1], [0.1, 0.1, 1], [0.1, 0.1, 1],        # a point
                         [-0.2, -0.2, 2], [-0.1, -0.1, 2], [0.2, 0.2, 2],    # a line
                         [0, 0, -1], [0.3, 0, 2], [0, 0.3, 0],               # across and on the camera plane
                         [np.nan, 0, 2], [np.inf, 0, 2], [0, 0, np.inf],     # not numbers
                         [5, 5, 2], [6, 5, 2], [5, 6, 2]])                   # outside the image
  faces = np.arange(18, dtype=np.int32).reshape(-1, 3)
  ones, windows = np.ones(SIZE, np.float32), render.Windows(4, 20, 4)
  for order in (faces, faces[::-1], faces[1:]):
    (value, scene), gradient = depth_gradient(vertices[None], order, ones, windows)
    gradient = np.asarray(gradient[0])
    assert np.isfinite(value) and np.all(np.isfinite(gradient)) and int(scene.overflow) == 0
    assert not np.any(gradient[3:])
    assert np.any(gradient[:3]) == (len(order) == 6)
  _, hidden = depth_gradient(vertices[None], faces, ones, windows, np.zeros(1))
  assert not np.any(hidden)


def test_points_in_pixels_may_be_anything_behind_the_camera():
  def total(points, depth):
    out = render.rasterize(points, depth, np.int32([[0, 1, 2], [3, 4, 5]]), SIZE, render.Windows(4, 24, 2))
    return jnp.sum(out.depth), out.face_ids
  points = np.concatenate([np.float32([[np.nan, 0], [np.inf, -np.inf], [1e38, 2]]), TRIANGLE_PX])
  depth = np.concatenate([np.float32([-1, 0, np.nan]), TRIANGLE_Z])
  gradients, ids = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(points, depth)
  assert set(np.unique(ids)) == {-1, 1}
  for g in gradients:
    assert np.all(np.isfinite(g)) and not np.any(g[:3]) and np.any(g[3:])


# Several people, several images

def test_the_nearest_person_wins_and_masks_leave_people_out():
  vertices, faces = crowd(3)
  alone = [people(v[None], faces, 90.0, CENTER, SIZE, CROWD_WINDOWS) for v in vertices]
  assert all(int(a.overflow) == 0 for a in alone)
  depths = np.stack([np.where(a.person >= 0, a.depth, np.inf) for a in alone])
  for mask in ([1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]):
    scene = people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS, np.float32(mask))
    masked = np.where(np.array(mask, bool)[:, None, None], depths, np.inf)
    seen = np.isfinite(masked.min(0))
    assert np.array_equal(scene.person, np.where(seen, masked.argmin(0), -1))
    np.testing.assert_allclose(scene.depth, np.where(seen, masked.min(0), render.BACKGROUND_M), rtol=1e-6)
    ids = np.take_along_axis(np.stack([a.face_ids for a in alone]), masked.argmin(0)[None], 0)[0]
    assert np.array_equal(scene.face_ids, np.where(seen, ids, -1))
  assert len({tuple(np.unique(a.person)) for a in alone}) == 1


def test_every_mask_runs_the_same_program():
  vertices, faces = crowd(3)
  program = jax.jit(lambda v, m: render.render_people(v, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS, m).depth)
  for mask in ([1, 1, 1], [0, 1, 0], [0, 0, 0]):
    program(vertices, np.float32(mask))
  assert program._cache_size() == 1


def test_a_batch_is_its_images_one_by_one():
  vertices, faces = crowd(4)
  vertices = vertices.reshape(2, 2, -1, 3)
  focal, center, valid = np.float32([90, 80]), np.float32([[40, 32], [36, 30]]), np.float32([[1, 1], [0, 1]])
  batch = images(vertices, faces, focal, center, SIZE, CROWD_WINDOWS, valid)
  for i in range(2):
    one = people(vertices[i], faces, focal[i], center[i], SIZE, CROWD_WINDOWS, valid[i])
    for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(one)):
      np.testing.assert_allclose(ours[i], theirs, rtol=1e-6, atol=1e-6)


def test_vmap_over_images_is_the_batch():
  vertices, faces = crowd(2)
  draw = lambda v: render.render_people(v, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)
  mapped = jax.jit(jax.vmap(draw))(vertices[:, None])
  batch = images(vertices[:, None], faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)
  for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(mapped)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-4)


def test_jit_changes_nothing():
  vertices, faces = crowd(2)
  eager = render.render_people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)
  jitted = people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)
  assert np.mean(np.asarray(eager.face_ids) != np.asarray(jitted.face_ids)) < 1e-3  # ties at edges, rounded apart
  np.testing.assert_allclose(eager.depth, jitted.depth, rtol=1e-5)
  assert np.array_equal(eager.person, jitted.person) and int(eager.overflow) == int(jitted.overflow)


def test_cull_leaves_the_picture_of_a_closed_mesh():
  vertices, faces = crowd(2)
  both = people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)
  half = people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS, cull=True)
  assert np.array_equal(both.person, half.person)
  assert np.mean(np.abs(np.asarray(both.depth) - np.asarray(half.depth)) > 1e-3) < 1e-3


def test_wrong_shapes_and_too_many_faces_are_refused():
  with pytest.raises(ValueError, match=r"\[N, 2\]"):
    render.rasterize(np.zeros((4, 3)), np.ones(4), np.zeros((1, 3), np.int32), SIZE)
  with pytest.raises(ValueError, match=r"\[B, P, N, 3\]"):
    render.render_people(np.zeros((4, 3)), np.zeros((1, 3), np.int32), 90.0, CENTER, SIZE)
  with pytest.raises(ValueError, match="65,536"):
    render.rasterize(np.zeros((4, 2)), np.ones(4), np.zeros((70000, 3), np.int32), SIZE)
