"""Keypoint files: what each format says is what comes out, and what cannot be used is a line, never the end."""

import json

import numpy as np
import pytest

from fitting import malformed
from jhmr.body import joints
from jhmr.errors import InputError
from jhmr.fitting import keypoint_files, keypoint_formats


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bad")
  malformed.write_bad(folder)
  return folder


@pytest.mark.parametrize("name", [*malformed.BAD, *malformed.PLACES])
def test_a_file_that_cannot_be_used_is_one_line_that_names_it(bad_folder, name):
  path = str(bad_folder / name)
  with pytest.raises(InputError) as error:
    keypoint_files.gather(path)
  said = str(error.value)
  assert name.split(".")[0] in said and "\n" not in said and len(said) < 500, said


def test_the_good_among_the_bad_come_out(tmp_path):
  names = malformed.write_bad(tmp_path)
  good = malformed.standing()
  (tmp_path / "anna_keypoints.json").write_text(malformed.openpose(good.ravel().tolist()))
  (tmp_path / "zoe.npz").write_bytes(malformed.npz(keypoints=good[None], joint_set="openpose25"))
  people, bad = keypoint_files.gather(str(tmp_path))
  assert [p.name for p in people] == ["anna", "zoe_0"]
  np.testing.assert_allclose(people[0].keypoints, good, rtol=1e-6)
  unmentioned = [n for n in names if not any(n.split(".")[0] in line for line in bad)]
  assert set(unmentioned) <= {"coco_crowd.json", "empty_list.json"}, unmentioned  # nobody is in these
  assert all("\n" not in line and len(line) < 500 for line in bad)


def test_one_bad_person_does_not_cost_the_others(tmp_path):
  file = tmp_path / "three_keypoints.json"
  flat = malformed.FLAT
  file.write_text(json.dumps({"people": [{"pose_keypoints_2d": flat}, None, {"pose_keypoints_2d": flat, "id": 1}]}))
  people, bad = keypoint_files.gather(str(file))
  assert [p.name for p in people] == ["three_0", "three_2"]
  assert len(bad) == 1 and "person 1 is null" in bad[0]


@pytest.mark.parametrize("value, index", [
    (float("nan"), 6), (float("inf"), 7), (-float("inf"), 6), (1e38, 7), (1e300, 6), (-1e9, 7), (-0.5, 8),
    (float("nan"), 8)])
