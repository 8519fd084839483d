"""ProHMR's model that lifts 2D skeletons, a PyTorch-Lightning file, as the networks of `systems/prohmr_lift.py`.

The authors give the code that trains it, not weights. A file has no statistics of 2D poses: its inputs are z-scores
with those that their `SkeletonDataset` is given, mean and standard deviation of each joint in the training split.
"""

import re

from jhmr.released import keys, prohmr

INSIDE = prohmr.INSIDE
CONFIG = "configs/lifting_baselines.py:prohmr,released"
SYSTEMS, SETTINGS = ("prohmr_lift",), ()
NET = prohmr.NET
JOINTS2D, DIM = 17, 48  # inputs with the nose; coordinates of 16 joints
IGNORED = {k: v for k, v in prohmr.IGNORED.items() if k != "the SMPL model"}
_LAYERS = "backbone.fc_layers"
_PLACES = (0, 4)  # of a block's linear layers in their Sequential; each has its batch norm next
set_legacy_lu = prohmr.set_legacy_lu


def settings(arrays):
  """What a file says of its sizes: keys of the config, "key=value" each."""
  coupling = f"{prohmr.TRANSFORMS}.2.transform_net"
  count = lambda pattern: sum(1 for k in arrays if re.fullmatch(pattern, k))
  said = {"hidden": keys.length(arrays, f"{_LAYERS}.0.fc_block.0.weight"),
          "blocks": count(re.escape(_LAYERS) + r"\.\d+\.fc_block\.4\.weight"),
          "flow.blocks": count(re.escape(prohmr.TRANSFORMS) + r"\.\d+\.log_scale"),
          "flow.hidden": keys.length(arrays, f"{coupling}.initial_layer.weight"),
          "flow.depth": count(re.escape(coupling) + r"\.blocks\.\d+\.linear_layers\.0\.weight")}
  return tuple(f"net.{name}={value}" for name, value in said.items() if value)


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their key: array}.
    net: config.net.
    where: the file, for messages.
  Returns:
    Converted.
  Raises:
    InputError: when keys, shapes or the halves of the couplings are not those of such a network.
  """
  prohmr.check_halves(arrays, DIM, net.flow.blocks, where)
  return keys.converted(arrays, IGNORED, entries(net), where, "ProHMR's model of skeletons",
                        prohmr.never_trained(arrays))


def entries(net):
  """Every array of encoder and flow of a config.net. Source: ProHMR, authors' `fcresnet.py`, `skeleton_flow.py`."""
  found = _layer("fc", "bn", f"{_LAYERS}.0.fc_block", 0, 2 * JOINTS2D, net.hidden)
  for i in range(net.blocks):
    for j, place in enumerate(_PLACES):
      found += _layer(f"block_{i}_fc_{j}", f"block_{i}_bn_{j}", f"{_LAYERS}.{i + 1}.fc_block", place, net.hidden,
                      net.hidden)
  return found + prohmr.flow_entries(DIM, net.hidden, net.flow)


def _layer(linear, norm, name, place, inputs, outputs):
  """A linear layer of the encoder and the batch norm after it."""
  return [*keys.dense(("params", NET, "encoder", linear), f"{name}.{place}", inputs, outputs),
          *keys.batch_norm((NET, "encoder", norm), f"{name}.{place + 1}", outputs)]
