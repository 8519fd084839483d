"""Predictions and keypoints of one person, from a seed: the same for the authors' EFT and for ours."""

from jhmr.body import joints
import numpy as np

KINDS = {"plain": (False, False), "hips": (True, False), "three": (False, True)}  # (with hips, with 3D keypoints)


def cases():
  """{name: {"points" [49, 3], "betas" [10], "camera" [3] of s X + t, "keypoints" [49, 3], "joints3d" [24, 4]}}."""
  rng = np.random.RandomState(5)

  def case(scale, **confidence):
    points = rng.uniform(-0.8, 0.8, (49, 3))
    camera = np.array([scale, *rng.uniform(-0.2, 0.2, 2)])
    seen = scale * points[:, :2] + camera[1:] + 0.1 * rng.normal(size=(49, 2))
    weight = rng.uniform(0.3, 1, 49)
    for name, value in confidence.items():
      weight[joints.index("spin49", name)] = value
    return {"points": points, "betas": 0.7 * rng.normal(size=10), "camera": camera,
            "keypoints": np.concatenate([seen, weight[:, None]], -1),
            "joints3d": np.concatenate([points[25:] + 0.1 * rng.normal(size=(24, 3)), rng.randint(0, 2, (24, 1))], -1)}

  found = {"all": case(0.9), "small": case(0.2), "no_left_ankle": case(0.8, left_ankle=0.0),
           "no_right_knee": case(0.8, right_knee=0.0)}
  short = case(0.7)  # an annotated shin under a pixel
  knee, ankle = (joints.index("spin49", n) for n in ("right_knee", "right_ankle"))
  short["keypoints"][ankle, :2] = short["keypoints"][knee, :2] + [0.006, 0.005]
  return {name: {k: v.astype(np.float32) for k, v in c.items()} for name, c in (found | {"short_shin": short}).items()}
