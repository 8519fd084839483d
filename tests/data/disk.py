"""Small data sets on disk, with records broken on request, made without rendering."""

import cv2
import ml_collections
import numpy as np

from jhmr.data import images
from jhmr.data import source
from jhmr.data.builders import examples

SIZE = 72


def picture(seed, height=SIZE, width=SIZE):
  """[H, W, 3] uint8, smooth and unlike any other seed's."""
  noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
  return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


def jpeg(image):
  return cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()


def png(image):
  return cv2.imencode(".png", image)[1].tobytes()


def record(i, broken=""):
  """Example i; `broken` is a key of BROKEN or empty."""
  image = jpeg(picture(i))
  rng = np.random.default_rng((7, i))
  labels = {"keypoints2d": np.concatenate([rng.uniform(0, SIZE, (49, 2)), np.ones((49, 1))], 1).astype(np.float32),
            "keypoints3d": rng.uniform(-1, 1, (49, 4)).astype(np.float32), "has_pose": np.float32(1)}
  if broken:
    image, labels = BROKEN[broken](image, labels)
  labels = {"box": [SIZE / 2, SIZE / 2, SIZE / 1.5]} | labels
  return examples.record(1000 + i, image, size_hw=(SIZE, SIZE), **labels)


BROKEN = {  # name: what is done to (JPEG, labels)
    "truncated": lambda image, labels: (image[:len(image) * 2 // 3], labels),
    "undecodable": lambda image, labels: (b"\xff\xd8\xff\xe0 no picture \xff\xd9", labels),
    "empty": lambda image, labels: (b"", labels),
    "not an image": lambda image, labels: (b"<html>404</html>", labels),
    "broken png": lambda image, labels: (png(picture(0))[:900], labels),
    "damaged png": lambda image, labels: (_flipped(png(picture(0))), labels),
    "nan": lambda image, labels: (image, labels | {"keypoints3d": np.full((49, 4), np.nan, np.float32)}),
    "infinite": lambda image, labels: (image, labels | {"transl": np.float32([0, 0, np.inf])}),
    "no box": lambda image, labels: (image, labels | {"box": np.zeros(3, np.float32)})}


def _flipped(data):
  return data[:500] + bytes([data[500] ^ 255]) + data[501:]


def write(directory, num_train=40, num_val=10, broken=()):
  """Writes a data set; broken: {(split, index): kind}."""
  broken = dict(broken)
  made = lambda split, size: [record(i, broken.get((split, i), "")) for i in range(size)]
  examples.write(directory, {"train": made("train", num_train), "val": made("val", num_val)})
  return directory


def config(directory, batch_size=8, seed=1, image_size=32, **data):
  return ml_collections.ConfigDict(dict(seed=seed, batch_size=batch_size, image_size=image_size,
                                        data=dict(dict(source=str(directory), mocap=""), **data)))


def training(directory, process=(0, 1), **settings):
  return source.open_source(config(directory, **settings), None, *process)


def assert_same(one, other):
  assert set(one) == set(other)
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def cropped(data, affine, size):
  """`images.warp_encoded` into a new array."""
  out = np.empty((size, size, 3), np.uint8)
  images.warp_encoded(data, affine, size, out)
  return out
