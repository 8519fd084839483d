"""A body's mesh at two resolutions and the graph of the coarse one, for networks that work on meshes.

    python -m jhmr.body.pyramid --body mannequin --num 1723 --out pyramid.npz [--picture pyramid.png]

builds one for any body file, in seconds.
"""

import argparse
import hashlib
import sys

import cv2
from flax import struct
import jax
from jhmr import files, sparse
from jhmr.body import draw, mesh, poses, pyramid_file, remesh, smpl
from jhmr.body.pyramid_file import KEYS
from jhmr.errors import InputError
import numpy as np

_SIZE = (560, 540)   # of a picture of one mesh, pixels


@struct.dataclass
class Graph:
  """The coarse mesh as a graph of n vertices. A is its adjacency with self loops, each row divided by its sum."""
  ids: jax.Array                 # [n, K] int32 neighbours, itself first; padded with itself
  weights: jax.Array             # [n, K] float32 rows of A; 0 on padding
  transposed_weights: jax.Array  # [n, K] rows of its transpose on the same ids
  template: jax.Array            # [n, 3] rest mesh, centred, largest coordinate 1


def load(path, arrays):
  """A body's pyramid.

  Args:
    path: "" for the body file's own, or one built with a quarter of the vertices when it has none, see `files.cached`;
      else a file of this command, or the authors' `mesh_downsampling.npz`.
    arrays: of the body file.
  Returns:
    (mesh.Pyramid of NumPy arrays, edges [E, 2] of the coarse mesh).
  Raises:
    InputError: for a file that is missing, damaged, or of another mesh; for a body whose mesh is not closed.
  """
  if path:
    made = pyramid_file.read(path, len(arrays["v_template"]))
  else:
    made = arrays if all(key in arrays for key in KEYS) else _kept(arrays, -(-len(arrays["v_template"]) // 4))
    made = made | {"edges": remesh.edge_faces(made["down_faces"])[0]}
  return _levels(made), made["edges"]


def _levels(made):
  return mesh.Pyramid(*(made[key] for key in KEYS[:4]))


def _kept(arrays, num):
  """`build`, once for a template."""
  _check_closed(arrays)
  digest = hashlib.sha256(b"".join(np.ascontiguousarray(arrays[key]).tobytes() for key in ("v_template", "f")))
  return files.cached(f"pyramid_{num}_{digest.hexdigest()[:16]}", [mesh.__file__, remesh.__file__],
                      lambda: build(arrays, num))


def build(arrays, num):
  """{key of KEYS: array} of a body's mesh and one of num vertices.

  Raises:
    InputError: when the mesh is not closed, or cannot be thinned to num vertices.
  """
  _check_closed(arrays)
  if not 4 <= num < len(arrays["v_template"]):
    raise InputError(f"a mesh of {num} vertices cannot be made of one of {len(arrays['v_template'])}: ask for fewer, "
                     "and for at least 4")
  try:
    made, faces = mesh.build_pyramid(arrays["v_template"], arrays["f"], num)
  except ValueError as error:
    raise InputError(f"{error}: ask for more vertices") from error
  return dict(zip(KEYS, (made.down_ids, made.down_weights, made.up_ids, made.up_weights, faces)))


def _check_closed(arrays):
  """Every edge has a face on both sides and every vertex a face."""
  faces, num = np.asarray(arrays["f"], np.int64), len(arrays["v_template"])
  half = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
  there, back = (np.sort(half[:, i] * num + half[:, 1 - i]) for i in (0, 1))
  if not np.array_equal(there, back) or (np.diff(there) == 0).any() or len(np.unique(faces)) != num:
    raise InputError("the body's mesh is not closed, so no coarser one can be made of it: use its authors' files")


def graph(pyramid, edges, v_template):
  """Graph of the coarse mesh, NumPy.

  Args:
    edges: [E, 2] of the coarse mesh.  v_template: [N, 3] of the fine one.
  Source: GraphCMR, Eq. 2.1 and authors' `utils/mesh.py:Mesh`: self loops, rows divided by their number of entries;
    vertices minus the middle of their box, divided by the largest absolute coordinate.
  """
  num = len(pyramid.down_ids)
  loops = np.arange(num)
  first, second = (np.concatenate([loops, edges[:, i], edges[:, 1 - i]]) for i in (0, 1))
  order = np.lexsort((np.where(first == second, -1, second), first))
  ids, slots = sparse.padded(first[order], second[order], np.ones(len(order), np.float32), num)
  degree = slots.sum(1)
  ids = np.where(slots > 0, ids, loops[:, None]).astype(np.int32)
  v_template = np.asarray(v_template, np.float64)
  centred = v_template - (v_template.max(0) + v_template.min(0)) / 2
  template = np.einsum("nm,nmc->nc", pyramid.down_weights, (centred / np.abs(centred).max())[pyramid.down_ids])
  return Graph(ids, slots / degree[:, None], slots / degree[ids], template.astype(np.float32))


def adjacency(graph):
  """A as a sparse.Table: its pattern is symmetric, so the transpose has the same neighbours."""
  return sparse.Table(graph.ids, graph.weights, graph.ids, graph.transposed_weights)


def errors_mm(levels, arrays, num=64):
  """How far each vertex of num posed and shaped people is after going down and up: [num, N]."""
  @jax.jit
  def there_and_back(body, levels, betas):
    pose = jax.vmap(poses.sample)(jax.random.split(jax.random.key(0), num))
    fine = smpl.forward(body, betas, pose).vertices
    return fine, mesh.upsample(levels, mesh.downsample(levels, fine))

  betas = np.random.default_rng(0).normal(size=(num, 10)).astype(np.float32)
  fine, back = there_and_back(smpl.from_arrays(arrays), jax.tree.map(np.asarray, levels), betas)
  return 1000 * np.linalg.norm(np.asarray(back) - fine, axis=-1)


def write_picture(path, levels, edges, arrays):
  """Both meshes of the template with their edges, and the fine one after going down and up.

  Raises:
    InputError: when the picture cannot be written.
  """
  fine, faces = np.asarray(arrays["v_template"], np.float64), np.asarray(arrays["f"])
  coarse = np.einsum("nm,nmc->nc", levels.down_weights, fine[levels.down_ids])
  back = np.einsum("nm,nmc->nc", levels.up_weights, coarse[levels.up_ids])
  nearest = levels.down_ids[np.arange(len(coarse)), np.argmax(levels.down_weights, 1)]
  tiles = [_tile(fine, faces, np.arange(len(fine)), remesh.edge_faces(faces)[0]), _tile(fine, faces, nearest, edges),
           _tile(back, faces, nearest, edges[:0])]
  try:
    written = cv2.imwrite(str(path), np.concatenate(tiles, 1)[..., ::-1])
  except cv2.error:  # a name without a known ending
    written = False
  if not written:
    raise InputError(f"picture {path!r} cannot be written: its folder must exist and its name end in .png")


def _tile(points, faces, ids, edges):
  """uint8 [H, W, 3] of a shaded template, and edges between points[ids] on the side that is seen."""
  middle, distance = (points.min(0) + points.max(0)) / 2, 10 * np.ptp(points[:, 1])
  camera = ((points - middle) * [1, -1, -1] + [0, 0, distance]).astype(np.float32)
  focal, center = 9 * _SIZE[0], (_SIZE[1] / 2, _SIZE[0] / 2)
  shaded = draw.body_picture(camera, faces, focal, center, _SIZE)
  image = draw.overlay(np.full((*_SIZE, 3), 245, np.uint8), shaded[..., :3], shaded[..., 3], alpha=1.0)
  front = np.asarray(mesh.vertex_normals(points.astype(np.float32), faces))[ids, 2] > 0
  place = np.round((focal * camera[ids, :2] / camera[ids, 2:] + center) * 16).astype(np.int32)
  lines = np.zeros(_SIZE, np.uint8)
  cv2.polylines(lines, list(place[edges[front[edges].all(1)]]), False, 255, 1, cv2.LINE_AA, 4)
  return draw.overlay(image, np.full_like(image, 40), lines, alpha=0.4)


def main():
  parser = argparse.ArgumentParser(prog="python -m jhmr.body.pyramid", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--body", default="mannequin", help="mannequin, mannequin_small, or an SMPL file or folder")
  parser.add_argument("--num", type=int, help="vertices of the coarse mesh; default: a quarter")
  parser.add_argument("--out", help="file to write, .npz: what config.pyramid names")
  parser.add_argument("--picture", help="both meshes, .png")
  args = parser.parse_args()
  arrays = smpl.load_arrays(args.body)
  made = build(arrays, args.num or -(-len(arrays["v_template"]) // 4))
  if args.out:
    pyramid_file.write(args.out, made)
  levels = _levels(made)
  error = errors_mm(levels, arrays)
  print(f"{len(arrays['v_template'])} -> {len(levels.down_ids)} vertices; down and up again moves those of posed people "
        f"by {error.mean():.2f} mm on average, 95 % by less than {np.percentile(error, 95):.2f} mm, none by more than "
        f"{error.max():.1f} mm")
  if args.picture:
    write_picture(args.picture, levels, remesh.edge_faces(made["down_faces"])[0], arrays)


if __name__ == "__main__":
  try:
    main()
  except InputError as e:
    sys.exit(f"error: {e}")
