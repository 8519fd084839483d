"""Files of 2D keypoints, of people anybody's detector or annotator made: OpenPose JSON, COCO JSON, npz.

    OpenPose  an object with `people`, each with `pose_keypoints_2d` [x, y, c, ...]; one file an image. The joint set is
              openpose25 or openpose18, whichever has so many joints.
    COCO      an object with `annotations` and `images`, or a list of results with `image_id` and `keypoints`: coco17.
    npz       arrays, `keypoints` [N, K, 3] first, see `npz_people`; the joint set is said in the file.

A file may be anything: what cannot be read raises InputError, one line for the file, or is a line of its own where one
person of many is at fault, and the others are read.
"""

import json
import os
import re
import stat
from typing import NamedTuple

from jhmr.body import joints
from jhmr.errors import InputError
from jhmr.fitting import npz_files
import numpy as np

FARTHEST_PX = 1e5   # from the corner of a picture: what is further out is no keypoint
LARGEST_PX = 1e5    # a side of a picture
LONGEST_NAME = 120  # bytes, of a person, whose files are called so
MOST_BYTES = 2 << 30
OPENPOSE_SETS = {25: "openpose25", 18: "openpose18"}
UNKNOWN = np.float32(np.nan)


class Person(NamedTuple):
  """One person in one picture."""
  name: str                        # of the files that are written of them
  keypoints: np.ndarray            # [K, 3] float32 x, y in pixels, confidence 0..1; missing ones are 0
  joint_set: str
  image: str = ""                  # file name, as far as the keypoint file knows
  image_size: tuple = (0.0, 0.0)   # width, height in pixels; 0: unknown
  person: str = ""                 # the same in all pictures of one person; "": unknown
  annotation: int = -1             # id of the annotation; -1: none
  focal_px: float = UNKNOWN        # of the picture's camera
  center_px: tuple = (UNKNOWN,) * 2  # its principal point
  transl_m: tuple = (UNKNOWN,) * 3   # of the body in that camera, when it is known


def read(path, joint_set=""):
  """The people of one keypoint file.

  Args:
    path: .npz, or JSON in any encoding that JSON allows.
    joint_set: name of the set the keypoints are in; "" is that of the format, see the top of this file.
  Returns:
    ([Person], [a line on each that was left out]).
  Raises:
    InputError: when the file as a whole cannot be used.
  """
  check_file(path)
  if path.endswith(".npz"):
    return npz_people(path, joint_set)
  tree = read_json(path)
  if isinstance(tree, dict) and "people" in tree:
    return openpose_people(tree, path, joint_set)
  if isinstance(tree, list) or isinstance(tree, dict) and "annotations" in tree:
    return coco_people(tree, path, joint_set or "coco17")
  keys = ", ".join(sorted(map(repr, tree))[:4]) if isinstance(tree, dict) else ""
  found = f"an object with {keys or 'nothing in it'}" if isinstance(tree, dict) else _kind(tree)
  raise InputError(f"keypoints {path!r} are {found}: give OpenPose's JSON (people), COCO's (annotations, or a list of "
                   "results) or an .npz")


def check_file(path):
  """Raises InputError unless a path leads to a regular file of a size that can be read."""
  try:
    found = os.stat(path)
  except (OSError, ValueError) as error:
    said = getattr(error, "strerror", None) or error
    raise InputError(f"keypoints {path!r} cannot be read ({said}): give a file that exists") from error
  if not stat.S_ISREG(found.st_mode):
    what = "a folder" if stat.S_ISDIR(found.st_mode) else "not a file on disk"
    raise InputError(f"keypoints {path!r} cannot be read (it is {what}): give a JSON or npz file")
  if not found.st_size:
    raise InputError(f"keypoints {path!r} cannot be read (the file is empty): write it again, or remove it")
  if found.st_size > MOST_BYTES:
    raise InputError(f"keypoints {path!r} have {found.st_size / 2**30:.1f} GB: split the file, or give an .npz")


