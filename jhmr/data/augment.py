"""SPIN's augmentation of a labelled image, on the host: one affine map for the pixels and the keypoints.

An example of a data set (NumPy):

    image        [H, W, 3] uint8 RGB, or the      box          [3] centre x, y and side in its pixels
                 bytes of a JPEG or PNG
    keypoints2d  [49, 3] pixels, confidence       keypoints3d  [49, 4] metres, camera frame, confidence
    pose         [24, 3, 3] root first            betas [10], has_pose, has_betas, has_keypoints3d
    transl [3], focal_px [], center_px [2]        the camera of its pixels, zeros where unknown
    visible [49], parts [H, W] uint8, iuv [H, W, 3] uint8, depth [H, W] float32 are optional

Pixels have their centres at halves. The pelvis joint stays where it is under rotation and flip, as it does when a
body is posed anew, so posing the augmented parameters gives the augmented keypoints.
"""

from typing import NamedTuple

import numpy as np

from jhmr.body import joints
from jhmr.data import images
from jhmr.data import inputs

_PELVIS = joints.index("spin49", "op_mid_hip")
_FLIP49, _FLIP24 = list(joints.flip("spin49")), list(joints.flip("smpl24"))
MAPS = ("parts", "iuv", "depth")
_MIRROR = np.diag([-1.0, 1.0, 1.0]).astype(np.float32)


class Augmentation(NamedTuple):
  """What is done to one example."""
  flip: bool = False
  angle_rad: float = 0.0             # counter-clockwise on the screen
  scale: float = 1.0                 # of the box
  gain: np.ndarray = np.ones(3, np.float32)  # of each channel, applied on the device


def draw(rng):
  """A random Augmentation from a NumPy Generator.

  Source: SPIN, base_dataset.py `augm_params` with its default options: flip with probability 1/2, channels times
  U(0.6, 1.4), rotation clip(N(0, 30), -60, 60) degrees but 0 with probability 0.6, scale clip(N(1, 0.25), 0.75, 1.25).
  """
  flip = rng.uniform() < 0.5
  angle = np.clip(rng.normal(scale=30.0), -60.0, 60.0) * (rng.uniform() >= 0.6)
  scale = np.clip(rng.normal(1.0, 0.25), 0.75, 1.25)
  return Augmentation(bool(flip), float(np.deg2rad(angle)), float(scale), rng.uniform(0.6, 1.4, 3).astype(np.float32))


def apply(example, augmentation, size, crop=None, kind="rgb", chart="body"):
  """The crop a network sees, and its labels in `data.spec`'s form.

  Args:
    example: see the top of this file.
    augmentation: Augmentation; its gain is passed on, not applied.
    size: side of the crop in pixels.
    crop: [size, size, 3] uint8 to write the picture to; None makes a new one.
    kind: of `inputs.KINDS`; labels are shown as they are, without gains.
    chart: of `inputs.CHARTS`, of the example's iuv.
  Returns:
    dict of spec.FIELDS (image uint8, without id, mask, person, view and the prior's) and "gain" [3].
  Source: SPIN: crop and rotate, then flip; 2D keypoints the same way; 3D points and the root turn by -r about z.
  Differs: theirs truncates keypoints to whole pixels and counts pixels from one; ours keeps the exact map.
  """
  affine = crop_map(example["box"], augmentation, size)
  crop = np.empty((size, size, 3), np.uint8) if crop is None else crop
  maps = _maps(example, affine, size, augmentation.flip, chart)
  if kind != "rgb":
    crop[:] = inputs.picture(kind, maps)
  elif isinstance(example["image"], bytes):
    images.warp_encoded(example["image"], affine, size, crop)
  else:
    crop[:] = images.warp(example["image"], affine, size)
  out = labels(example, augmentation, affine, size)
  done = {"gain": augmentation.gain if kind == "rgb" else np.ones(3, np.float32), "flip": np.float32(augmentation.flip),
          "angle_rad": np.float32(augmentation.angle_rad)}
  return {"image": crop} | done | out | maps


