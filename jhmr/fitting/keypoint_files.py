"""Detected keypoints as OpenPose writes them, and lists of pictures of one person."""

import csv
import json
import os

from jhmr.body import joints
from jhmr.errors import InputError
import numpy as np

CONFIDENT = 0.1   # a keypoint counts as seen above this
FEWEST = 4        # keypoints a fit needs: three points of a body fit any place
BOX_SCALE = 1.2   # side of the crop over the extent of the keypoints. Source: ProHMR's authors' `openpose_dataset.py`


def read_openpose(path, set_name="openpose25"):
  """The people of one picture: float32 [P, K, 3], x, y in pixels and confidence.

  Args:
    path: JSON of OpenPose 1.x, {"people": [{"pose_keypoints_2d": [x, y, c, ...]}]}; other detectors' keypoints may be
      in the same form, in the order of `set_name`.
  Raises:
    InputError: when the file is missing, is not JSON of this form, or has another number of keypoints.
  """
  count = len(joints.names(set_name))
  try:
    with open(path) as f:
      people = [np.asarray(p["pose_keypoints_2d"], np.float32).reshape(-1) for p in json.load(f)["people"]]
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise InputError(f"keypoints {path!r} cannot be read ({type(error).__name__}: {error}): give JSON like OpenPose's, "
                     '{"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}]}') from error
  for person in people:
    if len(person) != 3 * count:
      raise InputError(f"keypoints {path!r}: a person has {len(person)} numbers, but joint set {set_name!r} has "
                       f"{count} joints, 3 numbers each: give the --joint-set they are in")
  people = np.stack(people).reshape(-1, count, 3) if people else np.zeros((0, count, 3), np.float32)
  return np.where(np.isfinite(people).all(-1, keepdims=True), people, 0)


def beside(folder_or_file, image):
  """The keypoint file of a picture: <name>_keypoints.json or <name>.json in a folder, or the one file given."""
  if not os.path.isdir(folder_or_file):
    return folder_or_file
  stem = os.path.splitext(os.path.basename(image))[0]
  found = [os.path.join(folder_or_file, stem + end) for end in ("_keypoints.json", ".json")]
  return next((path for path in found if os.path.isfile(path)), found[0])


def confident(keypoints):
  """How many keypoints of a person [K, 3] count as seen."""
  return int(np.sum(keypoints[:, 2] > CONFIDENT))


def box(keypoints):
  """(centre [2], side) in pixels of the square around a person's [K, 3] confident keypoints."""
  seen = keypoints[keypoints[:, 2] > CONFIDENT, :2]
  low, high = seen.min(0), seen.max(0)
  return (low + high) / 2, max(BOX_SCALE * float((high - low).max()), 1.0)


def read_groups(path):
  """{person: [image names]} of a JSON object, or of a CSV with the columns person and image.

  Raises:
    InputError: when it is neither, or names no picture.
  """
  try:
    with open(path, newline="") as f:
      if path.endswith(".csv"):
        groups = {}
        for row in csv.DictReader(f):
          groups.setdefault(row["person"], []).append(row["image"])
      else:
        groups = {str(k): v if isinstance(v, list) else [v, None] for k, v in json.load(f).items()}
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise InputError(f"groups {path!r} cannot be read ({type(error).__name__}: {error}): give JSON like "
                     '{"anna": ["anna_left.jpg", "anna_right.jpg"]}, or a CSV with columns person and image') from error
  if odd := [k for k, v in groups.items() if not all(isinstance(name, str) for name in v)]:
    raise InputError(f"groups {path!r}: {odd[0]!r} needs a list of picture names")
  if not groups or not all(groups.values()):
    raise InputError(f"groups {path!r} name no pictures, or a person without any: list at least one a person")
  return groups
