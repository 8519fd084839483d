"""A GraphCMR of full size and what goes into it, from seeds: the same for the authors' code and for ours.

The mesh is made up, since only its graph counts: vertices on a torus of triangles with some edges missing and some
added, so that they have 3 to 10 neighbours as SMPL's have; a body of noise; interpolation from three vertices each.
"""

import functools

from body import random_body
import numpy as np
from released import authors

NUM, COARSE, CHANNELS, LAYERS, HIDDEN = 6890, 1723, 256, 5, 1024
BATCH = 4            # examples of the losses
SHOWN = slice(None, None, 12)  # which of the predicted vertices are kept


def shapes(num=COARSE, channels=CHANNELS, layers=LAYERS, backbone=None, context=2048):
  """{key: shape} of their `graph_cnn`.

  Args:
    backbone: {key: shape} of its encoder, default a ResNet-50 of 2,048 features; context: its features.
  """
  backbone = authors.resnet_shapes(authors.BLOCKS["resnet50"], 64, True) if backbone is None else backbone
  found = {f"resnet.{k}": s for k, s in backbone.items()}
  found |= {"resnet.fc.weight": (1000, context), "resnet.fc.bias": (1000,), **_graph_linear("gc.0", context + 3,
                                                                                            2 * channels)}
  for i in range(layers + 1):
    found |= _block(f"gc.{i + 1}", 2 * channels if i == 0 else channels, channels)
  found |= {**_block("shape.0", channels, 64), **_block("shape.1", 64, 32), **_norm("shape.2", 32),
            **_graph_linear("shape.4", 32, 3), **_norm("camera_fc.0", channels),
            **_graph_linear("camera_fc.2", channels, 1), "camera_fc.4.weight": (3, num), "camera_fc.4.bias": (3,)}
  return found


def parameter_shapes(num=COARSE, hidden=HIDDEN):
  """{key: shape} of their `smpl_param_regressor`."""
  linear = lambda name, i, o: {f"{name}.weight": (o, i), f"{name}.bias": (o,)}
  norm = lambda name: _norm(name, hidden) | {f"{name}.{k}": (hidden,) for k in ("running_mean", "running_var")} | {
      f"{name}.num_batches_tracked": ()}
  found = {**linear("layers.0.fc_block.0", 6 * num, hidden), **norm("layers.0.fc_block.1")}
  for block in ("layers.1", "layers.2"):
    for first in (0, 3):
      found |= {**linear(f"{block}.fc_block.{first}", hidden, hidden), **norm(f"{block}.fc_block.{first + 1}")}
  return found | linear("layers.3", hidden, 226)


def file_shapes(**sizes):
  """{key: shape} of their checkpoint, both networks in it."""
  num = sizes.get("num", COARSE)
  hidden = sizes.pop("hidden", HIDDEN)
  return {f"graph_cnn.{k}": s for k, s in shapes(**sizes).items()} | {
      f"smpl_param_regressor.{k}": s for k, s in parameter_shapes(num, hidden).items()}


def weights(seed=0):
  """{key: array} of both networks, of the size training leaves: meshes of a metre, cameras near one."""
  found, rng = {}, np.random.RandomState(seed)
  encoder = authors.trained({f"backbone.{k}": s for k, s in authors.resnet_shapes(authors.BLOCKS["resnet50"], 64,
                                                                                 True).items()}, seed)
  for key, shape in file_shapes().items():
    if key.startswith("graph_cnn.resnet."):
      name = "backbone." + key.removeprefix("graph_cnn.resnet.")
      found[key] = encoder.get(name, np.zeros(shape, np.float32))
    elif key.endswith("num_batches_tracked"):
      found[key] = np.array(7)
    else:
      middle, size = _range(key, shape)
      found[key] = (middle + size * rng.uniform(-1, 1, shape)).astype(np.float32)
  found["graph_cnn.camera_fc.4.bias"] += np.float32([0.9, 0, 0])
  return found


