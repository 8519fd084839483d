"""SPIN's annotation files are read without pickles, and what is wrong with one is a line that names it."""

import numpy as np
import pytest

from jhmr.data import spin_files
from jhmr.errors import InputError

NUM = 3


def arrays(**changes):
  made = {"imgname": np.array(["a.jpg", "b.jpg", "c.jpg"]), "center": np.ones((NUM, 2)), "scale": np.ones(NUM),
          "pose": np.zeros((NUM, 72)), "shape": np.zeros((NUM, 10)), "gender": np.array(["m", "f", "f"]),
          "part": np.ones((NUM, 24, 3)), "S": np.zeros((NUM, 24, 4))}
  return {k: v for k, v in (made | changes).items() if v is not None}


def read(tmp_path, needed=(), welcome=(), **changes):
  np.savez(tmp_path / "set.npz", **arrays(**changes))
  return spin_files.read(str(tmp_path / "set.npz"), needed, welcome)


def test_names_may_be_bytes_of_python_2(tmp_path):
  found = read(tmp_path, ("gender",), imgname=np.array([b"a.jpg", b"b.jpg", "ü.jpg".encode()]),
               gender=np.array([b"m", b"f", b"m"]))
  assert found["imgname"].tolist() == ["a.jpg", "b.jpg", "ü.jpg"]
  assert found["gender"].tolist() == ["male", "female", "male"]


def test_what_nobody_asks_for_is_not_even_read(tmp_path):
  found = read(tmp_path, (), ("S",), pose=np.array([{"an": "object"}], object), scale=np.array([1, 2, 3]))
  assert set(found) == {"imgname", "center", "scale", "S"} and found["scale"].dtype == np.float64


def test_keypoints_are_openpose_then_annotated(tmp_path):
  found = spin_files.keypoints(read(tmp_path, welcome=("part", "openpose")))
  assert found.shape == (NUM, 49, 3) and not found[:, :25].any() and found[:, 25:].all()


@pytest.mark.parametrize("changes, said", [
    (dict(imgname=None), "lack imgname"),
    (dict(S=None), "lack S"),
    (dict(imgname=np.array([["a"]])), "imgname has shape"),
    (dict(imgname=np.array(["a", "b", "c"], object)), "without pickled objects"),
    (dict(imgname=np.arange(3)), "not 3 strings"),
    (dict(imgname=np.array([b"\xff\xfe"] * 3)), "not UTF-8"),
    (dict(center=np.ones((NUM, 3))), r"center has shape \(3, 3\), not \(3, 2\)"),
    (dict(scale=np.ones(2)), "scale has shape"),
    (dict(scale=np.array([1, 0, 1])), "scale of row 1 is 0"),
    (dict(scale=np.array([1, 1, 250.0])), "scale of row 2 is 250"),
    (dict(S=np.full((NUM, 24, 4), np.nan)), "S .* not all finite"),
    (dict(gender=np.array(["m", "f", "x"])), "gender is 'x'"),
])
def test_what_is_wrong_is_one_line(tmp_path, changes, said):
  with pytest.raises(InputError, match=said) as error:
    read(tmp_path, ("S", "gender"), **changes)
  assert "\n" not in str(error.value) and "set.npz" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04" + b"x" * 50])
def test_files_that_are_no_archives_are_one_line(tmp_path, content):
  (tmp_path / "set.npz").write_bytes(content)
  with pytest.raises(InputError, match="cannot be read"):
    spin_files.read(str(tmp_path / "set.npz"), ())


def test_missing_files_are_named_or_left_out(tmp_path):
  for name in ("a", "c"):
    (tmp_path / name).touch()
  find = lambda skip, *names: spin_files.find(str(tmp_path), [list("abca"), *names], skip).tolist()
  assert find(True) == [0, 2, 3]
  assert find(True, list("aaza")) == [0, 3]  # the second list lacks z
  with pytest.raises(InputError, match="lacks b of 3 files: put them there, or leave"):
    find(False)
  with pytest.raises(InputError, match="right folder"):
    spin_files.find(str(tmp_path), [["x", "y"]], True)
  with pytest.raises(InputError, match="does not exist"):
    spin_files.find(str(tmp_path / "absent"), [["x", "y"]])
