"""What pixels show: interpolated values, labels and shading against closed forms and loops."""

from body.render_scenes import CENTER, CROWD_WINDOWS, SIZE, crowd, images, people
import jax
import jax.numpy as jnp
from jhmr.body import render
from jhmr.body import rotations
import numpy as np
import pytest


@pytest.fixture(scope="module")
def scene3():
  vertices, faces = crowd(3)
  return vertices, faces, people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)


def test_interpolated_positions_lie_on_the_pixels_ray(scene3):
  vertices, faces, scene = scene3
  at = np.asarray(jax.jit(render.interpolate)(scene, vertices, faces))
  seen = np.asarray(scene.person) >= 0
  rows, columns = np.nonzero(seen)
  np.testing.assert_allclose(at[seen][:, 2], np.asarray(scene.depth)[seen], rtol=1e-5)
  pixels = 90.0 * at[seen][:, :2] / at[seen][:, 2:] + CENTER
  np.testing.assert_allclose(pixels, np.stack([columns, rows], -1) + 0.5, atol=1e-3)
  assert not np.any(at[~seen])


def test_people_left_out_may_be_anything(scene3):
  vertices, faces, _ = scene3
  broken = np.where(np.float32([0, 1, 1])[:, None, None] > 0, vertices, np.nan)

  def total(vertices, valid):
    scene = render.render_people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS, valid)
    colors = jnp.full((3, len(faces), 3), 0.5)
    shaded = render.shade(scene, vertices, faces, colors, jnp.float32([0.1, -0.4, -0.5]), 0.3)
    return jnp.sum(shaded) + jnp.sum(scene.depth) + jnp.sum(render.interpolate(scene, vertices, faces))

  valid = np.float32([0, 1, 1])
  program = jax.jit(jax.value_and_grad(total))
  (whole, gradient), (same, same_gradient) = program(vertices, valid), program(broken, valid)
  assert np.isfinite(whole) and whole == same
  np.testing.assert_array_equal(np.asarray(gradient)[1:], np.asarray(same_gradient)[1:])


def test_labels_and_corner_values_follow_the_face(scene3):
  vertices, faces, scene = scene3
  parts = np.arange(len(faces)) % 24 + 1
  labels = np.asarray(render.part_labels(scene, parts))
  ids = np.asarray(scene.face_ids)
  assert labels.dtype == np.uint8 and np.array_equal(labels, np.where(ids >= 0, parts[ids], 0))
  corner_ids = np.asarray(render.interpolate_corners(scene, np.float32(faces)[..., None]))[..., 0]
  slow = np.sum(faces[np.maximum(ids, 0)] * np.asarray(scene.weights), -1)
  np.testing.assert_allclose(corner_ids, slow, rtol=1e-5)


def test_what_pixels_show_is_the_same_with_a_batch_axis(scene3):
  vertices, faces, _ = scene3
  groups = np.stack([vertices[:2], vertices[1:]])
  colors = np.random.default_rng(0).uniform(size=(2, 2, len(faces), 3)).astype(np.float32)
  light, ambient = np.float32([[0.1, -0.5, -0.6], [0.4, 0.1, -0.3]]), np.float32([0.2, 0.4])
  scene = images(groups, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)
  shade = jax.jit(render.shade)
  whole = shade(scene, groups, faces, colors, light, ambient)
  for i in range(2):
    one = jax.tree.map(lambda x, i=i: x[i], scene)
    np.testing.assert_allclose(whole[i], shade(one, groups[i], faces, colors[i], light[i], ambient[i]), atol=1e-6)


def sphere(num_rings=24):
  """A unit sphere of (2 num_rings) meridians, faces counter-clockwise seen from outside."""
  theta, phi = np.meshgrid(np.linspace(0.02, np.pi - 0.02, num_rings), np.arange(2 * num_rings) * np.pi / num_rings,
                           indexing="ij")
  points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1).reshape(-1, 3)
  i, j = (x.ravel() for x in np.indices((num_rings - 1, 2 * num_rings)))
  at = lambda i, j: i * 2 * num_rings + j % (2 * num_rings)
  faces = np.concatenate([np.stack([at(i, j), at(i + 1, j), at(i + 1, j + 1)], -1),
                          np.stack([at(i, j), at(i + 1, j + 1), at(i, j + 1)], -1)])
  return points.astype(np.float32), faces.astype(np.int32)


@pytest.mark.parametrize("inside_out", [False, True])
def test_a_sphere_is_shaded_by_lambert(inside_out):
  points, faces = sphere()
  points = points @ np.asarray(rotations.rotation_about("x", 1.0)).T  # the open poles out of sight
  vertices = (points + np.float32([0, 0, 6]))[None]
  faces = faces[:, ::-1] if inside_out else faces
  light, ambient, color = np.float32([0.3, -0.4, -0.5]), 0.2, np.float32([0.9, 0.6, 0.3])
  scene = people(vertices, faces, 150.0, CENTER, SIZE, render.Windows(6, 12, 400))
  assert int(scene.overflow) == 0
  colors = np.broadcast_to(color, (1, len(faces), 3))
  shaded = np.asarray(jax.jit(render.shade)(scene, vertices, faces, colors, light, ambient))
  rows, columns = np.nonzero(np.asarray(scene.person) >= 0)
  ray = np.stack([(columns + 0.5 - 40) / 150, (rows + 0.5 - 32) / 150, np.ones(len(rows))], -1)
  # |s ray - center| = 1, the nearer root; the normal is the point minus the centre.
  a, b = np.sum(ray * ray, -1), ray[:, 2] * 6
  root = np.sqrt(np.maximum(b * b - a * 35, 0))
  normal = ray * ((b - root) / a)[:, None] - [0, 0, 6]
  wanted = color * (ambient + np.maximum(normal @ light, 0))[:, None]
  inner = root > 0.6  # away from the rim, where a polyhedron is no sphere
  assert inner.sum() > 500
  np.testing.assert_allclose(shaded[rows, columns][inner], wanted[inner], atol=0.012)
  assert not np.any(shaded[np.asarray(scene.person) < 0])


def test_shading_has_finite_gradients(scene3):
  vertices, faces, _ = scene3
  colors = np.full((3, len(faces), 3), 0.5, np.float32)

  def total(vertices, light, ambient):
    scene = render.render_people(vertices, faces, 90.0, CENTER, SIZE, CROWD_WINDOWS)
    return jnp.mean(render.shade(scene, vertices, faces, colors, light, ambient))

  gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(vertices, np.float32([0.1, -0.4, -0.5]), np.float32(0.3))
  for g in gradients:
    assert np.all(np.isfinite(g)) and np.any(g)
