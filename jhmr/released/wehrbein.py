"""Wehrbein et al.'s `model.pt`, a conditional INN that lifts 2D poses, as the network of `systems/cinn_lifting.py`.

The file holds the network alone: their critic is not saved, and the permutations between couplings are not weights but
seeds, which `nn/cinn.py` has too.
"""

import re

from jhmr.errors import InputError
from jhmr.released import keys

INSIDE = ("net",)
CONFIG = "configs/lifting.py:released"
SYSTEMS, SETTINGS = ("cinn_lifting",), ()
NET = "net"  # of the TrainState
DIM, INPUTS = 48, 78  # coordinates of 16 joints; numbers of a condition
IGNORED = {"buffers of FrEIA": re.compile(r".*tmp_var.*")}
_COUPLING = "inn.module_list.{}.{}"


def settings(arrays):
  """What a file says of its sizes: keys of the config, "key=value" each."""
  blocks = sum(1 for k in arrays if re.fullmatch(r"inn\.module_list\.\d+\.s1\.0\.weight", k))
  said = {"blocks": blocks, "hidden": keys.length(arrays, _COUPLING.format(1, "s1.0.weight")),
          "condition_hidden": keys.length(arrays, "cond_net.0.weight"),
          "features": keys.length(arrays, "cond_net.2.weight")}
  return tuple(f"net.{name}={value}" for name, value in said.items() if value)


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their key: array}.
    net: config.net.
    where: the file, for messages.
  Returns:
    Converted, without a critic.
  Raises:
    InputError: when keys or shapes are not those of such a network, or it was made with a newer FrEIA.
  """
  if any(".subnet1." in k for k in arrays):
    raise InputError(f"{where!r} was made with FrEIA 0.2 or newer, whose couplings limit scales otherwise: give "
                     "weights of the authors' code with the FrEIA it names")
  return keys.converted(arrays, IGNORED, entries(net.blocks, net.hidden, net.condition_hidden, net.features), where,
                        "Wehrbein et al.'s network", ("no critic in it: a run that starts from it has a fresh one",))


def entries(blocks, hidden, condition_hidden, features):
  """Every array of the network. Source: Wehrbein et al. 2021, authors' `models/model.py`; FrEIA for the names."""
  found = []
  for k in range(blocks):
    for net in ("s1", "s2"):
      path, name = ("params", NET, f"coupling_{k}", net), _COUPLING.format(2 * k + 1, net)  # between are permutations
      found += keys.dense((*path, "fc0"), f"{name}.0", DIM // 2 + features, hidden)
      found += keys.dense((*path, "fc2"), f"{name}.2", hidden, DIM)
  condition = ("params", NET, "condition")
  found += keys.dense((*condition, "fc0"), "cond_net.0", INPUTS, condition_hidden)
  return found + keys.dense((*condition, "fc2"), "cond_net.2", condition_hidden, features)
