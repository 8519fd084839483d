"""Scenes the rendering tests share, and the renderer compiled once for them."""

import functools

import jax
from jhmr.body import mannequin
from jhmr.body import render
from jhmr.body import rotations
from jhmr.body import smpl
import numpy as np

SIZE = (64, 80)
CENTER = np.float32([40, 32])


@functools.cache
def person(size):
  """(vertices [N, 3] centred at the origin, faces) of a walking mannequin in the camera frame, facing the camera."""
  arrays = mannequin.arrays(size)
  pose = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
  bent = (1, "x", -0.6), (2, "x", 0.4), (4, "x", 0.5), (16, "z", -1.1), (17, "z", 1.2), (19, "y", 1.0)
  for joint, axis, angle in bent:
    pose[joint] = rotations.rotation_about(axis, angle)
  pose[0] = rotations.rotation_about("y", 0.5)
  posed = smpl.forward(smpl.from_arrays(arrays), np.zeros(10, np.float32), pose)
  vertices = np.asarray(posed.vertices) * np.float32([1, -1, -1])
  return vertices - (vertices.min(0) + vertices.max(0)) / 2, arrays["f"].astype(np.int32)


@functools.partial(jax.jit, static_argnums=(3, 4), static_argnames=("cull",))
def flat(points, depth, faces, size, windows, cull=False):
  return render.rasterize(points, depth, faces, size, windows, cull)


@functools.partial(jax.jit, static_argnums=(4, 5), static_argnames=("cull",))
def people(vertices, faces, focal, center, size, windows, valid=None, cull=False):
  return render.render_people(vertices, faces, focal, center, size, windows, valid, cull)


images = jax.jit(render.render_batch, static_argnums=(4, 5))


def crowd(num):
  """[P, N, 3] small mannequins, partly in front of each other, for SIZE and a focal length of 90 px."""
  vertices, faces = person("small")
  places = np.float32([[-0.5, 0, 3.0], [0.1, 0.1, 4.0], [0.5, 0, 2.6], [0, 0, 5]])[:num]
  return vertices + places[:, None], faces


CROWD_WINDOWS = render.Windows(3, 6, 300)
