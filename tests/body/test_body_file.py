"""Reading and writing model files: every layout in circulation, and one clear line for everything else."""

import pickle

from jhmr.body import body_file
from jhmr.body import joints
from jhmr.body import smpl
from jhmr.errors import InputError
import numpy as np
import pytest
from body import pickling
from body import random_body

SMALL = random_body.arrays(num_vertices=60, num_faces=40)
EXTRAS = ("regressor_extra9", "regressor_h36m17", "regressor_j19", "vertex_joint_ids")
PLAIN = {k: v for k, v in SMALL.items() if k not in EXTRAS}


def assert_same(got, want):
  assert set(got) == set(want)
  for key, value in want.items():
    np.testing.assert_array_equal(got[key], value, err_msg=key)


def write_pickle(path, value, protocol=2):
  path.write_bytes(pickling.dumps(value, protocol))
  return path


def failure(path, *words, gender="neutral"):
  """Reads a bad file and checks that it fails with one line that holds the words and says what to do."""
  with pytest.raises(InputError) as caught:
    body_file.read_body_file(path, gender)
  message = str(caught.value)
  assert "\n" not in message and len(message) < 600
  for word in words:
    assert word in message, message
  return message


# What is read.

@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_what_is_written_is_read_back(tmp_path, suffix):
  path = tmp_path / f"body.{suffix}"
  body_file.write_body_file(path, SMALL)
  assert_same(body_file.read_body_file(path), SMALL)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("chumpy", [True, False])
def test_official_files_read_without_chumpy_and_old_paths(tmp_path, protocol, chumpy):
  path = write_pickle(tmp_path / "body.pkl", pickling.official(SMALL, chumpy), protocol)
  data = path.read_bytes()
  assert b"scipy.sparse.csc" in data and (not chumpy or b"chumpy.reordering" in data)
  assert (b"numpy.core.numeric" if protocol == 5 else b"numpy.core.multiarray") in data and b"_core" not in data
  assert_same(body_file.read_body_file(path), PLAIN)


@pytest.mark.parametrize("layout", ["csc", "csr", "coo"])
@pytest.mark.parametrize("old", [True, False])
def test_sparse_regressors_of_any_layout_and_age(tmp_path, layout, old):
  value = pickling.official(SMALL, chumpy=False, layout=layout)
  del value["J"]
  path = tmp_path / "body.pkl"
  path.write_bytes(pickling.dumps(value, 2) if old else pickle.dumps(value, 4))
  assert_same(body_file.read_body_file(path), PLAIN)


def test_sparse_matrices_of_old_scipy_have_shape_and_row_and_col(tmp_path):
  regressor = SMALL["J_regressor"]
  rows, cols = np.nonzero(regressor)

  class coo_matrix:
    pass

  matrix = coo_matrix()
  matrix.__dict__ = {"shape": regressor.shape, "row": rows, "col": cols, "data": regressor[rows, cols], "maxprint": 50}
  pickling.OLD_NAMES[__name__, coo_matrix.__qualname__] = ("scipy.sparse.coo", "coo_matrix")
  path = write_pickle(tmp_path / "body.pkl", pickling.official(SMALL) | {"J_regressor": matrix})
  np.testing.assert_array_equal(body_file.read_body_file(path)["J_regressor"], regressor)


@pytest.mark.parametrize("shape", [(60, 3, 207), (180, 207), (207, 180)])
@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_posedirs_in_all_three_layouts(tmp_path, shape, suffix):
  posedirs = SMALL["posedirs"] if shape[0] == 207 else SMALL["posedirs"].T.reshape(shape)
  raw = PLAIN | {"posedirs": posedirs, "kintree_table": np.stack([SMALL["parents"], np.arange(24)])}
  path = tmp_path / f"body.{suffix}"
  np.savez(path, **raw) if suffix == "npz" else path.write_bytes(pickle.dumps(raw))
  assert_same(body_file.read_body_file(path), PLAIN)


