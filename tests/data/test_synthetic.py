"""Rendered people: labels agree with each other and with the picture, and depend on (seed, index) alone."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy import ndimage

from jhmr.body import joints
from jhmr.data import images
from jhmr.data import spec
from jhmr.data import synthetic
from jhmr.errors import InputError
import people

SETTINGS = people.SETTINGS
SIZE = SETTINGS.image_size
NAMES = joints.names("spin49")


@pytest.fixture(scope="module")
def batch():
  """64 training examples."""
  parts = [people.examples(np.arange(i, i + 16), SETTINGS) for i in range(0, 64, 16)]
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@pytest.fixture(scope="module")
def known(batch):
  """Those of them with all labels."""
  return {k: v[batch["has_pose"] > 0] for k, v in batch.items()}


def project(points, batch):
  """Crop coordinates [B, K, 2] of camera-frame points [B, K, 3]."""
  moved = points + batch["transl"][:, None]
  px = moved[..., :2] / moved[..., 2:] * batch["focal_px"][:, None, None] + batch["center_px"][:, None]
  return 2 * px / batch["image"].shape[1] - 1


def test_a_batch_is_what_the_table_of_fields_says(batch):
  spec.check_batch(batch, SIZE)
  assert set(batch) == set(spec.FIELDS) - {"flip", "angle_rad"}  # nothing is augmented
  assert all(np.isfinite(v).all() for v in batch.values())


def test_pose_shape_camera_and_keypoints_tell_one_story(known):
  points = people.skin(known)
  np.testing.assert_allclose(points, known["keypoints3d"][..., :3], atol=1e-5)
  confidence = known["keypoints2d"][..., 2:]
  np.testing.assert_allclose(project(points, known) * confidence, known["keypoints2d"][..., :2], atol=2e-4)


def test_confidence_is_zero_outside_the_crop_and_one_inside_for_annotated_joints(known):
  place = project(known["keypoints3d"][..., :3], known)
  inside = np.all(np.abs(place) < 1 - 1e-4, -1)
  confidence = known["keypoints2d"][..., 2]
  assert np.all(confidence[~np.all(np.abs(place) < 1 + 1e-4, -1)] == 0)
  assert np.all(confidence[:, 25:][inside[:, 25:]] == 1)
  np.testing.assert_array_equal(confidence[:, :25], known["visible"][:, :25])  # a detector finds what it sees
  assert 0.6 < known["visible"].mean() < 0.95


def test_visible_keypoints_lie_on_the_person(batch):
  gaps = []
  for parts, keypoints, visible in zip(batch["parts"], batch["keypoints2d"], batch["visible"]):
    far = ndimage.distance_transform_edt(parts == 0)
    seen = (visible > 0) & (keypoints[:, 2] > 0)
    column, row = np.clip(((keypoints[seen, :2] + 1) / 2 * SIZE).astype(int), 0, SIZE - 1).T
    gaps.append(far[row, column])
  gaps = np.concatenate(gaps)  # a joint at the outline of a limb that something else covers is further away
  assert len(gaps) > 1500 and np.mean(gaps <= 1.5) > 0.995, np.sort(gaps)[-20:]


@pytest.mark.parametrize("side", ["left", "right"])
def test_limbs_are_drawn_where_their_keypoints_are(batch, side):
  """Around a visible ankle, knee, wrist or elbow the picture shows that side's limb, not the other's."""
  limbs = {"ankle": ("ankle", "knee", "foot"), "knee": ("knee", "hip"), "wrist": ("wrist", "elbow", "hand"),
           "elbow": ("elbow", "shoulder")}
  hits = []
  for limb, parts in limbs.items():
    labels = [joints.index("smpl24", f"{side}_{p}") + 1 for p in parts]
    k = joints.index("spin49", f"{side}_{limb}")
    for i in np.flatnonzero(batch["visible"][:, k]):
      x, y = ((batch["keypoints2d"][i, k, :2] + 1) / 2 * SIZE).astype(int)
      hits.append(np.isin(batch["parts"][i, max(0, y - 1):y + 2, max(0, x - 1):x + 2], labels).any())
  assert len(hits) > 60 and np.mean(hits) > 0.97


def test_depth_is_the_persons_and_nothing_elsewhere(known):
  assert np.all((known["depth"] > 0) == (known["parts"] > 0))
  pelvis = (known["keypoints3d"][:, joints.index("spin49", "op_mid_hip"), 2] + known["transl"][:, 2])[:, None, None]
  assert np.abs(np.where(known["parts"] > 0, known["depth"] - pelvis, 0)).max() < 1.4


def test_far_cameras_are_weak_perspective_and_near_ones_are_not(known):
  distance = known["transl"][:, 2]
  assert np.mean(distance > 40) == pytest.approx(SETTINGS.share_far, abs=0.15)
  near = distance[distance < 40]
  assert near.min() < 4 < 8 < near.max()


def test_withheld_labels_are_zero_and_their_share_is_the_setting(batch):
  flags = batch["has_pose"]
  np.testing.assert_array_equal(flags, batch["has_betas"])
  np.testing.assert_array_equal(flags, batch["has_keypoints3d"])
  for name in ("global_orient", "body_pose", "betas", "keypoints3d", "transl"):
    assert not batch[name][flags == 0].any()
  assert 0.3 < np.mean(flags) < 0.7
  assert batch["keypoints2d"][flags == 0, :, 2].mean() > 0.5


def test_the_prior_sees_real_rotations_that_are_not_the_persons(known):
  product = known["real_pose"] @ np.swapaxes(known["real_pose"], -1, -2)
  assert np.abs(product - np.eye(3)).max() < 1e-5
  assert np.abs(known["real_pose"] - known["body_pose"]).max((1, 2, 3)).min() > 0.1


def test_images_are_bytes_and_people_stand_out(batch):
  pixels = images.to_uint8(batch["image"])
  np.testing.assert_allclose(np.asarray(images.normalize(pixels)), batch["image"], atol=1e-5)
  contrast = []
  for image, parts in zip(pixels.astype(float), batch["parts"]):
    ring = ndimage.binary_dilation(parts > 0, iterations=3) & (parts == 0)
    contrast.append(np.abs(image[parts > 0].mean(0) - image[ring].mean(0)).max())
  assert np.mean(np.array(contrast) > 12) > 0.9


def test_an_example_does_not_depend_on_its_neighbours(batch):
  other = people.examples(np.arange(16)[::-1] * 3, SETTINGS)
  for row, index in ((15, 0), (14, 3), (5, 30), (0, 45)):
    for name, value in batch.items():
      np.testing.assert_allclose(np.asarray(other[name][row], np.float64), value[index], err_msg=name,
                                 atol=0.05 if name == "image" else 1e-4)


_DIGEST = """
import hashlib, jax, numpy as np, people
from jhmr.data import synthetic
batch = people.examples(np.arange(7, 11), synthetic.Settings(image_size=32))
print(hashlib.sha256(b"".join(np.asarray(batch[k]).tobytes() for k in sorted(batch))).hexdigest())
"""


def test_same_seed_and_index_same_bits_in_two_processes():
  run = lambda: subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, check=True,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).stdout.split()[-1]
  assert run() == run()


def test_views_of_a_person_share_all_but_the_camera():
  views = people.examples(np.arange(8), SETTINGS, "multiview")
  np.testing.assert_array_equal(views["person"], np.repeat([0, 1], 4))
  np.testing.assert_array_equal(views["view"], np.tile([0, 1, 2, 3], 2))
  for name in ("body_pose", "betas"):
    np.testing.assert_array_equal(views[name][:4], np.broadcast_to(views[name][:1], views[name][:4].shape))
  points = views["keypoints3d"][..., :3] - views["keypoints3d"][:, 8:9, :3]  # about the pelvis
  turn = views["global_orient"][:4, 0] @ views["global_orient"][0, 0].T
  np.testing.assert_allclose(points[:4], np.einsum("vab,kb->vka", turn, points[0]), atol=1e-5)
  angle = np.degrees(np.arccos((np.trace(turn[1:], axis1=1, axis2=2) - 1) / 2))
  assert angle.min() > 50


def test_what_val_occluded_hides_cannot_be_seen():
  batch = jax.tree.map(lambda *x: np.concatenate(x), *[
      people.examples(np.arange(i, i + 16), SETTINGS, "val_occluded") for i in range(0, 48, 16)])
  assert batch["has_pose"].all()
  head, legs = NAMES.index("nose"), NAMES.index("left_ankle")
  place = project(batch["keypoints3d"][..., :3], batch)
  outside = np.any(np.abs(place) > 1, -1)
  kinds = {"legs": [], "head": [], "nothing": []}
  for i in range(48):
    confidence = batch["keypoints2d"][i, 25:, 2]
    kinds["legs" if confidence[5] == 0 else "head" if confidence[head - 25] == 0 else "nothing"].append(i)
  assert len(kinds["legs"]) > 8 and len(kinds["head"]) > 16 and len(kinds["nothing"]) < 14
  for kind, joint in (("legs", legs), ("head", head)):
    rows = np.array(kinds[kind])
    assert not batch["visible"][rows, joint].any() and not batch["keypoints2d"][rows, joint].any()
    assert np.mean(outside[rows, joint]) > 0.6  # the crop leaves them out; what remains is painted over
    for i in rows[~outside[rows, joint]]:
      x, y = ((place[i, joint] + 1) / 2 * SIZE).astype(int)
      assert batch["parts"][i, y, x] == 0


def test_without_variety_everybody_wears_the_same():
  keys = jax.random.split(jax.random.key(0), 32)
  wear = lambda variety: jax.jit(jax.vmap(lambda key: synthetic._person(None, key, variety)["clothes"]))  # no poses
  clothes = {variety: wear(variety)(keys) for variety in (0.0, 1.0)}
  spread = lambda variety: [np.ptp(np.asarray(x, np.float64), 0).max() for x in jax.tree.leaves(clothes[variety])]
  assert max(spread(0.0)) < 1e-6 < 0.3 < max(spread(1.0))


def test_people_face_the_camera_to_within_the_setting():
  """The same people at two settings differ by a turn about their own vertical: its angle is the yaw."""
  @jax.jit  # facing_deg is traced: one program does for both
  def roots(assets, index, facing):
    settings = SETTINGS._replace(facing_deg=facing, share_2d_only=0.0)
    return synthetic.examples(assets, 0, index, settings)["global_orient"][:, 0]

  found = {facing: np.asarray(roots(people.assets(), np.arange(64), facing)) for facing in (0.0, 60.0)}
  assert np.mean(found[0.0][:, 2, 2] < -0.7) > 0.5  # a standing body's front looks against the camera's axis
  turn = found[60.0] @ np.swapaxes(found[0.0], 1, 2)
  yaw = np.degrees(np.arccos(np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1)))
  side = np.sign(turn[:, 2, 0])  # the camera's y points down, or nearly
  assert yaw.max() < 60.1 and yaw.max() > 50 and 20 < yaw.mean() < 40 and 0.25 < np.mean(side > 0) < 0.75


def test_splits_do_not_know_the_runs_settings():
  changed = SETTINGS._replace(share_2d_only=1.0, distance_m=(9.0, 9.1))
  one, other = (people.examples(np.arange(8), s, "multiview") for s in (SETTINGS, changed))
  jax.tree.map(np.testing.assert_array_equal, one, other)
  assert [(name, split.size) for name, split in synthetic.splits().items()] == [
      ("val", 512), ("val_occluded", 512), ("multiview", 512)]


@pytest.mark.parametrize("change", [
    dict(share_far=1.5), dict(distance_m=(1.0, 5.0)), dict(distance_m=(5.0, 3.0)), dict(views=0), dict(image_size=4),
    dict(hide="arms"), dict(elevation_deg=(0.0,))])
def test_settings_out_of_range_are_named(change):
  with pytest.raises(InputError, match=f"config.data.{next(iter(change))}"):
    synthetic.check(synthetic.Settings()._replace(**change))