def _range(key, shape):
  """(middle, half width) of the random numbers of a key."""
  kind = key.rsplit(".", 1)[-1]
  if len(shape) > 1:
    inputs = shape[0] if ".conv." in key else shape[1]  # a graph convolution keeps [in, out]
    gain = 0.1 if ".shape.4" in key else 0.01 if ".camera_fc.4" in key else 1.5
    return 0.0, (gain / inputs) ** 0.5
  if kind == "running_var":
    return 1.0, 0.5
  return (1.0, 0.3) if kind == "weight" else (0.0, 0.1)


@functools.cache
def edges():
  """[E, 2] of the coarse mesh, each once, the smaller vertex first."""
  ids, rng = np.arange(COARSE), np.random.RandomState(1)
  ring = np.concatenate([np.stack([ids, (ids + step) % COARSE], 1) for step in (1, 41, 42)])
  ring = ring[(ring[:, 1] - ring[:, 0] == 1) | (rng.uniform(size=len(ring)) < 0.93)]
  extra = rng.randint(0, COARSE, (300, 2))
  return np.unique(np.sort(np.concatenate([ring, extra[extra[:, 0] != extra[:, 1]]]), 1), axis=0)


@functools.cache
def hierarchy():
  """(down [COARSE] vertices that are kept, up_ids [NUM, 3], up_weights [NUM, 3] that nearly sum to one)."""
  rng = np.random.RandomState(2)
  down = np.sort(rng.permutation(NUM)[:COARSE])
  ids = (rng.randint(COARSE, size=(NUM, 1)) + np.cumsum(rng.randint(1, COARSE // 3, (NUM, 3)), 1)) % COARSE
  weight = rng.uniform(-0.3, 1.2, (NUM, 3))
  weight += (rng.uniform(0.95, 1.02, (NUM, 1)) - weight.sum(1, keepdims=True)) / 3
  ids[down], weight[down] = [[i, (i + 1) % COARSE, (i + 2) % COARSE] for i in range(COARSE)], [1, 0, 0]
  return down, ids, weight


@functools.cache
def body():
  """Arrays of a body of noise with SMPL's sizes."""
  return random_body.arrays()


def training():
  """What the losses see: predictions of a coarse mesh, cameras, rotations as axis-angle, betas; and labels.

  Some examples lack the pose, some the 3D joints.
  """
  rng = np.random.RandomState(3)
  uniform = lambda size, *shape: rng.uniform(-size, size, (BATCH, *shape))
  confidence = rng.choice([0.0, 1.0], size=(2, BATCH, 24, 1), p=[0.3, 0.7])
  made = {"mesh": uniform(0.8, COARSE, 3), "camera": np.array([0.9, 0, 0]) + uniform(0.1, 3),
          "rotations": uniform(0.8, 72), "betas": uniform(1.0, 10), "pose": uniform(0.8, 72),
          "to_betas": uniform(1.0, 10), "keypoints2d": np.concatenate([uniform(0.8, 24, 2), confidence[0]], -1),
          "keypoints3d": np.concatenate([uniform(0.8, 24, 3), confidence[1]], -1),
          "has_pose": np.array([1.0, 0, 1, 1]), "has_keypoints3d": np.array([1.0, 1, 0, 1])}
  return {name: x.astype(np.float32) for name, x in made.items()}


def _graph_linear(name, inputs, outputs):
  return {f"{name}.W": (outputs, inputs), f"{name}.b": (outputs,)}


def _norm(name, channels):
  return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _block(name, inputs, outputs):
  half = outputs // 2
  return {**_norm(f"{name}.pre_norm", inputs), **_graph_linear(f"{name}.lin1", inputs, half),
          **_norm(f"{name}.norm1", half), f"{name}.conv.weight": (half, half), f"{name}.conv.bias": (half,),
          **_norm(f"{name}.norm2", half), **_graph_linear(f"{name}.lin2", half, outputs),
          **_graph_linear(f"{name}.skip_conv", inputs, outputs)}
