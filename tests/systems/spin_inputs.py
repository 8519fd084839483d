"""Numbers that the authors' SPIN and ours are both given; `goldens/record_spin.py` recorded theirs."""

import numpy as np

PEOPLE, NUM_POINTS = 8, 49


def fits():
  """A table [8, 82], new fits [8, 82] and which to store; flips and angles of crops, in degrees."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {"table": draw(PEOPLE, 82), "new": draw(PEOPLE, 82), "better": np.arange(PEOPLE) % 3 > 0,
          "flip": np.float32([0, 1] * 4), "angle_deg": rng.uniform(-60, 60, PEOPLE).astype(np.float32)}


def views():
  """Points [8, 49, 3] and keypoints near their projections [8, 49, 3] in pixels of the crop, some missing."""
  rng = np.random.default_rng(1)
  points = 0.4 * rng.normal(size=(PEOPLE, NUM_POINTS, 3))
  moved = points + np.stack([0.1 * rng.normal(size=PEOPLE), 0.1 * rng.normal(size=PEOPLE),
                             rng.uniform(30, 60, PEOPLE)], -1)[:, None]
  px = 5000 * moved[..., :2] / moved[..., 2:] + 112
  px += rng.normal(size=px.shape) * rng.choice([2.0, 60.0], size=(PEOPLE, NUM_POINTS, 1), p=[0.8, 0.2])
  confidence = rng.choice([0.0, 0.5, 1.0], size=(PEOPLE, NUM_POINTS, 1), p=[0.2, 0.2, 0.6])
  return {"points": points.astype(np.float32), "keypoints": np.concatenate([px, confidence], -1).astype(np.float32)}


def predictions():
  """Predicted and target quantities of the losses."""
  rng = np.random.default_rng(2)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  some = lambda *shape: rng.choice([0.0, 0.5, 1.0], size=shape).astype(np.float32)
  with_confidence = lambda size, dims: np.concatenate([draw(PEOPLE, size, dims), some(PEOPLE, size, 1)], -1)
  return {"projected": draw(PEOPLE, NUM_POINTS, 2), "keypoints2d": with_confidence(NUM_POINTS, 2),
          "points": draw(PEOPLE, NUM_POINTS, 3), "keypoints3d": with_confidence(24, 3),
          "has_keypoints3d": np.float32([1, 0, 1, 1, 0, 0, 1, 1]), "rotations": draw(PEOPLE, 24, 3, 3),
          "pose": draw(PEOPLE, 72), "betas": draw(PEOPLE, 10), "to_betas": draw(PEOPLE, 10),
          "valid": np.float32([0, 1, 1, 0, 0, 1, 1, 1])}
