"""ProHMR's `checkpoint.pt`, a PyTorch-Lightning file, as the networks of `systems/prohmr.py`.

The names of our trees are here alone: NET, CRITIC and the paths in `entries`. The SMPL model inside the file, if it is
there, is not used; the body comes from the config.
"""

import re
from typing import NamedTuple

from jhmr.errors import InputError
from jhmr.nn import resnet
from jhmr.released import keys
from jhmr.released import resnet as resnet_keys
import numpy as np

INSIDE = ("state_dict",)
CONFIG = "configs/prohmr.py"
SYSTEMS, SETTINGS = ("prohmr",), ()
NET, CRITIC = "net", "critic"  # networks of the TrainState
POSE_DIM, NUM_BETAS, NUM_JOINTS = 144, 10, 23
TRANSFORMS = "flow.flow._transform._transforms"
IGNORED = {"the SMPL model": re.compile(r"smpl\..*"), "dummy_buffer": re.compile(r".*\bdummy_buffer"),
           "num_batches_tracked": re.compile(r".*\.num_batches_tracked"),
           "initialized": re.compile(r"(.*\.)?initialized"),
           "index buffers, which are as ours": re.compile(r".*\.(identity|transform)_features")}
_START = {"betas": ("flow.fc_head.init_betas", NUM_BETAS), "camera": ("flow.fc_head.init_cam", 3)}


class Sizes(NamedTuple):
  """What a config says about the shapes."""
  backbone: str = "resnet50"
  head: int = 1024
  blocks: int = 4
  hidden: int = 1024
  depth: int = 2

  @property
  def context(self):
    return resnet.ARCHITECTURES[self.backbone].features


def sizes_of(net):
  """Sizes of config.net."""
  return Sizes(net.backbone, net.hidden, net.flow.blocks, net.flow.hidden, net.flow.depth)


def set_legacy_lu(config):
  """A config whose flow has the forward direction of the authors' library before its correction."""
  with config.unlocked():
    config.net.flow.legacy_lu = True


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their key: array}.
    net: config.net.
    where: the file, for messages.
  Returns:
    Converted; without a critic when the file has no discriminator.
  Raises:
    InputError: when keys, shapes or the halves of the couplings are not those of such a network.
  """
  if any(k.startswith("backbone.fc_layers.") for k in arrays):
    raise InputError(f"{where!r} is ProHMR's model that lifts 2D skeletons: give --kind prohmr_skeleton")
  sizes, critic = sizes_of(net), any(k.startswith("discriminator.") for k in arrays)
  wanted = entries(sizes) + (critic_entries() if critic else [])
  check_halves(arrays, POSE_DIM, sizes.blocks, where)
  untrained = never_trained(arrays)
  arrays, line = keys.split(arrays, IGNORED)
  start = {name: keys.same(("start", name), theirs, (1, 1, size)) for name, (theirs, size) in _START.items()}
  tree = keys.fill(arrays, [*wanted, *start.values()], where, "ProHMR")
  said = [f"{len(arrays)} arrays; {line or 'every key was used'}", *untrained]
  if not critic:
    said.append("no discriminator in it: a run that starts from it has a fresh critic")
  return keys.Converted(tree["params"], tree["stats"], {k: v[0, 0] for k, v in tree["start"].items()}, tuple(said))


def entries(sizes):
  """Every array of the network: encoder, flow, and the head of shape and camera.

  Source: ProHMR, authors' `models/prohmr.py`, `models/heads/`; their `nflows` for the names inside the flow.
  """
  found = resnet_keys.entries(sizes.backbone, (NET, "backbone"), "backbone.")
  found += flow_entries(POSE_DIM, sizes.context, sizes)
  head = ("params", NET, "head")
  found += keys.dense((*head, "fc1"), "flow.fc_head.layers.0", sizes.context, sizes.head)
  found += keys.dense((*head, "fc2"), "flow.fc_head.layers.2", sizes.head, NUM_BETAS + 3)
  return found


def never_trained(arrays):
  """Lines for the user where a flag says that a flow's ActNorm has not seen data; none else."""
  fresh = [k for k in arrays if IGNORED["initialized"].fullmatch(k) and not np.all(arrays[k])]
  return [f"{', '.join(fresh[:3])} say that the network was never trained"] if fresh else []


