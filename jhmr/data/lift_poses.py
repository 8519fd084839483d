"""Files of 2D and 3D poses for lifting, and the command that makes them:

    python -m jhmr.data.lift_poses --out poses.npz [--people 20000]            of rendered people, `data.lift_people`
    python -m jhmr.data.lift_poses --out h36m.npz --wehrbein FOLDER            of Wehrbein et al.'s Human3.6M files
    python -m jhmr.data.lift_poses --out mine.npz --heatmaps a.npz b.npz ...   of a detector's heatmaps

A file is an .npz, without pickles, of N poses:

    pose2d [N, 16, 2], gaussians [N, 16, 6], pose3d [N, 17, 3]   as `data.lift_spec`; a pose without a 3D label is zero,
                                                                 a 2D joint that no detector found NaN
    has_pose3d [N]  1 if pose3d is a label      hard [N]  1 for a pose that counts as ambiguous
    action [N] int  -1 unknown                  actions [A] str, their names
    split [N] str   "train", "val", "val_hard", ...
"""

import argparse
import os

import numpy as np

from jhmr import command
from jhmr import files
from jhmr import lifting
from jhmr import report
from jhmr.data import heatmaps
from jhmr.data import lift_people
from jhmr.data import lift_spec
from jhmr.data import lift_wehrbein
from jhmr.errors import InputError
from jhmr.fitting import npz_files

_LEAST_JOINTS = 2  # of a 2D pose: fewer have no size
POSES = ("pose2d", "gaussians", "pose3d", "has_pose3d", "action", "hard")
KEYS = (*POSES, "actions", "split")


def read(path):
  """{name: array} of a file, every key of KEYS, numbers as `lift_spec` has them.

  What a file need not have: gaussians (zeros), pose3d (zeros), has_pose3d (1 where there is pose3d), action (-1),
  actions (none), hard (`lifting.hard`; of no Gaussians 0), split ("train").
  Raises:
    InputError: one line, when it cannot be read, or its shapes and numbers are not those of poses.
  """
  return complete(npz_files.read(path, KEYS, "poses"), f"poses {path!r}")


def complete(arrays, where):
  """The arrays with those that may be left out; InputError, naming `where`, when something is not as it should be."""
  if "pose2d" not in arrays:
    raise InputError(f"{where} lack pose2d: write them with python -m jhmr.data.lift_poses")
  num = len(arrays["pose2d"]) if arrays["pose2d"].ndim else 0
  ones = np.full(num, float("pose3d" in arrays))
  zeros = {key: np.zeros((num, *lift_spec.FIELDS[key].shape)) for key in ("gaussians", "pose3d")}
  made = zeros | {"has_pose3d": ones, "action": np.full(num, -1), "actions": np.zeros(0, "U1"),
                  "split": np.full(num, "train")} | arrays
  for key in (key for key in POSES if key in made):
    made[key] = _checked(key, made[key], num, where)
  _check_names(made, num, where)
  made["pose3d"] = made["pose3d"] - made["pose3d"][:, :1]
  if "hard" not in made:
    made["hard"] = np.asarray(lifting.hard(made["gaussians"]), np.float32)
  return {key: made[key] for key in KEYS}


def _checked(key, value, num, where):
  field = lift_spec.FIELDS[key]
  if value.shape != (num, *field.shape) or not num or value.dtype.kind not in "fiub":
    raise InputError(f"{where}: {key} is {value.dtype} {value.shape}: give numbers {('N', *field.shape)}, N at least 1")
  if key == "pose2d":
    found = np.isfinite(value).all(-1)
    if (few := found.sum(-1) < _LEAST_JOINTS).any():
      raise InputError(f"{where}: pose2d of pose {np.argmax(few)} has fewer than {_LEAST_JOINTS} joints that are "
                       "finite: leave it out")
    value = np.where(found[..., None], value, np.nan)
  elif not np.isfinite(value).all():
    raise InputError(f"{where}: {key} of pose {np.nonzero(~np.isfinite(value))[0][0]} is not finite: leave it out")
  return value.astype(field.dtype)


