"""Who is in keypoint files and can be fitted, the box around them, and lists of pictures of one person."""

import collections
import csv
import json
import os

from jhmr.body import camera
from jhmr.body import joints
from jhmr.errors import InputError
from jhmr.fitting import keypoint_formats as formats
import numpy as np

CONFIDENT = 0.1   # a keypoint counts as seen above this
FEWEST = 4        # keypoints a fit needs: three points of a body fit any place
SMALLEST_PX = 4.0  # the longer side of what a person's keypoints cover


def read_openpose(path, set_name="openpose25"):
  """The people of one picture: float32 [P, K, 3], x, y in pixels and confidence.

  Args:
    path: JSON of OpenPose 1.x, {"people": [{"pose_keypoints_2d": [x, y, c, ...]}]}; other detectors' keypoints may be
      in the same form, in the order of `set_name`.
  Raises:
    InputError: when the file is missing, is not JSON of this form, or one of its people is not.
  """
  formats.check_file(path)
  tree = formats.read_json(path)
  if not isinstance(tree, dict) or "people" not in tree:
    raise InputError(f"keypoints {path!r} cannot be read (no people): give JSON like OpenPose's, "
                     '{"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}]}')
  people, bad = formats.openpose_people(tree, path, set_name)
  if bad:
    raise InputError(bad[0])
  empty = np.zeros((0, len(joints.names(set_name)), 3), np.float32)
  return np.stack([p.keypoints for p in people]) if people else empty


def gather(path, joint_set=""):
  """Everybody in a keypoint file, or in all .json and .npz files of a folder, who can be fitted.

  Args:
    joint_set: of all files; "" leaves it to each format.
  Returns:
    ([Person] of one joint set, with names that differ, [a line on each file or person that was left out]).
  Raises:
    InputError: when nobody can be fitted.
  """
  people, bad = [], []
  for file in find(path):
    try:
      found, left_out = formats.read(file, joint_set)
      people += found
      bad += left_out
    except InputError as error:
      bad.append(f"{error}: skipped")
  usable = []
  common = collections.Counter(p.joint_set for p in people).most_common(1)
  for person in people:
    if person.joint_set != common[0][0]:
      bad.append(f"{person.name}: keypoints are {person.joint_set}, most others {common[0][0]}: skipped, fit it apart")
    elif said := too_little(person.keypoints):
      bad.append(f"{person.name}: {said}: skipped")
    else:
      usable.append(person)
  if not usable:
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise InputError(f"nobody can be fitted: {bad[0] if bad else f'the files of {path!r} have no people'}{more}")
  return renamed(usable), bad


def find(path):
  """The keypoint files of a folder, sorted, or the one file given."""
  if not os.path.isdir(path):
    return [path]
  try:
    found = sorted(entry.path for entry in os.scandir(path) if entry.name.endswith((".json", ".npz")))
  except OSError as error:
    raise InputError(f"folder {path!r} cannot be read ({error.strerror or error}): give another --keypoints") from error
  if not found:
    raise InputError(f"folder {path!r} holds no keypoints (.json, .npz): give another --keypoints")
  return found


def too_little(keypoints):
  """Why a person [K, 3] cannot be fitted, in a few words; "" when they can."""
  if (seen := confident(keypoints)) < FEWEST:
    return f"{seen} of {len(keypoints)} keypoints are confident, a fit needs {FEWEST}"
  side = box(keypoints)[1] / camera.BOX_SCALE
  return f"the keypoints lie within {side:.1f} pixels, a fit needs {SMALLEST_PX:.0f}" if side < SMALLEST_PX else ""


def renamed(people):
  """The same people, those of a name that was there before with _2, _3, ... added."""
  taken, result = {}, []
  for person in people:
    name = person.name
    while name in taken:
      taken[person.name] += 1
      name = f"{person.name}_{taken[person.name]}"
    taken[name] = 1
    result.append(person._replace(name=name))
  return result


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
  return (low + high) / 2, max(camera.BOX_SCALE * float((high - low).max()), 1.0)


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
