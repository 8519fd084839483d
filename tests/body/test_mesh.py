"""Meshes: pyramids, normals, charts, collapsing edges, OBJ files."""

import jax
import jax.numpy as jnp
from jhmr.body import joints, mannequin, mesh, remesh, rotations, smpl
import numpy as np
import pytest


@pytest.fixture(scope="module")
def full():
  return mannequin.arrays("full")


@pytest.fixture(scope="module")
def small():
  return mannequin.arrays("small")


def sphere(subdivisions=3):
  return pytest.importorskip("trimesh").creation.icosphere(subdivisions=subdivisions)


def pyramid_of(arrays):
  return mesh.Pyramid(*(jnp.asarray(arrays[k]) for k in ("down_ids", "down_weights", "up_ids", "up_weights")))


def test_normals_match_trimesh_on_a_sphere_and_point_out():
  ball = sphere()
  normals = np.asarray(mesh.vertex_normals(jnp.asarray(ball.vertices, jnp.float32), jnp.asarray(ball.faces)))
  np.testing.assert_allclose(normals, ball.vertices, atol=0.02)
  batch = jnp.stack([jnp.asarray(ball.vertices, jnp.float32)] * 2)[None]
  np.testing.assert_array_equal(mesh.vertex_normals(batch, jnp.asarray(ball.faces))[0, 1], normals)


def test_normals_turn_with_the_mesh(small):
  turn = rotations.rotation_about("x", 0.7)
  v = jnp.asarray(small["v_template"])
  turned = mesh.vertex_normals(v @ turn.T, small["f"])
  np.testing.assert_allclose(turned, mesh.vertex_normals(v, small["f"]) @ turn.T, atol=1e-5)


def test_normals_and_gradients_are_finite_on_a_collapsed_mesh(small):
  total = lambda v: jnp.sum(mesh.vertex_normals(v, small["f"]))
  gradient = jax.grad(total)(jnp.zeros_like(small["v_template"]))
  assert np.isfinite(gradient).all()


def test_pyramid_rows_are_averages(full, small):
  for arrays, coarse in ((full, 1723), (small, 431)):
    assert len(arrays["down_ids"]) == coarse and len(arrays["up_ids"]) == len(arrays["v_template"])
    for way in ("down", "up"):
      assert arrays[f"{way}_weights"].min() >= 0
      np.testing.assert_allclose(arrays[f"{way}_weights"].sum(1), 1, atol=1e-6)
    assert set(arrays["up_ids"][arrays["up_weights"] > 0].tolist()) == set(range(coarse))


def test_pyramid_round_trip_keeps_a_posed_body(full):
  pose = np.zeros((24, 3), np.float32)
  pose[[1, 2]] = (-1.2, 0, 0)
  pose[[4, 5]] = (1.4, 0, 0)
  pose[16:20] = ((0, 0, -1.1), (0, 0, 1.1), (0, -1, 0), (0, 1, 0))
  turns = rotations.axis_angle_to_matrix(jnp.asarray(pose))
  posed = jax.jit(smpl.forward)(smpl.from_arrays(full), jnp.zeros(10), turns)
  there = mesh.downsample(pyramid_of(full), posed.vertices)
  back = mesh.upsample(pyramid_of(full), there)
  error_mm = 1000 * np.linalg.norm(back - posed.vertices, axis=1)
  assert there.shape == (1723, 3)
  assert error_mm.mean() < 3.2 and np.percentile(error_mm, 99) < 18 and error_mm.max() < 70


def test_pyramid_keeps_translations_and_takes_any_axes(small):
  pyramid = pyramid_of(small)
  constant = jnp.full((2, 3, 1402, 5), 0.25)
  there = mesh.downsample(pyramid, constant)
  assert there.shape == (2, 3, 431, 5)
  np.testing.assert_allclose(mesh.upsample(pyramid, there), constant, rtol=1e-6)


def test_pyramid_equals_a_dense_product(small):
  dense = np.zeros((431, 1402))
  np.add.at(dense, (np.arange(431)[:, None], small["down_ids"]), small["down_weights"])
  x = np.random.default_rng(0).normal(size=(1402, 2)).astype(np.float32)
  np.testing.assert_allclose(mesh.downsample(pyramid_of(small), x), dense @ x, atol=1e-5)


