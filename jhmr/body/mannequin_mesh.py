"""Triangles for the mannequin: marching cubes on its left half, thinned to an exact count, evened out, mirrored.

Space is stretched around the hands, head and feet before sampling, so these get smaller triangles. Working on one
half makes the mesh symmetric to the last bit, its connectivity included, and halves the time.
"""

import numpy as np
from scipy import sparse
from skimage.measure import marching_cubes

from jhmr.body import mannequin_shape, remesh

# Stretch of space (x, y-and-z) around the hands, and of all axes around the head and the feet.
HAND, HEAD, FOOT = (1.7, 2.4), 1.7, 1.35
HAND_CENTER, HEAD_CENTER, FOOT_CENTER = (0.215, -0.025), (0.0, 0.02), (0.105, 0.0)
LOW, HIGH = np.array([0.0, -1.25, -0.22]), np.array([1.12, 0.75, 0.30])  # box of the left half, stretched


def smoothstep(x, low, high):
  """0 below low, 1 above high, cubic between; low > high makes it fall."""
  t = np.clip((x - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def stretched_axis(local_scale, low, high):
  """Tables (x, x') of a one-dimensional stretch whose derivative is local_scale and which keeps 0."""
  x = np.linspace(low, high, 4001)
  y = np.concatenate([[0], np.cumsum(0.5 * (local_scale(x)[1:] + local_scale(x)[:-1]) * np.diff(x))])
  return x, y - np.interp(0, x, y)


def scales(x, y):
  """How much space is stretched at (x, y) by the hands, the head and the feet; at most one differs from 1."""
  hand = 1 + (HAND[1] - 1) * smoothstep(np.abs(x), 0.60, 0.73)
  head = 1 + (HEAD - 1) * smoothstep(y, 0.27, 0.36)
  foot = 1 + (FOOT - 1) * smoothstep(y, -1.03, -1.09)
  return hand, head, foot


X_TABLE = stretched_axis(lambda x: 1 + (HAND[0] - 1) * smoothstep(np.abs(x), 0.60, 0.73), -1.5, 1.5)
Y_TABLE = stretched_axis(lambda y: scales(0, y)[1] * scales(0, y)[2], -1.6, 1.2)


def stretch(points):
  """Space -> stretched space; points [n, 3] of the left half (x >= 0)."""
  x, y, z = points.T
  hand, head, foot = scales(x, y)
  center_x, center_z = FOOT_CENTER[0], np.where(hand > 1, HAND_CENTER[1], np.where(head > 1, HEAD_CENTER[1], 0))
  u = np.where(foot > 1, center_x + (x - center_x) * foot, np.interp(x, *X_TABLE) * head)
  v = np.where(hand > 1, HAND_CENTER[0] + (y - HAND_CENTER[0]) * hand, np.interp(y, *Y_TABLE))
  return np.stack([u, v, center_z + (z - center_z) * hand * head * foot], 1)


def unstretch(points):
  """Inverse of `stretch`."""
  u, v, w = points.T
  y = np.interp(v, *Y_TABLE[::-1])
  _, head, foot = scales(np.zeros_like(u), y)
  x = np.where(foot > 1, FOOT_CENTER[0] + (u - FOOT_CENTER[0]) / foot, np.interp(u / head, *X_TABLE[::-1]))
  hand, _, _ = scales(x, y)
  y = np.where(hand > 1, HAND_CENTER[0] + (v - HAND_CENTER[0]) / hand, y)
  center_z = np.where(hand > 1, HAND_CENTER[1], np.where(head > 1, HEAD_CENTER[1], 0))
  return np.stack([x, y, center_z + (w - center_z) / (hand * head * foot)], 1)


def march(pitch, fingers):
  """Left half of the surface: points [n, 3] in space, faces [m, 3]; open along x = 0."""
  axes = [np.arange(low, high, pitch) for low, high in zip(LOW, HIGH)]
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
  value = mannequin_shape.field(unstretch(grid.reshape(-1, 3)), fingers).reshape(grid.shape[:3])
  points, faces, _, _ = marching_cubes(value, 0.0, allow_degenerate=False)
  points = unstretch(points * pitch + LOW)
  a, b, c = points[faces].transpose(1, 0, 2)
  inward = np.einsum("ni,ni->", np.cross(b - a, c - a), a + b + c - 3 * points.mean(0)) < 0
  return points, faces[:, ::-1].astype(np.int64) if inward else faces.astype(np.int64)


def relax(points, faces, fingers, rounds):
  """Moves vertices along the surface until triangles are even in stretched space; flips edges on the way."""
  border = remesh.open_border(faces, len(points))
  for i in range(rounds):
    place = stretch(points)
    for _ in range(3):
      faces, count = remesh.flip(place, faces, valence=i < rounds - 2)
      if not count:
        break
    points = unstretch(slide(place, faces, border))
    points = mannequin_shape.project(points, fingers, steps=1 if i < rounds - 1 else 4)
    points[border, 0] = 0
  return points, faces


def slide(points, faces, border):
  """Moves vertices towards the middle of their neighbours, along the surface only, or finger tips would melt."""
  edges, sides = remesh.edge_faces(faces)
  row, col = np.concatenate([edges, edges[:, ::-1]]).T
  keep = ~border[row] | np.tile(sides[:, 1] < 0, 2)         # a border vertex listens to the border alone
  graph = sparse.csr_matrix((keep[keep].astype(float), (row[keep], col[keep])), shape=(len(points),) * 2)
  a, b, c = points[faces].transpose(1, 0, 2)
  cross = np.cross(b - a, c - a)
  area = remesh.corner_sums(faces, np.linalg.norm(cross, axis=1, keepdims=True), len(points))
  move = 0.7 * (graph @ (area * points) / (graph @ area) - points)  # heavier where sparse, so that density evens out
  normals = remesh.corner_sums(faces, cross, len(points)) * np.where(border[:, None], [0, 1, 1], 1)
  normals /= np.linalg.norm(normals, axis=1, keepdims=True)
  points = points + move - (move * normals).sum(1, keepdims=True) * normals
  points[border, 0] = 0
  return points


def mirror(points, faces):
  """Both halves from the left one: points, faces, and the id of each vertex's mirror image."""
  border = remesh.open_border(faces, len(points))
  twin = np.arange(len(points))
  twin[~border] = len(points) + np.arange((~border).sum())
  whole = np.concatenate([points, points[~border] * [-1, 1, 1]])
  other = np.concatenate([twin, np.flatnonzero(~border)])
  return whole, np.concatenate([faces, twin[faces][:, ::-1]]), other


def thin(points, faces, num, short):
  """Half a mesh [n, 3] with which both halves have exactly num vertices; no border edge under `short` is left."""
  count = lambda points, faces: int(remesh.open_border(faces, len(points)).sum())
  border = count(points, faces)
  _, _, removed = remesh.collapse(points, faces, border, True, short)
  # Inner vertices count twice in the whole mesh, those on the border once: these must be even in number.
  points, faces, _ = remesh.collapse(points, faces, removed + (border - removed) % 2, True)
  extra = 2 * len(points) - count(points, faces) - num
  points, faces, done = remesh.collapse(points, faces, extra // 2)
  if extra < 0 or extra % 2 or done != extra // 2:
    raise ValueError(f"{extra} vertices more than {num}, {2 * done} could be removed; choose another pitch")
  return points, faces


def surface(num, pitch, fingers, rounds=12):
  """A closed, symmetric surface with exactly num vertices.

  Args:
    num: even number of vertices; pitch: of the sampling, metres of stretched space, a little too fine for num.
    fingers: separate ones, or a mitten; rounds: of relaxation.
  Returns:
    points [num, 3], faces [2 num - 4, 3] (outward), mirror image of each vertex [num].
  Raises:
    ValueError: if the pitch gives too few vertices, or the thinning gets stuck.
  """
  points, faces = march(pitch, fingers)
  place, faces = thin(stretch(points), faces, num, 0.55 * pitch)
  points = mannequin_shape.project(unstretch(place), fingers)
  points[remesh.open_border(faces, len(points)), 0] = 0
  return mirror(*relax(points, faces, fingers, rounds))
