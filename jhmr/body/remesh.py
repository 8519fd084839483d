"""Changing triangle meshes: collapsing and flipping edges, closest points. NumPy, at set-up only."""

import heapq

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree


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


def corner_sums(faces, values, num):
  """Adds values [m, c] of the faces at their vertices: [num, c]."""
  corner = sparse.csr_matrix((np.ones(faces.size), (faces.ravel(), np.repeat(np.arange(len(faces)), 3))),
                             shape=(num, len(faces)))
  return corner @ values


def collapse(points, faces, num, border=False, longest=np.inf, unit=None):
  """Removes num vertices by collapsing the shortest edges first; stays a manifold of the same topology.

  Args:
    points: [n, 3]; faces: [m, 3], closed or with an open border.
    num: how many collapses at most.
    border: collapse edges of the open border if True, all others if False.
    longest: edges at least this long stay.
    unit: [n] lengths are counted in multiples of the mean over both ends; 1 when None.
  Returns:
    points, faces of the thinned mesh, and the collapses done. Vertices keep their order.
  """
  unit = [1.0] * len(points) if unit is None else np.asarray(unit).tolist()
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
    return 2 * sum((p - q)**2 for p, q in zip(points[a], points[b]))**0.5 / (unit[a] + unit[b])

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


def unit_normals(points, faces):
  """Normals of the faces [m, 3] and, by area, of the vertices [n, 3]."""
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
  a, b, c = points[faces].transpose(1, 0, 2)
  cross = np.cross(b - a, c - a)
  return unit(cross), unit(corner_sums(faces, cross, len(points)))


def closest_on_mesh(queries, normals, points, faces, near=32):
  """Where on a mesh each query lies: corners [n, 3] of the face and barycentric weights [n, 3].

  queries [n, 3] have unit normals [n, 3]; a face that looks another way counts as further by up to two edges, lest
  a point of one thigh land on the other.
  """
  near = min(near, len(faces))
  _, candidates = cKDTree(points[faces].mean(1)).query(queries, near)
  corners = points[faces[candidates]]                                   # [n, near, 3, 3]
  weights = closest_in_triangle(queries[:, None], corners)
  gap = np.linalg.norm((weights[..., None] * corners).sum(2) - queries[:, None], axis=2)
  edge = np.linalg.norm(points[faces[:, 0]] - points[faces[:, 1]], axis=1).mean()
  facing = np.einsum("nki,ni->nk", unit_normals(points, faces)[0][candidates], normals)
  best = np.argmin((gap + edge * (1 - facing)).round(9), 1)[:, None]
  face = np.take_along_axis(candidates, best, 1)[:, 0]
  chosen = np.take_along_axis(weights, best[..., None], 1)[:, 0]
  return faces[face].astype(np.int32), chosen.astype(np.float32)


def closest_in_triangle(p, corners):
  """Barycentric weights [..., 3] of the point of a triangle [..., 3, 3] closest to p [..., 3]."""
  a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
  dot = lambda x, y: (x * y).sum(-1)
  ab, ac, ap = b - a, c - a, p - a
  d00, d01, d11, d20, d21 = dot(ab, ab), dot(ab, ac), dot(ac, ac), dot(ap, ab), dot(ap, ac)
  area = np.maximum(d00 * d11 - d01 * d01, 1e-30)
  v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
  best = np.stack([1 - v - w, v, w], -1)
  inside = (best >= 0).all(-1)
  distance = np.where(inside, 0.0, np.inf)
  for i, j in ((0, 1), (1, 2), (2, 0)):  # outside: the best of the three edges
    start, edge = corners[..., i, :], corners[..., j, :] - corners[..., i, :]
    t = np.clip(dot(p - start, edge) / np.maximum(dot(edge, edge), 1e-30), 0, 1)
    gap = np.linalg.norm(p - start - t[..., None] * edge, axis=-1)
    weights = np.zeros_like(best)
    weights[..., i], weights[..., j] = 1 - t, t
    better = ~inside & (gap < distance)
    best, distance = np.where(better[..., None], weights, best), np.where(better, gap, distance)
  return best
