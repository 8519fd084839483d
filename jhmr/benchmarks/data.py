"""Data row: people rendered for training, pose to picture, as the training step of the quick start does it.

Returns {"name", "unit", "ours", "peer", "peer_name", "flops_per_item", "bytes_per_item"}; there is no peer that
renders labelled people inside the step. FLOPs count what the body, the search windows and the painting need; bytes
count the picture and the labels.
"""

import jax
import jax.numpy as jnp
from jhmr.benchmarks import timing
from jhmr.body import mesh
from jhmr.body import smpl
from jhmr.data import synthetic

_SIZE, _BATCH = 64, 64
# What HMR's step reads; the other fields are never computed.
_FIELDS = ("image", "keypoints2d", "keypoints3d", "global_orient", "body_pose", "betas", "has_pose", "real_pose",
           "real_betas", "mask")


def rendered_people(seconds=3.0):
  """64 x 64 training examples per second of the small mannequin: pose, body, camera, picture and labels."""
  arrays = smpl.load_arrays("mannequin_small")
  assets = {"body": smpl.from_arrays(arrays), "surface": mesh.surface(arrays)}
  settings = synthetic.Settings(image_size=_SIZE)
  program = jax.jit(lambda assets, index: _train_fields(synthetic.examples(assets, 0, index, settings)))
  index = jnp.arange(_BATCH)
  times = timing.interleaved({"ours": lambda: jax.block_until_ready(program(assets, index))}, seconds)
  num_faces, (coefficients, width) = assets["surface"].faces.shape[0], assets["body"].blend_dirs.shape
  small, large, num_large = synthetic.windows(settings, num_faces)
  tests = num_faces * small**2 + num_large * large**2
  labels = 4 * (49 * 7 + 2 * (23 * 9 + 10) + 12)
  return {"name": f"rendered people {_SIZE}x{_SIZE}", "unit": "images/s", "ours": _BATCH / times["ours"], "peer": None,
          "peer_name": None, "bytes_per_item": float(12 * _SIZE**2 + labels),
          "flops_per_item": float(2 * coefficients * width + 32 * width * 24 / 3 + 30 * tests + 500 * _SIZE**2)}


def _train_fields(batch):
  return {name: batch[name] for name in _FIELDS}
