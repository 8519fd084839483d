"""Triangles for the mannequin: marching cubes on its left half, thinned to an exact count, evened out, mirrored.

Space is stretched around the hands, head and feet before sampling, so these get smaller triangles. Working on one
half makes the mesh symmetric to the last bit, its connectivity included, and halves the time.
"""

import heapq

import numpy as np
from scipy import sparse
from skimage.measure import marching_cubes

from jhmr.body import mannequin_shape

# Stretch of space (x, y-and-z) around the hands, and of all axes around the head and the feet.
HAND, HEAD, FOOT = (1.7, 2.4), 1.45, 1.35
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


def scale_y(y):
  return 1 + (HEAD - 1) * smoothstep(y, 0.27, 0.36) + (FOOT - 1) * smoothstep(y, -1.03, -1.09)


X_TABLE = stretched_axis(lambda x: 1 + (HAND[0] - 1) * smoothstep(np.abs(x), 0.60, 0.73), -1.5, 1.5)
Y_TABLE = stretched_axis(scale_y, -1.6, 1.2)


def scales(x, y):
  hand = 1 + (HAND[1] - 1) * smoothstep(np.abs(x), 0.60, 0.73)
  head = 1 + (HEAD - 1) * smoothstep(y, 0.27, 0.36)
  foot = 1 + (FOOT - 1) * smoothstep(y, -1.03, -1.09)
  return hand, head, foot


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


def edge_faces(faces):
  """Undirected edges [e, 2] and the two faces at each [e, 2]; the second is -1 on an open border.

  The first face holds the edge in its sorted direction (low id to high id) where there are two.
  """
  half = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
  owner = np.repeat(np.arange(len(faces)), 3)
  backward = half[:, 0] > half[:, 1]
  edges, inverse = np.unique(np.sort(half, 1), axis=0, return_inverse=True)
  sides = np.full((len(edges), 2), -1)
  sides[inverse[backward], 1] = owner[backward]
  sides[inverse[~backward], 0] = owner[~backward]
  lone = sides[:, 0] < 0
  sides[lone] = sides[lone][:, ::-1]
  return edges, sides


def open_border(faces, num):
  """[num] bool: vertices on an open border."""
  edges, sides = edge_faces(faces)
  out = np.zeros(num, bool)
  out[edges[sides[:, 1] < 0]] = True
  return out


def collapse(points, faces, num, border=False, longest=np.inf):
  """Removes num vertices by collapsing the shortest edges first; stays a manifold of the same topology.

  Args:
    points: [n, 3]; faces: [m, 3], closed or with an open border.
    num: how many collapses at most.
    border: collapse edges of the open border if True, all others if False.
    longest: edges at least this long stay.
  Returns:
    points, faces of the thinned mesh, and the collapses done. Vertices keep their order.
  """
  points, alive = [tuple(p) for p in points], [True] * len(faces)
  on_border = open_border(faces, len(points)).tolist()
  faces = [list(f) for f in faces.tolist()]
  around = [set() for _ in points]
  for i, face in enumerate(faces):
    for v in face:
      around[v].add(i)
  version = [0] * len(points)

  def neighbours(v):
    return {w for i in around[v] for w in faces[i]} - {v}

  def length(a, b):
    return sum((p - q)**2 for p, q in zip(points[a], points[b]))**0.5

  def push(a, b):
    heapq.heappush(heap, (length(a, b), min(a, b), max(a, b), version[a] + version[b]))

  def normal(face):
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (points[v] for v in face)
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx

  def target(a, b):
    if on_border[a] != on_border[b]:
      return points[a] if on_border[a] else points[b]
    return tuple(0.5 * (p + q) for p, q in zip(points[a], points[b]))

  def flips(v, gone, place):
    old = points[v]
    for i in around[v] - gone:
      before = normal(faces[i])
      points[v] = place
      after = normal(faces[i])
      points[v] = old
      dot = sum(p * q for p, q in zip(before, after))
      if dot <= 0.3 * (sum(p * p for p in before) * sum(p * p for p in after))**0.5:
        return True
    return False

  heap = []
  for a, b in {(min(f[i], f[i - 1]), max(f[i], f[i - 1])) for f in faces for i in range(3)}:
    push(a, b)
  heap.sort()
  done, dead = 0, [False] * len(points)
  while heap and done < num:
    size, a, b, stamp = heapq.heappop(heap)
    if size >= longest:
      break
    if dead[a] or dead[b] or stamp != version[a] + version[b]:
      continue
    shared = around[a] & around[b]
    common = neighbours(a) & neighbours(b)
    if (len(shared) == 1) != border or len(common) != len(shared):
      continue
    if not border and on_border[a] and on_border[b]:
      continue
    if min(len(around[v]) for v in common) < 5 - on_border[a] or len(around[a]) + len(around[b]) > 14:
      continue
    place = target(a, b)
    if flips(a, shared, place) or flips(b, shared, place):
      continue
    for i in shared:
      alive[i] = False
      for v in faces[i]:
        around[v].discard(i)
    for i in around[b]:
      faces[i][faces[i].index(b)] = a
    around[a] |= around[b]
    points[a], dead[b], on_border[a] = place, True, on_border[a] or on_border[b]
    done += 1
    version[a] += 1
    for v in neighbours(a):
      push(a, v)
  keep = ~np.array(dead)
  renumber = np.cumsum(keep) - 1
  faces = np.array([f for f, live in zip(faces, alive) if live])
  return np.array(points)[keep], renumber[faces], done


