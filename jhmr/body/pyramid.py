"""A body's mesh at two resolutions and the graph of the coarse one, for networks that work on meshes.

    python -m jhmr.body.pyramid --body mannequin --num 1723 --out pyramid.npz [--picture pyramid.png]

builds one for any body file, in seconds.
"""

import hashlib

from flax import struct
import jax
from jhmr import sparse
from jhmr.body import mesh, remesh, smpl
from jhmr.errors import InputError
import numpy as np

KEYS = ("down_ids", "down_weights", "up_ids", "up_weights", "down_faces")


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
    path: "" for the body file's own, or one built with a quarter of the vertices when it has none; else a file of this
      command.
    arrays: of the body file.
  Returns:
    (mesh.Pyramid of NumPy arrays, edges [E, 2] of the coarse mesh).
  Raises:
    InputError: for a file that is missing, damaged, or of another mesh.
  """
  if path:
    raise InputError("not yet")
  if all(key in arrays for key in KEYS):
    made = {key: arrays[key] for key in KEYS}
  else:
    made = build(arrays, -(-len(arrays["v_template"]) // 4))
  return mesh.Pyramid(*(made[key] for key in KEYS[:4])), remesh.edge_faces(made["down_faces"])[0]


def build(arrays, num):
  """{key of KEYS: array} of a body's mesh and one of num vertices."""
  made, faces = mesh.build_pyramid(arrays["v_template"], arrays["f"], num)
  return dict(zip(KEYS, (made.down_ids, made.down_weights, made.up_ids, made.up_weights, faces)))


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
