"""The flow over joints of 3D Multi-bodies as the network of `systems/joint_prior.py`.

Any of the authors' checkpoints holds one beside the network of hypotheses, which is left out; the one they weigh
hypotheses with is the file that their README names as `--MODEL.init_flow`.
"""

import re

from jhmr.errors import InputError
from jhmr.released import keys
import numpy as np

INSIDE = ()
CONFIG = "configs/joint_prior.py"
SYSTEMS, SETTINGS = ("joint_prior",), ()
NET = "net"  # of the TrainState
PREFIX = "model_realnvp."
IGNORED = {"the network of hypotheses": re.compile(r"model\..*"), "the body": re.compile(r"smpl_mini\..*")}
_LAYERS = {"fc1": 0, "fc2": 3, "fc3": 6}  # ours, and places in theirs, between which are dropout and activation


def settings(arrays):
  """What a file says of its sizes: keys of the config, "key=value" each."""
  arrays = keys.without_prefix(arrays, "module.")
  said = {"couplings": keys.length(arrays, f"{PREFIX}mask"), "hidden": keys.length(arrays, f"{PREFIX}s.0.0.weight")}
  return tuple(f"net.{name}={value}" for name, value in said.items() if value)


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their key: array}.
    net: config.net.
    where: the file, for messages.
  Returns:
    Converted; the masks are its stats.
  Raises:
    InputError: when keys or shapes are not those of such a flow, or a mask is not made of 0 and 1.
  """
  arrays = keys.without_prefix(arrays, "module.")
  if not any(k.startswith(PREFIX) for k in arrays):
    raise InputError(f"{where!r} holds no {PREFIX[:-1]}: give a checkpoint of 3D Multi-bodies with its flow")
  found = keys.converted(arrays, IGNORED, entries(net.dim, net.couplings, net.hidden), where,
                         "the prior of 3D Multi-bodies")
  if not np.isin(found.stats[NET]["mask"], (0, 1)).all():
    raise InputError(f"{where!r}: {PREFIX}mask is not made of 0 and 1: get the file again")
  return found


def entries(dim, couplings, hidden):
  """Every array of the flow, all couplings in one. Source: 3D Multi-bodies, authors' `benvp.py`, `model.py`."""
  found, sizes = [keys.same(("stats", NET, "mask"), f"{PREFIX}mask", (couplings, dim))], (dim, hidden, hidden, dim)
  for ours, theirs in (("scale", "s"), ("shift", "t")):
    for j, (layer, place) in enumerate(_LAYERS.items()):
      names = lambda leaf: tuple(f"{PREFIX}{theirs}.{i}.{place}.{leaf}" for i in range(couplings))
      path = lambda leaf: ("params", NET, f"{ours}_{layer}_{leaf}")
      found += [keys.Entry(path("kernel"), names("weight"), (sizes[j + 1], sizes[j]),
                           lambda *w: np.stack(w).swapaxes(1, 2)),
                keys.Entry(path("bias"), names("bias"), (sizes[j + 1],), lambda *b: np.stack(b))]
  return found
