"""Augmentation moves pixels, 2D and 3D keypoints, body parameters, camera and part labels as one."""

import jax
import numpy as np
import pytest

from jhmr.body import joints
from jhmr.data import augment
from jhmr.data import records
import people

SIZE = 80
CASES = [augment.Augmentation(), augment.Augmentation(flip=True), augment.Augmentation(angle_rad=0.7),
         augment.Augmentation(angle_rad=-0.9, scale=1.2), augment.Augmentation(True, 0.6, 0.8)]


@pytest.fixture(scope="module")
def examples():
  """Six labelled examples in the form that data sets store."""
  batch = people.examples(np.arange(16), people.SETTINGS)
  rows = np.flatnonzero(batch["has_pose"])[:6]
  stored = [records.encode(jax.tree.map(lambda x, row=row: x[row], batch)) for row in rows]
  for one, row in zip(stored, rows):
    one["image"] = np.asarray(np.random.default_rng(row).integers(0, 255, (64, 64, 3)), np.uint8)
    one |= {"parts": batch["parts"][row], "iuv": batch["iuv"][row], "depth": batch["depth"][row],
            "box": np.array([32, 32, 50], np.float32)}
    del one["depth_png"]
  return stored


def augmented(examples, augmentation):
  made = [augment.apply(e, augmentation, SIZE) for e in examples]
  return {name: np.stack([m[name] for m in made]) for name in made[0]}


@pytest.mark.parametrize("augmentation", CASES, ids=str)
def test_posing_the_augmented_parameters_gives_the_augmented_keypoints(examples, augmentation):
  out = augmented(examples, augmentation)
  np.testing.assert_allclose(people.skin(out), out["keypoints3d"][..., :3], atol=1e-3 if augmentation.flip else 2e-5)


@pytest.mark.parametrize("augmentation", CASES, ids=str)
def test_the_augmented_camera_projects_3d_onto_2d(examples, augmentation):
  out = augmented(examples, augmentation)
  moved = out["keypoints3d"][..., :3] + out["transl"][:, None]
  px = moved[..., :2] / moved[..., 2:] * out["focal_px"][:, None, None] + out["center_px"][:, None]
  place, confidence = out["keypoints2d"][..., :2], out["keypoints2d"][..., 2:]
  np.testing.assert_allclose((2 * px / SIZE - 1) * (confidence > 0), place, atol=1e-3)


@pytest.mark.parametrize("augmentation", CASES, ids=str)
def test_pixels_move_with_their_keypoints(examples, augmentation):
  y, x = np.mgrid[:64, :64] + 0.5
  for name, mirror in (("left_knee", "right_knee"), ("right_wrist", "left_wrist"), ("jaw", "jaw")):
    k = joints.index("spin49", name)
    at = joints.index("spin49", mirror if augmentation.flip else name)
    for example in examples:
      if not example["keypoints2d"][k, 2]:
        continue
      blob = np.exp(-((x - example["keypoints2d"][k, 0]) ** 2 + (y - example["keypoints2d"][k, 1]) ** 2) / 8)
      image = np.repeat((255 * blob)[..., None], 3, -1).astype(np.uint8)
      out = augment.apply(example | {"image": image}, augmentation, SIZE)
      seen = (out["keypoints2d"][at, :2] + 1) / 2 * SIZE
      if np.all((seen > 6) & (seen < SIZE - 6)):
        weight = out["image"][..., 0].astype(float)
        v, u = np.mgrid[:SIZE, :SIZE] + 0.5
        middle = np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(middle, seen, atol=0.5)


def test_positive_angles_turn_the_person_counter_clockwise():
  up = np.zeros((49, 3), np.float32) + [32, 32, 1]
  nose = joints.index("spin49", "nose")
  up[nose, 1] -= 20
  example = dict(image=np.zeros((64, 64, 3), np.uint8), box=np.array([32, 32, 64.0]), keypoints2d=up,
                 keypoints3d=np.zeros((49, 4)), pose=np.stack([np.eye(3)] * 24), betas=np.zeros(10), transl=np.zeros(3),
                 focal_px=100.0, center_px=np.array([32.0, 32]), has_pose=1, has_betas=1, has_keypoints3d=0)
  out = augment.apply(example, augment.Augmentation(angle_rad=np.pi / 2), 64)
  np.testing.assert_allclose(out["keypoints2d"][nose, :2], [-20 / 32, 0], atol=1e-6)  # from above to the left