def test_an_impossible_keypoint_is_missing_and_the_others_stay(tmp_path, value, index):
  file = tmp_path / "a.json"
  file.write_text(malformed.openpose(malformed.changed(index, value)))
  (person,), bad = keypoint_files.gather(str(file))
  assert not bad
  np.testing.assert_array_equal(person.keypoints[2], 0)
  np.testing.assert_allclose(np.delete(person.keypoints, 2, 0), np.delete(malformed.standing(), 2, 0), atol=1e-3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_every_encoding_of_json_is_read(tmp_path, encoding):
  file = tmp_path / "a.json"
  file.write_bytes(malformed.openpose(malformed.FLAT).encode(encoding))
  assert len(keypoint_files.gather(str(file))[0]) == 1


def test_openpose_in_its_variants(tmp_path):
  points = malformed.standing(18, count=18)
  file = tmp_path / "photo 000001_keypoints.json"
  file.write_text(json.dumps({"people": [
      {"person_id": [3], "pose_keypoints_2d": points.tolist()},            # triples instead of a flat list
      {"person_id": [-1], "pose_keypoints": points.ravel().tolist()}]}))    # the name of old releases
  people, bad = keypoint_files.gather(str(file))
  assert not bad and [p.joint_set for p in people] == ["openpose18"] * 2
  assert [p.person for p in people] == ["3", ""] and [p.name for p in people] == ["photo_000001_0", "photo_000001_1"]
  assert people[0].image == "photo 000001"  # as its picture is called
  np.testing.assert_allclose(people[0].keypoints, people[1].keypoints)


def test_coco_annotations_with_their_images(tmp_path):
  flat = np.array(malformed.COCO).reshape(17, 3)
  flat[:, 2] = [0, 1, 2] + [2] * 14
  images = [{"id": 1, "file_name": "train/a.jpg", "width": 640, "height": 480},
            {"id": 2, "file_name": "../b.jpg", "width": "wide", "height": 480}]
  entries = [malformed.annotation(id=7, keypoints=flat.ravel().tolist()), malformed.annotation(id=7),
             malformed.annotation(id=8, image_id=2), malformed.annotation(id=9, iscrowd=1)]
  file = tmp_path / "person_keypoints.json"
  file.write_text(malformed.coco(*entries, images=images))
  people, bad = keypoint_files.gather(str(file))
  assert [(p.name, p.image, p.image_size, p.annotation) for p in people] == [
      ("a_7", "train/a.jpg", (640, 480), 7), ("b_8", "../b.jpg", (0, 0), 8)]
  np.testing.assert_array_equal(people[0].keypoints[:, 2], [0] + [1] * 16)  # labelled but hidden counts
  assert len(bad) == 2 and "width" in bad[0] and "id 7 is there twice" in bad[1]


def test_coco_results_keep_scores_and_share_names(tmp_path):
  flat = np.array(malformed.COCO).reshape(17, 3)
  flat[:, 2] = np.linspace(0.2, 1.2, 17)
  result = {"keypoints": flat.ravel().tolist(), "score": 2.9}
  file = tmp_path / "results.json"
  file.write_text(json.dumps([result | {"image_id": "dance.jpg"}, result | {"image_id": "dance.jpg"},
                              result | {"image_id": 139}]))
  people, bad = keypoint_files.gather(str(file))
  assert not bad and [p.name for p in people] == ["dance", "dance_2", "000000000139"]
  np.testing.assert_allclose(people[0].keypoints[:, 2], np.minimum(flat[:, 2], 1), rtol=1e-6)


def test_npz_with_all_it_can_have(tmp_path):
  points = np.stack([malformed.standing(), malformed.standing(20)]).astype(np.float16)
  arrays = dict(keypoints=points, joint_set="openpose25", names=["../x", "x"], images=["p.jpg", ""],
                image_size=[120, 160], person=[4, 4], focal_px=900, center_px=[[60, 80], [61, 81]], transl_m=[[0, 0, 3], [np.nan] * 3])
  (tmp_path / "set.npz").write_bytes(malformed.npz(**arrays))
  (first, second), bad = keypoint_files.gather(str(tmp_path))
  assert not bad and (first.name, second.name) == ("_x", "x") and first.person == second.person == "4"
  assert first.image_size == (120, 160) and first.focal_px == 900 and second.center_px == (61, 81)
  assert first.transl_m == (0, 0, 3) and np.isnan(second.transl_m).all() and first.image == "p.jpg"


def test_data_sets_of_spin_are_read(tmp_path):
  part = np.zeros((2, 24, 3))
  part[:, :14] = malformed.standing(14, count=14)
  (tmp_path / "lsp.npz").write_bytes(malformed.npz(part=part, imgname=["im1.jpg", "im2.jpg"], scale=[1.0, 2.0]))
  people, _ = keypoint_files.gather(str(tmp_path))
  assert [p.image for p in people] == ["im1.jpg", "im2.jpg"] and people[0].joint_set == "spin49"
  np.testing.assert_allclose(people[1].keypoints[25:], part[1], rtol=1e-6)
  assert not people[0].keypoints[:25].any()
  with pytest.raises(InputError, match="spin49, not --joint-set coco17"):
    keypoint_files.gather(str(tmp_path), "coco17")


@pytest.mark.parametrize("set_name", joints.SETS)
def test_every_joint_set_can_be_given(tmp_path, set_name):
  count = len(joints.names(set_name))
  (tmp_path / "a.json").write_text(malformed.openpose(malformed.standing(count, count=count).ravel().tolist()))
  (person,), _ = keypoint_files.gather(str(tmp_path), set_name)
  assert person.joint_set == set_name and person.keypoints.shape == (count, 3)


def test_names_never_leave_the_folder_or_meet():
  people = [keypoint_formats.Person(keypoint_formats.safe_name(n), None, "coco17") for n in
            ("../../etc/x", "a", "a", "a_2", "..", "\x00\udcff", "ü" * 500, "漢" * 100, "all", "")]
  names = [p.name for p in keypoint_files.renamed(people)]
  assert len(set(names)) == len(names) and all(0 < len(n.encode()) <= 125 for n in names)
  assert not any("/" in n or "\x00" in n or n.startswith(".") for n in names), names
