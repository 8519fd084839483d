"""Made-up detections: what they say is the truth plus what was asked for, in every format."""

import numpy as np
import pytest

from jhmr.body import camera, landmarks, smpl
from jhmr.data import keypoints
from jhmr.errors import InputError
from jhmr.fitting import keypoint_files


def make(out, *options):
  keypoints.main(["x", "--out", str(out), "--body", "mannequin_small", "--people", "50", *map(str, options)])
  with np.load(out / "truth.npz") as f:
    return dict(f), keypoint_files.gather(str(out / "keypoints"))[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  return make(tmp_path_factory.mktemp("made") / "set", "--noise-px", 4, "--missing", 0.2, "--frames", 2)


def test_the_truth_projects_onto_the_keypoints(made):
  truth, people = made
  body = landmarks.rigid_body(smpl.load("mannequin_small"), ("openpose25",))
  posed = smpl.forward(body, truth["betas"], truth["pose"], truth["transl_m"])
  px = camera.perspective(smpl.keypoints(body, posed, "openpose25"), truth["focal_px"], truth["center_px"])
  np.testing.assert_allclose(px, truth["keypoints_px"], atol=0.02)
  assert [p.name for p in people] == truth["names"].tolist()
  assert np.all(posed.joints[..., 2] > 0.5)


def test_noise_and_gaps_are_as_asked_for(made):
  truth, people = made
  found = np.stack([p.keypoints for p in people])
  seen = found[..., 2] > 0
  assert abs(1 - seen.mean() - 0.2) < 0.04
  off = (found[..., :2] - truth["keypoints_px"]) * (224 / truth["box_size_px"])[:, None, None]
  assert abs(off[seen].std() - 4) < 0.25 and abs(off[seen].mean()) < 0.3


def test_frames_show_one_shape_in_other_poses(made):
  truth, _ = made
  np.testing.assert_array_equal(truth["betas"][::2], truth["betas"][1::2])
  assert np.abs(truth["pose"][::2] - truth["pose"][1::2]).max((1, 2, 3)).min() > 0.1
  assert len(np.unique(truth["betas"][::2, 0])) == 25


def test_pictures_hold_people_of_many_sizes(made):
  truth, _ = made
  assert truth["box_size_px"].min() < 300 and truth["box_size_px"].max() > 500
  middle = (truth["keypoints_px"].min(1) + truth["keypoints_px"].max(1)) / 2
  assert np.all((middle > 0) & (middle < truth["image_size"]))


def test_formats_agree(made, tmp_path):
  truth = {name: x[:, :17] if name == "keypoints_px" else x for name, x in made[0].items()}
  truth["joint_set"] = np.array("coco17")
  found = keypoints.detected(truth, noise_px=4, missing=0.2, seed=0)
  for form in ("coco", "npz"):
    (tmp_path / form).mkdir()
    keypoints.write(tmp_path / form, form, found, truth)
  coco, npz = (keypoint_files.gather(str(tmp_path / form))[0] for form in ("coco", "npz"))
  assert coco[3].image_size == npz[3].image_size == (1280, 960) and npz[3].person == "1"
  np.testing.assert_allclose(np.stack([p.keypoints for p in coco]), np.stack([p.keypoints for p in npz]), atol=1e-2)


@pytest.mark.parametrize("option", [("--people", 0), ("--missing", 1), ("--noise-px", -1), ("--noise-px", "nan"),
                                    ("--image-size", "²²,100"), ("--image-size", "8,8"),
                                    ("--image-size", "wide"), ("--joint-set", "coco"), ("--out", "/proc/x/y")])
def test_wrong_options_are_one_line(tmp_path, option):
  with pytest.raises(InputError, match=option[0]):
    keypoints.main(["x", "--out", str(tmp_path / "a"), *map(str, option)])
