"""SPIN's `model_checkpoint.pt` as the network of `systems/hmr.py`: a ResNet-50 and a head without activations.

EFT's model zoo holds the same network under the same keys, but its cameras mean something else: `released/eft.py`.
"""

import re

from jhmr.errors import InputError
from jhmr.nn import resnet
from jhmr.released import keys
from jhmr.released import resnet as resnet_keys
import numpy as np

INSIDE = ("model",)
CONFIG = "configs/hmr.py"
SYSTEMS = ("hmr",)  # another system of the same network, SPIN's own, starts warm from such a run
# Their head, their numbers format, and the losses they were trained with, for those who train on.
SETTINGS = ("net.activation=none", "net.dtype=float32", "camera_convention=spin", "supervision=spin49",
            "weights.keypoints2d=300.0", "weights.keypoints3d=300.0", "weights.pose=60.0", "weights.betas=0.06",
            "weights.camera=60.0", "weights.adversarial=0.0")
NET = "net"  # of the TrainState
POSE_DIM, NUM_BETAS = 144, 10
IGNORED = {"num_batches_tracked": re.compile(r".*\.num_batches_tracked")}
_START = {"pose": ("init_pose", POSE_DIM), "betas": ("init_shape", NUM_BETAS), "camera": ("init_cam", 3)}
_PREFIX = "module."  # of every key, where the network was trained on several GPUs
_NOT_A_ROTATION = 1e-3  # what two columns of 6D may be off before they are taken for something else


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their key: array}.
    net: config.net.
    where: the file, for messages.
  Returns:
    Converted; its start has also "pose" [144], 6D in SPIN's layout.
  Raises:
    InputError: when keys or shapes are not those of such a network, or init_pose is not made of rotations.
  Source: SPIN, authors' `models/hmr.py`.
  """
  arrays, line = keys.split(keys.without_prefix(arrays, _PREFIX), IGNORED)
  start = [keys.same(("start", name), theirs, (1, size)) for name, (theirs, size) in _START.items()]
  tree = keys.fill(arrays, entries(net.backbone, net.hidden) + start, where, "SPIN")
  start = {name: value[0] for name, value in tree["start"].items()}
  _check_rotations(start["pose"], where)
  said = f"{len(arrays)} arrays; {line or 'every key was used'}"
  return keys.Converted(tree["params"], tree["stats"], start, (said,))


def entries(backbone, hidden):
  """Every array of the network; `backbone` is a name in `nn.resnet.ARCHITECTURES`, `hidden` the width of the head."""
  inputs = resnet.ARCHITECTURES[backbone].features + POSE_DIM + NUM_BETAS + 3
  head = ("params", NET, "head")
  layers = (("fc1", inputs, hidden), ("fc2", hidden, hidden), ("decpose", hidden, POSE_DIM),
            ("decshape", hidden, NUM_BETAS), ("deccam", hidden, 3))
  found = resnet_keys.entries(backbone, (NET, "backbone"))
  return found + [entry for name, *sizes in layers for entry in keys.dense((*head, name), name, *sizes)]


def _check_rotations(six_d, where):
  """Our runs keep the start as rotation matrices, which hold nothing else."""
  columns = six_d.reshape(-1, 3, 2)
  off = np.abs(np.einsum("jik,jil->jkl", columns, columns) - np.eye(2)).max()
  if off > _NOT_A_ROTATION:
    raise InputError(f"{where!r}: init_pose is not made of rotations (columns are off by {off:.2g}): give weights that "
                     "start from an smpl_mean_params.npz")
