"""Every field a batch can have, once: name, shape, dtype, meaning.

The pipeline, the rendered people, `init` and the tests all read this table. Keypoints are the
49 joints of `joints.names("spin49")`. Crop coordinates run from -1 to 1 over the crop, x right
and y down. The camera frame is x right, y down, z forward; lengths are metres.

A label that an example does not have is zeros, and its flag or confidence is 0: shapes never change.
"""

from typing import NamedTuple

import numpy as np

NUM_KEYPOINTS = 49
NUM_BODY_JOINTS = 23
NUM_BETAS = 10


class Field(NamedTuple):
  shape: tuple       # without the batch axis; "S" stands for the crop's side in pixels
  dtype: type
  required: bool
  doc: str
  gaps: bool = False  # whether NaN marks what is missing


FIELDS = {
    "id": Field((), np.int32, True, "index of the example in its split"),
    "mask": Field((), np.float32, True, "1 for an example, 0 for padding of the last batch"),
    "image": Field(("S", "S", 3), np.float32, True,
                   "crop, RGB or as config.data.input says, ImageNet-normalised; uint8 in 0..255 until on the device"),
    "keypoints2d": Field((NUM_KEYPOINTS, 3), np.float32, True, "x, y in crop coordinates, confidence"),
    "keypoints3d": Field((NUM_KEYPOINTS, 4), np.float32, True,
                         "x, y, z in metres, camera frame, any origin (losses centre), confidence"),
    "global_orient": Field((1, 3, 3), np.float32, True, "root rotation, camera frame"),
    "body_pose": Field((NUM_BODY_JOINTS, 3, 3), np.float32, True, "rotation matrices"),
    "betas": Field((NUM_BETAS,), np.float32, True, "shape coefficients"),
    "has_pose": Field((), np.float32, True, "1 if global_orient and body_pose are labels"),
    "has_betas": Field((), np.float32, True, "1 if betas are labels"),
    "has_keypoints3d": Field((), np.float32, True, "1 if keypoints3d are labels"),
    "real_pose": Field((NUM_BODY_JOINTS, 3, 3), np.float32, False,
                       "a body pose of no image, for an adversarial prior (mocap)"),
    "real_betas": Field((NUM_BETAS,), np.float32, False, "its shape coefficients"),
    "transl": Field((3,), np.float32, False, "true translation: vertices + transl is in the true camera's frame"),
    "focal_px": Field((), np.float32, False, "true focal length in crop pixels"),
    "center_px": Field((2,), np.float32, False, "true principal point in crop pixels (x, y)"),
    "visible": Field((NUM_KEYPOINTS,), np.float32, False, "1 if the keypoint is in the crop and nothing hides it"),
    "parts": Field(("S", "S"), np.uint8, False, "body part 1..24 at each pixel (SMPL joint + 1), 0 elsewhere"),
    "iuv": Field(("S", "S", 3), np.uint8, False,
                 "I, part 1..24 of the body's chart at each pixel, and its U and V times 255; zeros elsewhere"),
    "depth": Field(("S", "S"), np.float32, False, "depth of the person in metres, 0 where there is none"),
    "flip": Field((), np.float32, False, "1 if the crop is mirrored; absent fields mean that nothing is augmented"),
    "angle_rad": Field((), np.float32, False,
                       "in-plane rotation of the crop, before the mirror, counter-clockwise on the screen"),
    "person": Field((), np.int32, False, "which person, when a split shows each one several times"),
    "view": Field((), np.int32, False, "which view of that person"),
}


def example_shapes(image_size, names=None):
  """{name: (shape, dtype)} of one example with crops of image_size; required fields when names is None."""
  names = [n for n, f in FIELDS.items() if f.required] if names is None else names
  return {n: (tuple(image_size if d == "S" else d for d in FIELDS[n].shape), FIELDS[n].dtype) for n in names}


def fake_batch(image_size, batch_size, names=None, seed=0):
  """A batch of noise of the right shapes, for shape checks and tests; every flag and mask is 1."""
  rng = np.random.default_rng(seed)
  batch = {}
  for name, (shape, dtype) in example_shapes(image_size, names).items():
    value = rng.normal(size=(batch_size, *shape))
    if name in ("global_orient", "body_pose", "real_pose"):  # proper rotations, by QR
      value = np.linalg.qr(value)[0]
      value *= np.sign(np.linalg.det(value))[..., None, None]
    if name in ("mask", "visible", "flip") or name.startswith("has_"):
      value = np.ones_like(value)
    if name in ("keypoints2d", "keypoints3d"):
      value[..., -1] = 1
    batch[name] = (np.arange(batch_size) if name == "id" else value).astype(dtype)
  return batch


def check_batch(batch, image_size):
  """Raises ValueError, naming the field, when a batch departs from the table."""
  sizes = {}
  for name, value in batch.items():
    if name not in FIELDS:
      raise ValueError(f"batch field {name!r} is not in jhmr/data/spec.py")
    shape, dtype = example_shapes(image_size, [name])[name]
    if tuple(value.shape[1:]) != shape:
      raise ValueError(f"batch field {name!r} has shape {tuple(value.shape[1:])} per example, the table says {shape}")
    if value.dtype != dtype and not (name == "image" and value.dtype == np.uint8):
      raise ValueError(f"batch field {name!r} is {value.dtype}, the table says {np.dtype(dtype)}")
    sizes[name] = value.shape[0]
  missing = [n for n, f in FIELDS.items() if f.required and n not in batch]
  if missing:
    raise ValueError(f"batch lacks required fields {missing}")
  if len(set(sizes.values())) != 1:
    raise ValueError(f"batch fields disagree on the batch size: {sizes}")