def test_collapse_keeps_the_topology_and_the_count():
  ball = sphere()
  for num in (1, 100, 500):
    points, faces, done = remesh.collapse(ball.vertices, ball.faces, num)
    thin = pytest.importorskip("trimesh").Trimesh(points, faces, process=False)
    assert done == num and len(points) == len(ball.vertices) - num and len(faces) == len(ball.faces) - 2 * num
    assert thin.is_watertight and thin.euler_number == 2 and thin.volume > 0.8 * ball.volume


def test_flipping_makes_a_stretched_mesh_delaunay():
  ball = sphere(2)
  points, faces = ball.vertices * [3, 1, 1], np.asarray(ball.faces)
  for _ in range(20):
    faces, count = remesh.flip(points, faces, valence=False)
    if not count:
      break
  after = pytest.importorskip("trimesh").Trimesh(points, faces, process=False)
  before = pytest.importorskip("trimesh").Trimesh(points, ball.faces, process=False)
  assert after.is_watertight and after.euler_number == 2 and after.is_winding_consistent
  assert np.degrees(after.face_angles).max() < np.degrees(before.face_angles).max()


def test_closest_point_of_a_triangle_beats_dense_sampling():
  rng = np.random.default_rng(0)
  corners, p = rng.normal(size=(50, 3, 3)), 2 * rng.normal(size=(50, 3))
  weights = remesh.closest_in_triangle(p, corners)
  assert weights.min() >= 0
  np.testing.assert_allclose(weights.sum(-1), 1)
  found = np.linalg.norm((weights[..., None] * corners).sum(1) - p, axis=1)
  grid = np.array([(i, j, 60 - i - j) for i in range(61) for j in range(61 - i)]) / 60
  sampled = np.linalg.norm(np.einsum("gk,nki->ngi", grid, corners) - p[:, None], axis=2).min(1)
  assert (found <= sampled + 1e-9).all() and (sampled - found).max() < 0.1


def test_chart_is_continuous_inside_faces_and_spans_each_part(full):
  iuv, parts = full["iuv"], full["parts24"]
  np.testing.assert_array_equal(iuv[..., 0], np.repeat(parts[:, None], 3, 1))
  assert iuv[..., 1:].min() >= 0 and iuv[..., 1:].max() <= 1
  for part in range(1, 25):
    u, v = np.moveaxis(iuv[parts == part][..., 1:], -1, 0)
    assert np.ptp(v) > 0.999 and np.ptp(u) > 0.9
    assert np.quantile(np.ptp(u, axis=1), 0.9) < 0.5 and np.ptp(v, axis=1).max() < 0.7
  # Away from the seam, neighbours in a part share the U of their common vertices.
  corner = {}
  for face, part in zip(range(len(parts)), parts):
    for k in range(3):
      corner.setdefault((int(full["f"][face, k]), int(part)), []).append(float(iuv[face, k, 1]))
  jumps = [max(u) - min(u) for u in corner.values()]
  assert np.mean(np.array(jumps) < 1e-6) > 0.9


def test_surface_derives_what_a_file_lacks(full):
  lean = {k: full[k] for k in ("v_template", "f", "weights", "J_regressor")}
  given, derived = mesh.surface(full), mesh.surface(lean)
  for name in ("faces", "parts24", "parts6"):
    np.testing.assert_array_equal(getattr(given, name), getattr(derived, name))
  np.testing.assert_allclose(given.iuv, derived.iuv, atol=2e-2)
  assert given.faces.dtype == jnp.int32 and given.parts24.dtype == jnp.int32


def test_parts_sit_where_their_names_say(full):
  surface = mesh.surface(full)
  center = full["v_template"][full["f"]].mean(1)
  mean = {p: center[np.asarray(surface.parts6) == p].mean(0) for p in range(1, 7)}
  assert mean[1][0] > 0.3 and mean[2][0] < -0.3 and mean[3][1] > 0.3
  assert mean[4][0] > 0.05 and mean[5][0] < -0.05 and mean[4][1] < -0.5 and abs(mean[6][0]) < 0.01
  assert len(joints.SMPL24) == int(surface.parts24.max())


def test_obj_file_reads_back(tmp_path, small):
  mesh.write_obj(tmp_path / "m.obj", small["v_template"], small["f"])
  back = pytest.importorskip("trimesh").load(tmp_path / "m.obj", process=False)
  np.testing.assert_allclose(back.vertices, small["v_template"], atol=1e-6)
  np.testing.assert_array_equal(back.faces, small["f"])