def read_json(path):
  """What a JSON file holds. Raises InputError for whatever is wrong with it."""
  try:
    with open(path, "rb") as f:
      return json.loads(f.read())  # of bytes: UTF-8, 16 and 32, with or without a byte order mark
  except RecursionError as error:
    raise InputError(f"keypoints {path!r} cannot be read (brackets nested too deep): write it again") from error
  except (OSError, ValueError, MemoryError) as error:
    raise InputError(f"keypoints {path!r} cannot be read ({type(error).__name__}: {str(error)[:120]}): give JSON like "
                     'OpenPose\'s, {"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}]}') from error


def openpose_people(tree, path, joint_set=""):
  """([Person], complaints) of OpenPose's {"people": [...]}, one file a picture.

  `person_id` of OpenPose's tracker, when it is not negative, says who is the same.
  """
  if not isinstance(tree["people"], list):
    raise InputError(f"keypoints {path!r}: people is {_kind(tree['people'])}: it has to be a list, empty for nobody")
  image = os.path.splitext(os.path.basename(path))[0].removesuffix("_keypoints")
  stem, people, bad = safe_name(image), [], []
  for i, entry in enumerate(tree["people"]):
    where = f"keypoints {path!r}: person {i}"
    try:
      values = numbers(_entry(entry, where, "pose_keypoints_2d", "pose_keypoints"), where)
      set_name = joint_set or OPENPOSE_SETS.get(len(values) // 3, "openpose25")
      name = stem if len(tree["people"]) == 1 else f"{stem}_{i}"
      track = entry.get("person_id")
      track = track[0] if isinstance(track, list) and len(track) == 1 else track
      who = str(track) if type(track) in (int, str) and track not in (-1, "") else ""
      people.append(Person(name, keypoints_of(values, set_name, where), set_name, image, person=who))
    except InputError as error:
      bad.append(f"{error}: skipped")
  return people, bad


def coco_people(tree, path, joint_set="coco17"):
  """([Person], complaints) of COCO's annotations, or of a list of results.

  Visibilities 1 (hidden) and 2 (seen) are both confidence 1, as `clean` has no larger one. Annotations of crowds, and
  those without any labelled keypoint, are passed over.
  """
  images, bad = _coco_images(tree, path) if isinstance(tree, dict) else ({}, [])
  entries = tree["annotations"] if isinstance(tree, dict) else tree
  if not isinstance(entries, list):
    raise InputError(f"keypoints {path!r}: annotations is {_kind(entries)}: it has to be a list")
  people, seen, unlabelled = [], set(), 0
  for i, entry in enumerate(entries):
    where = f"keypoints {path!r}: annotation {i}"
    try:
      values = numbers(_entry(entry, where, "keypoints"), where)
      if entry.get("iscrowd") == 1:
        continue
      points = keypoints_of(values, joint_set, where)
      found = _coco_person(entry, points, joint_set, images, seen, where)
    except InputError as error:
      bad.append(f"{error}: skipped")
      continue
    if not points[:, 2].any():
      unlabelled += 1
      continue
    people.append(found)
  if unlabelled:
    bad.append(f"keypoints {path!r}: {unlabelled} of {len(entries)} annotations have no keypoint: skipped")
  return people, bad


def _coco_person(entry, points, joint_set, images, seen, where):
  """One annotation as a Person; `seen` are the ids of those before it."""
  image_id, annotation = entry.get("image_id"), entry.get("id", -1)
  if type(image_id) not in (int, str):
    raise InputError(f"{where}: image_id is {_kind(image_id)}, not a number or a name")
  if type(annotation) is not int or abs(annotation) >= 2**62:
    raise InputError(f"{where}: id is {_kind(annotation)}, not a whole number that can be one")
  if images and image_id not in images:
    raise InputError(f"{where}: image_id {str(image_id)[:40]!r} is not among the images")
  if annotation >= 0 and annotation in seen:
    raise InputError(f"{where}: id {annotation} is there twice")
  seen.add(annotation)
  image, size = images.get(image_id, (image_id if isinstance(image_id, str) else f"{image_id:012d}"[:40], (0.0, 0.0)))
  stem = safe_name(os.path.splitext(os.path.basename(image))[0])
  name = f"{stem}_{annotation}" if annotation >= 0 else stem
  return Person(name, points, joint_set, image, size, annotation=annotation)


def _coco_images(tree, path):
  """({id: (file name, (width, height))}, complaints) of COCO's images."""
  images, bad = {}, []
  listed = tree.get("images", [])
  if not isinstance(listed, list):
    raise InputError(f"keypoints {path!r}: images is {_kind(listed)}: it has to be a list")
  for i, entry in enumerate(listed):
    where = f"keypoints {path!r}: image {i}"
    key = entry.get("id") if isinstance(entry, dict) else None
    name = entry.get("file_name", str(key)[:40]) if isinstance(entry, dict) else None
    if type(key) not in (int, str) or not isinstance(name, str):
      bad.append(f"{where} is {_kind(entry)} without an id and a file_name: its people are skipped")
    elif key in images and images[key][0] != name:
      bad.append(f"{where}: id {str(key)[:40]!r} is that of {images[key][0]!r} too: that one is taken")
    else:
      size = tuple(entry.get(k) if type(entry.get(k)) in (int, float) else 0.0 for k in ("width", "height"))
      known = all(0 < side <= LARGEST_PX for side in size)
      if not known and ("width" in entry or "height" in entry):
        bad.append(f"{where}: width and height are not those of a picture: they count as unknown")
      images[key] = name, tuple(map(float, size)) if known else (0.0, 0.0)
  return images, bad


def npz_people(path, joint_set=""):
  """([Person], complaints) of an .npz.

  Its arrays, all but the first optional; NaN and "" are unknown:
    keypoints [N, K, 3] x, y in pixels and confidence; or, as in SPIN's data sets, openpose [N, 25, 3] and part
      [N, 24, 3], which make the set spin49.
    joint_set [] str; names [N] str; images (or imgname) [N] str; image_size [2] or [N, 2], width and height;
    person [N] str or int, the same in all pictures of one person;
    focal_px [] or [N]; center_px [2] or [N, 2]; transl_m [3] or [N, 3] metres, the body's translation in that camera.
  """
  arrays = npz_files.read(path, ("keypoints", "openpose", "part", "joint_set", "names", "images", "imgname",
                                 "image_size", "person", "focal_px", "center_px", "transl_m"))
  points, set_name = _npz_keypoints(arrays, path, joint_set)
  count, stem = len(points), safe_name(os.path.splitext(os.path.basename(path))[0])
  column = lambda key, *shape: npz_files.column(arrays, path, key, count, shape)
  size, focal = column("image_size", 2), column("focal_px")
  center, transl = column("center_px", 2), column("transl_m", 3)
  text = lambda key: npz_files.text(arrays, path, key, count)
  names, who = text("names"), text("person")
  images = text("images") if "images" in arrays else text("imgname")
  digits, people, bad = len(str(max(count - 1, 0))), [], []
  good = lambda sides: np.all((sides > 0) & (sides <= LARGEST_PX))
  for i in range(count):
    name = safe_name(names[i]) if names[i] else f"{stem}_{i:0{digits}d}"
    if transl[i, 2] <= 0:
      bad.append(f"keypoints {path!r}: transl_m of {name} is {transl[i, 2]:.3g} m before the camera: it counts as "
                 "unknown")
    people.append(Person(name, points[i], set_name, images[i], tuple(size[i]) if good(size[i]) else (0.0, 0.0), who[i],
                         -1, focal[i] if 0 < focal[i] < 1e7 else UNKNOWN, tuple(center[i]),
                         tuple(transl[i]) if transl[i, 2] > 0 else (UNKNOWN,) * 3))
  return people, bad


def _npz_keypoints(arrays, path, joint_set):
  """(clean keypoints [N, K, 3], their joint set)."""
  if "keypoints" not in arrays and {"openpose", "part"} & set(arrays):
    halves = [npz_files.numbers(arrays, path, key) if key in arrays else None for key in ("openpose", "part")]
    count = next(len(h) for h in halves if h is not None)
    halves = [np.zeros((count, k, 3), np.float32) if h is None else h for h, k in zip(halves, (25, 24))]
    if any(h.shape != (count, k, 3) for h, k in zip(halves, (25, 24))):
      raise InputError(f"keypoints {path!r}: openpose and part are {[h.shape for h in halves]}: they have to be "
                       "[N, 25, 3] and [N, 24, 3]")
    if joint_set not in ("", "spin49"):
      raise InputError(f"keypoints {path!r} have openpose and part, which make spin49, not --joint-set {joint_set}: "
                       "leave it out, or give the file's keypoints apart")
    return clean(np.concatenate(halves, 1)), "spin49"
  points = npz_files.numbers(arrays, path, "keypoints")
  points = points[None] if points.ndim == 2 else points
  named = npz_files.text(arrays, path, "joint_set", 1)[0]
  set_name = joint_set or named
  if set_name not in joints.SETS:
    raise InputError(f"keypoints {path!r} are of joint set {set_name[:40]!r}: give --joint-set, or joint_set in the "
                     f"file, one of {', '.join(joints.SETS)}")
  if points.ndim != 3 or points.shape[1:] != (len(joints.names(set_name)), 3):
    raise InputError(f"keypoints {path!r} are {list(points.shape)}, joint set {set_name!r} wants "
                     f"[N, {len(joints.names(set_name))}, 3]: give the --joint-set they are in")
  if not len(points):
    raise InputError(f"keypoints {path!r} are of nobody: the array has no rows")
  return clean(points), set_name


def numbers(values, where):
  """A flat list of numbers, or one of triples, as float64 [n]. Raises InputError for anything else."""
  if not isinstance(values, list):
    raise InputError(f"{where}: keypoints are {_kind(values)}, not a list of numbers")
  if values and all(type(v) is list and len(v) == 3 for v in values):
    values = [x for triple in values for x in triple]
  if odd := [v for v in values if type(v) not in (int, float)] if set(map(type, values)) - {int, float} else []:
    raise InputError(f"{where}: {_kind(odd[0])} among the keypoints' numbers")
  try:
    return np.array(values, np.float64)
  except OverflowError as error:
    raise InputError(f"{where}: a number of the keypoints is too large to be one") from error


def keypoints_of(values, set_name, where):
  """Clean keypoints [K, 3] of [3 K] numbers. Raises InputError when there are more or fewer of them."""
  count = len(joints.names(set_name))
  if len(values) != 3 * count:
    raise InputError(f"{where} has {len(values)} numbers, but joint set {set_name!r} has {count} joints, 3 numbers "
                     "each: give the --joint-set they are in")
  return clean(values.reshape(count, 3))


def clean(keypoints):
  """Keypoints [..., K, 3] as fits want them: float32, confidence 0..1, missing and impossible ones all zero.

  Impossible is what is not finite, has a negative confidence, or lies further than FARTHEST_PX out. A confidence above
  1 counts as 1.
  """
  points = np.asarray(keypoints, np.float64)
  with np.errstate(invalid="ignore"):
    good = np.isfinite(points).all(-1) & (points[..., 2] > 0) & (np.abs(points[..., :2]) <= FARTHEST_PX).all(-1)
  points = np.where(good[..., None], points, 0.0)
  points[..., 2] = np.minimum(points[..., 2], 1.0)
  return points.astype(np.float32)


def safe_name(text):
  """A name that files can have: letters, digits, dot, dash and underscore, no more than LONGEST_NAME bytes."""
  name = re.sub(r"[^\w.\-]+", "_", text).encode()[:LONGEST_NAME].decode(errors="ignore")
  return name.lstrip(".") or "person"


def _entry(entry, where, *keys):
  """The first of the keys that an object has."""
  if not isinstance(entry, dict):
    raise InputError(f"{where} is {_kind(entry)}, not an object with {keys[0]}")
  for key in keys:
    if key in entry:
      return entry[key]
  raise InputError(f"{where} has no {keys[0]}")


def _kind(value):
  """What a JSON value is, in words; strings and numbers are shown."""
  if value is None or isinstance(value, bool):
    return json.dumps(value)
  if isinstance(value, (int, float)):
    return "a number"
  return f"the text {value[:30]!r}" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
