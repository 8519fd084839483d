"""One example on disk: its TFDS features, writing it, reading it back, and telling a good one from a bad one.

TFDS without TensorFlow: array_record files, images handed over encoded. Worker processes read through this file, so it
imports no JAX. A reader that meets a bad record gets an exception that says what is wrong; `data.rows` goes on.
"""

import io
import math
import os

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from jhmr.data import images
from jhmr.errors import InputError

BOX_MARGIN = 1.5        # side of the stored image over the side of the person's box, room for augmentation
JPEG_QUALITY = 92
DEPTH_STEP_M = 1 / 512  # of the 16-bit depth map: two millimetres up to 128 m
MAPS = ("parts", "iuv", "depth_png")
_OPTIONAL = ("iuv",)    # what data sets of earlier versions lack
_LARGEST = 1e6          # no label is larger, in pixels or metres; NaN fails the comparison too


def features():
  """What one example holds; `data.augment` says what the fields mean."""
  tensor = lambda *shape: tfds.features.Tensor(shape=shape, dtype=np.float32)
  return tfds.features.FeaturesDict({
      "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
      "parts": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
      "iuv": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),  # blue is I, as in DensePose's files
      "depth_png": tfds.features.Text(),  # bytes of a 16-bit PNG, in steps of DEPTH_STEP_M, 0 where nobody is
      "box": tensor(3), "keypoints2d": tensor(49, 3), "keypoints3d": tensor(49, 4), "visible": tensor(49),
      "pose": tensor(24, 3, 3), "betas": tensor(10), "has_pose": np.float32, "has_betas": np.float32,
      "has_keypoints3d": np.float32, "transl": tensor(3), "focal_px": np.float32, "center_px": tensor(2),
      "id": np.int32, "person": np.int32, "view": np.int32})


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
      "parts": io.BytesIO(file(".png", example["parts"])), "iuv": io.BytesIO(file(".png", example["iuv"])),
      "depth_png": file(".png", depth),
      "keypoints2d": keypoints,
      "box": np.array([size / 2, size / 2, size / BOX_MARGIN], np.float32),
      "pose": np.concatenate([example["global_orient"], example["body_pose"]])}


def open_data_set(directory):
  """The TFDS builder of a directory.

  Raises:
    InputError: naming the directory, when it is missing, is not a data set, or lacks features.
  """
  if not os.path.isdir(directory):
    raise InputError(f"data set {directory!r} does not exist: build one with python -m jhmr.data.build, "
                     "or set config.data.source=stream")
  try:
    builder = tfds.builder_from_directory(str(directory))
    found = set(builder.info.features)
  except Exception as e:  # TFDS raises whatever its parsers do
    raise InputError(f"{directory!r} is not a TFDS data set ({reason(e)}): give the directory with "
                     "dataset_info.json") from e
  missing = set(features()) - found - set(_OPTIONAL)
  if missing:
    raise InputError(f"data set {directory!r} lacks {', '.join(sorted(missing))}: it needs the features of "
                     "jhmr/data/records.py")
  return builder


def open_split(directory, name, maps=True, needed=()):
  """Random access to a split's records: (bytes by index, {feature: (shape, dtype)} of those to read).

  Args:
    maps: whether part labels, surface coordinates and depth are wanted, those that there are.
    needed: names of MAPS that are wanted in any case.
  Raises:
    InputError: naming the directory and the split, or a map that is needed and not there.
  """
  builder = open_data_set(directory)
  if name not in builder.info.splits:
    raise InputError(f"data set {directory!r} has no split {name!r}: it has {', '.join(builder.info.splits)}")
  found = builder.info.features
  if missing := [name for name in needed if name not in found]:
    raise InputError(f"data set {directory!r} lacks {', '.join(missing)}: build it again, or choose another "
                     "config.data.input")
  chosen = MAPS if maps else needed
  wanted = {k: (f.shape, f.np_dtype) for k, f in found.items()
            if k in features() and (k in chosen or k not in MAPS)}
  try:
    return builder.as_data_source(split=name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES), wanted
  except Exception as e:  # files of another format, or missing ones; TFDS raises several kinds
    raise InputError(f"split {name!r} of data set {directory!r} cannot be read ({reason(e)}): build it again, with "
                     "file_format='array_record'") from e


def parse(raw, wanted):
  """{feature: value} of a record; images and depth stay encoded.

  TFDS's own parser takes three times as long and decodes maps that nobody asked for.

  Raises:
    ValueError, or protobuf's DecodeError: when it cannot be parsed or lacks a feature.
  """
  stored = tf_example_pb2.Example.FromString(raw).features.feature
  return {name: _value(stored[name], name, *like) for name, like in wanted.items()}


def _value(feature, name, shape, dtype):
  kind = feature.WhichOneof("kind")
  values = getattr(feature, kind).value if kind else ()
  if kind == "bytes_list" and len(values) == 1:
    return values[0]
  if kind == "bytes_list" or len(values) != math.prod(shape):
    raise ValueError(f"{name} holds {len(values)} values where {shape} are due")
  return np.array(values, dtype).reshape(shape)


def check(record):
  """Raises ValueError, naming the field, when a parsed record's labels cannot be learnt from."""
  for name, value in record.items():
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.abs(value).max() <= _LARGEST:
      raise ValueError(f"{name} holds numbers that are not finite or beyond {_LARGEST:.0e}")
  if record["box"][2] <= 0:
    raise ValueError(f"the side of its box is {record['box'][2]:g}")


def decode_maps(record):
  """Of "parts" [H, W] uint8, "iuv" [H, W, 3] uint8, "depth" [H, W] float32 metres those that a record was read with."""
  found = {name: images.decode(record[name], color=name == "iuv")[0] for name in MAPS if name in record}
  if "depth_png" in found:
    found["depth"] = found.pop("depth_png").astype(np.float32) * DEPTH_STEP_M
  return found


def decode(raw, wanted):
  """A whole example, the inverse of `encode`: what `augment.apply` takes."""
  record = parse(raw, wanted)
  rest = {name: value for name, value in record.items() if name not in MAPS}
  return rest | decode_maps(record) | {"image": images.decode(record["image"])[0][..., ::-1]}


def reason(error):
  """An exception in one line."""
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