def test_big_endian_and_fortran_arrays(tmp_path):
  value = pickling.official(SMALL) | {"v_template": np.asfortranarray(SMALL["v_template"].astype(">f8"))}
  got = body_file.read_body_file(write_pickle(tmp_path / "body.pkl", value))["v_template"]
  np.testing.assert_array_equal(got, SMALL["v_template"])
  assert got.dtype.isnative


@pytest.mark.parametrize("wrap", [
    lambda x: _ch(_ch(x)), lambda x: pickling.Reshape(_ch(x.ravel()), x.shape),
    lambda x: pickling.Reshape(pickling.Select(_ch(x), np.arange(x.size), (x.size,)), np.array(x.shape)),
    lambda x: pickling.Select(_ch(x), np.arange(x.size).reshape(x.shape), None)],
    ids=["Ch of Ch", "Reshape", "Reshape of Select", "Select without a shape"])
def test_chumpy_inside_chumpy(tmp_path, wrap):
  value = pickling.official(SMALL) | {"weights": wrap(SMALL["weights"])}
  got = body_file.read_body_file(write_pickle(tmp_path / "body.pkl", value))
  np.testing.assert_array_equal(got["weights"], SMALL["weights"])


def _ch(x):
  box = pickling.Ch(0)
  box.x = x
  return box


@pytest.mark.parametrize("known, asked", [(10, 10), (300, 300), (300, 10), (16, 12)])
def test_ten_to_three_hundred_betas(tmp_path, known, asked):
  arrays = random_body.arrays(num_vertices=60, num_betas=known, num_faces=4)
  body_file.write_body_file(tmp_path / "body.npz", arrays)
  body = smpl.load(tmp_path / "body.npz", num_betas=asked)
  assert body.joint_dirs.shape == (asked, 24, 3)


def test_more_betas_than_the_file_has_names_both_numbers(tmp_path):
  body_file.write_body_file(tmp_path / "body.pkl", SMALL)
  with pytest.raises(InputError, match="300 betas .* has 10"):
    smpl.load(tmp_path / "body.pkl", num_betas=300)


@pytest.mark.parametrize("name, gender", [
    ("SMPL_FEMALE.pkl", "female"), ("SMPL_MALE.npz", "male"), ("smpl/SMPL_NEUTRAL.pkl", "neutral"),
    ("basicModel_neutral_lbs_10_207_0_v1.0.0.pkl", "neutral")])
def test_a_directory_holds_one_model_per_gender(tmp_path, name, gender):
  (tmp_path / "smpl").mkdir()
  body_file.write_body_file(tmp_path / name, SMALL)
  assert_same(body_file.read_body_file(tmp_path, gender), SMALL)
  for other in set(body_file.GENDERS) - {gender}:
    failure(tmp_path, f"SMPL_{other.upper()}.pkl", gender=other)


def test_regressors_beside_an_official_model_are_used(tmp_path):
  path = write_pickle(tmp_path / "SMPL_NEUTRAL.pkl", pickling.official(SMALL))
  graphcmr = np.concatenate([np.eye(60)[:5], SMALL["regressor_extra9"]])  # its 14 rows end with SPIN's 9
  np.save(tmp_path / "J_regressor_extra.npy", graphcmr)
  np.save(tmp_path / "J_regressor_h36m.npy", np.asfortranarray(SMALL["regressor_h36m17"]))
  write_pickle(tmp_path / "SMPL_to_J19.pkl", SMALL["regressor_j19"])
  got = body_file.read_body_file(path)
  for key in EXTRAS[:3]:
    np.testing.assert_array_equal(got[key], SMALL[key])


def test_regressors_above_a_folder_of_models_are_used(tmp_path):  # as SPIN's data has them
  (tmp_path / "smpl").mkdir()
  write_pickle(tmp_path / "smpl" / "SMPL_NEUTRAL.pkl", pickling.official(SMALL))
  np.save(tmp_path / "J_regressor_h36m.npy", SMALL["regressor_h36m17"])
  np.testing.assert_array_equal(body_file.read_body_file(tmp_path)["regressor_h36m17"], SMALL["regressor_h36m17"])
  assert "regressor_h36m17" not in body_file.read_body_file(tmp_path / "smpl")


