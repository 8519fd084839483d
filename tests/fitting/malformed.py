"""Keypoint files that nobody can use, each wrong in its own way, and some that are fine."""

import io
import json
import os
import struct
import zipfile

import numpy as np


def standing(seen=25, shift=0.0, count=25):
  """Keypoints [K, 3] of somebody upright in the middle of a picture of 120 x 160 pixels."""
  rng = np.random.default_rng(0)
  points = np.stack([60 + shift + 15 * rng.uniform(-1, 1, count), np.linspace(20, 140, count)], -1)
  return np.concatenate([points, (np.arange(count) < seen)[:, None]], -1)


FLAT = [round(float(v), 3) for v in standing().ravel()]
COCO = [round(float(v), 3) for v in standing(17, count=17).ravel()]


def openpose(*people):
  return json.dumps({"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": p} for p in people]})


def coco(*annotations, images=({"id": 1, "file_name": "a.jpg", "width": 120, "height": 160},)):
  return json.dumps({"images": list(images), "annotations": list(annotations)})


def annotation(**changes):
  return {"id": 5, "image_id": 1, "keypoints": COCO} | changes


def npz(**arrays):
  f = io.BytesIO()
  np.savez(f, **arrays)
  return f.getvalue()


def npz_of(member, data):
  """An archive with one member of any bytes."""
  f = io.BytesIO()
  with zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(member, data)
  return f.getvalue()


def header(shape, descr="<f4", data=b""):
  """A .npy whose header says what it wants."""
  text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
  return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def changed(i, value):
  return FLAT[:i] + [value] + FLAT[i + 1:]


