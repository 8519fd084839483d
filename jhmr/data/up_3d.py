"""Annotations of UP-3D from its folder, as GraphCMR's preparation makes them:

    python -m jhmr.data.up_3d --folder UP3D --list trainval.txt --out up_3d_trainval.npz

The list has a name a line, like `/01129_image.png`; with the 639 names of GraphCMR's `namesUPlsp.txt` it is the set of
the benchmark `up_3d`. The .npz (`data.spin_files`) then goes to `data.build --spin-npz` or to `evaluate`, its pictures
are in the same folder. Of each person are read

    <id>_joints.npy         [3, 14 or more] x, y, 0 or 1: the first 14 annotated joints
    <id>_render_light.png   a picture of the fitted body on white: the box is 1.2 times what is not white
    <id>_body.pkl           its pose [72] and betas [10]; nothing in it is executed, see `body.pickles`

Source: GraphCMR, authors' `datasets/preprocess/up_3d.py`.
"""

import argparse
import os
import re

import numpy as np

from jhmr import command
from jhmr import files
from jhmr import report
from jhmr.body import pickles
from jhmr.data import images
from jhmr.errors import InputError

BOX_SCALE = 1.2
NUM_JOINTS = 14  # of the 24 annotated ones
_LINE = re.compile(r"/?(?P<id>[\w-]+)_image\.png")


def read_list(path):
  """The ids of a list, in order. Raises InputError, naming the line, when it is not one."""
  try:
    with open(path, encoding="utf-8") as f:
      lines = [(number, line.strip()) for number, line in enumerate(f, 1) if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"--list {path!r} cannot be read ({_line(error)}): give UP-3D's trainval.txt, or GraphCMR's "
                     "namesUPlsp.txt") from error
  found = [(number, _LINE.fullmatch(line)) for number, line in lines]
  if odd := [number for number, match in found if not match]:
    raise InputError(f"--list {path!r}: line {odd[0]} is no name like /01129_image.png: give UP-3D's trainval.txt, or "
                     "GraphCMR's namesUPlsp.txt")
  if not found:
    raise InputError(f"--list {path!r} is empty: give UP-3D's trainval.txt, or GraphCMR's namesUPlsp.txt")
  return [match["id"] for _, match in found]


def read_person(folder, name):
  """One row: {"imgname", "center" [2], "scale", "part" [24, 3], "pose" [72], "shape" [10]}.

  Raises:
    InputError: naming the file that is missing or is not what it should be.
  """
  part = np.zeros((24, 3))
  part[:NUM_JOINTS] = _read(folder, f"{name}_joints.npy", _joints)
  center, scale = _read(folder, f"{name}_render_light.png", _box)
  pose, betas = _read(folder, f"{name}_body.pkl", _body)
  return {"imgname": f"{name}_image.png", "center": center, "scale": scale, "part": part, "pose": pose, "shape": betas}


def _read(folder, name, reader):
  path = os.path.join(folder, name)
  try:
    return reader(path)
  except Exception as error:  # zip, NumPy, OpenCV and pickles have their own kinds
    raise InputError(f"{path!r} cannot be used ({_line(error)}): take it from UP-3D again") from error


def _line(error):
  said = getattr(error, "strerror", None) or str(error) or type(error).__name__
  return " ".join(said.split())[:150]


def _joints(path):
  rows = np.load(path, allow_pickle=False)
  if rows.ndim != 2 or rows.shape[0] != 3 or rows.shape[1] < NUM_JOINTS:
    raise ValueError(f"joints of shape {rows.shape}, not (3, {NUM_JOINTS})")
  return _finite(rows.T[:NUM_JOINTS], "joints")


def _box(path):
  """(centre [2], scale). Centres are whole pixels: the authors' is Python 2, where integers divide so."""
  with open(path, "rb") as f:
    picture = images.decode(f.read())[0]
  ys, xs = np.nonzero(picture.min(-1) < 255)
  if not len(xs):
    raise ValueError("it is white: nobody is drawn in it")
  low, high = np.array([xs.min(), ys.min()]), np.array([xs.max(), ys.max()]) + 1
  return (low + high) // 2, BOX_SCALE * (high - low).max() / 200


def _body(path):
  with open(path, "rb") as f:
    found = pickles.attributes(pickles.read(f))
  values = []
  for key, size in (("pose", 72), ("betas", 10)):
    if key not in found:
      raise ValueError(f"it has no {key}")
    value = pickles.array(found[key]).ravel()
    if value.shape != (size,):
      raise ValueError(f"its {key} has {value.size} numbers, not {size}")
    values.append(_finite(value, key))
  return values


def _finite(value, name):
  if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
    raise ValueError(f"its {name} are not all finite numbers")
  return value.astype(np.float64)


def convert(folder, names, out):
  """Writes the annotations of the people with these ids, whole or not at all.

  Args:
    folder: of UP-3D.  names: ids, of `read_list`.  out: of the .npz.
  Raises:
    InputError: for the first person with a file that cannot be used.
  """
  rows = []
  for i, name in enumerate(names):
    rows.append(read_person(folder, name))
    if i % 500 == 499:
      report.say(f"{i + 1:,}/{len(names):,} people")
  with files.whole(out, "wb") as f:
    np.savez(f, **{key: np.stack([row[key] for row in rows]) for key in rows[0]})


def main(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.data.up_3d", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--folder", required=True, help="UP-3D's, with <id>_image.png and the rest")
  parser.add_argument("--list", required=True, help="names, one a line")
  parser.add_argument("--out", required=True, metavar="NPZ", help="to write")
  args = parser.parse_args(argv[1:])
  if not os.path.isdir(args.folder):
    raise InputError(f"--folder {args.folder!r} does not exist: give UP-3D's folder")
  if not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
    raise InputError(f"the folder of --out {args.out!r} does not exist: make it first")
  names = read_list(args.list)
  with files.writing(args.out):
    convert(args.folder, names, args.out)
  report.say(f"{args.out}: {len(names):,} people")


if __name__ == "__main__":
  command.run(main)
