"""Pictures of people inside jit: depth, which face and which person each pixel sees, part labels, shaded colour.

Camera frame: x right, y down, z forward, metres. Pixel (row r, column c) is sampled at (c + 0.5, r + 0.5) pixels.
How a pixel finds its face, and why windows have sizes, is told in `body.raster`. Depth and barycentric weights are
differentiable in the vertices through the face each pixel sees; which face that is has no gradient.
"""

import math

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
from jhmr.body import camera
from jhmr.body import mesh
from jhmr.body import raster
from jhmr.body.raster import BACKGROUND_M, NEAR_M, Windows, choose_windows  # noqa: F401, callers look here


@struct.dataclass
class Raster:
  """What each pixel sees of one mesh."""
  face_ids: jax.Array  # [H, W] int32, -1 where empty
  depth: jax.Array     # [H, W] metres along z, BACKGROUND_M where empty
  weights: jax.Array   # [H, W, 3] perspective-correct barycentrics of the face's corners, 0 where empty
  overflow: jax.Array  # [] int32, faces not fully drawn


@struct.dataclass
class Scene:
  """What each pixel sees of several people; from `render_batch` everything has an axis B in front."""
  person: jax.Array    # [H, W] int32, -1 where empty
  face_ids: jax.Array  # [H, W] int32, -1 where empty
  depth: jax.Array     # [H, W] metres along z, BACKGROUND_M where empty
  weights: jax.Array   # [H, W, 3] perspective-correct barycentrics of the face's corners, 0 where empty
  overflow: jax.Array  # [] int32, faces not fully drawn, over all people


def rasterize(points_px, depth, faces, size, windows=Windows(), cull=False):
  """Draws one mesh, both sides of every face.

  Args:
    points_px: [N, 2] projected vertices (x, y) in pixels.
    depth: [N] their z in metres; a face with a corner at z <= NEAR_M, or not finite, is not drawn.
    faces: [F, 3] int, F <= 65,536.
    size: (H, W), static.
    windows: Windows, static.
    cull: leave out faces turned away; for closed meshes whose faces run counter-clockwise seen from outside.
  Returns:
    Raster.
  Raises:
    ValueError: on shapes that do not fit, or too many faces.
  Source: gradient d z/d z_k = w_k z^2/z_k^2 plus the screen-space terms, as Jiang et al. 2020 (neural_renderer).
  Differs: no limit of 512 faces a block, no square canvas, nobody dropped beyond 100 m.
  """
  points_px, depth = jnp.asarray(points_px), jnp.asarray(depth)
  if points_px.ndim != 2 or points_px.shape[-1] != 2 or depth.shape != points_px.shape[:1]:
    raise ValueError(f"points_px must be [N, 2] and depth [N], got {points_px.shape} and {depth.shape}")
  points = jnp.concatenate([points_px, depth[:, None]], -1)[None]
  _, ids, overflow = raster.visible(points, faces, size, windows, cull)
  z, weights = raster.recompute(points, faces, ids)
  return Raster(ids[0], z[0], weights[0], overflow[0])


def render_people(vertices_cam, faces, focal_px, center_px, size, windows=Windows(), valid=None, cull=False):
  """Draws P people of one topology; the nearest wins each pixel.

  Args:
    vertices_cam: [P, N, 3] metres, camera frame.
    faces: [F, 3] int.
    focal_px: [] focal length in pixels.
    center_px: [2] principal point in pixels.
    size: (H, W), static.
    windows: Windows, static, of every person.
    valid: [P] people to draw; all when None. The program is the same for every mask.
    cull: as in `rasterize`.
  Returns:
    Scene, its depth and weights differentiable in vertices_cam, focal_px and center_px.
  """
  batch = lambda x: None if x is None else jnp.asarray(x)[None]
  scene = render_batch(batch(vertices_cam), faces, focal_px, center_px, size, windows, batch(valid), cull)
  return jax.tree.map(lambda x: x[0], scene)


def render_batch(vertices_cam, faces, focal_px, center_px, size, windows=Windows(), valid=None, cull=False):
  """`render_people` for B images at once: cheaper on CPU than a map over them, and no dearer than `vmap`.

  Args:
    vertices_cam: [B, P, N, 3] metres, camera frame.
    focal_px: [] or [B].
    center_px: [2] or [B, 2].
    valid: [B, P] or None.
  Returns:
    Scene with a leading axis B.
  """
  vertices_cam = jnp.asarray(vertices_cam)
  if vertices_cam.ndim != 4 or vertices_cam.shape[-1] != 3:
    raise ValueError(f"vertices_cam must be [B, P, N, 3], got {vertices_cam.shape}")
  num_images, num_people, num_vertices = vertices_cam.shape[:3]
  points = raster.keep(_project(vertices_cam, focal_px, center_px), faces)
  if valid is not None:
    points = jnp.where(jnp.asarray(valid)[..., None, None] > 0, points, -1.0)

  def draw(nearest, one):
    index, points = one
    depth, ids, overflow = raster.visible(points, faces, size, windows, cull)
    closer = depth < nearest[0]
    return tuple(jnp.where(closer, new, old) for new, old in zip((depth, index, ids), nearest)), overflow

  empty = jnp.full((num_images, *size), -1, jnp.int32)
  start = jnp.full(empty.shape, jnp.inf, points.dtype), empty, empty
  # One person after another: the memory of one, and each keeps all the bits of the key for its own depth range.
  people = jnp.arange(num_people, dtype=jnp.int32), lax.stop_gradient(jnp.moveaxis(points, 1, 0))
  (_, person, ids), overflow = lax.scan(draw, start, people)
  depth, weights = raster.recompute(points.reshape(num_images, -1, 3), faces, ids, person * num_vertices)
  return raster.keep(Scene(person, ids, depth, weights, jnp.sum(overflow, 0)), faces)


