"""Batches of lifting: every pose once an epoch, padding counts for nothing, statistics are those of the training split."""

import ml_collections
import numpy as np
import pytest

from jhmr import assets
from jhmr.data import lift_poses, lift_source, lift_spec, source
from jhmr.errors import InputError


def config_of(path, **changes):
  return ml_collections.ConfigDict(dict(task="lifting", seed=3, batch_size=24, lift_stats="",
                                        data=dict(source=path)) | changes)


def test_every_pose_is_seen_once_an_epoch_in_another_order_each_time(pose_file):
  opened = source.open_source(config_of(pose_file), {})
  assert opened.size == opened.epoch == 64
  ids = np.concatenate([opened.batch(i)["id"] for i in range(8)])[:128].reshape(2, 64)
  assert (np.sort(ids, 1) == np.arange(64)).all() and (ids[0] != ids[1]).any()
  again = source.open_source(config_of(pose_file), {}).batch(5)
  assert (again["id"] == opened.batch(5)["id"]).all(), "whatever was asked for before"


def test_processes_have_the_rows_of_one_batch(pose_file):
  whole = source.open_source(config_of(pose_file), {}).batch(4)
  parts = [source.open_source(config_of(pose_file), {}, i, 2).batch(4) for i in range(2)]
  for name in whole:
    np.testing.assert_array_equal(whole[name], np.concatenate([p[name] for p in parts]))


def test_a_split_is_in_order_and_padded(pose_file):
  opened = source.open_split(config_of(pose_file, batch_size=10), {}, "val")
  assert opened.num_batches == 2
  mask = np.concatenate([opened.batch(i)["mask"] for i in range(2)])
  ids = np.concatenate([opened.batch(i)["id"] for i in range(2)])
  assert mask.sum() == 16 and (ids[mask > 0] == np.arange(16)).all()
  for name, value in opened.batch(1).items():
    assert value.shape == (10, *lift_spec.FIELDS[name].shape) and value.dtype == lift_spec.FIELDS[name].dtype


def test_statistics_are_of_the_training_split_and_stay_with_a_run(pose_file, tmp_path):
  rows = lift_poses.read(pose_file)
  kept = rows["pose3d"][rows["split"] == "train"].astype(np.float64)
  found = assets.load(config_of(pose_file))["lift_stats"]
  np.testing.assert_allclose(found["mean3d"], kept.mean(0), atol=1e-6)
  np.testing.assert_allclose(found["std3d"][1:], kept.std(0)[1:], atol=1e-6)
  np.testing.assert_array_equal(found["std3d"][0], 1, err_msg="the pelvis is always at the origin")
  path = str(tmp_path / "lift_stats.npz")
  np.savez(path, **found)
  elsewhere = assets.load(config_of("nowhere.npz", lift_stats=path))["lift_stats"]
  assert all((elsewhere[k] == found[k]).all() for k in found)
  np.savez(path, **{k: v for k, v in found.items() if k != "std2d"})
  with pytest.raises(InputError, match="std2d is not"):
    assets.load(config_of("nowhere.npz", lift_stats=path))


def written(path, **changes):
  """A file of poses with some arrays changed, and its rows."""
  rows = lift_spec.fake_batch(40) | changes
  lift_poses.write(str(path), {k: rows[k] for k in ("pose2d", "gaussians", "pose3d", "has_pose3d")})
  return str(path), rows


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_poses_without_a_label_do_not_count_in_statistics(tmp_path, share):
  known = np.arange(40) < 40 * share
  rows = lift_spec.fake_batch(40)
  path, rows = written(tmp_path / "poses.npz", has_pose3d=np.float32(known),
                       pose3d=np.where(known[:, None, None], rows["pose3d"] + np.float32([[0]] + [[3]] * 16), 0))
  found = lift_source.statistics(config_of(path))
  kept = rows["pose3d"][known].astype(np.float64)
  np.testing.assert_allclose(found["mean3d"], kept.mean(0) if share else 0, atol=1e-6)
  np.testing.assert_allclose(found["std3d"][1:], kept.std(0)[1:] if share else 1, atol=1e-6)
  np.testing.assert_allclose(found["mean2d"], rows["pose2d"].mean(0), rtol=1e-5)


def test_joints_that_are_missing_do_not_count_in_statistics(tmp_path):
  gone = np.random.default_rng(0).uniform(size=(40, 16)) < 0.3
  gone[:, 5] = True
  pose2d = np.where(gone[..., None], np.nan, lift_spec.fake_batch(40)["pose2d"])
  path, _ = written(tmp_path / "poses.npz", pose2d=pose2d)
  found = lift_source.statistics(config_of(path))
  others = np.arange(16) != 5
  np.testing.assert_allclose(found["mean2d"][others], np.nanmean(pose2d[:, others], 0), rtol=1e-5)
  np.testing.assert_allclose(found["std2d"][others], np.nanstd(pose2d[:, others], 0), rtol=1e-5)
  np.testing.assert_array_equal(found["mean2d"][5], 0)
  np.testing.assert_array_equal(found["std2d"][5], 1)


@pytest.mark.parametrize("condition", [True, False])
def test_a_system_is_told_what_its_data_lack(tmp_path, condition):
  pose2d, net = lift_spec.fake_batch(40)["pose2d"], {"condition": condition}
  config = lambda path, system="cinn_lifting": config_of(path, system=system, net=net)
  bare, _ = written(tmp_path / "bare.npz", gaussians=np.zeros((40, 16, 6)))
  pose2d[7, 2] = np.nan
  gaps, _ = written(tmp_path / "gaps.npz", pose2d=pose2d)
  for open_it in (source.open_source, lambda *given: source.open_split(*given, "train")):
    with pytest.raises(InputError, match="1 of 40 poses lack a 2D joint, which cinn_lifting"):
      open_it(config(gaps), {})
    open_it(config(gaps, "martinez"), {})
    if condition:
      with pytest.raises(InputError, match="40 of 40 poses have no gaussians, which cinn_lifting"):
        open_it(config(bare), {})
    else:
      open_it(config(bare), {})


def test_what_does_not_exist_is_named(pose_file):
  with pytest.raises(InputError, match="split 'test' does not exist"):
    source.open_split(config_of(pose_file), {}, "test")
  with pytest.raises(InputError, match="config.data.peoples is not a setting"):
    source.open_source(config_of("stream", data=dict(source="stream", peoples=3)), {})
  with pytest.raises(InputError, match="config.task is 'lift'"):
    source.open_source(config_of(pose_file, task="lift"), {})