def test_flipping_twice_changes_nothing(examples):
  for example in examples:
    once = augment.apply(example | {"box": np.array([32, 32, 64.0])}, augment.Augmentation(flip=True), 64)
    again = example | {
        "image": once["image"], "keypoints3d": once["keypoints3d"], "transl": once["transl"], "parts": once["parts"],
        "iuv": once["iuv"], "depth": once["depth"], "pose": np.concatenate([once["global_orient"], once["body_pose"]]),
        "box": np.array([32, 32, 64.0]), "focal_px": once["focal_px"], "center_px": once["center_px"],
        "keypoints2d": np.concatenate([(once["keypoints2d"][:, :2] + 1) * 32, once["keypoints2d"][:, 2:]], 1)}
    twice = augment.apply(again, augment.Augmentation(flip=True), 64)
    plain = augment.apply(example | {"box": np.array([32, 32, 64.0])}, augment.Augmentation(), 64)
    for name in set(plain) - {"visible", "gain", "flip"}:
      np.testing.assert_allclose(twice[name], plain[name], atol=1e-5, err_msg=name)


def test_part_labels_change_sides_with_the_person(examples):
  knees = {side: [joints.index("smpl24", f"{side}_{n}") + 1 for n in ("knee", "hip", "ankle")]
           for side in ("left", "right")}
  hits = []
  for example in examples:
    out = augment.apply(example, augment.Augmentation(flip=True), SIZE)
    for side, labels in knees.items():
      k = joints.index("spin49", f"{side}_knee")
      if out["visible"][k]:
        x, y = ((out["keypoints2d"][k, :2] + 1) / 2 * SIZE).astype(int)
        hits.append(np.isin(out["parts"][max(0, y - 1):y + 2, max(0, x - 1):x + 2], labels).any())
  assert len(hits) > 4 and np.mean(hits) > 0.9


def test_withheld_labels_stay_withheld(examples):
  hidden = examples[0] | {"has_pose": 0.0, "has_betas": 0.0, "has_keypoints3d": 0.0, "keypoints3d": np.zeros((49, 4), np.float32)}
  out = augment.apply(hidden, augment.Augmentation(True, 0.5, 1.1), SIZE)
  assert not out["global_orient"].any() and not out["body_pose"].any() and not out["keypoints3d"].any()
  assert not out["transl"].any() and not out["betas"].any()


def test_draws_follow_the_stated_distribution():
  draws = [augment.draw(np.random.default_rng(i)) for i in range(4000)]
  angles = np.degrees([d.angle_rad for d in draws])
  scales = np.array([d.scale for d in draws])
  assert np.mean([d.flip for d in draws]) == pytest.approx(0.5, abs=0.03)
  assert np.mean(angles == 0) == pytest.approx(0.6, abs=0.03)
  assert np.abs(angles).max() == pytest.approx(60) and np.mean(np.isclose(np.abs(angles[angles != 0]), 60)) < 0.08
  assert scales.min() == 0.75 and scales.max() == 1.25 and np.median(scales) == pytest.approx(1, abs=0.02)
  gains = np.stack([d.gain for d in draws])
  assert gains.min() > 0.6 and gains.max() < 1.4 and np.abs(np.corrcoef(gains.T) - np.eye(3)).max() < 0.06


def test_what_was_done_is_part_of_the_example(examples):
  out = augment.apply(examples[0], augment.Augmentation(True, 0.6, 0.8), SIZE)
  assert (out["flip"], out["angle_rad"]) == (1, np.float32(0.6)) and out["flip"].dtype == np.float32
  plain = augment.apply(examples[0], augment.Augmentation(), SIZE)
  assert plain["flip"] == plain["angle_rad"] == 0
