"""A TFDS data set of examples at hand: the shortest way from labelled pictures to `config.data.source`.

    examples.write("data/mine", {"train": generator, "val": another})      # of what `examples.record` returns
"""

import contextlib
import io
import os
import pathlib

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jhmr.data import records
from jhmr.data import scratch


class Examples(tfds.core.GeneratorBasedBuilder):
  """TFDS asks for a class. `splits` is {name: iterable of records}."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None  # as in `builders.synthetic_people`

  def __init__(self, *, splits, description="", **kwargs):
    self._splits, self._description = splits, description
    super().__init__(file_format="array_record", **kwargs)

  def _info(self):
    return self.dataset_info_from_configs(features=records.features(), description=self._description,
                                          disable_shuffling=True)

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {name: self._generate_examples(made) for name, made in self._splits.items()}

  def _generate_examples(self, made):
    yield from enumerate(made)


def record(id, image, box, size_hw, **labels):  # pylint: disable=redefined-builtin
  """One example in the form of `records.features`; labels that are not given are zeros, which says they are unknown.

  Only `visible` comes from the 2D keypoints then: those with a confidence are.

  Args:
    id: number of the example.
    image: bytes of its JPEG or PNG, stored as they are.
    box: [3] centre x, y and side in its pixels; size_hw: its height and width.
    labels: of `records.features`: keypoints2d, pose, has_pose, ...
  """
  blank = {name: np.zeros(f.shape, f.np_dtype) for name, f in records.features().items()
           if name not in ("image", *records.MAPS)}
  png = lambda dtype, shape=size_hw: cv2.imencode(".png", np.zeros(shape, dtype))[1].tobytes()
  if "keypoints2d" in labels:  # that of photographs says who is labelled, and zeros would say that all are hidden
    labels = {"visible": (np.asarray(labels["keypoints2d"])[:, 2] > 0).astype(np.float32)} | labels
  return blank | {"pose": np.tile(np.eye(3, dtype=np.float32), (24, 1, 1)), "id": id, "person": id,
                  "box": np.asarray(box, np.float32), "image": io.BytesIO(image), "parts": io.BytesIO(png(np.uint8)),
                  "iuv": io.BytesIO(png(np.uint8, (1, 1, 3))),  # black beyond its edges too
                  "depth_png": png(np.uint16)} | labels


def write(out, splits, description=""):
  """Writes {split name: iterable of records} as a data set into the new directory `out`, whole or not at all."""
  out = pathlib.Path(out).absolute()
  tfds.disable_progress_bar()
  with scratch.beside(out) as made, contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of downloads
    builder = Examples(splits=splits, description=description, data_dir=str(made))
    builder.download_and_prepare()
    os.rename(builder.data_dir, out)
