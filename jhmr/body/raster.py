"""The z-buffer search behind `body.render`: which face every pixel sees, then depth and barycentrics of that face.

Pixel (row r, column c) is sampled at (c + 0.5, r + 0.5) pixels. Inside, B images are drawn into one flat buffer: on
CPU, 64 crops of 96 x 96 cost what they cost under `vmap`, and 15% less than under `lax.map`, which keeps to one core.

In two steps. First, under `stop_gradient`, every face is tested against the pixels of a small square window, and the
window's keys, depth in the high bits and face id in the low ones, are scattered into the image with `min`; integer
minima do not depend on the order, so the result is the same on every run. Faces come in two sizes, a small window for
all of them and a large one for a few. Second, each pixel takes the corners of the face it sees and recomputes depth
and barycentrics differentiably, so reverse mode stores ids only. Visibility itself has no gradient.

A face larger than its window loses pixels, and the surface behind shows through: a depth that is wrong by a body's
thickness and looks whole. Such faces are counted in `overflow`; `choose_windows` picks windows that have none.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

NEAR_M = 0.05         # faces with a corner nearer than this are dropped, not clipped
BACKGROUND_M = 100.0  # depth of pixels that see nothing. Source: the renderer of Jiang et al. 2020
_MISS = np.uint32(0xFFFFFFFF)
_MIN_AREA_PX = 1e-6   # doubled area under which a face is edge-on: its neighbours cover its pixels
# Rows of a window enter the flat image as slices: on CPU twice as fast as pixel by pixel.
_ROWS = lax.ScatterDimensionNumbers(update_window_dims=(1,), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,))


class Windows(NamedTuple):
  """Static sizes of the search, in pixels; `choose_windows` finds them."""
  small: int = 4        # side of the window every face is tested in
  large: int = 16       # side of the window of the faces that do not fit the small one
  num_large: int = 512  # how many of those there may be per person


def choose_windows(vertices, faces, focal_px, min_depth_m, stretch=1.25):
  """Windows with which no face overflows, found once at set-up (NumPy).

  Args:
    vertices: [N, 3] or [M, N, 3] metres, the rest mesh or several posed ones; the longest edge counts.
    faces: [F, 3] int.
    focal_px: focal length in pixels, the largest in use.
    min_depth_m: depth of the nearest vertex that may be drawn.
    stretch: room for what the given meshes do not show: skin drawn out at joints, perspective off the axis.
  Returns:
    the Windows of least work, see `cheapest_windows`.
  """
  corners = np.asarray(vertices, np.float64)[..., np.asarray(faces), :]
  edge = np.linalg.norm(corners - np.roll(corners, 1, axis=-2), axis=-1).max(-1)  # [..., F]
  longest = edge.reshape(-1, edge.shape[-1]).max(0)
  # A box of length l holds at most floor(l) + 1 pixel centres a side.
  return cheapest_windows(np.floor(longest * stretch * focal_px / min_depth_m).astype(int) + 1)


def cheapest_windows(sides):
  """Windows of least work for faces that need windows of these sides, [F] int pixels.

  Work is counted in pixel tests: F small^2 + num_large large^2, and 5 F for finding the large ones if there are any
  (measured on CPU; a test and its scatter take some 4 ns).
  """
  sides = np.maximum(np.asarray(sides), 1)
  options = np.unique(sides)
  num_large = np.array([(sides > s).sum() for s in options])
  work = len(sides) * (options**2 + 5 * (num_large > 0)) + num_large * options[-1]**2
  best = np.argmin(work)
  return Windows(int(options[best]), int(options[-1]), int(num_large[best]))


def keep(x, faces):
  """x (a pytree), computed once and held in memory.

  XLA for CPU computes the operand of a gather anew for every element gathered, through projection and skinning, and
  drops `optimization_barrier` before it fuses; it does not look through a branch. Halves the time of rendered crops.
  The branch asks what is true of all faces but unknown to the compiler, if they are an argument of the program; and
  faces have no batch axis, under which a branch would become a select.
  """
  def held(x, known):
    return lax.cond(known, lambda x: x, lambda x: jax.tree.map(jnp.zeros_like, x), x)
  return lax.platform_dependent(x, jnp.asarray(faces)[0, 0] >= 0, cpu=held, default=lambda x, known: x)


# Step 1: the winner of every pixel.

def visible(points, faces, size, windows, cull=False):
  """The face every pixel sees. No gradient.

  Args:
    points: [B, N, 3] of (x, y) pixels and z metres; z <= NEAR_M or a number not finite removes the faces there.
    faces: [F, 3] int.  size: (H, W).  windows: Windows.  cull: as in `render.rasterize`.
  Returns:
    depth [B, H, W] to 1/2^18 of the mesh's own depth range, inf where empty; face ids [B, H, W] int32, -1 where empty;
    overflow [B] int32, faces not fully drawn.
  """
  points, faces = lax.stop_gradient(points), jnp.asarray(faces, jnp.int32)
  num_images, num_faces, num_pixels = points.shape[0], faces.shape[0], size[0] * size[1]
  id_bits = max(1, (num_faces - 1).bit_length())
  if id_bits > 16:
    raise ValueError(f"{num_faces} faces: the keys hold 65,536")
  table, low, step = _face_table(points, faces, 2.0 ** (32 - id_bits) - 2)
  table, low, step = keep((table, low, step), faces)
  side = _side(table, size, cull)
  side = keep(side, faces)
  largest = max(windows.small, windows.large)
  image = jnp.full(num_images * num_pixels + largest * (size[1] + 1), _MISS, jnp.uint32)
  draw = lambda *args: _draw(*args, size, low, step, id_bits)
  image = draw(image, table, jnp.arange(num_faces)[None], (side > 0) & (side <= windows.small), windows.small)
  lost = jnp.sum(side > largest, -1)
  if windows.large > windows.small:
    large = (side > windows.small) & (side <= windows.large)
    lost += jnp.maximum(jnp.sum(large, -1) - windows.num_large, 0)
    if windows.num_large > 0:
      ids = _first(large, windows.num_large)
      rows = jnp.minimum(ids, num_faces - 1) + (jnp.arange(num_images) * num_faces)[:, None]
      image = draw(image, _take(table.reshape(-1, 9), rows), ids, ids < num_faces, windows.large)
  key = image[:num_images * num_pixels].reshape(num_images, *size)
  level, ids = key >> id_bits, (key & jnp.uint32(2 ** id_bits - 1)).astype(jnp.int32)
  depth = low[:, None, None] + level.astype(low.dtype) * step[:, None, None]
  return jnp.where(key == _MISS, jnp.inf, depth), jnp.where(key == _MISS, -1, ids), lost.astype(jnp.int32)


def _face_table(points, faces, num_levels):
  """Corners [B, F, 9] as x0 y0 1/z0 x1 y1 1/z1 x2 y2 1/z2, least depth [B] and depth of one level [B].

  1/z is linear on the screen; it is 0 at a corner that cannot be drawn. Each image has its own depth range: 18 bits
  over a body 2 m deep are steps of 8 micrometres.
  """
  z = points[..., 2]
  ok = (z > NEAR_M) & jnp.all(jnp.isfinite(points), -1)
  low = jnp.min(jnp.where(ok, z, jnp.inf), -1)
  step = jnp.maximum(jnp.max(jnp.where(ok, z, -jnp.inf), -1) - low, 1e-6) / num_levels
  points = jnp.where(ok[..., None], jnp.concatenate([points[..., :2], 1 / z[..., None]], -1), 0.0)
  index = faces + (jnp.arange(points.shape[0]) * points.shape[1])[:, None, None]
  return _take(points.reshape(-1, 3), index).reshape(points.shape[0], -1, 9), low, step


def _take(rows, index):
  return rows.at[index].get(mode="clip")


def _bounds(table, size):
  """First and last row, first and last column of the pixel centres in each face's box and the image, int32 [B, F]."""
  def along(i, last):
    a, b, c = table[..., i], table[..., 3 + i], table[..., 6 + i]
    low, high = jnp.minimum(jnp.minimum(a, b), c), jnp.maximum(jnp.maximum(a, b), c)
    return (jnp.clip(jnp.ceil(low - 0.5), 0, last + 1).astype(jnp.int32),
            jnp.clip(jnp.floor(high - 0.5), -1, last).astype(jnp.int32))
  return *along(1, size[0] - 1), *along(0, size[1] - 1)


