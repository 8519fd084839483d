"""A data set for training from an annotation file of SPIN and the photographs it names: see `data.build`.

Examples are in the order of the file and `id` is its row, so that arrays of fits in that order, such as SPIN's
`<dataset>_fits.npy`, are indexed by it.
"""

import io
import os
import pathlib

import cv2
import numpy as np

from jhmr.body import joints
from jhmr.body import rotations
from jhmr.data import images
from jhmr.data import inputs
from jhmr.data import records
from jhmr.data import spin_files
from jhmr.data.builders import examples
from jhmr.errors import InputError

WINDOW = 1.8       # sides of the box that a crop may show: 1.25 by scale, times 1.41 by rotation
JPEG_QUALITY = 95
LABELS = ("part", "openpose", "S", "pose", "shape", "has_smpl")
_ANNOTATED = np.array(joints.mapping("spin49", "gt24"))


def build(out, annotations, root, report=lambda *_: None, maps=None):
  """Writes the split "train" of a data set, whole or not at all.

  Args:
    out: directory to make, which does not exist.
    annotations: the .npz, see `spin_files`.
    root: folder its image names are below.
    report: hears (split, done, total).
    maps: {"parts" or "iuv": folder of label images, named as the photographs, see `inputs.read`}.
  Returns:
    the number of examples.
  Raises:
    InputError: when the annotations or a photograph cannot be read; no row is left out, or `id` would be another.
  """
  arrays = spin_files.read(annotations, welcome=LABELS)
  spin_files.find(root, [arrays["imgname"]], hint="none can be left out: ids are rows of the file")
  if ("pose" in arrays) != ("shape" in arrays):
    raise InputError(f"annotations {annotations!r} have only one of pose and shape: both make a body")
  for kind, folder in (maps or {}).items():
    names = [inputs.name_of(name, kind) for name in arrays["imgname"]]
    spin_files.find(folder, [names], hint=f"or leave out --{kind}")
  made = _records(arrays, labels(arrays), root, report, maps or {})
  examples.write(out, {"train": made}, f"{len(arrays['imgname'])} people of {pathlib.Path(annotations).name}")
  return len(arrays["imgname"])


def labels(arrays):
  """{name: [N, ...]} of `records.features`, without pictures and boxes.

  Source: SPIN, `base_dataset.py`: with pose and shape but no has_smpl, all rows have them; S is there for all or none.
  """
  size = len(arrays["scale"])
  flag = lambda on: np.full(size, on, np.float32)
  points = np.zeros((size, len(joints.names("spin49")), 4), np.float32)
  if "S" in arrays:
    points[:, _ANNOTATED] = arrays["S"]
  found = {"keypoints2d": spin_files.keypoints(arrays), "keypoints3d": points, "has_keypoints3d": flag("S" in arrays)}
  if "pose" not in arrays:
    return found
  known = (arrays["has_smpl"] > 0).astype(np.float32) if "has_smpl" in arrays else flag(True)
  pose = rotations.axis_angle_to_matrix(arrays["pose"].reshape(size, 24, 3).astype(np.float32))
  return found | {"pose": np.asarray(pose), "betas": arrays["shape"].astype(np.float32), "has_pose": known,
                  "has_betas": known}


def _records(arrays, found, root, report, maps):
  total = len(arrays["imgname"])
  for i, name in enumerate(arrays["imgname"]):
    path = os.path.join(root, name)
    center, side = arrays["center"][i], 200 * arrays["scale"][i]
    try:
      data, corner, size_hw, whole_hw = _picture(path, center, side)
    except (OSError, ValueError) as error:
      raise InputError(f"image {path!r} cannot be used: {records.reason(error)}") from error
    window = tuple(slice(low, low + size) for low, size in zip(corner[::-1], size_hw))
    shown = {kind: _map(os.path.join(folder, inputs.name_of(name, kind)), kind, window, whole_hw)
             for kind, folder in maps.items()}
    mine = {k: v[i] for k, v in found.items()}
    moved = mine["keypoints2d"].copy()
    moved[:, :2] -= corner
    moved[:, :2] *= moved[:, 2:] > 0
    yield examples.record(i, data, [*(center - corner), side], size_hw,
                          **mine | {"keypoints2d": moved} | shown)
    report("train", i + 1, total)


def _picture(path, center, side):
  """(bytes, corner [2], height and width) of what crops of a box may show, or of the whole if that is most of it.

  The last of the four is the whole's height and width.
  """
  with open(path, "rb") as f:
    data = f.read()
  image, _ = images.decode(data)
  whole = np.array(image.shape[1::-1])
  low = np.clip(np.floor(center - WINDOW / 2 * side), 0, whole - 1).astype(int)
  high = np.clip(np.ceil(center + WINDOW / 2 * side), low + 1, whole).astype(int)
  if 2 * np.prod(high - low) > np.prod(whole):
    return data, np.zeros(2, int), image.shape[:2], image.shape[:2]
  part = image[low[1]:high[1], low[0]:high[0]]
  encoded = cv2.imencode(".jpg", part, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1]
  return encoded.tobytes(), low, part.shape[:2], image.shape[:2]


def _map(path, kind, window, whole_hw):
  """PNG of the labels in the window of a photograph."""
  labels = inputs.read(path, kind)
  if labels.shape[:2] != tuple(whole_hw):
    raise InputError(f"{kind} image {path!r} has {labels.shape[:2]} pixels where its photograph has {tuple(whole_hw)}")
  return io.BytesIO(cv2.imencode(".png", labels[window])[1].tobytes())
