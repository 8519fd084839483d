"""The annotation files of SPIN: one .npz a data set, one row a person, pictures beside it.

    imgname [N]     path below the data set's folder       center [N, 2], scale [N]  box: pixels, side / 200
    part [N, 24, 3]     annotated joints in pixels, 0 or 1     openpose [N, 25, 3]  detections, confidence
    S [N, 24, 4]        joints in metres, root-centred, 0 or 1      pose [N, 72], shape [N, 10]  SMPL
    has_smpl [N]        which rows of pose and shape are labels     gender [N]  m or f
    maskname, partname [N]  paths of silhouettes and part labels
    parts_openpose_s24 [N, 24, 3]  detections in the order of `part`, in 3D Multi-bodies' files of 3DPW

GraphCMR, EFT, VIBE, PyMAF and others write the same keys. Nothing is unpickled: the authors' code reads their files
with NumPy's default, which refuses pickles too.

Source: SPIN, authors' `datasets/base_dataset.py` and `datasets/preprocess/`.
"""

import os

from jhmr.errors import InputError
import numpy as np

NAMES = ("imgname", "maskname", "partname", "gender")  # text; everything else is numbers
SHAPES = {"center": (2,), "scale": (), "part": (24, 3), "openpose": (25, 3), "S": (24, 4), "pose": (72,),
          "shape": (10,), "has_smpl": (), "parts_openpose_s24": (24, 3), "amb_center": (2,), "amb_scale": ()}
KEYPOINTS = ("openpose", "part", "parts_openpose_s24")  # what `keypoints` are made of
GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female"}
LARGEST_SCALE = 100.0  # 20,000 pixels: a crop of more would not fit into memory
_WHERE_FROM = "give an .npz in the format of SPIN's dataset_extras"


def read(path, needed=(), welcome=()):
  """The arrays of an annotation file; keys that nobody asks for are not looked at.

  Args:
    path: of the .npz.
    needed: keys that must be there besides imgname, center and scale.
    welcome: keys that are read where they are there.
  Returns:
    {key: array}: text as str, numbers as float64, gender as "male" or "female".
  Raises:
    InputError: one line, when the file is missing, damaged, lacks keys, or holds what cannot be annotations.
  """
  needed = ("imgname", "center", "scale", *needed)
  raw, found = _load(path, (*needed, *welcome))
  missing = [key for key in needed if key not in raw]
  if missing:
    raise InputError(f"annotations {path!r} lack {', '.join(missing)} (they have {', '.join(found) or 'nothing'}): "
                     f"{_WHERE_FROM}")
  size = len(raw["imgname"]) if raw["imgname"].ndim == 1 else 0
  if not size:
    raise InputError(f"annotations {path!r}: imgname has shape {raw['imgname'].shape}, not (people,): {_WHERE_FROM}")
  arrays = {key: (_text if key in NAMES else _numbers)(raw[key], key, size, path) for key in raw}
  _check_scale(arrays["scale"], path)
  return arrays


def read_crops(path, size):
  """(centre [N, 2] in pixels, scale [N]) of other crops of `size` people: amb_center and amb_scale of an .npz.

  Raises:
    InputError: as `read`.
  Source: 3D Multi-bodies, authors' `base_dataset.py`: `h36m-p2_amb3.npz`, `3dpw_amb3.npz`.
  """
  keys = ("amb_center", "amb_scale")
  raw, found = _load(path, keys)
  if len(raw) < len(keys):
    raise InputError(f"ambiguous crops {path!r} have {', '.join(found) or 'nothing'}, not amb_center and amb_scale: "
                     "give 3D Multi-bodies' *_amb3.npz, or paper or code")
  center, scale = (_numbers(raw[key], key, size, path) for key in keys)
  _check_scale(scale, path)
  return center, scale


def _check_scale(scale, path):
  bad = np.flatnonzero((scale <= 0) | (scale > LARGEST_SCALE))
  if len(bad):
    raise InputError(f"annotations {path!r}: the scale of row {bad[0]} is {scale[bad[0]]:g}, not the side of "
                     f"a box over 200: {_WHERE_FROM}")