def crop_map(box, augmentation, size):
  """[2, 3] the map from pixels of the image to pixels of the augmented crop; see `images.crop_affine`."""
  affine = images.crop_affine(box[:2], box[2] * augmentation.scale, size, augmentation.angle_rad)
  if augmentation.flip:
    affine = np.array([[-1.0, 0.0, size], [0.0, 1.0, 0.0]]) @ np.vstack([affine, [0.0, 0.0, 1.0]])
  return affine


def labels(example, augmentation, affine, size):
  """All that `apply` returns but pictures, given the crop's `affine` map."""
  turn = _turn(augmentation)
  keypoints2d = _keypoints2d(example["keypoints2d"], affine, size, augmentation.flip)
  keypoints3d, transl = _points(example, turn, augmentation.flip)
  pose = _pose(example["pose"], turn, augmentation.flip)
  known, shaped = np.float32(example["has_pose"]), np.float32(example["has_betas"])
  out = {"keypoints2d": keypoints2d, "keypoints3d": keypoints3d, "global_orient": pose[:1] * known,
         "body_pose": pose[1:] * known, "betas": np.asarray(example["betas"], np.float32) * shaped,
         "transl": transl * known, "focal_px": np.float32(example["focal_px"] / images.shrink(affine)),
         "center_px": (affine[:, :2] @ example["center_px"] + affine[:, 2]).astype(np.float32)}
  out |= {name: np.float32(example[name]) for name in ("has_pose", "has_betas", "has_keypoints3d")}
  if "visible" in example:
    inside = np.all(np.abs(keypoints2d[:, :2]) < 1, -1)
    out["visible"] = (_permuted(example["visible"], augmentation.flip) * inside).astype(np.float32)
  return out


def _turn(augmentation):
  """[3, 3] what happens to camera-frame points: a turn by -r about z (y is down), then the mirror."""
  c, s = np.cos(augmentation.angle_rad), np.sin(augmentation.angle_rad)
  turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
  return _MIRROR @ turn if augmentation.flip else turn


def _permuted(values, flip):
  return values[_FLIP49] if flip else values


def _keypoints2d(keypoints, affine, size, flip):
  """Crop coordinates in -1..1; joints without confidence are zeros."""
  px = keypoints[:, :2] @ affine[:, :2].T + affine[:, 2]
  confidence = keypoints[:, 2:]
  moved = np.concatenate([(2 * px / size - 1) * (confidence > 0), confidence], 1)
  return _permuted(moved, flip).astype(np.float32)


def _points(example, turn, flip):
  """(keypoints3d turned about the pelvis, translation that still projects them onto the turned image)."""
  points, confidence = example["keypoints3d"][:, :3], example["keypoints3d"][:, 3:]
  pelvis = points[_PELVIS]
  moved = ((points - pelvis) @ turn.T + pelvis) * (confidence > 0)
  transl = turn @ (pelvis + example["transl"]) - pelvis
  return (_permuted(np.concatenate([moved, confidence], 1), flip).astype(np.float32), transl.astype(np.float32))


def _pose(pose, turn, flip):
  """The root turns with the camera; the mirror swaps sides and conjugates every rotation."""
  pose = np.asarray(pose, np.float32)
  if not flip:
    return np.concatenate([(turn @ pose[0])[None], pose[1:]])
  mirrored = _MIRROR @ pose[_FLIP24] @ _MIRROR
  return np.concatenate([(turn @ pose[0] @ _MIRROR)[None], mirrored[1:]])


def _maps(example, affine, size, flip, chart):
  """Part labels, surface coordinates and depth."""
  out = {name: images.warp_labels(example[name], affine, size) for name in MAPS if name in example}
  if flip:
    out |= {name: inputs.mirrored(name, out[name], chart) for name in ("parts", "iuv") if name in out}
  return out