GOOD_NPZ = npz(keypoints=standing()[None], joint_set="openpose25")
POINTS = standing()[None]
# {file: what it holds}; nothing of it can be fitted.
BAD = {
    "empty.json": b"",
    "space.json": b"  \n\t ",
    "truncated.json": openpose(FLAT)[:-40].encode(),
    "cut_in_a_string.json": b'{"people": [{"pose_key',
    "binary.json": bytes(range(256)) * 20,
    "zeros.json": bytes(4096),
    "picture.json": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "html.json": b"<!DOCTYPE html><html>404</html>",
    "csv.json": b"x,y,c\n1,2,3\n",
    "latin1.json": '{"people": "g\xe4nse"}'.encode("latin-1"),
    "utf16_cut.json": openpose(FLAT).encode("utf-16")[:-1],
    "trailing_comma.json": b'{"people": [],}',
    "two_documents.json": (openpose(FLAT) * 2).encode(),
    "single_quotes.json": b"{'people': []}",
    "deep.json": b"[" * 200_000,
    "deep_object.json": b'{"people":' * 100_000,
    "deep_number.json": openpose("X").replace('"X"', "[" * 50_000 + "1" + "]" * 50_000).encode(),
    "endless_number.json": openpose("X").replace('"X"', "[" + "9" * 6000 + "]").encode(),
    "null.json": b"null",
    "true.json": b"true",
    "number.json": b"3.5",
    "text.json": b'"people"',
    "empty_object.json": b"{}",
    "other_object.json": b'{"shapes": [], "imagePath": "a.jpg"}',
    "people_null.json": b'{"people": null}',
    "people_object.json": b'{"people": {"0": []}}',
    "people_number.json": b'{"people": 2}',
    "person_null.json": b'{"people": [null]}',
    "person_list.json": json.dumps({"people": [FLAT]}).encode(),
    "person_without_pose.json": b'{"people": [{"face_keypoints_2d": [1, 2, 3]}]}',
    "pose_null.json": openpose(None).encode(),
    "pose_text.json": openpose(" ".join(map(str, FLAT))).encode(),
    "pose_object.json": openpose({"nose": [1, 2, 1]}).encode(),
    "pose_empty.json": openpose([]).encode(),
    "one_number_short.json": openpose(FLAT[:-1]).encode(),
    "one_number_more.json": openpose(FLAT + [1.0]).encode(),
    "another_skeleton.json": openpose(FLAT[:48]).encode(),
    "without_confidence.json": openpose([v for i, v in enumerate(FLAT) if i % 3 < 2]).encode(),
    "numbers_as_text.json": openpose([str(v) for v in FLAT]).encode(),
    "one_text.json": openpose(changed(7, "12")).encode(),
    "one_null.json": openpose(changed(7, None)).encode(),
    "booleans.json": openpose([True] * 75).encode(),
    "one_list.json": openpose(changed(7, [1.0])).encode(),
    "ragged.json": openpose([FLAT[:3], FLAT[3:8], FLAT[8:]]).encode(),
    "huge_integer.json": openpose(changed(7, 10**400)).encode(),
    "all_nan.json": openpose([float("nan")] * 75).encode(),
    "all_infinite.json": openpose("X").replace('"X"', "[" + ",".join(["1e999"] * 75) + "]").encode(),
    "all_far_out.json": openpose([1e30] * 75).encode(),
    "negative_confidence.json": openpose([v if i % 3 < 2 else -1.0 for i, v in enumerate(FLAT)]).encode(),
    "all_zero.json": openpose([0.0] * 75).encode(),
    "three_points.json": openpose(standing(seen=3).ravel().tolist()).encode(),
    "one_place.json": openpose([30.0, 40.0, 1.0] * 25).encode(),
    "coco_annotations_null.json": b'{"images": [], "annotations": null}',
    "coco_images_text.json": b'{"images": "val2017", "annotations": []}',
    "coco_instances.json": coco({"id": 5, "image_id": 1, "bbox": [1, 2, 3, 4]}).encode(),
    "coco_entry_null.json": coco(None).encode(),
    "coco_no_image_id.json": coco({"id": 5, "keypoints": COCO}).encode(),
    "coco_list_image_id.json": coco(annotation(image_id=[1])).encode(),
    "coco_unknown_image.json": coco(annotation(image_id=2)).encode(),
    "coco_text_id.json": coco(annotation(id="five")).encode(),
    "coco_huge_id.json": coco(annotation(id=10**30)).encode(),
    "coco_object_image_id.json": json.dumps([{"image_id": {}, "keypoints": COCO}]).encode(),
    "coco_wrong_count.json": coco(annotation(keypoints=COCO[:48])).encode(),
    "coco_unlabelled.json": coco(annotation(keypoints=[0] * 51)).encode(),
    "coco_crowd.json": coco(annotation(iscrowd=1, keypoints=[0] * 51)).encode(),
    "list_of_numbers.json": json.dumps(FLAT).encode(),
    "empty_list.json": b"[]",
    "empty.npz": b"",
    "text.npz": b"keypoints",
    "truncated.npz": GOOD_NPZ[:-60],
    "flipped_bytes.npz": GOOD_NPZ[:300] + bytes([255 - b for b in GOOD_NPZ[300:340]]) + GOOD_NPZ[340:],
    "no_arrays.npz": npz(),
    "pickled.npz": npz(keypoints=np.array([POINTS, None], object)),
    "pickle_bytes.npz": npz_of("keypoints.npy", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix."),
    "wrong_key.npz": npz(kpts=POINTS, joint_set="openpose25"),
    "no_joint_set.npz": npz(keypoints=POINTS),
    "unknown_joint_set.npz": npz(keypoints=POINTS, joint_set="body25"),
    "joint_set_number.npz": npz(keypoints=POINTS, joint_set=25),
    "wrong_joints.npz": npz(keypoints=POINTS[:, :17], joint_set="openpose25"),
    "no_confidence.npz": npz(keypoints=POINTS[..., :2], joint_set="openpose25"),
    "four_axes.npz": npz(keypoints=POINTS[None], joint_set="openpose25"),
    "scalar.npz": npz(keypoints=np.float32(3), joint_set="openpose25"),
    "nobody.npz": npz(keypoints=POINTS[:0], joint_set="openpose25"),
    "complex.npz": npz(keypoints=POINTS + 1j, joint_set="openpose25"),
    "texts.npz": npz(keypoints=POINTS.astype(str), joint_set="openpose25"),
    "booleans.npz": npz(keypoints=POINTS > 0, joint_set="openpose25"),
    "records.npz": npz(keypoints=np.zeros(3, [("x", "f4"), ("y", "f4")]), joint_set="openpose25"),
    "all_nan.npz": npz(keypoints=np.full_like(POINTS, np.nan), joint_set="openpose25"),
    "overflow.npz": npz(keypoints=np.full_like(POINTS, 1e300), joint_set="openpose25"),
    "names_too_few.npz": npz(keypoints=np.repeat(POINTS, 2, 0), joint_set="openpose25", names=["a"]),
    "transl_shape.npz": npz(keypoints=POINTS, joint_set="openpose25", transl_m=np.zeros((4, 3))),
    "focal_text.npz": npz(keypoints=POINTS, joint_set="openpose25", focal_px=["wide"]),
    "spin_wrong.npz": npz(openpose=POINTS, part=POINTS),
    "lying_header.npz": npz_of("keypoints.npy", header((10**9, 25, 3))),
    "overflowing_header.npz": npz_of("keypoints.npy", header((2**62, 2**62, 3))),
    "negative_header.npz": npz_of("keypoints.npy", header((-1, 25, 3))),
    "code_in_header.npz": npz_of("keypoints.npy", b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('true')\n"),
    "future_npy.npz": npz_of("keypoints.npy", b"\x93NUMPY\x09\x00" + bytes(100)),
    "bomb.npz": npz_of("keypoints.npy", bytes(300 << 20)),
}
PLACES = ("folder.json", "loop.json", "nowhere.json", "device.json", "pipe.json")


def write_bad(folder):
  """Writes them all, and a few that are wrong as a place on disk; returns the names."""
  for name, data in BAD.items():
    (folder / name).write_bytes(data)
  (folder / "folder.json").mkdir()
  (folder / "loop.json").symlink_to(folder / "loop.json")
  (folder / "nowhere.json").symlink_to(folder / "not there")
  (folder / "device.json").symlink_to("/dev/zero")
  os.mkfifo(folder / "pipe.json")
  return [*BAD, *PLACES]
