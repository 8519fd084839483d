"""Small rendered batches that several test files share."""

import functools

import jax
import numpy as np

from jhmr.body import mesh
from jhmr.body import smpl
from jhmr.data import synthetic


SETTINGS = synthetic.Settings(image_size=64, share_2d_only=0.5)  # shared, so that files share one program


@functools.cache
def assets():
  arrays = smpl.load_arrays("mannequin_small")
  return {"body": smpl.from_arrays(arrays), "surface": mesh.surface(arrays)}


@functools.partial(jax.jit, static_argnums=(2, 3))
def _examples(assets, index, settings, split):
  if split:
    return synthetic.split_examples(assets, split, index, settings)
  return synthetic.examples(assets, 0, index, settings)


def examples(index, settings, split=""):
  """A rendered batch as NumPy arrays; programs are shared between tests of one process."""
  return jax.device_get(_examples(assets(), np.asarray(index, np.int32), settings, split))


def skin(batch):
  """Keypoints [B, 49, 3] of the labelled bodies, posed again from the labels (metres, no translation)."""
  return np.asarray(_skin(assets()["body"], batch["betas"], batch["global_orient"], batch["body_pose"]))


@jax.jit
def _skin(body, betas, root, pose):
  posed = smpl.forward(body, betas, jax.numpy.concatenate([root, pose], 1))
  return smpl.keypoints(body, posed, "spin49")
