"""Annotations of UP-3D are those of the authors' script, and a file that is not what it should be is one line."""

import os
import pickle

import cv2
import numpy as np
import pytest

from jhmr.data import spin_files
from jhmr.data import up_3d
from jhmr.errors import InputError

IDS = ("00007", "01129")


def write(root):
  """A folder of two people; returns what was drawn and labelled."""
  made = {}
  for i, name in enumerate(IDS):
    rng = np.random.default_rng(i)
    picture = np.full((90, 120, 3), 255, np.uint8)
    picture[11:52 + i, 30:61] = [0, 255, 200]  # one channel below 255 is enough
    joints, pose, betas = rng.uniform(0, 90, (3, 14 + i)), rng.normal(size=72), rng.normal(size=10)
    cv2.imwrite(str(root / f"{name}_render_light.png"), picture)
    cv2.imwrite(str(root / f"{name}_image.png"), picture)
    np.save(root / f"{name}_joints.npy", joints)
    with open(root / f"{name}_body.pkl", "wb") as f:  # protocol 0, as Python 2 wrote them
      pickle.dump({"pose": pose, "betas": betas, "t": np.zeros(3), "f": 5000.0}, f, protocol=0)
    made[name] = joints, pose, betas
  (root / "names.txt").write_text("".join(f"/{name}_image.png\n" for name in reversed(IDS)) + "\n")
  return made


def convert(root):
  up_3d.main(["up_3d", "--folder", str(root), "--list", str(root / "names.txt"), "--out", str(root / "up.npz")])
  return spin_files.read(str(root / "up.npz"), ("part", "pose", "shape"))


def test_rows_are_those_of_the_list(tmp_path):
  made = write(tmp_path)
  found = convert(tmp_path)
  assert found["imgname"].tolist() == ["01129_image.png", "00007_image.png"]
  for row, name in enumerate(reversed(IDS)):
    joints, pose, betas = made[name]
    np.testing.assert_array_equal(found["part"][row, :14], joints.T[:14])
    assert not found["part"][row, 14:].any()
    np.testing.assert_array_equal(found["pose"][row], pose)
    np.testing.assert_array_equal(found["shape"][row], betas)
  # Rows 11..51 and 11..52: (11 + 52) / 2 is 31 under Python 2, (11 + 53) / 2 is 32.
  np.testing.assert_array_equal(found["center"], [[45, 32], [45, 31]])
  np.testing.assert_allclose(found["scale"], [1.2 * 42 / 200, 1.2 * 41 / 200])


class Hostile:
  def __reduce__(self):
    return os.mkdir, ("/nonexistent/was_run",)


@pytest.mark.parametrize("file, content, said", [
    ("01129_joints.npy", None, "No such file"), ("01129_joints.npy", b"<html>", "01129_joints.npy"),
    ("01129_joints.npy", np.zeros((14, 3)), "joints of shape (14, 3)"),
    ("01129_joints.npy", np.full((3, 14), np.nan), "not all finite"),
    ("01129_render_light.png", b"", "empty"), ("01129_render_light.png", b"\x89PNG\r\n", "truncated"),
    ("01129_render_light.png", cv2.imencode(".png", np.full((5, 5, 3), 255, np.uint8))[1].tobytes(), "it is white"),
    ("01129_body.pkl", None, "No such file"), ("01129_body.pkl", b"(dp0\n", "damaged or not a pickle"),
    ("01129_body.pkl", pickle.dumps(Hostile()), "it asks for"),
    ("01129_body.pkl", pickle.dumps([1]), "a list where a dict"),
    ("01129_body.pkl", pickle.dumps({"pose": np.zeros(72)}), "it has no betas"),
    ("01129_body.pkl", pickle.dumps({"pose": np.zeros(69), "betas": np.zeros(10)}), "its pose has 69 numbers"),
    ("01129_body.pkl", pickle.dumps({"pose": 3, "betas": np.zeros(10)}), "where an array should be"),
    ("names.txt", None, "No such file"), ("names.txt", b"", "is empty"), ("names.txt", b"\xff\xfe", "cannot be read"),
    ("names.txt", b"/01129_image.png\n../../etc/passwd\n", "line 2 is no name")])
def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path, file, content, said):
  write(tmp_path)
  (tmp_path / file).unlink()
  if isinstance(content, np.ndarray):
    np.save(tmp_path / file, content)
  elif content is not None:
    (tmp_path / file).write_bytes(content)
  with pytest.raises(InputError) as error:
    convert(tmp_path)
  assert said in str(error.value) and file in str(error.value) and "\n" not in str(error.value)
  assert not (tmp_path / "up.npz").exists()


def test_folders_that_are_not_there_are_named(tmp_path):
  for folder, out, said in ((tmp_path / "x", tmp_path / "a.npz", "--folder"), (tmp_path, tmp_path / "x/a.npz", "--out")):
    with pytest.raises(InputError, match=said):
      up_3d.main(["up_3d", "--folder", str(folder), "--list", "x", "--out", str(out)])
