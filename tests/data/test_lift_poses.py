"""Files of poses are checked, come back as they were, and are made of the authors' pickles and of rendered people."""

import os
import pickle

import numpy as np
import pytest

from jhmr import lifting
from jhmr.data import lift_people
from jhmr.data import lift_poses
from jhmr.data import lift_spec
from jhmr.data import lift_wehrbein
from jhmr.errors import InputError
from jhmr.fitting import gaussians


def arrays(num=5):
  batch = lift_spec.fake_batch(num)
  return {key: batch[key] for key in lift_poses.POSES} | {
      "actions": np.array(["Walking"]), "split": np.array(["train"] * (num - 2) + ["val", "val_hard"])}


def test_a_file_comes_back_as_it_was(tmp_path):
  path, made = str(tmp_path / "poses.npz"), arrays()
  lift_poses.write(path, made)
  found = lift_poses.read(path)
  assert set(found) == set(lift_poses.KEYS)
  for key, value in made.items():
    np.testing.assert_array_equal(found[key], value)
  for key in lift_poses.POSES:
    assert found[key].dtype == lift_spec.FIELDS[key].dtype


def test_what_may_be_left_out(tmp_path):
  path, made = str(tmp_path / "poses.npz"), arrays()
  np.savez(path, pose2d=made["pose2d"], gaussians=made["gaussians"].astype(np.float64))
  found = lift_poses.read(path)
  assert not found["has_pose3d"].any() and not found["pose3d"].any() and (found["action"] == -1).all()
  assert set(found["split"]) == {"train"}
  np.testing.assert_array_equal(found["hard"], lifting.hard(made["gaussians"]))
  np.savez(path, **{key: made[key] for key in ("pose2d", "gaussians", "pose3d")})
  assert lift_poses.read(path)["has_pose3d"].all()
  np.savez(path, pose2d=made["pose2d"])
  found = lift_poses.read(path)
  assert found["gaussians"].shape == (5, 16, 6) and not found["gaussians"].any() and not found["hard"].any()
  np.savez(path, pose2d=made["pose2d"], hard=np.ones(5))
  assert lift_poses.read(path)["hard"].all()


def test_a_joint_that_is_not_finite_is_missing(tmp_path):
  path, made = str(tmp_path / "poses.npz"), arrays()
  made["pose2d"][1, 3], made["pose2d"][2, 4, 0], made["pose2d"][4, 2:] = np.nan, np.inf, np.nan
  lift_poses.write(path, made)
  gone = np.zeros((5, 16), bool)
  gone[1, 3] = gone[2, 4] = gone[4, 2:] = True
  found = lift_poses.read(path)["pose2d"]
  np.testing.assert_array_equal(np.isnan(found), np.stack([gone] * 2, -1))
  np.testing.assert_array_equal(found[~gone], made["pose2d"][~gone])


@pytest.mark.parametrize("change, said", [
    ({"pose2d": None}, "lack pose2d"), ({"gaussians": np.zeros((5, 16, 7))}, "gaussians is float64 (5, 16, 7)"),
    ({"pose3d": np.full((5, 17, 3), np.nan)}, "pose3d of pose 0 is not finite"),
    ({"gaussians": np.full((5, 16, 6), np.nan)}, "gaussians of pose 0 is not finite"),
    ({"pose2d": np.full((5, 16, 2), np.nan)}, "pose2d of pose 0 has fewer than 2 joints"),
    ({"split": np.array(["val"])}, "split is"), ({"split": np.arange(5)}, "split is"),
    ({"action": np.array([0, 0, 0, 0, 1])}, "action is in 0..1, of 1 actions"),
    ({"pose2d": np.array(3.0)}, "pose2d is")])
def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path, change, said):
  path, made = str(tmp_path / "poses.npz"), {k: v for k, v in (arrays() | change).items() if v is not None}
  with pytest.raises(InputError) as error:
    lift_poses.write(path, made)
  assert said in str(error.value) and "\n" not in str(error.value) and not os.listdir(tmp_path)
  np.savez(path, **made)
  with pytest.raises(InputError, match="poses.npz"):
    lift_poses.read(path)


def test_what_is_no_npz_is_one_line(tmp_path):
  path = str(tmp_path / "poses.npz")
  with pytest.raises(InputError, match="cannot be read"):
    lift_poses.read(path)
  np.savez(path, pose2d=np.array([{}], object), gaussians=np.zeros(1))
  with pytest.raises(InputError, match="no objects"):
    lift_poses.read(path)


