"""The hypotheses of 3D Multi-bodies as the network of `systems/multibodies.py`, with the heads of the authors' code.

A checkpoint holds M hypotheses and, beside them, the flow that weighs them (`released/multibodies_prior.py`), the body,
and layers of experiments that take no part. A checkpoint of SPIN is taken too: it becomes what the authors' training
starts from, M times the answer of SPIN.
"""

import re

from jhmr.errors import InputError
from jhmr.nn import resnet
from jhmr.released import keys, spin
from jhmr.released import resnet as resnet_keys
import numpy as np

INSIDE = spin.INSIDE
CONFIG = "configs/multibodies.py"
SYSTEMS = ("multibodies",)
# Their network, numbers format, sets of hypotheses, and for those who train on, losses as the released run's name has
# them and what learns.
SETTINGS = ("net.heads=stage4", "net.activation=none", "net.iterations=3", "net.dtype=float32",
            "camera_convention=spin", "supervision=spin49", "supervise_first=True", "quantise=code",
            "infer_joints=False", "freeze=True", "weights.keypoints3d=25.0", "weights.pose=1.0", "weights.betas=0.001",
            "weights.keypoints2d=1.0", "weights.vertices=1.0", "weights.keypoints2d_all=1.0", "weights.camera=1.0")
FILES = {"prior": "the run that --kind multibodies_prior makes of the authors' flow"}
HEADS, STAGE = "heads", "stage"  # beside spin.NET in the TrainState
PREFIX = "model.model."
IGNORED = spin.IGNORED | {
    "the flow": re.compile(r"model_realnvp\..*"), "the body": re.compile(r"smpl_mini\..*"),
    "layers that take no part": re.compile(r"model\.model\.(fc[3-6]|decflow_mu|decflow_logsigma)\.(weight|bias)")}


def settings(arrays):
  """What a file says of its sizes: keys of the config, "key=value" each."""
  norms = [re.search(r"(layer[45])\.\d+\.bn\d\.weight$", k) for k in arrays]
  widest = {n[1]: 0 for n in norms if n}
  for norm in filter(None, norms):
    widest[norm[1]] = max(widest[norm[1]], keys.length(arrays, norm.string) or 0)
  single, wide = widest.get("layer4", 0), widest.get("layer5", 0)
  return (f"net.hypotheses={wide // single}",) if single and wide >= single else ()


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their key: array}.
    net: config.net.
    where: the file, for messages.
  Returns:
    Converted; its start has also "pose" [144], as that of SPIN.
  Raises:
    InputError: when keys or shapes are not those of such a network.
  """
  arrays, line = keys.split(keys.without_prefix(arrays, "module."), IGNORED)
  ours = {k.removeprefix(PREFIX): v for k, v in arrays.items() if k.startswith(PREFIX)}
  if not ours and "conv1.weight" in arrays:
    return _repeated(arrays, net, where)
  if len(ours) < len(arrays) or not ours:
    odd = next((k for k in arrays if not k.startswith(PREFIX)), "nothing else")
    raise InputError(f"{where!r} holds {odd}, but 3D Multi-bodies' keys begin with {PREFIX}: give the right --kind")
  stage = {k: v for k, v in ours.items() if _stage(net.backbone) in k}
  one = spin.convert({k: v for k, v in ours.items() if k not in stage}, net, where)
  tree = keys.fill(stage, entries(net.backbone, net.hypotheses), where, "3D Multi-bodies")
  said = f"{len(ours)} arrays, {net.hypotheses} hypotheses; {line or 'every key was used'}"
  return _joined(one, tree, said)


def _repeated(arrays, net, where):
  """M times the answer of a SPIN: its last stage, with the last layer repeated."""
  one = spin.convert(arrays, net, where)
  copied = {}
  for entry in entries(net.backbone, net.hypotheses):
    theirs = arrays[entry.names[0].replace(_stage(net.backbone), _stage(net.backbone, -1))]
    times = entry.shape[0] // theirs.shape[0]
    copied[entry.names[0]] = np.tile(theirs, (times,) + (1,) * (theirs.ndim - 1))
  tree = keys.fill(copied, entries(net.backbone, net.hypotheses), where, "SPIN")
  return _joined(one, tree, f"{net.hypotheses} times the answer of this SPIN, to train from")


def _joined(one, stage, said):
  """Converted of a SPIN and of the stage that makes hypotheses of it."""
  return one._replace(params=one.params | stage["params"], stats=one.stats | stage["stats"], said=(said,))


def _stage(backbone, offset=0):
  """How keys of the stage of hypotheses begin."""
  return f"layer{len(resnet.ARCHITECTURES[backbone].blocks) + 1 + offset}."


def entries(backbone, hypotheses):
  """Every array of the stage of hypotheses.

  Source: 3D Multi-bodies, authors' `hmr_condspin.py`: the last stage again, its last layer M times as wide.
  """
  blocks = resnet.ARCHITECTURES[backbone].blocks
  single, wide = _stage(backbone, -1), _stage(backbone)
  count = 3 if resnet.ARCHITECTURES[backbone].expansion > 1 else 2  # layers of a block
  last = tuple(f"{wide}{blocks[-1] - 1}.{layer}{count}." for layer in ("conv", "bn"))
  found = []
  for entry in resnet_keys.entries(backbone, ()):
    if entry.names[0].startswith(single):
      name = entry.names[0].replace(single, wide)
      tree, block, *leaf = entry.path
      path = (tree, HEADS, STAGE, block.replace(single[:-1], wide[:-1]), *leaf)
      times = hypotheses if name.startswith(last) else 1
      found.append(entry._replace(path=path, names=(name,), shape=(entry.shape[0] * times, *entry.shape[1:])))
  return found

