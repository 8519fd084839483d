"""What tells the body that goldens were recorded with from another one."""

import numpy as np

# Labels of its surface and its coarse mesh move nothing.
_MOVES = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "regressor_extra9", "regressor_h36m17",
          "regressor_j19", "vertex_joint_ids")


def total(arrays):
  """One number of a body file's arrays."""
  return sum(np.abs(arrays[name], dtype=np.float64).sum() for name in _MOVES)
