"""The sampler keeps to its stated limits; mocap files replace it or are refused by name."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import errors
from jhmr.body import joints
from jhmr.body import pose_overlap
from jhmr.body import poses

MIRROR = np.diag([-1.0, 1.0, 1.0]).astype(np.float32)


@pytest.fixture(scope="module")
def sampled():
  """[10000, 24, 3, 3] poses."""
  return np.asarray(jax.jit(jax.vmap(poses.sample))(jax.random.split(jax.random.key(7), 10_000)))


def joint(sampled, name, right=False):
  """Rotations of a joint; those of the right side are mirrored, so that one sign convention serves both."""
  rotation = sampled[:, joints.index("smpl24", name)]
  return MIRROR @ rotation @ MIRROR if right else rotation


def sides(sampled, name):
  return np.concatenate([joint(sampled, f"left_{name}"), joint(sampled, f"right_{name}", right=True)])


def vectors(rotation):
  """Rotation vectors in degrees, by the logarithm's plain formula (angles here stay away from pi)."""
  skew = np.stack([rotation[:, 2, 1] - rotation[:, 1, 2], rotation[:, 0, 2] - rotation[:, 2, 0],
                   rotation[:, 1, 0] - rotation[:, 0, 1]], -1) / 2
  sine, cosine = np.linalg.norm(skew, axis=-1), (np.trace(rotation, axis1=1, axis2=2) - 1) / 2
  angle = np.arctan2(sine, cosine)
  return np.degrees(skew * (angle / np.maximum(sine, 1e-9))[:, None])


def within(values, low, high, slack=0.1):
  assert values.min() >= low - slack and values.max() <= high + slack, (values.min(), values.max())


def test_every_pose_is_made_of_rotations(sampled):
  products = sampled @ np.swapaxes(sampled, -1, -2)
  assert np.abs(products - np.eye(3)).max() < 1e-5
  assert np.linalg.det(sampled).min() > 0.999


def test_knees_bend_one_way_about_one_axis(sampled):
  knee = vectors(sides(sampled, "knee"))
  within(knee[:, 0], 0, 140)
  within(knee[:, 1], -8, 8)
  within(knee[:, 2], 0, 0)


def test_elbows_bend_forward_only(sampled):
  forearm = sides(sampled, "elbow")[:, :, 0]  # the forearm lies along x in the T-pose
  within(np.degrees(np.arctan2(forearm[:, 2], forearm[:, 0])), 1, 145)
  within(forearm[:, 1], 0, 0, slack=1e-5)


def test_shoulders_swing_within_their_cone(sampled):
  arm = sides(sampled, "shoulder")[:, :, 0]
  within(np.degrees(np.arccos(np.clip(-arm[:, 1], -1, 1))), 0, 165)
  backward = arm[:, 2] < 0  # behind the trunk: never further than the extension limit
  within(np.degrees(np.arcsin(-arm[backward, 2])), 0, 50)


def test_hips_ankles_and_toes_keep_their_ranges(sampled):
  thigh = -sides(sampled, "hip")[:, :, 1]
  within(np.degrees(np.arccos(np.clip(-thigh[:, 1], -1, 1))), 0, np.hypot(125, 50))
  within(np.degrees(np.arcsin(np.clip(-thigh[:, 2], -1, 1))), -90, 25)
  within(np.degrees(np.arctan2(sides(sampled, "ankle")[:, 2, 1], sides(sampled, "ankle")[:, 2, 2])), -30, 45)
  within(vectors(sides(sampled, "foot"))[:, 0], -35, 15)


def test_trunk_and_neck_share_their_bend(sampled):
  spine = sum(vectors(joint(sampled, f"spine{i}")) for i in (1, 2, 3))
  within(spine[:, 0], -25, 75)
  within(spine[:, 1], -42, 42)
  within(spine[:, 2], -32, 32)
  neck = vectors(joint(sampled, "neck")) + vectors(joint(sampled, "head"))
  within(neck[:, 0], -45, 45)
  within(neck[:, 1], -70, 70)
  np.testing.assert_array_equal(sides(sampled, "hand"), np.broadcast_to(np.eye(3, dtype=np.float32), (20_000, 3, 3)))


def test_limbs_rarely_overlap_and_the_t_pose_never_does(sampled):
  assert float(pose_overlap.overlap(jnp.broadcast_to(jnp.eye(3), (24, 3, 3)))) == 0.0
  overlaps = np.asarray(jax.jit(jax.vmap(pose_overlap.overlap))(sampled))
  assert np.mean(overlaps > 1e-3) < 0.005  # ten square centimetres


def test_most_people_are_upright_and_arms_are_mostly_down(sampled):
  up = sampled[:, 0, 1, 1]
  assert np.mean(up > 0.8) > 0.75 and np.mean(up < 0.2) > 0.04
  arms = sides(sampled, "shoulder")[:, :, 0]
  assert np.mean(arms[:, 1] < -0.5) > 0.6        # below the horizontal
  assert np.mean(np.abs(arms[:, 0]) > 0.9) < 0.08  # the arms of a T-pose are rare