def _project(vertices_cam, focal_px, center_px):
  """[B, P, N, 3] metres -> (x, y) pixels and z metres; points not in front of the camera become -1."""
  front = (vertices_cam[..., 2:] > NEAR_M) & jnp.all(jnp.isfinite(vertices_cam), -1, keepdims=True)
  safe = jnp.where(front, vertices_cam, 1.0)
  per_person = lambda x, axes: x if x.ndim == axes else x[:, None]
  focal, center = per_person(jnp.asarray(focal_px), 0), per_person(jnp.asarray(center_px), 1)
  pixels = camera.perspective(safe, focal, center)
  return jnp.where(front, jnp.concatenate([pixels, safe[..., 2:]], -1), -1.0)


# What pixels show. Every function takes a Scene with or without the batch axis, and vertices to match.

def interpolate(scene, values, faces):
  """Per-vertex values at the pixels, perspective-correct.

  Args:
    scene: Scene [..., H, W].
    values: [..., P, N, C] of each person's vertices.
    faces: [F, 3] int.
  Returns:
    [..., H, W, C]; 0 where empty.
  """
  values = raster.keep(jnp.asarray(values), faces)
  corner = lambda k: _of_people(values, scene, jnp.asarray(faces, jnp.int32)[:, k].at[scene.face_ids].get(mode="clip"))
  mixed = sum(scene.weights[..., k, None] * corner(k) for k in range(3))
  return jnp.where(scene.person[..., None] >= 0, mixed, 0.0)  # a hidden vertex may be no number


def _of_people(values, scene, index):
  """values [..., P, M, C] of each pixel's person at index [..., H, W] -> [..., H, W, C]; anything where empty."""
  *lead, num_people, num_rows, channels = values.shape
  image = jnp.arange(math.prod(lead)).reshape(*lead, 1, 1)
  rows = (image * num_people + jnp.maximum(scene.person, 0)) * num_rows + jnp.maximum(index, 0)
  return values.reshape(-1, channels).at[rows].get(mode="clip")


def interpolate_corners(scene, values):
  """Values that differ between the faces of a vertex, as texture does: [F, 3, C] -> [..., H, W, C], 0 where empty."""
  at = jnp.asarray(values).at[jnp.maximum(scene.face_ids, 0)].get(mode="clip")  # [..., H, W, 3, C]
  return jnp.sum(scene.weights[..., None] * at, -2)


def part_labels(scene, parts):
  """Body part of each pixel: parts [F] in 1..255 -> [..., H, W] uint8, 0 where empty."""
  labels = jnp.asarray(parts).astype(jnp.uint8).at[jnp.maximum(scene.face_ids, 0)].get(mode="clip")
  return jnp.where(scene.face_ids >= 0, labels, 0)


def shade(scene, vertices_cam, faces, face_colors, light, ambient):
  """Lambert shading, smooth across faces, of matt people under one distant light and an ambient one.

  Args:
    scene: Scene [..., H, W].
    vertices_cam: [..., P, N, 3] metres, camera frame, faces counter-clockwise seen from outside.
    faces: [F, 3] int.
    face_colors: [..., P, F, 3] RGB in 0..1.
    light: [..., 3] direction towards the light in the camera frame, its length the strength: (0, 0, -1) is a lamp
      on the camera that adds up to 1.
    ambient: [...] strength of the light from everywhere.
  Returns:
    [..., H, W, 3] colour times (ambient + max(0, normal . light)), clipped to 0..1; 0 where empty. Faces seen from
    inside are lit on that side.
  """
  vertices_cam, light = jnp.asarray(vertices_cam), jnp.asarray(light)
  # The cosine is linear in the normal, so interpolating it is Phong shading but for the length of the normal.
  cosine = jnp.sum(mesh.vertex_normals(vertices_cam, faces) * light[..., None, None, :], -1, keepdims=True)
  front = raster.keep(_front_faces(vertices_cam, faces), faces)
  color = _of_people(jnp.concatenate([jnp.broadcast_to(face_colors, (*front.shape, 3)), front[..., None]], -1),
                     scene, scene.face_ids)
  lit = jnp.maximum(interpolate(scene, cosine, faces) * color[..., 3:], 0.0)
  shaded = jnp.clip(color[..., :3] * (jnp.asarray(ambient)[..., None, None, None] + lit), 0.0, 1.0)
  return jnp.where(scene.face_ids[..., None] >= 0, shaded, 0.0)


def _front_faces(vertices_cam, faces):
  """[..., F], 1 where a face shows its outside to the camera, -1 where its inside: v0 . (v1 x v2) < 0 outside."""
  a, b, c = (vertices_cam[..., jnp.asarray(faces)[:, k], :] for k in range(3))
  volume = (a[..., 0] * (b[..., 1] * c[..., 2] - b[..., 2] * c[..., 1])
            + a[..., 1] * (b[..., 2] * c[..., 0] - b[..., 0] * c[..., 2])
            + a[..., 2] * (b[..., 0] * c[..., 1] - b[..., 1] * c[..., 0]))
  return jnp.where(volume < 0, 1.0, -1.0).astype(vertices_cam.dtype)
