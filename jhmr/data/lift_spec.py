"""Every field a batch of lifting can have: 2D poses of a detector, how sure it was, and the 3D poses to be found.

As `data.spec` for images: the source, `init` and the tests read this table.
"""

import numpy as np

from jhmr.data.spec import Field

SET_3D, SET_2D = "lift17", "lift16"  # of body.joints
NUM_3D, NUM_2D = 17, 16
HEATMAP = 64                         # side of a heatmap in pixels

FIELDS = {
    "id": Field((), np.int32, True, "index of the example in its split"),
    "mask": Field((), np.float32, True, "1 for an example, 0 for padding of the last batch"),
    "pose2d": Field((NUM_2D, 2), np.float32, True,
                    "x, y of detected joints in pixels of any scale, y down; NaN of a joint that is missing", True),
    "gaussians": Field((NUM_2D, 6), np.float32, True,
                       "what fits each joint's heatmap: amplitude, mean x and y, sigma x, theta, sigma y, in pixels of "
                       "the heatmap and as fitted; zeros where there is none"),
    "pose3d": Field((NUM_3D, 3), np.float32, True, "metres, camera frame, the pelvis at the origin"),
    "has_pose3d": Field((), np.float32, True, "1 if pose3d is a label"),
    "action": Field((), np.int32, False, "which action the person performs, -1 where unknown"),
    "hard": Field((), np.float32, False, "1 for a pose that counts as ambiguous"),
}


def fake_batch(batch_size, seed=0):
  """A batch of noise of the right shapes, for shape checks and tests; every flag and mask is 1, every heatmap fits."""
  rng = np.random.default_rng(seed)
  batch = {name: rng.normal(size=(batch_size, *field.shape)).astype(field.dtype) for name, field in FIELDS.items()}
  batch["pose3d"] -= batch["pose3d"][:, :1]
  batch["pose2d"] = (32 + 10 * batch["pose2d"]).astype(np.float32)
  sigma = rng.uniform(1.5, 6.0, (batch_size, NUM_2D, 2))
  amplitude, theta = np.ones((batch_size, NUM_2D, 1)), rng.uniform(0, 3, (batch_size, NUM_2D, 1))
  fits = np.concatenate([amplitude, batch["pose2d"], sigma[..., :1], theta, sigma[..., 1:]], -1)
  batch["gaussians"], ones = fits.astype(np.float32), np.ones(batch_size, np.float32)
  return batch | {"id": np.arange(batch_size, dtype=np.int32), "mask": ones, "has_pose3d": ones, "hard": ones,
                  "action": np.full(batch_size, -1, np.int32)}
