"""Vectors of the lifting baselines: joints go where each network's authors have them, z-scores by hand, and back."""

import jax
import jax.numpy as jnp
from jhmr import lift_baselines
from jhmr.body import joints
from jhmr.lift_baselines import MARTINEZ, PROHMR
import numpy as np
import pytest

LAYOUTS = (MARTINEZ, *PROHMR.values())


def stats_of(seed=0):
  rng = np.random.default_rng(seed)
  return {"mean2d": rng.normal(size=(16, 2)), "std2d": rng.uniform(1, 2, (16, 2)),
          "mean3d": rng.normal(size=(17, 3)), "std3d": rng.uniform(1, 2, (17, 3))}


def named(name):
  """Poses [K, 2] whose every joint says which it is: its place in "lift17", twice."""
  return np.float32([[joints.index("lift17", n)] * 2 for n in joints.names(name)])


PLAIN = {"mean2d": jnp.zeros((16, 2)), "std2d": jnp.ones((16, 2))}


def test_martinez_reads_detections_in_the_order_of_human36m():
  """Its authors' permutation of Stacked Hourglass joints, and Human3.6M's joints without the nose."""
  found = lift_baselines.inputs(named("lift16"), PLAIN, MARTINEZ).reshape(16, 2)
  permutation = [6, 2, 1, 0, 3, 4, 5, 7, 8, 9, 13, 14, 15, 12, 11, 10]
  np.testing.assert_array_equal(found, named("lift16")[permutation])
  np.testing.assert_array_equal(found[:, 0], [n for n in range(17) if n != 9])  # 9 is the nose
  assert [joints.names("lift17")[n] for n in (0, 1, 4, 7, 10, 11, 14)] == [
      "pelvis", "right_hip", "left_hip", "spine", "head", "left_shoulder", "right_shoulder"]


def test_prohmr_reads_joints_in_the_order_of_its_data():
  """Its 19 extra joints 0-12, 14, 16, 17 and 18 in 2D, without the pelvis, 14, in 3D."""
  extra = joints.names("j19")
  for name, num in (("lift17", 17), ("lift16", 16)):
    wanted = [extra[i] for i in (*range(13), 14, 16, 17, 18) if num == 17 or extra[i] != "jaw"]
    found = lift_baselines.inputs(named("lift16"), PLAIN, PROHMR[name]).reshape(num, 2)
    middle = (joints.index("lift17", "neck") + joints.index("lift17", "head")) / 2  # of the jaw, which nobody detects
    np.testing.assert_array_equal(found[:, 0], [middle if n == "jaw" else joints.index("lift17", n) for n in wanted])
    assert PROHMR[name].outputs == tuple(extra[i] for i in (*range(13), 16, 17, 18))


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_outputs_go_there_and_back(lead):
  pose, stats = np.random.default_rng(1).normal(size=(*lead, 17, 3)).astype(np.float32), stats_of()
  pose[..., 0, :] = 0
  ways = [(layout, with_stats) for layout in LAYOUTS for with_stats in (None, stats)]
  there = jax.jit(lambda pose: [lift_baselines.outputs(pose, *way) for way in ways])(pose)
  back = jax.jit(lambda there: [lift_baselines.to_joints(x, *way) for x, way in zip(there, ways)])(there)
  for x, again in zip(there, back):
    assert x.shape == (*lead, 48)
    np.testing.assert_allclose(again, pose, atol=1e-5)
    np.testing.assert_array_equal(again[..., 0, :], 0)


def test_scores_have_no_mean_and_unit_deviation():
  rng = np.random.default_rng(2)
  poses = {"2d": rng.normal(5, 3, (50, 16, 2)), "3d": rng.normal(1, 2, (50, 17, 3))}
  poses["2d"][:, 4] = 7.0  # a joint that never moves
  stats = {f"{kind}{d}": getattr(np, kind)(p, 0) for d, p in poses.items() for kind in ("mean", "std")}
  stats["std2d"][4] = 1
  x = np.asarray(lift_baselines.inputs(poses["2d"], stats, MARTINEZ))
  y = np.asarray(lift_baselines.outputs(poses["3d"], MARTINEZ, stats))
  still = 2 * MARTINEZ.inputs.index(joints.names("lift16")[4])
  np.testing.assert_array_equal(x[:, still:still + 2], 0)
  for values in (np.delete(x, [still, still + 1], 1), y):
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(0), 1, atol=1e-5)
  # x0 y0 x1 ...: the first joint of Human3.6M is the pelvis, the first output the right hip.
  score = lambda kind, joint, axis: ((poses[kind][:, joint, axis] - stats[f"mean{kind}"][joint, axis]) /
                                     stats[f"std{kind}"][joint, axis])
  np.testing.assert_allclose(x[:, 1], score("2d", joints.index("lift16", "pelvis"), 1), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(y[:, 2], score("3d", joints.index("lift17", "right_hip"), 2), rtol=1e-4, atol=1e-5)


def test_missing_joints_are_the_mean():
  pose, stats = np.random.default_rng(3).normal(size=(2, 16, 2)).astype(np.float32), stats_of()
  gone = pose.copy()
  gone[1, joints.index("lift16", "left_knee")] = np.nan
  x, y = (np.array(lift_baselines.inputs(p, stats, MARTINEZ)) for p in (pose, gone))
  place = 2 * MARTINEZ.inputs.index("left_knee")
  np.testing.assert_array_equal(y[1, place:place + 2], 0)
  x[1, place:place + 2] = 0
  np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_so_many_limb_joints_are_hidden_each_as_often_and_no_other(count):
  """Of Human3.6M's 16, Li and Lee's are 2, 3, 5, 6, 11, 12, 14 and 15."""
  x = jnp.ones((2000, 32))
  hide = jax.jit(lambda x, key: lift_baselines.hide(x, key, count, MARTINEZ))
  found = np.asarray(hide(x, jax.random.key(0))).reshape(2000, 16, 2)
  np.testing.assert_array_equal(found[..., 0], found[..., 1])
  np.testing.assert_array_equal((found[..., 0] == 0).sum(1), count)
  often = (found[..., 0] == 0).mean(0)
  limbs = [2, 3, 5, 6, 11, 12, 14, 15]
  np.testing.assert_allclose(often[limbs], count / 8, atol=0.04)
  np.testing.assert_array_equal(np.delete(often, limbs), 0)


def test_labels_that_are_missing_are_zeros_whatever_stands_there():
  batch = {"pose3d": np.full((3, 17, 3), np.nan, np.float32), "mask": np.float32([1, 0, 1]),
           "has_pose3d": np.float32([1, 1, 0])}
  batch["pose3d"][0] = 1
  np.testing.assert_array_equal(lift_baselines.labelled(batch), [1, 0, 0])
  np.testing.assert_array_equal(lift_baselines.targets(batch, MARTINEZ), [[1] * 48, [0] * 48, [0] * 48])
