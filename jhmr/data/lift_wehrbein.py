"""Human3.6M as Wehrbein et al. 2021 prepared it: detections of HRNet, Gaussians of its heatmaps, and 3D poses.

What their `create_data.py` writes: trainset_h36m.pickle and testset_h36m.pickle, of every fourth frame,

    [subject][action]["0" or "1"][camera] = {"imgpath": [F names], "3d_gt": [F, 51] mm, "2d_hrnet": [F, 32] pixels,
                                             "gaussfit": [F, 112]}

with vectors coordinate-major, and seven numbers of each joint's fit, the last of them its error. Nothing in a pickle is
executed, see `body.pickles`.

Source: Wehrbein et al. 2021, authors' `data_h36m.py` and `data_info.txt`.
"""

import os

import numpy as np

from jhmr import lifting
from jhmr.body import pickles
from jhmr.data import lift_spec
from jhmr.errors import InputError

TRAIN, TEST = ("S1", "S5", "S6", "S7", "S8"), ("S9", "S11")
ACTIONS = ("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases", "Sitting",
           "SittingDown", "Smoking", "Waiting", "WalkDog", "WalkTogether", "Walking")
CAMERAS = ("54138969", "55011271", "58860488", "60457274")
FILES = ("trainset_h36m.pickle", "testset_h36m.pickle")
STRIDE = 16  # of the frames of an action that are scored: every 64th of the video
_LEFT_OUT = (("S5", "Waiting", "1", "55011271"), ("S11", "Directions", "0", "54138969"))
_KEYS = {"3d_gt": 51, "2d_hrnet": 32, "gaussfit": 112}


def read(path):
  """Poses of a pickle, or of the two in a folder, for `lift_poses.write`.

  Splits: "train" all frames of the training subjects; of the test subjects "val" those that protocols 1 and 2 score,
  every 16th of each action's, and "val_hard" all that are ambiguous. A frame may be in both.
  Raises:
    InputError: one line, when a file cannot be read, or is not one of theirs.
  """
  paths = [os.path.join(path, name) for name in FILES] if os.path.isdir(path) else [path]
  videos = {}
  for each in paths:
    videos |= _videos(each)
  rows = [*_split("train", _of(videos, TRAIN)), *_split("val", _of(videos, TEST), lambda x: x[::STRIDE]),
          *_split("val_hard", _of(videos, TEST), lambda x: x[np.asarray(lifting.hard(x["gaussians"]))])]
  if not rows:
    raise InputError(f"--wehrbein {path!r} has no video of {', '.join(TRAIN + TEST)}: give their pickles")
  return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]} | {"actions": np.array(ACTIONS)}


def _of(videos, subjects):
  """{action: structured array of all frames of these subjects, in the authors' order}."""
  found = {}
  for action in ACTIONS:
    keys = [(s, action, sub, camera) for s in subjects for sub in "01" for camera in CAMERAS]
    if parts := [videos[key] for key in keys if key in videos]:
      found[action] = np.concatenate(parts)
  return found


def _split(name, actions, chosen=lambda x: x):
  for action, poses in actions.items():
    poses = chosen(poses)
    if len(poses):
      yield {"pose2d": poses["pose2d"], "gaussians": poses["gaussians"], "pose3d": poses["pose3d"],
             "action": np.full(len(poses), ACTIONS.index(action)), "split": np.full(len(poses), name, "U8")}


def _videos(path):
  """{(subject, action, subaction, camera): structured array} of a pickle."""
  try:
    with open(path, "rb") as f:
      tree = pickles.attributes(pickles.read(f))
    return {key: _poses(video) for key, video in _leaves(tree) if key not in _LEFT_OUT and len(video["imgpath"])}
  except OSError as error:
    raise InputError(f"--wehrbein {path!r} cannot be read ({error.strerror or error}): give what create_data.py "
                     "writes, trainset_h36m.pickle and testset_h36m.pickle") from error
  except (pickles.BadPickle, KeyError, TypeError, ValueError, AttributeError) as error:
    said = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:150]
    raise InputError(f"--wehrbein {path!r} cannot be used ({said}): give what create_data.py writes, with 3D poses"
                     ) from error


def _leaves(tree):
  for subject in (s for s in TRAIN + TEST if s in tree):
    for action in (a for a in ACTIONS if a in tree[subject]):
      for sub, cameras in tree[subject][action].items():
        for camera, video in cameras.items():
          yield (subject, action, str(sub), str(camera)), video


_ROW = np.dtype([(name, lift_spec.FIELDS[name].dtype, lift_spec.FIELDS[name].shape)
                 for name in ("pose2d", "gaussians", "pose3d")])


def _poses(video):
  """One video's frames."""
  arrays, num = {key: pickles.array(video[key]) for key in _KEYS}, len(video["imgpath"])
  for key, width in _KEYS.items():
    if arrays[key].shape != (num, width):
      raise ValueError(f"{key} of {num} frames is {arrays[key].shape}, not {(num, width)}")
  rows = np.zeros(num, _ROW)
  rows["pose2d"] = arrays["2d_hrnet"].reshape(num, 2, 16).swapaxes(1, 2)
  rows["gaussians"] = arrays["gaussfit"].reshape(num, 16, 7)[..., :6]
  pose3d = arrays["3d_gt"].reshape(num, 3, 17).swapaxes(1, 2)
  rows["pose3d"] = (pose3d - pose3d[:, :1]) / 1000
  return rows
