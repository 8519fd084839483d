"""Configs and a world of poses for the baselines of lifting, small enough for seconds on a CPU."""

from jhmr.body import joints
import ml_collections
import numpy as np

SIZE = 32
FIELDS = {
    "martinez": {"net": {"max_norm": True}, "weights": {"pose3d": 1.0}},
    "lift_mdn": {"net": {"max_norm": True}, "weights": {"nll": 1.0, "prior": 1.0}, "components": 3, "sets": "means"},
    "prohmr_lift": {"net": {"flow": {"blocks": 1, "hidden": 24, "depth": 1, "dropout": 0.0, "legacy_lu": False}},
                    "inputs": "lift16", "train_samples": 1, "noise_m": 0.0,
                    "weights": {"nll": 0.001, "joints_mode": 1.0, "joints_exp": 0.0}}}


def get_config(system, **overrides):
  """The smallest one, without noise; overrides with "__" for "."."""
  config = ml_collections.ConfigDict({
      "system": system, "seed": 0, "num_steps": 100, "accumulate": 1, "missing": 0,
      "net": {"hidden": 24, "blocks": 1, "dropout": 0.0, "batch_norm": "sync"},
      "optim": {"name": "adam", "learning_rate": 1e-2}})
  config.update(FIELDS[system])
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config.lock()


def get_batch(seed=0, size=SIZE):
  """A batch of lifting: poses of three degrees of freedom, seen from the front, each twice, nearer and further away.

  Rows 2 i and 2 i + 1 have one 2D pose, and depths of opposite signs.
  """
  rng = np.random.default_rng(0)
  mean, ways = 0.3 * rng.normal(size=(17, 3)), 0.15 * rng.normal(size=(3, 17, 3))
  amounts = np.random.default_rng(seed).normal(size=(size // 2, 3))
  pose = np.repeat(mean + np.einsum("bi,ijc->bjc", amounts, ways), 2, 0)
  pose[1::2, :, 2] *= -1
  pose -= pose[:, :1]
  place = [joints.index("lift17", n) for n in joints.names("lift16")]
  seen = 300 + 200 * pose[:, place, :2]
  ones = np.ones(size, np.float32)
  return {"id": np.arange(size, dtype=np.int32), "mask": ones, "has_pose3d": ones,
          "pose2d": seen.astype(np.float32), "pose3d": pose.astype(np.float32)}


def get_assets(batch):
  """Statistics of a batch."""
  stats = {f"{kind}{d}": np.asarray(getattr(np, kind)(batch[f"pose{d}"], 0))
           for d in ("2d", "3d") for kind in ("mean", "std")}
  return {"lift_stats": stats | {"std3d": np.where(stats["std3d"] > 0, stats["std3d"], 1)}}
