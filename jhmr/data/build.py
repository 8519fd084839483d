"""Builds a data set of rendered people: python -m jhmr.data.build --out DIR --num_train 10000 --num_val 500

or of photographs with SPIN's annotations: python -m jhmr.data.build --out DIR --spin-npz mpii_train.npz --images MPII

DIR then goes into --config.data.source. It appears when it is complete; an interrupted build leaves nothing behind, or,
when it was killed, a hidden directory beside DIR that the next build of DIR removes.
"""

import argparse
import contextlib
import io
import os
import pathlib
import sys
import time

from jhmr import command
from jhmr.body import mesh
from jhmr.body import smpl
from jhmr.data import scratch
from jhmr.data import synthetic
from jhmr.errors import InputError

_VAL_SEED = 500_000_000  # added to the seed of the training examples: nobody is in both splits
_REPORT_S = 2.0


def build(out, num_train, num_val, image_size=256, body="mannequin", seed=0, share_2d_only=0.3):
  """Renders and writes a data set.

  Args:
    out: directory to make; its parent exists.
    num_train, num_val: examples.
    image_size: side of the stored images, which show 1.5 times the person's box.
    body: as `smpl.load`; seed: of the stream; share_2d_only: training examples without 3D labels.
  Raises:
    InputError: when `out` exists, or an argument is out of range.
  """
  out = _new(out)
  if num_train < 1 or num_val < 1 or not 0 <= seed < _VAL_SEED:
    raise InputError(f"--num_train {num_train}, --num_val {num_val}, --seed {seed}: give at least one example of each "
                     f"and a seed in 0..{_VAL_SEED - 1}")
  from jhmr.data import records
  from jhmr.data.builders import synthetic_people  # TFDS takes a second to import: after the mistakes are found
  import tensorflow_datasets as tfds
  margin = synthetic.Settings().box_scale * records.BOX_MARGIN
  settings = synthetic.Settings(image_size=image_size, share_2d_only=share_2d_only, scale_jitter=0.0, shift_jitter=0.0,
                                share_truncated=0.0, box_scale=margin)
  synthetic.check(settings)
  arrays = smpl.load_arrays(body)
  assets = {"body": smpl.from_arrays(arrays), "surface": mesh.surface(arrays)}
  plan = {"train": (num_train, seed, settings),
          "val": (num_val, seed + _VAL_SEED, settings._replace(share_2d_only=0.0))}
  tfds.disable_progress_bar()
  with scratch.beside(out) as made:
    builder = synthetic_people.SyntheticPeople(
        assets=assets, plan=plan, report=_reporter(sys.stdout), data_dir=str(made),
        description=f"Rendered people: body {pathlib.Path(body).name}, seed {seed}, {image_size} pixels.")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of downloads and of the scratch directory
      builder.download_and_prepare()
    os.rename(builder.data_dir, out)


def _new(out):
  """The path of a directory that can be made. Raises InputError when it cannot."""
  out = pathlib.Path(out).absolute()
  if out.exists():
    raise InputError(f"--out {str(out)!r} exists: give a new directory, nothing is overwritten")
  if not out.parent.is_dir():
    raise InputError(f"the folder of --out {str(out)!r} does not exist: make it first")
  return out


def build_photographs(out, annotations, root, maps=None):
  """Writes a data set of an annotation file of SPIN; arguments and errors as `spin_people.build`."""
  out = _new(out)
  from jhmr.data.builders import spin_people  # TFDS, as above
  num = spin_people.build(out, annotations, root, _reporter(sys.stdout), maps)
  print(f"{out}: {num:,} training examples; train on it with --config.data.source={out}")


def _reporter(file):
  """A function (split, done, total) that prints the rate and the time left to `file` every few seconds."""
  started, last = {}, [0.0]

  def report(split, done, total):
    now = time.monotonic()
    first, since = started.setdefault(split, (done, now))  # the first batch compiles: it does not count
    if done < total and now - last[0] < _REPORT_S:
      return
    last[0] = now
    rate = (done - first) / max(now - since, 1e-9)
    left = f"{rate:.0f} examples/s, {(total - done) / rate:.0f} s left" if done > first else "compiled"
    print(f"{split}: {done:,}/{total:,}  [{left}]", file=file, flush=True)

  return report


def main(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.data.build", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--out", required=True, help="directory to make")
  parser.add_argument("--num_train", type=int)
  parser.add_argument("--num_val", type=int)
  parser.add_argument("--image_size", type=int, help="side of the stored images in pixels, default 256")
  parser.add_argument("--body", help="mannequin (default), mannequin_small or a body file")
  parser.add_argument("--seed", type=int, help="default 0")
  parser.add_argument("--share_2d_only", type=float, help="training examples without 3D labels, default 0.3")
  parser.add_argument("--spin-npz", metavar="NPZ", help="photographs instead: annotations in the format of SPIN's")
  parser.add_argument("--images", metavar="FOLDER", help="that their image names are below")
  parser.add_argument("--parts", metavar="FOLDER", help="also store their body parts: PNGs of the photographs' names")
  parser.add_argument("--iuv", metavar="FOLDER", help="also store their surface coordinates, as DensePose writes them")
  args = parser.parse_args(argv[1:])
  spin_npz, root, out = (vars(args).pop(name) for name in ("spin_npz", "images", "out"))
  maps = {kind: folder for kind in ("parts", "iuv") if (folder := vars(args).pop(kind))}
  rendered = {name: value for name, value in vars(args).items() if value is not None}
  if bool(spin_npz) != bool(root) or maps and not root:
    raise InputError("photographs need both --spin-npz FILE and --images FOLDER")
  if spin_npz and rendered:
    raise InputError(f"--{next(iter(rendered))} is about rendered people: leave it out with --spin-npz")
  if spin_npz:
    build_photographs(out, spin_npz, root, maps)
    return
  counts = {"num_train": 0, "num_val": 0} | rendered
  build(out, **counts)
  print(f"{out}: {counts['num_train']:,} training and {counts['num_val']:,} validation examples; "
        f"train on it with --config.data.source={out}")


if __name__ == "__main__":
  command.run(main)
