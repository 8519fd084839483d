"""Rendering rows: a scene of three people beside ray casting of the same view, and a batch of small crops.

Each function returns {"name", "unit", "ours", "peer", "peer_name", "flops_per_item", "bytes_per_item"}; rates are
images per second. FLOPs count 30 for each pixel test of a window and 40 for each pixel's recomputation; bytes count
the vertices in and the maps out, not what passes between.
"""

import functools

import jax
import jax.numpy as jnp
from jhmr.benchmarks import timing
from jhmr.body import render
from jhmr.body import smpl
import numpy as np

_SCENE = {"size": (512, 832), "focal": 1000.0, "places": ((-0.8, 0.3, 4.2), (0.0, 0.3, 5.0), (0.7, 0.4, 6.0))}
_CROPS = {"size": (96, 96), "focal": 200.0, "batch": 64}


def scene(seconds=3.0):
  """512 x 832 images per second of three full mannequins: projection, depth, faces, weights, nearest person."""
  body, faces = _body("mannequin")
  vertices = body + np.float32(_SCENE["places"])[:, None]
  size, focal = _SCENE["size"], _SCENE["focal"]
  center = np.float32([size[1] / 2, size[0] / 2])
  windows = render.choose_windows(body, faces, focal, vertices[..., 2].min())
  program = jax.jit(render.render_people, static_argnums=(4, 5))
  on_device = [jnp.asarray(x) for x in (vertices, faces, focal, center)]
  _check(program(*on_device, size, windows))
  functions = {"ours": lambda: jax.block_until_ready(program(*on_device, size, windows))}
  if timing.installed("trimesh", "embreex"):
    functions["peer"] = _ray_caster(vertices, faces, focal, center, size)
  return _row("scene 512x832, 3 people", functions, 1, seconds, vertices, faces, windows, size, "trimesh + Embree")


def crops(seconds=3.0):
  """96 x 96 images per second, 64 at a time, each of one small mannequin: depth, faces, weights and shaded colour."""
  body, faces = _body("mannequin_small")
  rng = np.random.default_rng(0)
  places = rng.uniform((-0.2, -0.1, 4.2), (0.2, 0.5, 6.0), (_CROPS["batch"], 3)).astype(np.float32)
  vertices = body + places[:, None, None]
  colors = rng.uniform(size=(_CROPS["batch"], 1, len(faces), 3)).astype(np.float32)
  light = np.tile(np.float32([[-0.4, -0.5, -0.6]]), (_CROPS["batch"], 1))
  ambient = np.full(_CROPS["batch"], 0.3, np.float32)
  windows = render.choose_windows(body, faces, _CROPS["focal"], vertices[..., 2].min())
  on_device = [jnp.asarray(x) for x in (vertices, faces, colors, light, ambient)]
  _check(_shaded(*on_device, windows)[0])
  functions = {"ours": lambda: jax.block_until_ready(_shaded(*on_device, windows))}
  return _row("crops 96x96", functions, _CROPS["batch"], seconds, vertices[0], faces, windows, _CROPS["size"], None)


@functools.partial(jax.jit, static_argnums=(5,))
def _shaded(vertices, faces, colors, light, ambient, windows):
  size = _CROPS["size"]
  pixels = render.render_batch(vertices, faces, _CROPS["focal"], jnp.full(2, size[0] / 2), size, windows)
  return pixels, render.shade(pixels, vertices, faces, colors, light, ambient)


def _body(name):
  """(vertices [N, 3] facing a camera at the origin, faces [F, 3]) of a mannequin."""
  arrays = smpl.load_arrays(name)
  return arrays["v_template"] * np.float32([1, -1, -1]), arrays["f"].astype(np.int32)


def _check(scene_):
  if int(jnp.sum(scene_.overflow)):
    raise ValueError("the benchmark's windows are too small: its rate would be of wrong pictures")


def _ray_caster(vertices, faces, focal, center, size):
  """The face each pixel sees, by Embree; its tree is built anew each time, since every image has other bodies."""
  import trimesh
  rows, columns = np.indices(size).reshape(2, -1)
  rays = np.stack([(columns + 0.5 - center[0]) / focal, (rows + 0.5 - center[1]) / focal, np.ones(rows.size)], -1)
  origins = np.zeros_like(rays)
  whole = np.concatenate([faces + i * vertices.shape[1] for i in range(len(vertices))])
  points = vertices.reshape(-1, 3)
  return lambda: trimesh.Trimesh(points, whole, process=False).ray.intersects_first(origins, rays)


def _row(name, functions, items, seconds, vertices, faces, windows, size, peer_name):
  """vertices: [P, N, 3] of one image."""
  times = timing.interleaved(functions, seconds)
  tests = len(vertices) * (len(faces) * windows.small**2 + windows.num_large * windows.large**2)
  pixels = size[0] * size[1]
  return {"name": name, "unit": "images/s", "ours": items / times["ours"],
          "peer": items / times["peer"] if "peer" in times else None, "peer_name": peer_name,
          "flops_per_item": 30.0 * tests + 40.0 * pixels, "bytes_per_item": float(vertices.size * 4 + pixels * 24)}