def _load(path, keys):
  """({key: array} of those of `keys` that are there, names of all)."""
  if not os.path.isfile(path):
    raise InputError(f"annotations {path!r} do not exist: {_WHERE_FROM}")
  try:
    with np.load(path, allow_pickle=False) as file:
      return {key: file[key] for key in keys if key in file.files}, sorted(file.files)
  except Exception as error:  # zip, zlib and NumPy raise nearly every kind; pickled objects are a ValueError
    raise InputError(f"annotations {path!r} cannot be read ({_line(error)}): {_WHERE_FROM}, without pickled "
                     "objects") from error


def _line(error):
  return " ".join(str(error).split())[:150] or type(error).__name__


def _numbers(value, key, size, path):
  shape = (size, *SHAPES[key])
  if key == "shape" and value.ndim == 2 and value.shape[1] > 10:
    value = value[:, :10]  # the first ten coefficients are the same in files of 300
  if value.shape != shape:
    raise InputError(f"annotations {path!r}: {key} has shape {value.shape}, not {shape}: {_WHERE_FROM}")
  if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
    raise InputError(f"annotations {path!r}: {key} ({value.dtype}) is not all finite numbers: {_WHERE_FROM}")
  return value.astype(np.float64)


def _text(value, key, size, path):
  if value.shape != (size,) or value.dtype.kind not in "US":
    raise InputError(f"annotations {path!r}: {key} is {value.dtype} of shape {value.shape}, not {size} strings: "
                     f"{_WHERE_FROM}")
  try:
    text = np.char.decode(value, "utf-8") if value.dtype.kind == "S" else value
  except UnicodeDecodeError as error:
    raise InputError(f"annotations {path!r}: {key} is not UTF-8 text: {_WHERE_FROM}") from error
  if key != "gender":
    return text
  odd = sorted(set(text.tolist()) - set(GENDERS))
  if odd:
    raise InputError(f"annotations {path!r}: gender is {odd[0]!r} somewhere, not m or f: {_WHERE_FROM}")
  return np.array([GENDERS[t] for t in text.tolist()])


def find(root, names, skip_missing=False, hint="or leave them out with --skip-missing"):
  """Which rows have their files.

  Args:
    root: folder the names are below.
    names: lists of [N] relative paths; a row needs one of each.
    skip_missing: leave rows without them out, rather than ending.
    hint: what else can be done about missing ones, for the error.
  Returns:
    int [M] rows, in order.
  Raises:
    InputError: naming the first few files that are not there; always when all rows lack one.
  """
  if not os.path.isdir(root):
    raise InputError(f"folder {root!r} does not exist: give the folder that {names[0][0]!r} is below")
  there = {name: os.path.isfile(os.path.join(root, name)) for name in sorted(set().union(*map(set, names)))}
  absent = [name for name, found in there.items() if not found]
  rows = np.flatnonzero([all(there[name] for name in row) for row in zip(*names)])
  if absent and (not skip_missing or not len(rows)):
    more = f" and {len(absent) - 3:,} more" if len(absent) > 3 else ""
    raise InputError(f"{root!r} lacks {', '.join(absent[:3])}{more} of {len(there):,} files: "
                     f"{'put them there, ' + hint if len(rows) else 'is it the right folder?'}")
  return rows


def keypoints(arrays):
  """[N, 49, 3] "spin49" keypoints, OpenPose's then the annotated ones; zeros where the file has none.

  Source: SPIN, `base_dataset.py`: concatenated in this order; 3D Multi-bodies: `parts_openpose_s24` of 3DPW, which
    nobody annotated.
  """
  size = len(arrays["scale"])
  annotated = "parts_openpose_s24" if "parts_openpose_s24" in arrays else "part"
  halves = (arrays.get(key, np.zeros((size, *SHAPES[key]))) for key in ("openpose", annotated))
  return np.concatenate(list(halves), axis=1).astype(np.float32)
