"""A ProHMR of full size and what goes into it, from seeds: the same for the authors' code and for ours.

Everything is in the authors' terms: crops from -1/2 to 1/2, 44 joints, poses as axis-angle.
"""

import zlib

from body import random_body
import numpy as np
from released import authors

IMAGES, SIZE = 12, 48       # a training batch and the side of its crops in pixels; the encoder takes any
PEOPLE, PEOPLE_SIZE = 4, 96  # who is looked at without training
SAMPLES = 3                  # of each, the mode among them


def shapes():
  """{key: shape} of the released file."""
  return authors.prohmr_shapes(authors.resnet_shapes(authors.BLOCKS["resnet50"], 64, bottleneck=True), 2048)


def weights():
  """Their state dict."""
  return authors.trained(shapes())


def body():
  """Arrays of a body of noise, with fewer vertices than SMPL has."""
  return random_body.arrays(num_vertices=500, num_faces=100)


def total(arrays):
  """A number by which arrays from a seed are known again."""
  return sum(float(np.sum(np.abs(np.asarray(x, np.float64)))) for x in arrays.values())


def check(recorded, arrays, name):
  """Fails where numbers from a seed are not those that the recording was made with."""
  np.testing.assert_allclose(total(arrays), recorded[f"sum_{name}"], rtol=1e-6,
                             err_msg=f"{name} of the recording are others: run record_prohmr.py again")


def images(count, size):
  """[count, size, size, 3]: coarse patterns, each with a colour of its own, and noise; features of noise are alike."""
  rng = np.random.RandomState(1)
  coarse = rng.uniform(-1.5, 1.5, (count, 4, 4, 3)) + rng.uniform(-1.5, 1.5, (count, 1, 1, 3))
  fine = np.kron(coarse, np.ones((1, size // 4, size // 4, 1)))
  return (fine + rng.uniform(-0.5, 0.5, fine.shape)).astype(np.float32)


def labels():
  """A batch: images 0 to 3 have 2D keypoints alone, the others poses and mostly 3D joints; and as many real bodies."""
  rng = np.random.RandomState(2)
  uniform = lambda size, *shape: rng.uniform(-size, size, (IMAGES, *shape))
  confidence = rng.choice([0.0, 0.6, 1.0], size=(2, IMAGES, 44, 1), p=[0.2, 0.2, 0.6])
  has_pose = np.float64(np.arange(IMAGES) > 3)
  confidence[1, [0, 1, 2, 3, 9]] = 0
  made = {"keypoints2d": np.concatenate([uniform(0.5, 44, 2), confidence[0]], -1),
          "keypoints3d": np.concatenate([uniform(0.8, 44, 3), confidence[1]], -1),
          "pose": uniform(0.8, 72) * has_pose[:, None], "betas": uniform(2.0, 10) * has_pose[:, None],
          "has_pose": has_pose, "has_betas": has_pose * (np.arange(IMAGES) != 7),
          "real_pose": uniform(0.8, 69), "real_betas": uniform(2.0, 10)}
  return {name: x.astype(np.float32) for name, x in made.items()}


def draws():
  """What a training pass draws: z [IMAGES, 1, 144], and noise of the labels [IMAGES, 1, 144] before its scale."""
  return tuple(np.random.RandomState(3).normal(size=(2, IMAGES, 1, 144)).astype(np.float32))


def latents():
  """z [PEOPLE, SAMPLES, 144], the mode first, and poses [PEOPLE, SAMPLES, 72] whose density is asked for."""
  rng = np.random.RandomState(4)
  z, pose = rng.normal(size=(PEOPLE, SAMPLES, 144)), rng.uniform(-0.8, 0.8, (PEOPLE, SAMPLES, 72))
  z[:, 0] = 0
  return z.astype(np.float32), pose.astype(np.float32)


def places():
  """Where the people are in pictures, in their loader's names."""
  return {"box_center": np.array([[320, 240], [250, 300], [400, 200], [300, 260]], np.float32),
          "box_size": np.array([300, 250, 350, 420], np.float32),
          "img_size": np.tile(np.array([640, 480], np.float32), (PEOPLE, 1))}


def probe(key, shape):
  """A random direction for the gradient of a key."""
  return np.random.RandomState(zlib.crc32(key.encode())).uniform(-1, 1, shape).astype(np.float32)