def flip(points, faces, valence):
  """Flips an independent set of edges; by valence (towards 6) or by Delaunay's criterion. Returns faces, flips."""
  edges, sides = edge_faces(faces)
  inner = sides[:, 1] >= 0
  edges, sides = edges[inner], sides[inner]
  a, b = edges.T
  c = faces[sides[:, 0]].sum(1) - a - b
  d = faces[sides[:, 1]].sum(1) - a - b
  pa, pb, pc, pd = points[a], points[b], points[c], points[d]
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  dot = lambda x, y: (x * y).sum(1)
  angle_c = np.arccos(np.clip(dot(unit(pa - pc), unit(pb - pc)), -1, 1))
  angle_d = np.arccos(np.clip(dot(unit(pa - pd), unit(pb - pd)), -1, 1))
  n0, n1 = unit(np.cross(pb - pa, pc - pa)), unit(np.cross(pd - pa, pb - pa))
  m0, m1 = unit(np.cross(pd - pa, pc - pa)), unit(np.cross(pc - pb, pd - pb))
  gain = angle_c + angle_d - np.pi
  allowed = (dot(m0, m1) > 0.5) & (dot(m0, n0) > 0.3) & (dot(m1, n0) > 0.3) & (dot(m0, n1) > 0.3)
  if valence:
    degree = np.bincount(faces.ravel(), minlength=len(points)) + 2 * open_border(faces, len(points))
    cost = lambda shift, v: (degree[v] + shift - 6)**2 - (degree[v] - 6)**2
    change = cost(-1, a) + cost(-1, b) + cost(1, c) + cost(1, d)
    allowed &= (np.minimum(angle_c, angle_d) > 0.5) & (gain > -1.2)
    gain = -change + 0.1 * gain
  allowed &= gain > 1e-3
  known = set(map(tuple, edges.tolist()))
  used = np.zeros(len(faces), bool)
  faces, count = faces.copy(), 0
  for e in np.argsort(-gain, kind="stable"):
    if gain[e] <= 1e-3:
      break
    i, j = sides[e]
    if not allowed[e] or used[i] or used[j]:
      continue
    new = (min(c[e], d[e]), max(c[e], d[e]))
    if new in known:
      continue
    known.add(new)
    faces[i], faces[j] = (a[e], d[e], c[e]), (d[e], b[e], c[e])
    # Corners of neighbouring faces change valence too, so the ring rests until the next call.
    used[i] = used[j] = True
    count += 1
  return faces, count


def corner_sums(faces, values, num):
  """Adds values [m, c] of the faces at their vertices: [num, c]."""
  corner = sparse.csr_matrix((np.ones(faces.size), (faces.ravel(), np.repeat(np.arange(len(faces)), 3))),
                             shape=(num, len(faces)))
  return corner @ values


def relax(points, faces, fingers, rounds):
  """Moves vertices along the surface until triangles are even in stretched space; flips edges on the way."""
  for i in range(rounds):
    for _ in range(3):
      faces, count = flip(stretch(points), faces, valence=i < rounds - 2)
      if not count:
        break
    border = open_border(faces, len(points))
    edges, sides = edge_faces(faces)
    both = np.concatenate([edges, edges[:, ::-1]])
    lone = np.concatenate([sides[:, 1] < 0] * 2)
    keep = ~border[both[:, 0]] | lone                    # a border vertex listens to the border alone
    row, col = both[keep].T
    graph = sparse.csr_matrix((np.ones(len(row)), (row, col)), shape=(len(points),) * 2)
    place = stretch(points)
    a, b, c = place[faces].transpose(1, 0, 2)
    cross = np.cross(b - a, c - a)
    normals = corner_sums(faces, cross, len(place))
    area = corner_sums(faces, np.linalg.norm(cross, axis=1, keepdims=True), len(place))
    mean = graph @ (area * place) / (graph @ area)        # heavier where sparse, so that density evens out
    move = 0.7 * (mean - place)
    normals[border, 0] = 0
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    place = place + move - (move * normals).sum(1, keepdims=True) * normals  # along the surface: tips do not melt
    place[border, 0] = 0
    points = mannequin_shape.project(unstretch(place), fingers, steps=3)
    points[border, 0] = 0
  return points, faces


def mirror(points, faces):
  """Both halves from the left one: points, faces, and the id of each vertex's mirror image."""
  border = open_border(faces, len(points))
  twin = np.arange(len(points))
  twin[~border] = len(points) + np.arange((~border).sum())
  whole = np.concatenate([points, points[~border] * [-1, 1, 1]])
  other = np.concatenate([twin, np.flatnonzero(~border)])
  return whole, np.concatenate([faces, twin[faces][:, ::-1]]), other


def surface(num, pitch, fingers, rounds=12):
  """A closed, symmetric surface with exactly num vertices.

  Returns:
    points [num, 3], faces [2 num - 4, 3] (outward), mirror image of each vertex [num].
  Raises:
    ValueError: if the pitch gives too few vertices, or the thinning gets stuck.
  """
  points, faces = march(pitch, fingers)
  place = stretch(points)
  border = int(open_border(faces, len(points)).sum())
  _, faces_, short = collapse(place, faces, border, True, 0.55 * pitch)
  place, faces, _ = collapse(place, faces, short + (border - short) % 2, True)
  border = int(open_border(faces, len(place)).sum())
  extra = 2 * (len(place) - border) + border - num
  if extra < 0 or extra % 2:
    raise ValueError(f"pitch {pitch} gives {extra} vertices more than {num}")
  place, faces, done = collapse(place, faces, extra // 2)
  if done != extra // 2:
    raise ValueError(f"could only remove {2 * done} of {extra} vertices")
  points = unstretch(place)
  points[open_border(faces, len(points)), 0] = 0
  points, faces = relax(mannequin_shape.project(points, fingers), faces, fingers, rounds)
  return mirror(points, faces)
