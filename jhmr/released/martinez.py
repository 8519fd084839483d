"""Martinez et al.'s checkpoint, of TensorFlow 1, as the network of `systems/martinez.py`.

It must have been trained with the flags of the authors' README: residual, batch_norm, max_norm, dropout. The statistics
of their z-scores are not in it; they are those of the training split in the camera's frame, of the poses it was trained
with, which config.data must name.
"""

import re

from jhmr.errors import InputError
from jhmr.released import keys, tf_file

INSIDE = ()
read = tf_file.read
CONFIG = "configs/lifting_baselines.py:martinez"
# Norms of kernels are cut where they are used, so the weights are stored as they are.
SYSTEMS, SETTINGS = ("martinez",), ("net.max_norm=True",)
NET = "net"  # of the TrainState
INPUTS, OUTPUTS = 32, 48  # coordinates of 16 joints
IGNORED = {"state of the optimiser": re.compile(r"(.*/Adam(_1)?|beta[12]_power)"),
           "step and learning rate": re.compile(r"(learning_rate|global_step)")}
_MODEL = "linear_model"
SAID = ("z-scores want the statistics of the poses it was trained with: config.data.source should name Human3.6M's, "
        "with the same 2D joints, or every number will be off")


def settings(arrays):
  """What a file says of its sizes: keys of the config, "key=value" each."""
  blocks = sum(1 for k in arrays if re.fullmatch(rf"{_MODEL}/two_linear_\d+/w2_\d+", k))
  said = {"hidden": keys.length(arrays, f"{_MODEL}/w1", 1), "blocks": blocks}
  return tuple(f"net.{name}={value}" for name, value in said.items() if value)


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their name: array}.
    net: config.net.
    where: the file, for messages.
  Returns:
    Converted.
  Raises:
    InputError: when names or shapes are not those of such a network, or it has another kind of output.
  """
  if f"{_MODEL}/w5" in arrays:
    raise InputError(f"{where!r} holds a mixture, as Li and Lee's: give --kind mdn")
  return keys.converted(arrays, IGNORED, entries(net, {"head": ("4", OUTPUTS)}), where, "Martinez et al.'s network",
                        (SAID,))


def entries(net, heads):
  """Every array of a config.net, and of its heads {our name: (their number, outputs)}.

  Source: Martinez et al., authors' `linear_model.py`; Li and Lee 2019, authors' `mix_den_model.py`.
  """
  body = ("body",)
  found = _layer(body, ("fc", "bn"), _MODEL, "1", "batch_normalization", INPUTS, net.hidden)
  for i in range(net.blocks):
    for j in range(2):
      names = f"block_{i}_fc_{j}", f"block_{i}_bn_{j}"
      found += _layer(body, names, f"{_MODEL}/two_linear_{i}", f"{j + 2}_{i}", f"batch_normalization{j + 1}{i}",
                      net.hidden, net.hidden)
  for name, (number, outputs) in heads.items():
    found += _dense((name,), f"{_MODEL}/{{}}{number}", net.hidden, outputs)
  return found


def _dense(path, name, inputs, outputs):
  """A linear layer: TensorFlow keeps its weight as [in, out]."""
  return [keys.same(("params", NET, *path, "kernel"), name.format("w"), (inputs, outputs)),
          keys.same(("params", NET, *path, "bias"), name.format("b"), (outputs,))]


def _layer(path, ours, scope, number, norm, inputs, outputs):
  """A linear layer and the batch norm after it, both called `ours`."""
  found = _dense((*path, ours[0]), f"{scope}/{{}}{number}", inputs, outputs)
  for tree, leaf, theirs in (("params", "scale", "gamma"), ("params", "bias", "beta"), ("stats", "mean", "moving_mean"),
                             ("stats", "var", "moving_variance")):
    found.append(keys.same((tree, NET, *path, ours[1], leaf), f"{scope}/{norm}/{theirs}", (outputs,)))
  return found