def test_the_files_own_regressor_wins_over_its_neighbour(tmp_path):
  body_file.write_body_file(tmp_path / "body.npz", SMALL)
  np.save(tmp_path / "J_regressor_h36m.npy", np.zeros((17, 60)))
  np.testing.assert_array_equal(body_file.read_body_file(tmp_path / "body.npz")["regressor_h36m17"],
                                SMALL["regressor_h36m17"])


# What is not.

def test_missing_files_say_what_to_give(tmp_path):
  failure(tmp_path / "SMPL_NEUTRAL.pkl", "does not exist", "SMPL_NEUTRAL.pkl")
  failure(tmp_path, "SMPL_NEUTRAL.pkl")
  (tmp_path / "body.txt").write_text("x")
  failure(tmp_path / "body.txt", ".npz")
  failure(tmp_path, "'other'", "female", gender="other")


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_what_a_failed_download_leaves(tmp_path, suffix):
  path = tmp_path / f"SMPL_NEUTRAL.{suffix}"
  for content, word in ((b"", "empty"), (b"\n<!DOCTYPE html>\n<html>sign in</html>", "web page"),
                        (b"version https://git-lfs.github.com/spec/v1\noid 1", "git-lfs"), (b"\x00" * 100, "not read"),
                        (b"Access denied", "not read"), (b"PK\x03\x04 not really", "not read")):
    path.write_bytes(content)
    failure(path, str(path), word)


def test_a_pickle_of_something_else(tmp_path):
  for value in ([1, 2], "SMPL", None, 3.5, np.zeros(3)):
    failure(write_pickle(tmp_path / "body.pkl", value), "instead of named arrays")
  failure(write_pickle(tmp_path / "body.pkl", {}), "lacks v_template", "kintree_table")


WRONG = {
    "weights short": ({"weights": SMALL["weights"][:50]}, "weights has shape (50, 24)", "(60, 24)"),
    "joints of another model": ({"J_regressor": np.ones((55, 60)) / 60}, "J_regressor has shape (55, 60)"),
    "flat template": ({"v_template": SMALL["v_template"].ravel()}, "v_template has shape (180,)"),
    "no betas": ({"shapedirs": np.zeros((60, 3, 0))}, "shapedirs has shape"),
    "posedirs": ({"posedirs": np.zeros((60, 3, 135))}, "posedirs has shape (60, 3, 135)", "207"),
    "nan": ({"v_template": np.full((60, 3), np.nan)}, "v_template", "finite"),
    "face outside": ({"f": np.full((40, 3), 60)}, "f points outside 0..59"),
    "float faces": ({"f": np.zeros((40, 3))}, "f points outside"),
    "weights do not sum": ({"weights": SMALL["weights"] * 2}, "row of weights sums to 2"),
    "another tree": ({"kintree_table": np.zeros((2, 24), np.uint32)}, "kinematic tree"),
    "smaller tree": ({"kintree_table": np.zeros((2, 16), np.uint32)}, "16 joints"),
    "empty tree": ({"kintree_table": np.zeros((0,), np.uint32)}, "0 joints"),
    "extra regressor": ({"regressor_extra9": np.ones((8, 60))}, "regressor_extra9 has shape (8, 60)")}


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_wrong_arrays_are_named_with_what_was_expected(tmp_path, case, suffix):
  change, *words = case
  value = pickling.official(SMALL, chumpy=False) | change
  path = tmp_path / f"body.{suffix}"
  if suffix == "npz":
    dense = value["J_regressor"] if "J_regressor" in change else SMALL["J_regressor"]
    np.savez(path, **{k: v for k, v in value.items() if isinstance(v, np.ndarray)} | {"J_regressor": dense})
  else:
    write_pickle(path, value)
  failure(path, str(path), *words)


