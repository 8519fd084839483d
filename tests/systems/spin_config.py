"""The smallest SPIN, on the body and the batches of `hmr_config`."""

from jhmr import fits_memory
from jhmr.body import landmarks
from jhmr.body import rotations
from jhmr.fitting import priors
import ml_collections
import numpy as np

from systems import hmr_config

NUM_EXAMPLES = 20
IGNORED = ("op_neck", "op_right_hip", "op_left_hip", "right_hip", "left_hip")


def get_config(**overrides):
  """Overrides as {"fitting.mode": "static"}."""
  config = ml_collections.ConfigDict({
      "system": "spin", "seed": 0, "num_steps": 100, "num_examples": NUM_EXAMPLES, "accumulate": 1, "fits": "",
      "unpaired": False,
      "fitting": {"mode": "in_the_loop", "method": "spin", "torso": "annotated", "steps": 10,
                  "threshold": 100.0, "ignored": IGNORED},
      "keypoint_weights": {"detected": 0.0, "annotated": 1.0},
      "net": {"backbone": "resnet_tiny", "iterations": 3, "hidden": 64, "dropout": 0.0, "activation": "none",
              "dtype": "float32", "batch_norm": "sync"},
      "optim": {"name": "adam", "learning_rate": 1e-3},
      "weights": {"keypoints2d": 10.0, "keypoints3d": 10.0, "pose": 1.0, "betas": 0.01, "vertices": 0.0,
                  "camera": 1.0}})
  config.update_from_flattened_dict(overrides)
  return config.lock()


def fits_of(batch, num_examples=NUM_EXAMPLES):
  """A table whose rows of a batch's ids are its labels, all other rows unknown; for `assets["fits"]`."""
  pose = np.concatenate([batch["global_orient"], batch["body_pose"]], 1)
  fits = {"pose": np.zeros((num_examples, 72), np.float32), "betas": np.zeros((num_examples, 10), np.float32),
          "known": np.zeros(num_examples, bool)}
  fits["pose"][batch["id"]] = np.asarray(rotations.matrix_to_axis_angle(pose)).reshape(-1, 72)
  fits["betas"][batch["id"]], fits["known"][batch["id"]] = batch["betas"], True
  return fits


def table(seed=0, num_examples=NUM_EXAMPLES):
  """A memory of random bodies, every second row unknown."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return fits_memory.create(num_examples, {"pose": draw(num_examples, 72), "betas": draw(num_examples, 10),
                                           "known": np.arange(num_examples) % 2 == 0})


def get_assets():
  """Those of HMR and a pose prior."""
  assets = hmr_config.get_assets()
  return assets | {"keypoint_body": landmarks.rigid_body(assets["body"], ("spin49",)),
                   "pose_prior": priors.default_gmm()}


get_batch, on_devices, hide_labels = hmr_config.get_batch, hmr_config.on_devices, hmr_config.hide_labels
