"""A ProHMR small enough for seconds on a CPU; body, assets and batches are those of `hmr_config`."""

import ml_collections

from systems.hmr_config import get_assets, get_batch, hide_labels, on_devices  # pylint: disable=unused-import


def get_config(**overrides):
  """The smallest ProHMR; overrides as {"net.batch_norm": "frozen"}."""
  config = ml_collections.ConfigDict({
      "system": "prohmr", "seed": 0, "num_steps": 100, "train_samples": 2, "model_joints": "spin49",
      "net": {"backbone": "resnet_tiny", "hidden": 32, "dtype": "float32", "batch_norm": "sync", "remat": False,
              "flow": {"blocks": 2, "hidden": 32, "depth": 1, "dropout": 0.0, "legacy_lu": False}},
      "optim": {"name": "adam", "learning_rate": 1e-3}, "critic_optim": {"name": "adam", "learning_rate": 1e-3},
      "weights": {"keypoints2d_mode": 0.01, "keypoints2d_exp": 0.001, "keypoints3d_mode": 0.05, "keypoints3d_exp": 0.01,
                  "global_orient_mode": 0.001, "global_orient_exp": 0.001, "body_pose_mode": 0.001,
                  "body_pose_exp": 0.001, "betas": 0.0005, "nll": 0.001, "orthogonal": 0.1, "adversarial": 0.0005}})
  config.update_from_flattened_dict(overrides)
  return config.lock()