def video(rng, frames):
  return {"imgpath": [f"/{i}.jpg" for i in range(frames)], "3d_gt": 1000 * rng.normal(size=(frames, 51)),
          "2d_hrnet": rng.uniform(0, 256, (frames, 32)), "gaussfit": rng.uniform(1, 4, (frames, 112))}


def human(tmp_path):
  """The two pickles, of a few videos."""
  rng = np.random.default_rng(0)
  train = {"S1": {"Walking": {"0": {"54138969": video(rng, 3)}}},
           "S5": {"Waiting": {"1": {"55011271": video(rng, 2)}}}}  # a recording that is left out
  test = {"S9": {"Eating": {"0": {"54138969": video(rng, 20), "60457274": video(rng, 13)}}},
          "S11": {"Eating": {"1": {"54138969": video(rng, 0)}}}}
  test["S9"]["Eating"]["0"]["60457274"]["gaussfit"].reshape(13, 16, 7)[4, 6, 5] = 5.5
  for name, tree in zip(lift_wehrbein.FILES, (train, test)):
    with open(tmp_path / name, "wb") as f:
      pickle.dump(tree, f, protocol=pickle.HIGHEST_PROTOCOL)
  return train, test


def test_the_authors_pickles(tmp_path):
  train, test = human(tmp_path)
  lift_poses.main(["lift_poses", "--out", str(tmp_path / "h36m.npz"), "--wehrbein", str(tmp_path)])
  found = lift_poses.read(str(tmp_path / "h36m.npz"))
  assert found["split"].tolist() == ["train"] * 3 + ["val"] * 3 + ["val_hard"]  # frames 0, 16 and 32 of 33
  assert [found["actions"][i] for i in found["action"]] == ["Walking"] * 3 + ["Eating"] * 4
  assert found["hard"].tolist() == [0] * 6 + [1]
  cameras = test["S9"]["Eating"]["0"]
  sources = [*((train["S1"]["Walking"]["0"]["54138969"], i) for i in range(3)), (cameras["54138969"], 0),
             (cameras["54138969"], 16), (cameras["60457274"], 12), (cameras["60457274"], 4)]
  for row, (each, frame) in enumerate(sources):
    for joint in range(17):
      wanted = [(each["3d_gt"][frame, 17 * c + joint] - each["3d_gt"][frame, 17 * c]) / 1000 for c in range(3)]
      np.testing.assert_allclose(found["pose3d"][row, joint], wanted, atol=1e-6)
    for joint in range(16):
      np.testing.assert_allclose(found["pose2d"][row, joint], each["2d_hrnet"][frame, joint::16], rtol=1e-6)
      np.testing.assert_allclose(found["gaussians"][row, joint], each["gaussfit"][frame, 7 * joint:7 * joint + 6],
                                 rtol=1e-6)


class Hostile:
  def __reduce__(self):
    return os.mkdir, ("/nonexistent/was_run",)


@pytest.mark.parametrize("tree, said", [
    (Hostile(), "it asks for"), ([1], "a list where a dict"), ({"S2": {}}, "has no video"),
    ({"S1": {"Walking": {"0": {"54138969": {"imgpath": ["a"], "2d_hrnet": np.zeros((1, 32))}}}}}, "it has no '3d_gt'"),
    ({"S1": {"Walking": {"0": {"54138969": video(np.random.default_rng(0), 2) | {"imgpath": ["a"]}}}}}, "of 1 frames"),
    ({"S1": {"Walking": 3}}, "cannot be used")])
def test_pickles_that_are_not_theirs_are_one_line(tmp_path, tree, said):
  path = tmp_path / "odd.pickle"
  path.write_bytes(pickle.dumps(tree))
  with pytest.raises(InputError) as error:
    lift_wehrbein.read(str(path))
  assert said in str(error.value) and "\n" not in str(error.value)


