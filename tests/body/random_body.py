"""A seeded body model of noise with SMPL's sizes and plausible magnitudes, for tests that need no shape."""

from jhmr.body import joints
import numpy as np

NUM_POSE_FEATURES = 207


def arrays(num_vertices=joints.NUM_VERTICES, num_betas=10, num_faces=13776, seed=0):
  """Arrays in the format of `body_file.read_body_file`; every optional regressor included."""
  rng = np.random.default_rng(seed)
  body = {
      "v_template": rng.uniform(-1, 1, (num_vertices, 3)),
      "shapedirs": 1e-2 * rng.normal(size=(num_vertices, 3, num_betas)),
      "posedirs": 1e-3 * rng.normal(size=(NUM_POSE_FEATURES, 3 * num_vertices)),
      "weights": skin_weights(rng, num_vertices),
      "J_regressor": sparse_rows(rng, 24, num_vertices),
      "parents": np.array(joints.PARENTS, np.int64),
      "f": rng.integers(0, num_vertices, (num_faces, 3), dtype=np.int64),
      "regressor_extra9": sparse_rows(rng, 9, num_vertices),
      "regressor_h36m17": sparse_rows(rng, 17, num_vertices),
      "regressor_j19": sparse_rows(rng, 19, num_vertices)}
  if num_vertices != joints.NUM_VERTICES:
    body["vertex_joint_ids"] = rng.permutation(num_vertices)[:len(joints.VERTEX21)]
  return body


def sparse_rows(rng, num_rows, num_vertices, num_nonzero=8):
  """[rows, N] with a few non-negative entries per row that sum to 1."""
  rows = np.zeros((num_rows, num_vertices))
  for row in rows:
    row[rng.choice(num_vertices, num_nonzero, replace=False)] = rng.dirichlet(np.ones(num_nonzero))
  return rows


def skin_weights(rng, num_vertices):
  """[N, 24] with four joints per vertex whose weights sum to 1."""
  weights = np.zeros((num_vertices, 24))
  ids = np.argsort(rng.random((num_vertices, 24)), -1)[:, :4]
  np.put_along_axis(weights, ids, rng.dirichlet(np.ones(4), num_vertices), -1)
  return weights
