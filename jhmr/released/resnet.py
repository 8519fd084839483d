"""torchvision's ResNets trained on ImageNet, as the encoder of any system.

Their names and ours differ in dots and leaves only: "layer1.0.conv1.weight" is "layer1_0/conv1/kernel".
"""

import re

from jhmr.errors import InputError
from jhmr.nn import resnet
from jhmr.released import keys

INSIDE = ("state_dict", "model")
CONFIG, SYSTEMS, SETTINGS = "", (), ()
IGNORED = {"num_batches_tracked": re.compile(r".*\.num_batches_tracked"),
           "the ImageNet classifier fc": re.compile(r"fc\.(weight|bias)")}


def entries(architecture, path, prefix=""):
  """Every array of an encoder.

  Args:
    architecture: a name in `nn.resnet.ARCHITECTURES`, of those that torchvision has.
    path: where it is below "params" and "stats", ("net", "backbone").
    prefix: of their keys.
  Raises:
    InputError: for an architecture of our own.
  Source: He et al. 2016, table 1; torchvision `resnet.py` for names and for which blocks have a projection.
  """
  arch = resnet.ARCHITECTURES.get(architecture)
  if arch is None or arch.locate:
    raise InputError(f"config.net.backbone is {architecture!r}: only torchvision's resnet50 and resnet18 have weights")
  conv = lambda names, *sizes: keys.conv(("params", *path, *_ours(names)), prefix + names, *sizes)
  norm = lambda names, channels: keys.batch_norm((*path, *_ours(names)), prefix + names, channels)
  found, inside = [conv("conv1", 3, arch.width, arch.stem), *norm("bn1", arch.width)], arch.width
  for stage, count in enumerate(arch.blocks):
    width = arch.width * 2 ** stage
    out = width * arch.expansion
    for i in range(count):
      block, stride = f"layer{stage + 1}.{i}", arch.strides[stage] if i == 0 else 1
      sizes = ([(inside, width, 3), (width, out, 3)] if arch.expansion == 1 else
               [(inside, width, 1), (width, width, 3), (width, out, 1)])
      for j, (a, b, size) in enumerate(sizes, 1):
        found += [conv(f"{block}.conv{j}", a, b, size), *norm(f"{block}.bn{j}", b)]
      if stride > 1 or inside != out:
        found += [conv(f"{block}.downsample.0", inside, out, 1), *norm(f"{block}.downsample.1", out)]
      inside = out
  return found


def _ours(names):
  """"layer1.0.downsample.1" -> ("layer1_0", "downsample_1")."""
  return re.sub(r"\.(\d)", r"_\1", names).split(".")


def convert(arrays, net, where):
  """A torchvision file -> Converted with params and stats {"backbone": ...}.

  Raises:
    InputError: when keys or shapes are not those of a ResNet-50 or ResNet-18.
  """
  del net
  arrays, line = keys.split(arrays, IGNORED)
  name = "resnet50" if "layer1.0.conv3.weight" in arrays else "resnet18"
  tree = keys.fill(arrays, entries(name, ("backbone",)), where, f"torchvision's {name}")
  return keys.Converted(tree["params"], tree["stats"], said=(f"{len(arrays)} arrays of a {name}; {line}",))
