"""Vectors of lifting are what the equations say, and tables by name are the authors' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import lifting
from jhmr.body import joints
from jhmr.data import lift_spec


@pytest.fixture(scope="module")
def batch():
  made = lift_spec.fake_batch(6)
  hips = [joints.index("lift17", name) for name in ("right_hip", "left_hip")]
  made["pose3d"][:, 0] = made["pose3d"][:, hips].mean(1)
  made["pose3d"] -= made["pose3d"][:, :1]
  return made


def test_tables_are_the_authors():
  assert joints.mapping("lift17", "lift16") == (3, 2, 1, 4, 5, 6, 0, 7, 8, 10, 16, 15, 14, 11, 12, 13)
  assert lifting.MATCHED_2D == (0, 1, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15)
  assert lifting.MATCHED_3D == (2, 1, 4, 5, 6, 7, 9, 15, 14, 13, 10, 11, 12)
  assert lifting.HIPS == (0, 3)


def test_2d_poses_are_centred_and_of_spread_one(batch):
  found = np.asarray(lifting.normalise2d(batch["pose2d"]))
  np.testing.assert_allclose(found.reshape(6, 2, 16).mean(-1), 0, atol=1e-6)
  np.testing.assert_allclose(found.std(-1), 1, rtol=1e-6)
  moved = lifting.normalise2d(7 * batch["pose2d"] + np.array([100, -30], np.float32))
  np.testing.assert_allclose(moved, found, atol=1e-5)
  centred = batch["pose2d"] - batch["pose2d"].mean(1, keepdims=True)
  np.testing.assert_array_equal(np.sign(found), np.sign(np.concatenate([centred[..., 0], -centred[..., 1]], -1)))


def test_a_point_is_no_nan():
  point = jnp.zeros((16, 2))
  assert not lifting.normalise2d(point).any()
  assert np.isfinite(jax.grad(lambda p: lifting.normalise2d(p).sum())(point)).all()
  assert np.isfinite(lifting.condition(jnp.zeros((16, 6)))).all()


def test_3d_poses_come_back_with_any_leading_axes(batch):
  vector = lifting.normalise3d(batch["pose3d"])
  np.testing.assert_allclose(vector.reshape(6, 3, 16).mean(-1), 0, atol=1e-6)
  np.testing.assert_allclose(lifting.to_pose3d(vector), batch["pose3d"], atol=1e-5)
  np.testing.assert_array_equal(lifting.to_pose3d(vector.reshape(2, 3, 48)).reshape(6, 17, 3),
                                lifting.to_pose3d(vector))
  knee = joints.index("lift17", "left_knee")
  x, y, z = batch["pose3d"][0, 1:].mean(0) - batch["pose3d"][0, knee]
  np.testing.assert_allclose(vector[0].reshape(3, 16)[:, knee - 1], [-x, y, z], atol=1e-6)


def gaussians(sigma_x=2.0, sigma_y=2.0, theta=0.0, amplitude=1.0):
  rows = np.zeros((16, 6), np.float32)
  rows[:, 0], rows[:, 3:] = amplitude, (sigma_x, theta, sigma_y)
  rows[:, 1:3] = np.random.default_rng(0).uniform(0, 63, (16, 2))
  return rows


def test_the_condition_of_a_turned_gaussian():
  """3 px counts as 6, both over 20, turned by 0.3: R diag(0.09, 0.01) R^T by hand."""
  rows = gaussians(3.0, 2.0, 0.3)
  found = np.asarray(lifting.condition(rows)).reshape(13, 6)
  np.testing.assert_allclose(found[:, 3:], np.tile([0.083013, 0.022586, 0.016987], (13, 1)), atol=1e-6)
  means = np.asarray(lifting.normalise2d(rows[:, 1:3])).reshape(2, 16)
  np.testing.assert_allclose(found[:, 1:3], means[:, lifting.MATCHED_2D].T, atol=1e-6)
  np.testing.assert_allclose(lifting.condition(gaussians(3.0, 2.0, 0.3 - np.pi)), found.ravel(), atol=1e-6)
  np.testing.assert_allclose(lifting.condition(gaussians(2.0, 3.0, 0.3 + np.pi / 2)), found.ravel(), atol=1e-6)


def test_the_covariance_is_the_gaussians_own_with_y_up():
  """A ridge that the model draws from the lower left to the upper right covaries positively where y points up."""
  rows = gaussians(6.0, 2.0, np.pi / 4)
  rows[:, 1:3] = 32
  y, x = np.mgrid[:64, :64] - 32.0
  cos, sin = np.cos(rows[0, 4]), np.sin(rows[0, 4])
  b = -np.sin(2 * rows[0, 4]) / (4 * 36) + np.sin(2 * rows[0, 4]) / 16
  a, c = cos**2 / 72 + sin**2 / 8, sin**2 / 72 + cos**2 / 8
  drawn = np.exp(-(a * x**2 + 2 * b * x * y + c * y**2))
  moments = np.array([(drawn * x * x).sum(), -(drawn * x * y).sum(), (drawn * y * y).sum()]) / drawn.sum()
  doubled = lifting.condition(rows).reshape(13, 6)[0, 3:]
  by_hand = (144 * 0.5 + 4 * 0.5, (144 - 4) * 0.5, 144 * 0.5 + 4 * 0.5)
  np.testing.assert_allclose(doubled * 400, by_hand, rtol=1e-5)
  np.testing.assert_allclose(moments, [20, 16, 20], rtol=2e-3)  # undoubled: (36 + 4) / 2, (36 - 4) / 2


def test_values_of_bad_fits_are_clipped():
  found = np.asarray(lifting.condition(gaussians(-5.0, 300.0, amplitude=9.0))).reshape(13, 6)
  np.testing.assert_allclose(found[:, 3:], np.tile([1e-4, 0, 1], (13, 1)), atol=1e-7)
  np.testing.assert_allclose(found[:, 0], 1.2)
  assert not np.asarray(lifting.condition(gaussians(amplitude=-1.0))).reshape(13, 6)[:, 0].any()


def test_how_much_hypotheses_should_vary():
  """2 px are 10 mm and sure, 3 px are 30 mm and unsure."""
  rows = np.stack([gaussians(2.0, 2.0), gaussians(2.0, 3.0), gaussians(2.11, 2.0)])
  target, mask = lifting.covariance_target(rows)
  assert target.shape == (3, 13, 3) and mask.shape == (3, 13)
  np.testing.assert_allclose(target[0], np.tile([1e-4, 0, 1e-4], (13, 1)), atol=1e-8)
  np.testing.assert_allclose(target[1], np.tile([1e-4, 0, 9e-4], (13, 1)), atol=1e-8)
  np.testing.assert_array_equal(mask, np.repeat([[0], [1], [1]], 13, 1))
  np.testing.assert_allclose(lifting.condition(rows[1]).reshape(13, 6)[:, 3:] * 0.01, target[1], rtol=1e-5)


def test_hard_poses_have_one_wide_gaussian():
  rows = np.stack([gaussians(), gaussians(5.0, 5.0), gaussians(-8.0, 2.0), gaussians()])
  rows[3, 6, 5] = 5.1
  np.testing.assert_array_equal(lifting.hard(rows), [False, False, False, True])
