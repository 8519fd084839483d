"""Scores of lifted poses equal loops, and what is known by hand."""

import jax
import numpy as np
import pytest

from jhmr import lift_scores
from jhmr.body import joints, rotations
from jhmr.data import lift_spec

B, S = 6, 5
NAMES = joints.names("lift17")


@pytest.fixture(scope="module")
def poses():
  """(hypotheses [B, S, 17, 3], target [B, 17, 3]), the pelvis at the origin."""
  rng = np.random.default_rng(0)
  target = 0.4 * rng.normal(size=(B, 17, 3))
  points = target[:, None] + 0.12 * rng.normal(size=(B, S, 17, 3))
  return (points - points[..., :1, :]).astype(np.float32), (target - target[:, :1]).astype(np.float32)


errors, of_set = jax.jit(lift_scores.errors), jax.jit(lift_scores.of_set)


def aligned(points, target):
  """The similarity of least squares, by SVD in float64."""
  a, b = points - points.mean(0), target - target.mean(0)
  u, s, vt = np.linalg.svd(a.T @ b)
  flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
  scale = np.trace(np.diag(s) @ flip) / np.sum(a * a)
  return scale * a @ u @ flip @ vt + target.mean(0)


def test_errors_equal_loops(poses):
  points, target = poses
  found = errors(points, target)
  scored = [i for i, n in enumerate(NAMES) if n not in ("pelvis", "spine", "jaw")]
  for b in range(B):
    for s in range(S):
      off = np.linalg.norm(points[b, s] - target[b], axis=-1)
      after = np.linalg.norm(aligned(points[b, s].astype(float), target[b].astype(float)) - target[b], axis=-1)
      np.testing.assert_allclose(found["mpjpe_mm"][b, s], 1000 * off.mean(), rtol=1e-4)
      np.testing.assert_allclose(found["pa_mpjpe_mm"][b, s], 1000 * after.mean(), rtol=1e-3)
      np.testing.assert_allclose(found["pck"][b, s], np.mean(off[scored] < 0.15), atol=1e-6)
      np.testing.assert_allclose(found["worst_mm"][b, s], 1000 * np.delete(after, NAMES.index("spine")).max(), rtol=1e-3)


def test_a_set_is_judged_by_each_errors_own_best_one_and_one_hypothesis_by_itself(poses):
  points, target = poses
  each, many, one = errors(points, target), of_set(points, target), of_set(points[:, :1], target)
  for name in lift_scores.ERRORS:
    np.testing.assert_allclose(many[f"{name}_min"], np.min(each[name], 1))
    np.testing.assert_allclose(many[f"{name}_worst"], np.max(each[name], 1))
    np.testing.assert_allclose(one[f"{name}_min"], each[name][:, 0], rtol=1e-5)
  np.testing.assert_allclose(many["pck"], np.max(each["pck"], 1))
  std = 1000 * points.std(1, ddof=1).mean(1)
  np.testing.assert_allclose(np.stack([many[a] for a in lift_scores.AXES], 1), std, rtol=1e-4)
  assert not set(lift_scores.AXES) & set(one), "one hypothesis has no spread"


def test_a_perfect_pose_and_a_similar_one(poses):
  _, target = poses
  turned = 1.3 * target @ np.asarray(rotations.rotation_about("y", 0.7))
  found = of_set(np.stack([target, turned], 1).astype(np.float32), target)
  np.testing.assert_allclose(found["mpjpe_mm_min"], 0, atol=1e-3)
  np.testing.assert_allclose(found["pa_mpjpe_mm_worst"], 0, atol=1e-2)
  np.testing.assert_allclose(found["cps"], 299)


def test_means_are_those_of_actions_where_every_pose_has_one():
  rows = {"mpjpe_mm_min_5": np.array([10.0, 20.0, 30.0, 100.0]), "action": np.array([0, 0, 0, 4])}
  assert lift_scores.summarise(rows)["mpjpe_mm_min_5"]["value"] == pytest.approx(60.0)
  rows["action"] = np.array([0, 0, -1, 4])
  assert lift_scores.summarise(rows)["mpjpe_mm_min_5"]["value"] == pytest.approx(40.0)


def test_the_baseline_is_the_mean_pose_of_training(poses):
  _, target = poses
  batch = lift_spec.fake_batch(B) | {"pose3d": target}
  made = lift_scores.predict_mean((), batch, {"lift_stats": {"mean3d": target.mean(0)}})
  assert made.shape == (B, 1, 17, 3)
  np.testing.assert_allclose(errors(made, target)["mpjpe_mm"][:, 0],
                             1000 * np.linalg.norm(target - target.mean(0), axis=-1).mean(1), rtol=1e-4)
