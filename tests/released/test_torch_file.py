"""Files of torch.save are read without torch; damaged and hostile ones are one line, and nothing in them runs."""

import os
import pathlib
import pickle
import zipfile

from body import pickling
from jhmr.errors import InputError
from jhmr.released import torch_file
import numpy as np
import pytest
from released import tensors

GOLDENS = pathlib.Path(__file__).parent / "goldens"


def assert_holds(found, expected):
  assert list(found) == list(expected)
  for name, value in expected.items():
    tolerance = 0.01 if name == "bfloat16" else 0  # it keeps 8 bits
    np.testing.assert_allclose(found[name], value, rtol=tolerance, err_msg=name)
    assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
    assert found[name].flags.writeable


def write_zip(path, pickled, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickled)


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "lightning.pt"])
def test_recorded_files_are_read_exactly(name):
  assert_holds(torch_file.read(GOLDENS / name, ("state_dict",)), tensors.values())


def test_files_of_torch_0_1_are_read(tmp_path):
  expected = tensors.write_old(tmp_path / "old.pth")
  assert_holds(torch_file.read(tmp_path / "old.pth"), expected)


def test_npz_files_are_read(tmp_path):
  np.savez(tmp_path / "a.npz", **tensors.values())
  assert_holds(torch_file.read(tmp_path / "a.npz"), tensors.values())


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_a_file_cut_anywhere_is_one_line(tmp_path, name):
  whole = (GOLDENS / name).read_bytes()
  for share in (0, 0.001, 0.01, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999):
    (tmp_path / name).write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(InputError, match="cannot be read") as caught:
      torch_file.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_changed_number_in_a_zip_is_noticed(tmp_path):
  whole = (GOLDENS / "zip.pt").read_bytes()
  at = whole.index(np.arange(12, dtype=np.float32).tobytes()) + 9
  (tmp_path / "a.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
  with pytest.raises(InputError, match="CRC"):
    torch_file.read(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_any_changed_byte_is_read_or_refused(tmp_path, name):
  """No byte makes it crash, hang or say more than one line."""
  whole, rng = (GOLDENS / name).read_bytes(), np.random.default_rng(0)
  for at in rng.choice(len(whole), 200, replace=False):
    (tmp_path / name).write_bytes(whole[:at] + bytes([rng.integers(256)]) + whole[at + 1:])
    try:
      torch_file.read(tmp_path / name)
    except InputError:
      pass


@pytest.mark.parametrize("function, argument", [(os.system, "touch {}"), (eval, "open('{}', 'w')"),
                                                (exec, "open('{}', 'w')"), (getattr, "{}"), (__import__, "os")])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": {"a": x}}, lambda x: {"callbacks": x}])
def test_hostile_pickles_are_refused_and_nothing_runs(tmp_path, function, argument, wrap):
  marker = tmp_path / "marker"
  hostile = pickling.dumps(wrap(pickling.Calls(function, argument.format(marker))), 2)
  write_zip(tmp_path / "zip.pt", hostile)
  (tmp_path / "bare.pt").write_bytes(hostile)
  (tmp_path / "legacy.pt").write_bytes(
      pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + hostile)
  for name in ("zip.pt", "bare.pt", "legacy.pt"):
    with pytest.raises(InputError, match="asks for"):
      torch_file.read(tmp_path / name, ("state_dict",))
  assert not marker.exists()


def test_calls_of_packages_that_checkpoints_name_do_nothing(tmp_path):
  marker = tmp_path / "marker"
  write_zip(tmp_path / "a.pt", pickling.dumps({"a": pickling.Calls(np.save, str(marker), 1)}, 2))
  with pytest.raises(InputError, match="no tensors"):
    torch_file.read(tmp_path / "a.pt")
  assert not list(tmp_path.glob("marker*"))


@pytest.mark.parametrize("shape, stride, offset", [
    ((7,), (1,), 0), ((2,), (1,), 5), ((2, 2), (5, 1), 0), ((2,), (-1,), 3), ((10 ** 9, 2), (0, 1), 0),
    ((-1,), (1,), 0), ((2,), (1,), -1)])
def test_tensors_outside_their_storage_are_refused(tmp_path, shape, stride, offset):
  path = tmp_path / "a.pth"
  tensors.write_old(path)
  tensor = tensors.Call("torch._utils", "_rebuild_tensor", tensors.Storage("7", 6), offset, shape, stride)
  with open(path, "wb") as f:
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"w": tensor}, ["7"]):
      tensors._Pickler(f, 2).dump(value)
    f.write((6).to_bytes(8, "little") + bytes(24))
  with pytest.raises(InputError, match="w: a tensor of shape"):
    torch_file.read(path)


def test_what_is_not_a_checkpoint_is_said(tmp_path):
  def said(match):
    with pytest.raises(InputError, match=match):
      torch_file.read(tmp_path / "a.pt", ("state_dict",))

  said("does not exist")
  write_zip(tmp_path / "a.pt", pickle.dumps([1, 2], 2))
  said("a list, not a dict of tensors")
  write_zip(tmp_path / "a.pt", pickle.dumps({"epoch": 3, "state_dict": {}}, 2))
  said("no tensors in it, only nothing")
  write_zip(tmp_path / "a.pt", pickle.dumps({"epoch": 3}, 2), zipfile.ZIP_DEFLATED)
  said("compressed")
  with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
    archive.writestr("readme.txt", "hello")
  said("not one of torch.save")
  (tmp_path / "a.pt").write_text("version https://git-lfs.github.com/spec/v1")
  said("no file of torch.save")
  np.savez(tmp_path / "b.npz", a=np.array([{}], object))
  with pytest.raises(InputError, match="cannot be read"):
    torch_file.read(tmp_path / "b.npz")