def _side(table, size, cull):
  """Side in pixels of the window each face needs [B, F]; 0 for faces that hold no pixel centre or are not drawn."""
  top, bottom, left, right = _bounds(table, size)
  x0, y0, i0, x1, y1, i1, x2, y2, i2 = (table[..., k] for k in range(9))
  drawn = (i0 > 0) & (i1 > 0) & (i2 > 0) & (bottom >= top) & (right >= left)
  if cull:
    drawn &= (x1 - x0) * (y2 - y0) < (x2 - x0) * (y1 - y0)  # y points down, so outsides run clockwise in pixels
  return jnp.where(drawn, jnp.maximum(bottom - top, right - left) + 1, 0)


def _first(mask, num):
  """Positions of the first num true entries of each row of mask [B, F] -> [B, num] int32, F where there are fewer."""
  num_rows, num_faces = mask.shape
  rank = jnp.cumsum(mask.astype(jnp.int32), -1) - 1
  slot = jnp.where(mask & (rank < num), rank + (jnp.arange(num_rows) * num)[:, None], num_rows * num)
  positions = jnp.broadcast_to(jnp.arange(num_faces, dtype=jnp.int32), mask.shape)
  found = jnp.full(num_rows * num, num_faces, jnp.int32)
  return found.at[slot.reshape(-1)].set(positions.reshape(-1), mode="drop").reshape(num_rows, num)


