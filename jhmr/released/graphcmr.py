"""GraphCMR's checkpoints as the two networks of `systems/graphcmr.py`.

A file holds both: `graph_cnn`, from an image to a mesh and a camera, and `smpl_param_regressor`, from the mesh to a
body. The coarse mesh itself is not in it: the weights mean the vertices of the authors' `mesh_downsampling.npz`, so
that file has to be the run's config.pyramid.
"""

import re

from jhmr.errors import InputError
from jhmr.nn import resnet
from jhmr.released import keys
from jhmr.released import resnet as resnet_keys

GRAPH, SMPL = "graph_cnn", "smpl_param_regressor"  # parts of a file
INSIDE = ((GRAPH, SMPL),)
CONFIG = "configs/graphcmr.py"
SYSTEMS = ("graphcmr",)
# How they make rotations of matrices, and the losses they were trained with, for those who train on.
SETTINGS = ("net.mesh=graph", "net.dtype=float32", "net.determinant=negated", "supervision=code", "train=joint",
            "weights.vertices=1.0", "weights.keypoints2d=1.0", "weights.keypoints3d=1.0", "weights.smpl_vertices=1.0",
            "weights.smpl_keypoints2d=1.0", "weights.smpl_keypoints3d=1.0", "weights.pose=1.0", "weights.betas=0.1")
FILES = {"pyramid": "mesh_downsampling.npz of the authors' data"}
NET, MLP = "net", "smpl"  # networks of the TrainState
IGNORED = {"num_batches_tracked": re.compile(r".*\.num_batches_tracked"),
           "the ImageNet classifier fc": re.compile(rf"{GRAPH}\.resnet\.fc\.(weight|bias)")}
NUM_OUT = 24 * 9 + 10  # matrices and betas
_NUM_VERTICES = 1723


def settings(arrays):
  """What a file says of its sizes: keys of the config, "key=value" each."""
  blocks = {k.split(".")[2] for k in arrays if re.fullmatch(rf"{GRAPH}\.gc\.\d+\.lin1\.W", k)}
  said = {"channels": (keys.length(arrays, f"{GRAPH}.gc.0.W") or 0) // 2, "layers": len(blocks) - 1,
          "hidden": keys.length(arrays, f"{SMPL}.layers.0.fc_block.0.weight") or 0}
  return tuple(f"net.{name}={value}" for name, value in said.items() if value > 0)


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their key: array}.
    net: config.net.
    where: the file, for messages.
  Returns:
    Converted; the weights add to no mean body, so that it has no start.
  Raises:
    InputError: when keys or shapes are not those of such networks.
  """
  for part in (GRAPH, SMPL):
    if not any(k.startswith(f"{part}.") for k in arrays):
      raise InputError(f"{where!r} holds no {part}: give a checkpoint of GraphCMR with both of its networks")
  num = keys.length(arrays, f"{GRAPH}.camera_fc.4.weight", 1) or _NUM_VERTICES
  wanted, unused = entries(net.backbone, net.layers, net.channels, net.hidden, num)
  arrays, line = keys.split(arrays, IGNORED | {"skip layers that their blocks do not use": unused})
  tree = keys.fill(arrays, wanted, where, "GraphCMR")
  said = f"{len(arrays)} arrays, a mesh of {num:,} vertices; {line or 'every key was used'}"
  return keys.Converted(tree["params"], tree["stats"], said=(said,))


def entries(backbone, layers, channels, hidden, num):
  """Every array of both networks for a mesh of num vertices, and a pattern of keys that they have without using them.

  Source: GraphCMR, authors' `models/graph_cnn.py`, `models/smpl_param_regressor.py`.
  """
  net, context = ("params", NET), resnet.ARCHITECTURES[backbone].features
  found = resnet_keys.entries(backbone, (NET, "backbone"), f"{GRAPH}.resnet.")
  found += _linear((*net, "gc_0"), "gc.0", context + 3, 2 * channels)
  sizes = {f"gc.{i + 1}": (2 * channels if i == 0 else channels, channels) for i in range(layers + 1)}
  sizes |= {"shape.0": (channels, 64), "shape.1": (64, 32)}
  for name, (inputs, outputs) in sizes.items():
    found += _block((*net, name.replace(".", "_")), name, inputs, outputs)
  found += _norm((*net, "shape_2"), "shape.2", 32) + _linear((*net, "shape_4"), "shape.4", 32, 3)
  found += _norm((*net, "camera_0"), "camera_fc.0", channels)
  found += _linear((*net, "camera_2"), "camera_fc.2", channels, 1)
  found += keys.dense((*net, "camera_4"), f"{GRAPH}.camera_fc.4", num, 3)
  unused = [f"{GRAPH}.{name}.skip_conv.{leaf}" for name, (i, o) in sizes.items() if i == o for leaf in "Wb"]
  return found + _perceptron(hidden, num), re.compile("|".join(map(re.escape, unused)))


def _perceptron(hidden, num):
  """Entries of the network from a mesh to a body; a vertex's numbers are its place and its place in the template."""
  dense = lambda path, name, *sizes: keys.dense(("params", MLP, *path), f"{SMPL}.layers.{name}", *sizes)
  norm = lambda path, name: keys.batch_norm((MLP, *path), f"{SMPL}.layers.{name}", hidden)
  found = dense(("fc_0",), "0.fc_block.0", 6 * num, hidden) + norm(("bn_0",), "0.fc_block.1")
  for i in (1, 2):
    for j in (0, 3):
      found += dense((f"block_{i}", f"fc_{j}"), f"{i}.fc_block.{j}", hidden, hidden)
      found += norm((f"block_{i}", f"bn_{j + 1}"), f"{i}.fc_block.{j + 1}")
  return found + dense(("out",), "3", hidden, NUM_OUT)


def _linear(path, name, inputs, outputs):
  """The same linear layer at every vertex: W is [out, in]."""
  return [keys.Entry((*path, "kernel"), (f"{GRAPH}.{name}.W",), (outputs, inputs), lambda w: w.T),
          keys.same((*path, "bias"), f"{GRAPH}.{name}.b", (outputs,))]


def _norm(path, name, channels):
  return [keys.same((*path, ours), f"{GRAPH}.{name}.{theirs}", (channels,))
          for ours, theirs in (("scale", "weight"), ("bias", "bias"))]


def _block(path, name, inputs, outputs):
  """A residual block; the graph convolution's weight is [in, out] already."""
  half = outputs // 2
  found = _norm((*path, "pre_norm"), f"{name}.pre_norm", inputs)
  found += [e for i in (1, 2) for e in _norm((*path, f"norm{i}"), f"{name}.norm{i}", half)]
  found += _linear((*path, "lin1"), f"{name}.lin1", inputs, half)
  found += [keys.same((*path, "conv", "kernel"), f"{GRAPH}.{name}.conv.weight", (half, half)),
            keys.same((*path, "conv", "bias"), f"{GRAPH}.{name}.conv.bias", (half,))]
  found += _linear((*path, "lin2"), f"{name}.lin2", half, outputs)
  return found + (_linear((*path, "skip_conv"), f"{name}.skip_conv", inputs, outputs) if inputs != outputs else [])
