"""A data set of SPIN's annotations: rows in order, labels where the photograph has them, crops as of the whole."""

import cv2
import numpy as np
import pytest

from jhmr.body import joints
from jhmr.body import rotations
from jhmr.data import augment
from jhmr.data import build
from jhmr.data import pipeline
from jhmr.data import records
from jhmr.errors import InputError
import disk

NUM = 5
SIDES = (30.0, 40.0, 150.0, 36.0, 33.0)  # the third one's window is the whole photograph


def annotations(root, **changes):
  """An annotation file and its photographs, 160 x 200."""
  rng = np.random.default_rng(0)
  for i in range(NUM):
    cv2.imwrite(str(root / f"{i}.jpg"), disk.picture(i, 160, 200), (cv2.IMWRITE_JPEG_QUALITY, 98))
  part = np.concatenate([rng.uniform(20, 140, (NUM, 24, 2)), rng.integers(0, 2, (NUM, 24, 1))], -1)
  made = {"imgname": [f"{i}.jpg" for i in range(NUM)], "center": rng.uniform(40, 120, (NUM, 2)),
          "scale": np.array(SIDES) / 200, "part": part, "pose": 0.3 * rng.normal(size=(NUM, 72)),
          "shape": rng.normal(size=(NUM, 10)), "has_smpl": np.array([1, 0, 1, 1, 0]),
          "S": np.concatenate([rng.normal(size=(NUM, 24, 3)), np.ones((NUM, 24, 1))], -1)} | changes
  made = {k: v for k, v in made.items() if v is not None}
  np.savez(root / "set.npz", **made)
  return made


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """(annotations, data set) made by the command."""
  root = tmp_path_factory.mktemp("photographs")
  made = annotations(root)
  build.main(["build", "--out", str(root / "set"), "--spin-npz", str(root / "set.npz"), "--images", str(root)])
  return made, root


def stored(root, i):
  data, wanted = records.open_split(str(root / "set"), "train", maps=False)
  assert len(data) == NUM
  record = records.parse(data[i], wanted)
  records.check(record)
  return record


def test_rows_keep_their_order_and_labels(built):
  made, root = built
  gt24 = list(joints.mapping("spin49", "gt24"))
  for i in range(NUM):
    record = stored(root, i)
    assert record["id"] == i and record["has_pose"] == record["has_betas"] == made["has_smpl"][i]
    assert record["has_keypoints3d"] == 1
    np.testing.assert_array_equal(record["visible"], record["keypoints2d"][:, 2] > 0)
    np.testing.assert_allclose(record["pose"], rotations.axis_angle_to_matrix(
        made["pose"][i].reshape(24, 3).astype(np.float32)), atol=1e-6)
    np.testing.assert_allclose(record["betas"], made["shape"][i], rtol=1e-6)
    np.testing.assert_allclose(record["keypoints3d"][gt24], made["S"][i], rtol=1e-6)
    assert not record["keypoints2d"][:25].any()


def test_crops_and_keypoints_are_those_of_the_whole_photograph(built):
  made, root = built
  for i in range(NUM):
    record = stored(root, i)
    center, side = made["center"][i], SIDES[i]
    whole = record | {"image": cv2.imread(str(root / f"{i}.jpg"))[..., ::-1], "box": np.array([*center, side])}
    whole["keypoints2d"] = np.concatenate([np.zeros((25, 3)), made["part"][i]])
    for chosen in (augment.Augmentation(), augment.Augmentation(True, np.pi / 4, 1.25)):
      mine, theirs = (augment.apply(x, chosen, 48) for x in (record, whole))
      np.testing.assert_allclose(mine["keypoints2d"], theirs["keypoints2d"], atol=2e-5)
      assert np.abs(mine["image"].astype(int) - theirs["image"]).mean() < 3  # JPEG twice; a pixel away it is 6


def test_the_window_saves_pixels_and_a_large_box_keeps_the_bytes(built):
  _, root = built
  assert stored(root, 2)["image"] == (root / "2.jpg").read_bytes()
  assert len(stored(root, 0)["image"]) < len((root / "0.jpg").read_bytes()) / 3


def test_it_trains(built):
  source = pipeline.open_training(disk.config(built[1] / "set", batch_size=4, num_threads=0))
  batch = source.batch(0)
  assert batch["image"].shape == (4, 32, 32, 3) and set(batch["id"]) <= set(range(NUM))


@pytest.mark.parametrize("changes, said", [
    (dict(shape=None), "only one of pose and shape"), (dict(imgname=list("01234")), "right folder"),
    (dict(imgname=["0.jpg", "1.jpg", "2.jpg", "3.jpg", "x.jpg"]), "lacks x.jpg .* none can be left out"),
    (dict(imgname=["0.jpg", "1.jpg", "2.jpg", "3.jpg", "set.npz"]), "set.npz' cannot be used")])
def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path, changes, said):
  annotations(tmp_path, **changes)
  with pytest.raises(InputError, match=said):
    build.build_photographs(tmp_path / "set", str(tmp_path / "set.npz"), str(tmp_path))
  assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"{i}.jpg" for i in range(NUM)), "set.npz"]


def test_the_command_wants_both_flags(tmp_path):
  with pytest.raises(InputError, match="both --spin-npz"):
    build.main(["build", "--out", str(tmp_path / "set"), "--images", str(tmp_path)])
  with pytest.raises(InputError, match="--seed is about rendered people"):
    build.main(["build", "--out", str(tmp_path / "set"), "--images", str(tmp_path), "--spin-npz", "x.npz", "--seed",
                "0"])