def test_object_arrays_are_refused(tmp_path):
  objects = np.array([{"a": 1}, None], object)
  np.savez(tmp_path / "body.npz", **PLAIN | {"J_regressor": objects})
  failure(tmp_path / "body.npz", "objects")
  path = write_pickle(tmp_path / "body.pkl", pickling.official(SMALL) | {"weights": objects})
  failure(path, "weights", "plain numbers")


@pytest.mark.parametrize("expression", [pickling.Add(pickling.Ch([1]), pickling.Ch([2])),
                                        pickling.Exp(pickling.Ch(SMALL["weights"]))], ids=["add", "exp"])
def test_a_chumpy_expression_is_not_taken_for_its_argument(tmp_path, expression):
  value = pickling.official(SMALL) | {"weights": expression}
  failure(write_pickle(tmp_path / "body.pkl", value), "weights", "chumpy expression", "convert")


def test_a_bad_regressor_beside_the_model_is_named(tmp_path):
  path = write_pickle(tmp_path / "SMPL_NEUTRAL.pkl", pickling.official(SMALL))
  np.save(tmp_path / "J_regressor_h36m.npy", np.zeros((17, 59)))
  failure(path, "J_regressor_h36m.npy", "(17, 59)", "(17, 60)")
  (tmp_path / "J_regressor_h36m.npy").write_text("<html>")
  failure(path, "J_regressor_h36m.npy")


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_truncated_files_never_raise_anything_else(tmp_path, suffix):
  path = tmp_path / f"body.{suffix}"
  body_file.write_body_file(path, SMALL)
  data = path.read_bytes()
  for size in np.linspace(1, len(data) - 1, 40).astype(int):
    path.write_bytes(data[:size])
    failure(path, str(path))


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_damaged_files_are_read_or_refused_but_never_raise_anything_else(tmp_path, suffix):
  path = tmp_path / f"body.{suffix}"
  body_file.write_body_file(path, SMALL)
  data, rng = path.read_bytes(), np.random.default_rng(0)
  # Aim at the structure: opcodes, names and shapes are the bytes that are not array data.
  spots = [i for i in range(len(data)) if 0 < data[i] < 128 and data[i - 1:i + 2].isascii()]
  for _ in range(250):
    broken = bytearray(data)
    for spot in rng.choice(spots, 3):
      broken[spot] = rng.integers(256)
    path.write_bytes(broken)
    try:
      body_file.read_body_file(path)
    except InputError as error:
      assert "\n" not in str(error)


# Writing.

def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
  path = tmp_path / "body.npz"
  body_file.write_body_file(path, SMALL)
  before = path.read_bytes()

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.replace", fail)
  with pytest.raises(InputError, match="cannot be written: No space left"):
    body_file.write_body_file(path, random_body.arrays(num_vertices=30, num_faces=4))
  assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_bad_targets_are_named(tmp_path):
  with pytest.raises(InputError, match="no_such"):
    body_file.write_body_file(tmp_path / "no_such" / "body.npz", SMALL)
  with pytest.raises(InputError, match=r"\.pkl or \.npz"):
    body_file.write_body_file(tmp_path / "body.obj", SMALL)


def test_written_pickles_hold_the_official_keys(tmp_path):
  body_file.write_body_file(tmp_path / "body.pkl", SMALL)
  raw = pickle.loads((tmp_path / "body.pkl").read_bytes())
  assert raw["kintree_table"].dtype == np.uint32 and raw["kintree_table"][0, 0] == 2**32 - 1
  assert raw["posedirs"].shape == (60, 3, 207) and raw["f"].dtype == np.uint32
  assert raw["J_regressor"].format == "csc" and raw["bs_style"] == "lbs"
  assert tuple(raw["kintree_table"][0, 1:]) == joints.PARENTS[1:]
