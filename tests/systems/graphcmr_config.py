"""The smallest GraphCMR, on the body and the batches of `hmr_config` and a coarse mesh of a few triangles."""

import jax
import jax.numpy as jnp
from jhmr import sparse
from jhmr.body import joints
from jhmr.body import mesh
from jhmr.body import pyramid
from jhmr.body import smpl
from jhmr.nn import graph_conv
from jhmr.nn import resnet
import ml_collections
import numpy as np

from systems import hmr_config

NUM_COARSE = 12
# One block, which compiles in a third of the time of "resnet_tiny"; tests that want it add it to the table.
DOT = {"resnet_dot": resnet.Architecture(stem=3, pool=False, blocks=(1,), width=16, expansion=1, strides=(2,))}


def get_config(**overrides):
  """Overrides as {"net.conv": "dense"}, with "__" for "." too."""
  config = ml_collections.ConfigDict({
      "system": "graphcmr", "seed": 0, "num_steps": 100, "accumulate": 1, "supervision": "paper", "train": "joint",
      "net": {"backbone": "resnet_tiny", "mesh": "graph", "layers": 1, "channels": 32, "hidden": 32, "start": "mean",
              "dtype": "float32", "batch_norm": "sync", "remat": False, "conv": "dense", "determinant": "nearest"},
      "optim": {"name": "adam", "learning_rate": 1e-3},
      "weights": {"vertices": 1.0, "keypoints2d": 1.0, "keypoints3d": 1.0, "smpl_vertices": 1.0,
                  "smpl_keypoints2d": 1.0, "smpl_keypoints3d": 1.0, "pose": 1.0, "betas": 0.1}})
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config.lock()


def icosahedron():
  """12 vertices [12, 3] and 20 faces [20, 3], wound outward."""
  g = (1 + 5 ** 0.5) / 2
  points = np.array([(0, s, t * g) for s in (-1, 1) for t in (-1, 1)])
  points = np.concatenate([np.roll(points, i, 1) for i in range(3)])
  near = np.isclose(np.linalg.norm(points[:, None] - points[None], axis=-1), 2)
  faces = [f for f in np.ndindex(12, 12, 12) if f[0] < f[1] < f[2] and all(near[f[i], f[i - 1]] for i in range(3))]
  outward = [f if np.linalg.det(points[list(f)]) > 0 else (f[0], f[2], f[1]) for f in faces]
  return points, np.array(outward)


def get_assets(num_vertices=60, form="dense"):
  """Those of HMR, and a coarse mesh: an icosahedron in whose corners random vertices are averaged."""
  assets, rng = hmr_config.get_assets(num_vertices), np.random.default_rng(0)
  points, faces = icosahedron()
  up_weights = rng.random((num_vertices, 3)).astype(np.float32)
  levels = mesh.Pyramid(rng.permutation(num_vertices)[:NUM_COARSE, None], np.ones((NUM_COARSE, 1), np.float32),
                        rng.permuted(np.tile(np.arange(NUM_COARSE), (num_vertices, 1)), axis=1)[:, :3],
                        up_weights / up_weights.sum(1, keepdims=True))
  edges = np.unique(np.sort(np.concatenate([faces[:, [i, i - 1]] for i in range(3)]), 1), axis=0)
  body = assets["body"]
  graph = pyramid.graph(levels, edges, np.asarray(body.template).T)
  upsampling = sparse.from_rows(levels.up_ids, levels.up_weights, NUM_COARSE)
  rows = smpl.landmark_ids(body, joints.landmarks("graphcmr24"), "graphcmr24")
  more = {"graph": graph, "adjacency": graph_conv.prepare(pyramid.adjacency(graph), form), "upsampling": upsampling,
          "mesh_joints": np.asarray(body.landmarks)[rows] @ sparse.dense(upsampling),
          "keypoint_body": smpl.sub_body(body, ("spin49", "graphcmr24"))}
  return assets | jax.tree.map(jnp.asarray, more)


get_batch, on_devices, hide_labels = hmr_config.get_batch, hmr_config.on_devices, hmr_config.hide_labels
