"""A TFDS data set of rendered people: what `data.synthetic` streams, as files that any loader can read.

TFDS without TensorFlow: array_record files, images handed over encoded. A data set of photographs for `data.pipeline`
is a builder like this one with the same features; labels it does not have are zeros and flags.
"""

import io

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds

from jhmr.data import images
from jhmr.data import synthetic

BOX_MARGIN = 1.5        # side of the stored image over the side of the person's box, room for augmentation
JPEG_QUALITY = 92
DEPTH_STEP_M = 1 / 512  # of the 16-bit depth map: two millimetres up to 128 m
_BATCH = 16


def features():
  """What one example holds; `data.augment` says what the fields mean."""
  tensor = lambda *shape: tfds.features.Tensor(shape=shape, dtype=np.float32)
  return tfds.features.FeaturesDict({
      "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
      "parts": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
      "depth_png": tfds.features.Text(),  # bytes of a 16-bit PNG, in steps of DEPTH_STEP_M, 0 where nobody is
      "box": tensor(3), "keypoints2d": tensor(49, 3), "keypoints3d": tensor(49, 4), "visible": tensor(49),
      "pose": tensor(24, 3, 3), "betas": tensor(10), "has_pose": np.float32, "has_betas": np.float32,
      "has_keypoints3d": np.float32, "transl": tensor(3), "focal_px": np.float32, "center_px": tensor(2),
      "id": np.int32, "person": np.int32, "view": np.int32})


class SyntheticPeople(tfds.core.GeneratorBasedBuilder):
  """TFDS asks for a class. `plan` says what to render; `report(split, done, total)` hears of progress."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None  # only for checksums of downloads; finding it needs a package that TFDS 4.9.10 forgets to require

  def __init__(self, *, assets, plan, description, report=lambda *_: None, **kwargs):
    """plan: {split: (number of examples, seed, synthetic.Settings)}."""
    self._assets, self._plan, self._description, self._report = assets, plan, description, report
    super().__init__(file_format="array_record", **kwargs)

  def _info(self):
    return self.dataset_info_from_configs(features=features(), description=self._description)

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in self._plan}

  def _generate_examples(self, split):
    total, seed, settings = self._plan[split]
    program = jax.jit(lambda assets, index: synthetic.examples(assets, seed, index, settings))
    for start in range(0, total, _BATCH):
      batch = jax.device_get(program(self._assets, jnp.arange(start, start + _BATCH)))
      for row in range(min(_BATCH, total - start)):
        yield start + row, encode(jax.tree.map(lambda x: x[row], batch))
      self._report(split, min(start + _BATCH, total), total)


def encode(example):
  """One example of a rendered batch (NumPy, no batch axis) in the form of `features`."""
  size = example["image"].shape[0]
  keypoints = example["keypoints2d"].copy()
  keypoints[:, :2] = (keypoints[:, :2] + 1) * size / 2 * (keypoints[:, 2:] > 0)
  bgr = cv2.cvtColor(images.to_uint8(example["image"]), cv2.COLOR_RGB2BGR)
  depth = np.round(example["depth"] / DEPTH_STEP_M).clip(0, 65535).astype(np.uint16)
  file = lambda extension, pixels, *options: cv2.imencode(extension, pixels, options)[1].tobytes()
  copied = ("keypoints3d", "visible", "betas", "has_pose", "has_betas", "has_keypoints3d", "transl", "focal_px",
            "center_px", "id", "person", "view")
  return {name: example[name] for name in copied} | {
      "image": io.BytesIO(file(".jpg", bgr, cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)),
      "parts": io.BytesIO(file(".png", example["parts"])), "depth_png": file(".png", depth), "keypoints2d": keypoints,
      "box": np.array([size / 2, size / 2, size / BOX_MARGIN], np.float32),
      "pose": np.concatenate([example["global_orient"], example["body_pose"]])}


def decode(example):
  """The inverse of `encode` for what TFDS gives back: the example `data.augment` takes."""
  depth = cv2.imdecode(np.frombuffer(example["depth_png"], np.uint8), cv2.IMREAD_UNCHANGED)
  return {name: value for name, value in example.items() if name != "depth_png"} | {
      "parts": example["parts"][..., 0], "depth": depth.astype(np.float32) * DEPTH_STEP_M}
