"""Changing triangle meshes: collapsing and flipping edges, closest points. NumPy, at set-up only."""

import heapq
import math
from typing import NamedTuple

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
  keys, inverse = np.unique(half.min(1) * (half.max() + 1) + half.max(1), return_inverse=True)
  edges = np.stack(np.divmod(keys, half.max() + 1), 1)
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


class Links(NamedTuple):
  """A mesh as Python lists, which single collapses change faster than arrays. Dead faces are None."""
  points: list     # (x, y, z)
  faces: list      # [a, b, c]
  around: list     # set of the faces at each vertex, empty for a dead one
  on_border: list  # bool
  version: list    # how often a vertex has moved
  unit: list       # lengths count in multiples of it


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
  links = _link(points, faces, np.ones(len(points)) if unit is None else unit)
  heap = sorted(_entry(links, a, b) for a, b in edge_faces(faces)[0].tolist())
  done = 0
  while heap and done < num:
    size, a, b, stamp = heapq.heappop(heap)
    if size >= longest:
      break
    place = _target(links, a, b)
    if stamp == links.version[a] + links.version[b] and _may_collapse(links, a, b, border, place):
      done += 1
      _merge(links, a, b, place)
      for v in _neighbours(links, a):
        heapq.heappush(heap, _entry(links, a, v))
  keep = np.array([bool(s) for s in links.around])
  renumber = np.cumsum(keep) - 1
  return np.array(links.points)[keep], renumber[np.array([f for f in links.faces if f])], done


def _link(points, faces, unit):
  around = [set() for _ in points]
  for i, face in enumerate(faces.tolist()):
    for v in face:
      around[v].add(i)
  border = open_border(faces, len(points)).tolist()
  return Links(points.tolist(), faces.tolist(), around, border, [0] * len(points), np.asarray(unit).tolist())


def _entry(links, a, b):
  """What the heap sorts by: length, then ids, so that equal lengths have an order; stale when the stamp is."""
  length = math.dist(links.points[a], links.points[b]) * 2 / (links.unit[a] + links.unit[b])
  return length, min(a, b), max(a, b), links.version[a] + links.version[b]


def _neighbours(links, v):
  return sorted({w for i in links.around[v] for w in links.faces[i]} - {v})


def _target(links, a, b):
  """Where the merged vertex goes: the middle, or the end on the border."""
  if links.on_border[a] != links.on_border[b]:
    return links.points[a] if links.on_border[a] else links.points[b]
  return [0.5 * (p + q) for p, q in zip(links.points[a], links.points[b])]


def _may_collapse(links, a, b, border, place):
  """Whether collapsing a-b keeps a manifold, even valences and the way the faces look."""
  if not (links.around[a] and links.around[b]):
    return False
  shared = links.around[a] & links.around[b]
  common = set(_neighbours(links, a)) & set(_neighbours(links, b))
  if (len(shared) == 1) != border or len(common) != len(shared):  # the link condition
    return False
  if not border and links.on_border[a] and links.on_border[b]:
    return False
  if min(len(links.around[v]) for v in common) < 5 - links.on_border[a]:
    return False
  if len(links.around[a]) + len(links.around[b]) > 14:
    return False
  return not any(_turns_over(links, v, links.around[v] - shared, place) for v in (a, b))


def _turns_over(links, v, faces, place):
  """Whether moving v to place turns the normal of one of the faces by more than 72 degrees."""
  for i in faces:
    corners = [links.points[w] for w in links.faces[i]]
    before = _normal(*corners)
    after = _normal(*(place if w == v else p for w, p in zip(links.faces[i], corners)))
    dot = sum(p * q for p, q in zip(before, after))
    if dot <= 0.3 * math.hypot(*before) * math.hypot(*after):
      return True
  return False


def _normal(a, b, c):
  ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
  vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
  return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


def _merge(links, a, b, place):
  """Moves a to place and gives it what b had."""
  for i in links.around[a] & links.around[b]:
    for v in links.faces[i]:
      links.around[v].discard(i)
    links.faces[i] = None
  for i in links.around[b]:
    links.faces[i][links.faces[i].index(b)] = a
  links.around[a].update(links.around[b])
  links.around[b].clear()
  links.points[a] = place
  links.on_border[a] |= links.on_border[b]
  links.version[a] += 1


def flip(points, faces, valence):
  """Flips edges whose faces do not touch, by valence (towards 6) or by Delaunay's criterion. Returns faces, flips."""
  edges, sides = edge_faces(faces)
  known = set(map(tuple, edges.tolist()))
  inner = sides[:, 1] >= 0
  edges, sides = edges[inner], sides[inner]
  opposite = faces[sides].sum(2) - edges.sum(1)[:, None]  # [e, 2] the third corners
  gain = _flip_gain(points, faces, edges, opposite, valence)
  order = np.argsort(-gain, kind="stable")[:(gain > 1e-3).sum()]
  used, faces, count = set(), faces.copy(), 0
  for (a, b), (c, d), pair in zip(edges[order].tolist(), opposite[order].tolist(), sides[order].tolist()):
    new = (min(c, d), max(c, d))
    if used.isdisjoint(pair) and new not in known:
      known.add(new)
      used.update(pair)
      faces[pair] = (a, d, c), (d, b, c)
      count += 1
  return faces, count


def _flip_gain(points, faces, edges, opposite, valence):
  """[e] what flipping each edge improves; -inf where the surface would fold or a sliver arise."""
  (a, b), (c, d) = edges.T, opposite.T
  pa, pb, pc, pd = points[a], points[b], points[c], points[d]
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  dot = lambda x, y: (x * y).sum(1)
  angle = lambda p: np.arccos(np.clip(dot(unit(pa - p), unit(pb - p)), -1, 1))
  over = angle(pc) + angle(pd) - np.pi  # positive: not Delaunay
  old, other_old = unit(np.cross(pb - pa, pc - pa)), unit(np.cross(pd - pa, pb - pa))
  new, other_new = unit(np.cross(pd - pa, pc - pa)), unit(np.cross(pc - pb, pd - pb))
  allowed = (dot(new, other_new) > 0.5) & (dot(new, old) > 0.3) & (dot(other_new, old) > 0.3)
  allowed &= dot(new, other_old) > 0.3
  if not valence:
    return np.where(allowed, over, -np.inf)
  degree = np.bincount(faces.ravel(), minlength=len(points)) + 2 * open_border(faces, len(points))
  cost = lambda shift, v: (degree[v] + shift - 6)**2 - (degree[v] - 6)**2
  better = -(cost(-1, a) + cost(-1, b) + cost(1, c) + cost(1, d))
  allowed &= (np.minimum(angle(pc), angle(pd)) > 0.5) & (over > -1.2)
  return np.where(allowed, better + 0.1 * over, -np.inf)


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