def test_files_of_heatmaps_become_one(tmp_path, capsys):
  maps = np.array(gaussians.draw(np.float32([0.9, 30, 20, 2, 0, 2]) * np.ones((3, 16, 1), np.float32)))
  maps[2, 4] = 0
  pose3d = np.random.default_rng(0).normal(size=(1, 17, 3))
  np.savez(tmp_path / "a.npz", heatmaps=maps[:1], pose3d=pose3d, action=[1], actions=["Eating", "Walking"],
           split=["val"])
  np.savez(tmp_path / "b.npz", heatmaps=maps[1:], action=[0, -1], actions=["Walking"])
  out = str(tmp_path / "poses.npz")
  lift_poses.main(["lift_poses", "--out", out, "--heatmaps", *(str(tmp_path / n) for n in ("a.npz", "b.npz"))])
  said, found = capsys.readouterr().out, lift_poses.read(out)
  assert "0 of 32 heatmaps have no fit, 1 show nothing" in said and "train 2 poses" in said
  assert found["split"].tolist() == ["val", "train", "train"] and found["has_pose3d"].tolist() == [1, 0, 0]
  assert found["actions"].tolist() == ["Eating", "Walking"] and found["action"].tolist() == [1, 1, -1]
  np.testing.assert_allclose(found["pose3d"][0], (pose3d - pose3d[:, :1])[0], atol=1e-6)
  assert np.isnan(found["pose2d"][2, 4]).all() and np.isnan(found["pose2d"]).sum() == 2
  np.savez(tmp_path / "b.npz", heatmaps=maps[1:], split=["val"])
  with pytest.raises(InputError, match="heatmaps .*b.npz.*split is"):
    lift_poses.main(["lift_poses", "--out", out, "--heatmaps", *(str(tmp_path / n) for n in ("a.npz", "b.npz"))])


def test_options_that_do_not_go_together(tmp_path):
  for extra in (["--people", "5", "--wehrbein", "x"], ["--heatmaps", "x", "--wehrbein", "x"]):
    with pytest.raises(InputError, match="only one of"):
      lift_poses.main(["lift_poses", "--out", str(tmp_path / "p.npz"), *extra])
  with pytest.raises(InputError, match="make it first"):
    lift_poses.main(["lift_poses", "--out", str(tmp_path / "no" / "p.npz")])
  with pytest.raises(InputError, match="people -1"):
    lift_people.made(lift_people.Settings(people=-1))


def test_a_joint_behind_a_limb_is_not_seen():
  """The left wrist 30 cm behind the spine, then 30 cm before it."""
  from jhmr.body import joints
  px, depth = np.full((17, 2), 100.0, np.float32), np.full(17, 4.0, np.float32)
  at = lambda name: joints.index("lift17", name)
  px += 10 * np.arange(17, dtype=np.float32)[:, None]
  px[at("pelvis")], px[at("spine")], px[at("left_wrist")] = (32, 40), (32, 30), (33, 35)
  for gap, wanted in ((0.3, True), (-0.3, False)):
    depth[at("left_wrist")] = 4 + gap
    assert bool(lift_people._behind(px, depth, np.float32(100.0))[at("left_wrist")]) == wanted
    assert not lift_people._behind(px, depth, np.float32(100.0))[at("spine")]


def test_rendered_people_are_made_again_when_a_file_they_come_from_changes(tmp_path):
  names = {path.name for path in lift_people.sources("mannequin")}
  assert {"lift_people.py", "synthetic.py", "lifting.py", "heatmaps.py", "gaussians.py", "poses.py", "smpl.py"} <= names
  body, beside = tmp_path / "SMPL_NEUTRAL.pkl", tmp_path / "J_regressor_extra.npy"
  for path in (body, beside):
    path.write_bytes(b"")
  for given in (tmp_path, body):
    assert set(lift_people.sources(str(given))) - set(lift_people.sources("mannequin")) == {body, beside}
  with pytest.raises(InputError, match="does not exist"):
    lift_people.sources(str(tmp_path / "no.pkl"))


@pytest.mark.slow
def test_rendered_people(tmp_path):
  """Poses are functions of (settings, index), project to where they were detected, and some are ambiguous."""
  out = str(tmp_path / "poses.npz")
  lift_poses.main(["lift_poses", "--out", out, "--people", "100", "--val", "10", "--val-hard", "10", "--body",
                   "mannequin_small"])
  found = lift_poses.read(out)
  assert [int((found["split"] == s).sum()) for s in ("train", "val", "val_hard")] == [100, 10, 10]
  assert found["hard"][-10:].all() and 0.02 < found["hard"][:100].mean() < 0.6
  height = np.ptp(found["pose3d"][..., 1], axis=1)
  assert 0.3 < np.median(height) < 1.8 and len(np.unique(found["pose3d"][:, 5, 0])) == 120
  flat, spread = lifting.normalise2d(found["pose2d"]), np.asarray(lifting.normalise3d(found["pose3d"]))
  from jhmr.body import joints
  in_2d = np.asarray(flat).reshape(-1, 2, 16)[:, :, lifting.MATCHED_2D]
  in_3d = spread.reshape(-1, 3, 16)[:, :2, lifting.MATCHED_3D]
  assert joints.names("lift16")[0] == "right_ankle"
  correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(in_2d, in_3d)]
  assert np.median(correlation) > 0.95