def test_the_distribution_is_symmetric(sampled):
  swap = [joints.names("smpl24").index(
      n.replace("left", "right") if "left" in n else n.replace("right", "left")) for n in joints.names("smpl24")]
  mean = sampled.mean(0)
  assert np.abs(MIRROR @ mean[swap] @ MIRROR - mean).max() < 0.03


def test_mean_pose_is_upright_with_lowered_arms(tmp_path, monkeypatch):
  monkeypatch.setenv("JHMR_CACHE", str(tmp_path))
  mean = np.asarray(poses.mean_pose(512))
  assert mean.shape == (24, 3, 3) and mean[0, 1, 1] > 0.9
  assert joint(mean[None], "left_shoulder")[0, 1, 0] < -0.7
  np.testing.assert_allclose(mean @ np.swapaxes(mean, -1, -2), np.broadcast_to(np.eye(3), (24, 3, 3)), atol=1e-5)


def test_each_family_looks_like_its_name():
  draw = jax.jit(jax.vmap(poses.family_pose, in_axes=(0, None)))
  keys = jax.random.split(jax.random.key(1), 64)
  by_name = {name: np.asarray(draw(keys, i)) for i, name in enumerate(poses.FAMILIES)}
  knee = {name: np.mean(vectors(sides(p, "knee"))[:, 0]) for name, p in by_name.items()}
  assert knee["standing"] < 20 < 60 < knee["crouching"] and knee["sitting"] > 55
  assert np.abs(by_name["lying"][:, 0, 1, 1]).max() < 0.4 and by_name["walking"][:, 0, 1, 1].min() > 0.95
  thigh = {name: -joint(p, "left_hip")[:, 2, 1] for name, p in by_name.items()}
  assert thigh["running"].std() > 0.3 and thigh["standing"].std() < 0.2
  np.testing.assert_array_equal(np.asarray(poses.family_pose(keys[3], "running")).round(4),
                                by_name["running"][3].round(4))


def test_same_key_same_bits_in_two_processes():
  code = ("import jax, hashlib, numpy as np; from jhmr.body import poses;"
          "p = jax.jit(jax.vmap(poses.sample))(jax.random.split(jax.random.key(5), 16));"
          "print(hashlib.sha256(np.asarray(p).tobytes()).hexdigest())")
  run = lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).stdout.split()[-1]
  assert run() == run()


def _write(path, **arrays):
  np.savez(path, **arrays)
  return path


def test_mocap_files_of_three_layouts_read_alike(tmp_path):
  rng = np.random.default_rng(0)
  pose, betas = rng.normal(size=(5, 66)) * 0.3, rng.normal(size=(5, 16))
  amass = _write(tmp_path / "amass.npz", poses=np.hstack([pose, rng.normal(size=(5, 90))]), betas=betas[0],
                 trans=np.zeros((5, 3)))
  full = _write(tmp_path / "cmu.npz", body_pose=np.hstack([pose, np.zeros((5, 6))]), betas=betas[:, :10])
  body = _write(tmp_path / "body.npz", body_pose=np.hstack([pose[:, 3:], np.zeros((5, 6))]), betas=betas[:, :10])
  read = {name: poses.read_mocap(path) for name, path in (("amass", amass), ("full", full), ("body", body))}
  np.testing.assert_array_equal(read["amass"][0], read["full"][0])
  np.testing.assert_array_equal(read["full"][0][:, 3:], read["body"][0][:, 3:])
  assert read["amass"][1].shape == (5, 10) and np.all(read["amass"][1] == betas[0, :10].astype(np.float32))
  table = poses.mocap_table(full)
  drawn, shape = poses.sample_any(table, jax.random.key(0))
  row = np.flatnonzero((np.asarray(table.betas) == np.asarray(shape)).all(1))[0]
  np.testing.assert_array_equal(drawn[1:], table.pose[row, 1:])


@pytest.mark.parametrize("arrays, says", [
    (dict(trans=np.zeros((3, 3))), "needs arrays"), (dict(poses=np.zeros((3, 72))), "needs arrays"),
    (dict(poses=np.zeros((3, 70)), betas=np.zeros((3, 10))), "expected [M, 72]"),
    (dict(poses=np.zeros((3, 72)), betas=np.zeros((2, 10))), "betas are"),
    (dict(poses=np.full((3, 72), np.nan), betas=np.zeros((3, 10))), "not finite")])
def test_malformed_mocap_is_one_line_that_names_the_file(tmp_path, arrays, says):
  path = _write(tmp_path / "bad.npz", **arrays)
  with pytest.raises(errors.InputError) as caught:
    poses.read_mocap(path)
  assert says in str(caught.value) and "bad.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_npz_or_absent_is_an_input_error(tmp_path):
  (tmp_path / "text.npz").write_text("not a zip")
  for name in ("text.npz", "absent.npz"):
    with pytest.raises(errors.InputError, match=name):
      poses.read_mocap(tmp_path / name)