def flow_entries(dim, context, sizes):
  """Every array of a flow over vectors of `dim` numbers.

  Args:
    context: features it is given.  sizes: has blocks, hidden and depth.
  """
  return [entry for block in range(sizes.blocks) for entry in _block(block, dim, context, sizes)]


def _block(block, dim, context, sizes):
  """ActNorm, linear layer and coupling of one block of the flow."""
  flow, half, triangle = ("params", NET, "flow"), dim // 2, dim * (dim - 1) // 2
  actnorm, lu, coupling = (f"{TRANSFORMS}.{3 * block + i}" for i in range(3))
  found = [keys.same((*flow, f"actnorm_{block}", n), f"{actnorm}.{n}", (dim,)) for n in ("log_scale", "shift")]
  for name, size in (("bias", dim), ("unconstrained_upper_diag", dim), ("lower_entries", triangle),
                     ("upper_entries", triangle)):
    found.append(keys.same((*flow, f"lu_{block}", name), f"{lu}.{name}", (size,)))
  net, ours = f"{coupling}.transform_net", (*flow, f"coupling_{block}")
  found += keys.dense((*ours, "initial_layer"), f"{net}.initial_layer", half + context, sizes.hidden)
  for i in range(sizes.depth):
    for j in range(2):
      norm, linear = (f"{net}.blocks.{i}.{layers}.{j}" for layers in ("batch_norm_layers", "linear_layers"))
      found += keys.batch_norm((*ours[1:], f"block_{i}_bn_{j}"), norm, sizes.hidden)
      found += keys.dense((*ours, f"block_{i}_linear_{j}"), linear, sizes.hidden, sizes.hidden)
  return found + keys.dense((*ours, "final_layer"), f"{net}.final_layer", sizes.hidden, half)


def critic_entries():
  """Every array of the discriminator. Source: ProHMR, authors' `models/discriminator.py`."""
  critic, theirs = ("params", CRITIC), "discriminator"
  found = []
  for name, inputs in (("D_conv1", 9), ("D_conv2", 32)):  # 1x1 convolutions over joints: linear layers of ours
    found += [keys.Entry((*critic, name, "kernel"), (f"{theirs}.{name}.weight",), (32, inputs, 1, 1),
                         lambda w: w[:, :, 0, 0].T), keys.same((*critic, name, "bias"), f"{theirs}.{name}.bias", (32,))]
  joints = lambda leaf: tuple(f"{theirs}.pose_out.{i}.{leaf}" for i in range(NUM_JOINTS))
  found += [keys.Entry((*critic, "pose_out_kernel"), joints("weight"), (1, 32), lambda *w: np.stack(w).swapaxes(1, 2)),
            keys.Entry((*critic, "pose_out_bias"), joints("bias"), (1,), lambda *b: np.concatenate(b)[None])]
  for name, inputs, outputs in (("betas_fc1", NUM_BETAS, 10), ("betas_fc2", 10, 5), ("betas_out", 5, 1),
                                ("D_alljoints_fc1", 32 * NUM_JOINTS, 1024), ("D_alljoints_fc2", 1024, 1024),
                                ("D_alljoints_out", 1024, 1)):
    found += keys.dense((*critic, name), f"{theirs}.{name}", inputs, outputs)
  return found


def check_halves(arrays, dim, blocks, where):
  """Raises InputError where the buffers that say which features a coupling changes, if present, differ from ours."""
  for block in range(blocks):
    for name, first in (("identity_features", block % 2), ("transform_features", 1 - block % 2)):
      key = f"{TRANSFORMS}.{3 * block + 2}.{name}"
      if key in arrays and not np.array_equal(arrays[key], np.arange(first, dim, 2)):
        raise InputError(f"{where!r}: {key} is not every second feature from {first}: this flow has other couplings "
                         "than ProHMR's")
