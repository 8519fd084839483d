"""Ambiguous crops hide what the paper or the authors' code hides, go around the rest, and are the same every time."""

import numpy as np
import pytest

from jhmr.data import ambiguous
from jhmr.data import images
from jhmr.data import source
from jhmr.data import synthetic
from jhmr.errors import InputError
import disk

NAMES = ambiguous.NAMES
# The authors' lists, of the 24 annotated joints.
CODE = {0: range(6), 1: [*range(6, 14), *range(17, 24)], 2: range(6, 12), 3: ()}


def person(id, share=1.0):
  """(keypoints [49, 3], box) of random joints, that share of them labelled."""
  rng = np.random.default_rng(id)
  known = rng.uniform(size=(49, 1)) < share
  return np.concatenate([rng.uniform(20, 180, (49, 2)) * known, known], 1), np.array([100.0, 100, 200])


def slow_code(keypoints, what):
  """Centre, side and keypoints, written from the authors' `compute_crop_from_deletetype`."""
  gone = [25 + j for j in CODE[what]] + list(range(25))
  points = keypoints.copy()
  points[gone] = 0
  left = points[points[:, 2] > 0, :2]
  low, high = left.min(0), left.max(0) + 1
  return (low + high) / 2, max(high - low), points


def test_the_code_variant_is_the_authors():
  for id in range(60):
    keypoints, box = person(id, 0.8)
    found, crop, hidden = ambiguous.hide(keypoints, box, "multibodies_code", 3, id)
    what = ambiguous.kind(3, id)
    if what == ambiguous.NOTHING:
      assert np.array_equal(found, keypoints) and np.array_equal(crop, box) and not hidden.any()
      continue
    center, side, points = slow_code(keypoints, what)
    np.testing.assert_allclose(crop, [*center, side])
    np.testing.assert_array_equal(found, points)


def test_the_paper_variant_is_padded_around_what_remains_and_hides_by_name():
  seen = set()
  for id in range(40):
    keypoints, box = person(id)
    found, crop, hidden = ambiguous.hide(keypoints, box, "multibodies", 0, id)
    gone, left = {NAMES[k] for k in np.flatnonzero(hidden)}, found[found[:, 2] > 0, :2]
    what = ambiguous.kind(0, id)
    seen.add(what)
    assert ("left_knee" in gone, "left_wrist" in gone, "nose" in gone) == [
        (True, False, False), (False, True, True), (False, False, True), (False, False, False)][what]
    assert not gone & {"left_hip", "op_right_hip", "pelvis", "spine"} and not found[hidden].any()
    np.testing.assert_allclose(crop[2], 1.05 * np.ptp(left, 0).max())
    np.testing.assert_allclose(crop[:2], (left.min(0) + left.max(0)) / 2)
  assert seen == {0, 1, 2, 3}


def test_kinds_come_as_often_as_the_paper_says_and_depend_on_seed_and_id_alone():
  kinds = np.array([ambiguous.kind(0, i) for i in range(4000)])
  np.testing.assert_allclose(np.bincount(kinds) / 4000, [0.3, 0.3, 0.3, 0.1], atol=0.025)
  assert [ambiguous.kind(0, i) for i in range(50)] == kinds[:50].tolist()
  assert [ambiguous.kind(1, i) for i in range(50)] != kinds[:50].tolist()


def test_a_person_of_whom_too_little_is_left_stays():
  keypoints, box = np.zeros((49, 3)), np.array([5.0, 6, 7])
  keypoints[[NAMES.index(n) for n in ("left_ankle", "left_knee", "nose", "left_ear")]] = [3, 4, 1]
  for id in range(20):
    found, crop, hidden = ambiguous.hide(keypoints, box, "multibodies_code", 0, id)
    if ambiguous.kind(0, id) < 2:
      assert found is keypoints and crop is box and not hidden.any()
    assert crop[2] >= 1


@pytest.mark.parametrize("variant, around_all", [("multibodies", 1.05), ("multibodies_code", 1.2)])
def test_rendered_people_share_the_table(variant, around_all):
  settings = synthetic.Settings(hide=variant)
  for what, u in enumerate((0.1, 0.5, 0.8, 0.95)):
    hidden, scale = synthetic._protocol(u, settings)  # pylint: disable=protected-access
    np.testing.assert_array_equal(hidden, ambiguous.PROTOCOLS[variant].hidden[what])
    assert float(scale) == pytest.approx(around_all if what == ambiguous.NOTHING else
                                         ambiguous.PROTOCOLS[variant].padding)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  return disk.write(tmp_path_factory.mktemp("data") / "set", 12, 6)


@pytest.mark.parametrize("variant", ["multibodies", "multibodies_code"])
def test_evaluation_shows_the_new_crop_whatever_the_seed(built, variant):
  plain, first, second = (source.open_split(disk.config(built, seed=seed, hide=hide), None, "val").batch(0)
                          for seed, hide in ((1, ""), (1, variant), (2, variant)))
  disk.assert_same(first, second)
  for i, id in enumerate(plain["id"][:6]):
    record = disk.record(id - 1000)
    keypoints, box, hidden = ambiguous.hide(record["keypoints2d"], record["box"], variant, 0, id)
    affine = images.crop_affine(box[:2], box[2], 32)
    expected = disk.cropped(disk.jpeg(disk.picture(id - 1000)), affine, 32)
    np.testing.assert_array_equal(first["image"][i], expected)
    pixels = 2 * (keypoints[:, :2] @ affine[:, :2].T + affine[:, 2]) / 32 - 1
    np.testing.assert_allclose(first["keypoints2d"][i, :, :2], pixels * (keypoints[:, 2:] > 0), atol=1e-4)
    assert not first["visible"][i, hidden].any() and not first["keypoints2d"][i, hidden].any()
    np.testing.assert_array_equal(first["keypoints3d"][i], plain["keypoints3d"][i])


def test_training_hides_the_same_of_a_person_every_epoch(built):
  stream = disk.training(built, batch_size=12, hide="multibodies")
  epochs = [stream.batch(i) for i in range(2)]
  for e in epochs:
    assert len(set(e["id"])) == 12
  first, second = ({int(id): (b["keypoints2d"][i, :, 2], b["flip"][i]) for i, id in enumerate(b["id"])} for b in epochs)
  for id, (confidence, flip) in first.items():
    other, other_flip = second[id]
    if flip == other_flip:
      np.testing.assert_array_equal(confidence, other)
    assert confidence.sum() == other.sum()


def test_a_protocol_that_there_is_not_is_named(built):
  for directory in (built, "stream"):
    with pytest.raises(InputError, match="config.data.hide is 'legs': nothing, multibodies or multibodies_code"):
      disk.training(directory, hide="legs")
