"""Records spin_crops.npz: what the authors' `utils/imutils.py` makes of the pictures of `test_spin_crop`.

    git clone https://github.com/nkolot/SPIN
    PYTHONPATH=.:tests python tests/data/goldens/record_spin_crops.py SPIN tests/data/goldens/spin_crops.npz

Needs Pillow and torch. `scipy.misc.imresize` is gone from scipy: here it is what scipy 1.0 documents, bytes in 0..255
by the range of whatever is not uint8, then Pillow's resize.
"""

import pathlib
import sys
import types

import numpy as np
from PIL import Image

from data import spin_pictures


def bytescale(values):
  if values.dtype == np.uint8:
    return values
  low, high = values.min(), values.max()
  return (((values - low) * (255.0 / ((high - low) or 1))).clip(0, 255) + 0.5).astype(np.uint8)


def imresize(values, size, interp="bilinear"):
  kind = {"bilinear": Image.BILINEAR, "nearest": Image.NEAREST}[interp]
  return np.asarray(Image.fromarray(bytescale(values)).resize((int(size[1]), int(size[0])), kind))


def authors_module(folder):
  misc = types.ModuleType("scipy.misc")
  misc.imresize = imresize
  import scipy
  scipy.misc = misc
  sys.modules |= {"scipy.misc": misc, "constants": types.ModuleType("constants")}
  module = types.ModuleType("imutils")
  exec(compile((pathlib.Path(folder) / "utils/imutils.py").read_text(), "imutils", "exec"), module.__dict__)  # pylint: disable=exec-used
  return module


def main(folder, out):
  theirs, found = authors_module(folder), {}
  for i, (image, labels, center, scale) in enumerate(spin_pictures.all_of_them()):
    size = [spin_pictures.SIZE] * 2
    found[f"crop{i}"] = theirs.crop(image.astype(np.float32), center, scale, size)
    found[f"uncrop{i}"] = theirs.uncrop(labels, center, scale, image.shape[:2])
  np.savez_compressed(out, **found)


if __name__ == "__main__":
  main(*sys.argv[1:])