def _check_names(arrays, num, where):
  for key, length in (("split", num), ("actions", None)):
    if arrays[key].ndim != 1 or arrays[key].dtype.kind != "U" or length not in (None, len(arrays[key])):
      raise InputError(f"{where}: {key} is {arrays[key].dtype} {arrays[key].shape}: give names, split one of each pose")
  if arrays["action"].min() < -1 or arrays["action"].max() >= len(arrays["actions"]):
    raise InputError(f"{where}: action is in {arrays['action'].min()}..{arrays['action'].max()}, of "
                     f"{len(arrays['actions'])} actions: -1 is unknown, others are positions in actions")


def write(path, arrays):
  """Writes poses, whole or not at all; what may be left out is as for `read`. Returns all of the file's arrays.

  Raises:
    InputError: as `read`, and when the file cannot be written.
  """
  arrays = complete(arrays, f"--out {path!r}")
  with files.writing(path), files.whole(path, "wb") as f:
    np.savez(f, **arrays)
  return arrays


def main(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.data.lift_poses", description="Makes a file of poses.")
  parser.add_argument("--out", required=True, metavar="NPZ", help="to write")
  parser.add_argument("--people", type=int, help="rendered people: how many to train on, default 20000")
  parser.add_argument("--val", type=int, help="as many for validation, default 2000")
  parser.add_argument("--val-hard", type=int, help="as many ambiguous ones, default 1000")
  parser.add_argument("--seed", type=int, help="of rendered people, default 0")
  parser.add_argument("--body", help="mannequin (default), mannequin_small or a body file")
  parser.add_argument("--wehrbein", metavar="PATH", help="a pickle of Wehrbein et al., or the folder of both")
  parser.add_argument("--heatmaps", metavar="NPZ", nargs="+", help="heatmaps [N, 16, 64, 64] of one file or several, "
                      "see jhmr/data/heatmaps.py")
  args = vars(parser.parse_args(argv[1:]))
  out, pickle, maps = (args.pop(key) for key in ("out", "wehrbein", "heatmaps"))
  given = {name: value for name, value in args.items() if value is not None}
  if sum(map(bool, (given, pickle, maps))) > 1:
    raise InputError("give only one of --wehrbein, --heatmaps and options of rendered people")
  if not os.path.isdir(os.path.dirname(os.path.abspath(out))):
    raise InputError(f"the folder of --out {out!r} does not exist: make it first")
  if pickle:
    arrays = lift_wehrbein.read(pickle)
  elif maps:
    arrays = joined([_fitted(path) for path in maps])
  else:
    arrays = lift_people.made(lift_people.Settings(**given), report.say)
  _say(out, write(out, arrays))


def _fitted(path):
  """The poses of a file of heatmaps."""
  arrays, failed = heatmaps.read(path)
  missing = np.isnan(arrays["pose2d"][..., 0])
  report.say(f"{path}: {failed:,} of {missing.size:,} heatmaps have no fit, {missing.sum():,} show nothing: those "
             "joints are missing")
  return complete(arrays, f"heatmaps {path!r}")


def joined(parts):
  """The arrays of several files, as `complete` gives them, one after the other; an action is known by its name."""
  actions = list(dict.fromkeys(name for part in parts for name in part["actions"].tolist()))
  number = lambda part: np.array([*map(actions.index, part["actions"].tolist()), -1])[part["action"]]  # of -1 the last
  parts = [part | {"action": number(part)} for part in parts]
  return {key: np.concatenate([part[key] for part in parts]) for key in (*POSES, "split")} | {
      "actions": np.array(actions, np.str_)}


def _say(out, arrays):
  """Prints how many poses of each split there are, and how many are ambiguous."""
  for split in dict.fromkeys(arrays["split"].tolist()):
    rows = arrays["split"] == split
    report.say(f"{out}: {split} {rows.sum():,} poses, {arrays['hard'][rows].mean():.1%} ambiguous")


if __name__ == "__main__":
  command.run(main)