def _edges(dx, dy):
  """Doubled signed areas of the three sub-triangles at a pixel, from the corners' offsets to it."""
  return dx[1] * dy[2] - dx[2] * dy[1], dx[2] * dy[0] - dx[0] * dy[2], dx[0] * dy[1] - dx[1] * dy[0]


def _draw(image, table, ids, drawn, side, size, low, step, id_bits):
  """Scatters faces (table [B, M, 9], ids [B or 1, M]) into the flat image through windows of side x side pixels."""
  top, bottom, left, right = _bounds(table, size)
  wide = lambda x: x[..., None, None]
  row, column = wide(top) + jnp.arange(side)[:, None], wide(left) + jnp.arange(side)
  dx = [wide(table[..., 3 * k]) - (column + 0.5).astype(table.dtype) for k in range(3)]
  dy = [wide(table[..., 3 * k + 1]) - (row + 0.5).astype(table.dtype) for k in range(3)]
  w = _edges(dx, dy)
  area = w[0] + w[1] + w[2]
  sign = jnp.sign(area)
  innermost = jnp.minimum(jnp.minimum(w[0] * sign, w[1] * sign), w[2] * sign)
  # Two faces round the edge they share differently where the compiler fuses multiply and add; a tolerance of some
  # 1e-5 pixels closes the crack. The area caps it, so that slivers do not grow.
  tolerance = jnp.minimum(side * side * 2.0 ** -21, 0.01 * jnp.abs(area))
  hit = (innermost >= -tolerance) & (jnp.abs(area) > _MIN_AREA_PX) & wide(drawn)
  hit &= (row <= wide(bottom)) & (column <= wide(right))
  z = area / (w[0] * wide(table[..., 2]) + w[1] * wide(table[..., 5]) + w[2] * wide(table[..., 8]))
  level = jnp.clip((z - wide(low[:, None])) / wide(step[:, None]), 0, 2.0 ** (32 - id_bits) - 2).astype(jnp.uint32)
  key = jnp.where(hit, (level << id_bits) | wide(ids).astype(jnp.uint32), _MISS)
  start = top * size[1] + left + (jnp.arange(low.shape[0]) * (size[0] * size[1]))[:, None]
  start = start[..., None] + jnp.arange(side) * size[1]
  return lax.scatter_min(image, start.reshape(-1, 1), key.reshape(-1, side), _ROWS, mode="promise_in_bounds")


# Step 2: the same numbers again, for the winners only, with gradients.

def recompute(points, faces, ids, first_vertex=0):
  """Depth and barycentrics of the faces that `visible` found, differentiable in points.

  Args:
    points: [B, N, 3] of (x, y) pixels and z metres.
    faces: [F, 3] int.  ids: [B, H, W] face ids, -1 where empty.
    first_vertex: [B, H, W] or scalar, added to the face's vertex ids: several meshes one after another in points.
  Returns:
    depth [B, H, W] metres, BACKGROUND_M where empty; perspective-correct weights [B, H, W, 3], 0 where empty.
  """
  seen, faces = ids >= 0, jnp.asarray(faces, jnp.int32)
  first = jnp.where(seen, first_vertex, 0) + (jnp.arange(points.shape[0]) * points.shape[1])[:, None, None]
  columns = [points[..., i].reshape(-1) for i in range(3)]
  index = [_take(faces[:, k], jnp.maximum(ids, 0)) + first for k in range(3)]
  # Background pixels get a fixed triangle: face 0 may be degenerate or behind the camera, and 0 times NaN is NaN.
  corner = lambda k, i: jnp.where(seen, _take(columns[i], index[k]), ((0., 0., 1.), (0., 4e3, 1.), (4e3, 0., 1.))[k][i])
  x, y = jnp.arange(ids.shape[2]) + 0.5, (jnp.arange(ids.shape[1]) + 0.5)[:, None]
  w = _edges([corner(k, 0) - x for k in range(3)], [corner(k, 1) - y for k in range(3)])
  area = w[0] + w[1] + w[2]
  over_z = [w[k] / (area * corner(k, 2)) for k in range(3)]
  depth = 1 / (over_z[0] + over_z[1] + over_z[2])
  weights = jnp.stack([jnp.where(seen, o * depth, 0.0) for o in over_z], -1)
  return jnp.where(seen, depth, BACKGROUND_M), weights
