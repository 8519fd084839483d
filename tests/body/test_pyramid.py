"""A body's two resolutions: built, kept, written, read back, taken from the authors' file, and refused."""

import io
import os
import pickle
import zipfile

from jhmr.body import mannequin
from jhmr.body import mesh
from jhmr.body import pyramid
from jhmr.body import pyramid_file
from jhmr.body import remesh
from jhmr.errors import InputError
import numpy as np
import pytest
from scipy import sparse
from body import pickling


def ball(rings=6, around=8):
  """A closed mesh as a body file's arrays: {"v_template", "f"}."""
  angle, height = np.meshgrid(np.arange(around) * 2 * np.pi / around, np.linspace(-1, 1, rings + 2)[1:-1])
  wide = np.sqrt(1 - height ** 2)
  points = np.stack([wide * np.cos(angle), height, wide * np.sin(angle)], -1).reshape(-1, 3)
  here = np.arange(rings * around).reshape(rings, around)
  right, south, north = np.roll(here, -1, 1), rings * around, rings * around + 1
  quads = [(here[:-1], here[1:], right[:-1]), (right[:-1], here[1:], right[1:])]
  caps = [(np.full(around, south), here[0], right[0]), (here[-1], np.full(around, north), right[-1])]
  faces = np.concatenate([np.stack(q, -1).reshape(-1, 3) for q in quads + caps])
  return {"v_template": np.concatenate([points, [[0, -1, 0], [0, 1, 0]]]), "f": faces}


BALL = ball()
NUM, COARSE = len(BALL["v_template"]), 20
MADE = pyramid.build(BALL, COARSE)


def dense(ids, weights, columns):
  out = np.zeros((len(ids), columns))
  np.add.at(out, (np.arange(len(ids))[:, None], ids), weights)
  return out


def matrices():
  """{"A", "U", "D"}: MADE as the authors' file has it, with a third mesh."""
  edges = remesh.edge_faces(MADE["down_faces"])[0]
  a = np.zeros((COARSE, COARSE))
  a[edges[:, 0], edges[:, 1]] = a[edges[:, 1], edges[:, 0]] = 2
  fine, third = sparse.csc_matrix(np.eye(NUM)), sparse.csc_matrix(np.ones((3, 3)))
  up = sparse.csc_matrix(dense(MADE["up_ids"], MADE["up_weights"], COARSE))
  down = sparse.csc_matrix(dense(MADE["down_ids"], MADE["down_weights"], NUM))
  rest = sparse.csc_matrix(np.ones((COARSE, 3)))
  return {"A": [fine, sparse.csc_matrix(a), third], "U": [up, rest], "D": [down, rest.T.tocsc()]}


def objects(values):
  out = np.empty(len(values), object)
  out[:] = values
  return out


def npy(value, protocol=2):
  """The bytes of a npy file of objects, as NumPy of Python 2 wrote it."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (len(value),)})
  return file.getvalue() + pickling.dumps(objects(value), protocol)


def write_authors(path, changed=None, protocol=2):
  """The authors' file with some members replaced by other bytes; None leaves one out."""
  members = {key: npy(value, protocol) for key, value in matrices().items()}
  members |= {"M": b"\x93NUMPY\x01\x00never read", "F": b"nor this"} | (changed or {})
  with zipfile.ZipFile(path, "w") as archive:
    for key, data in members.items():
      if data is not None:
        archive.writestr(f"{key}.npy", data)
  return str(path)


def refused(path, num=NUM):
  with pytest.raises(InputError) as caught:
    pyramid_file.read(str(path), num)
  assert "\n" not in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 600
  return str(caught.value)


def same_maps(levels, edges):
  """Whether a pyramid is MADE, whatever the order of entries in its rows."""
  np.testing.assert_allclose(dense(levels.down_ids, levels.down_weights, NUM),
                             dense(MADE["down_ids"], MADE["down_weights"], NUM), atol=1e-6)
  np.testing.assert_allclose(dense(levels.up_ids, levels.up_weights, COARSE),
                             dense(MADE["up_ids"], MADE["up_weights"], COARSE), atol=1e-6)
  np.testing.assert_array_equal(edges, remesh.edge_faces(MADE["down_faces"])[0])


def test_what_is_written_is_read_back(tmp_path):
  pyramid_file.write(str(tmp_path / "p.npz"), MADE)
  same_maps(*pyramid.load(str(tmp_path / "p.npz"), BALL))
  assert os.listdir(tmp_path) == ["p.npz"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_authors_file_gives_the_same_maps_and_graph(tmp_path, protocol):
  levels, edges = pyramid.load(write_authors(tmp_path / "mesh_downsampling.npz", protocol=protocol), BALL)
  same_maps(levels, edges)
  graph = pyramid.graph(levels, edges, BALL["v_template"])
  pattern = np.eye(COARSE)
  pattern[edges[:, 0], edges[:, 1]] = pattern[edges[:, 1], edges[:, 0]] = 1
  wanted = pattern / pattern.sum(1, keepdims=True)
  np.testing.assert_allclose(dense(graph.ids, graph.weights, COARSE), wanted, atol=1e-6)
  np.testing.assert_allclose(dense(graph.ids, graph.transposed_weights, COARSE), wanted.T, atol=1e-6)
  np.testing.assert_array_equal(graph.ids[:, 0], np.arange(COARSE))


def test_a_body_without_a_pyramid_gets_one_and_keeps_it(tmp_path, monkeypatch):
  monkeypatch.setenv("JHMR_CACHE", str(tmp_path))
  levels, edges = pyramid.load("", BALL)
  assert len(levels.down_ids) == -(-NUM // 4) and len(levels.up_ids) == NUM and len(os.listdir(tmp_path)) == 1
  monkeypatch.setattr(mesh, "build_pyramid", None)
  again, same_edges = pyramid.load("", BALL)
  np.testing.assert_array_equal(again.up_weights, levels.up_weights)
  np.testing.assert_array_equal(same_edges, edges)


def test_a_body_files_own_pyramid_is_used():
  arrays = mannequin.arrays("small")
  levels, edges = pyramid.load("", arrays)
  assert levels.down_ids is arrays["down_ids"] and len(edges) == 3 * 431 - 6  # Euler's formula of a ball


def test_a_smooth_field_survives_going_down_and_up():
  levels, _ = pyramid.load("", {**BALL, **MADE})
  points = BALL["v_template"].astype(np.float32)
  back = mesh.upsample(levels, mesh.downsample(levels, points))
  assert np.linalg.norm(back - points, axis=1).mean() < 0.15


def test_meshes_that_cannot_be_thinned_are_refused():
  for faces in (BALL["f"][1:], np.concatenate([BALL["f"], BALL["f"][:1]]), BALL["f"][BALL["f"].min(1) > 0]):
    with pytest.raises(InputError, match="not closed"):
      pyramid.load("", BALL | {"f": faces})
  for num in (NUM, 3, 0, -5):
    with pytest.raises(InputError, match="ask for fewer"):
      pyramid.build(BALL, num)


def test_missing_and_foreign_files_are_named(tmp_path):
  assert "does not exist" in refused(tmp_path / "none.npz")
  for content in (b"", b"<html>", b"version https://git-lfs", os.urandom(300), pickle.dumps({"A": 1})):
    (tmp_path / "odd.npz").write_bytes(content)
    assert "damaged or no npz file" in refused(tmp_path / "odd.npz")
  np.savez(tmp_path / "odd.npz", x=1)
  assert "down_faces" in refused(tmp_path / "odd.npz")
  with pytest.raises(InputError, match="npz"):
    pyramid_file.write(str(tmp_path / "p.pkl"), MADE)
  with pytest.raises(InputError, match="cannot be written"):
    pyramid_file.write(str(tmp_path / "no" / "p.npz"), MADE)


WRONG = {
    "up_ids points outside": {"up_ids": MADE["up_ids"] + COARSE}, "down_ids points outside": {"down_ids": -MADE[
        "down_ids"] - 1}, "down_faces is float": {"down_faces": MADE["down_faces"] * 1.0},
    "not finite weights": {"up_weights": MADE["up_weights"] * np.nan}, "down_weights is": {
        "down_weights": MADE["down_weights"][1:]}, "three corners": {"down_faces": MADE["down_faces"][:, :2]},
    "the body has": {"up_ids": MADE["up_ids"][1:], "up_weights": MADE["up_weights"][1:]},
    "not a table": {"up_ids": MADE["up_ids"][..., None]}, "damaged": {"up_ids": objects([{}, 1])},
    "up_ids is": {"up_ids": np.zeros((0, 3), int)}}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arrays_are_named(tmp_path, message):
  np.savez(tmp_path / "p.npz", **MADE | WRONG[message])
  assert message in refused(tmp_path / "p.npz")


def changed_state(**state):
  """A csc matrix with other attributes than it should have."""
  matrix = matrices()["U"][0]
  vars(matrix).update(state)
  return npy([matrix])


class Touch:
  """Unpickling this would make a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name, change", [
    ("which no body model needs", lambda marker: {"U": npy([Touch(marker)])}),
    ("which no body model needs", lambda marker: {"A": npy([1, Touch(marker)])}),
    ("sparse matrix should be", lambda marker: {"U": npy([1.0, 2])}),
    ("sparse matrix should be", lambda marker: {"D": npy([np.eye(3)])}),
    ("damaged", lambda marker: {"D": npy(matrices()["D"])[:-40]}),
    ("where sparse matrices should be", lambda marker: {"D": _plain(np.eye(3))}),
    ("no second mesh", lambda marker: {"A": npy(matrices()["A"][:1])}),
    ("do not belong together", lambda marker: {"A": npy(matrices()["A"][1:])}),
    ("the body has", lambda marker: {"D": npy(matrices()["D"][::-1])}),
    ("neither", lambda marker: {"U": None}),
    ("entries outside", lambda marker: {"U": changed_state(_shape=(NUM, 3))}),
    ("sparse matrix of shape", lambda marker: {"U": changed_state(_shape=(NUM, -3))}),
    ("damaged state", lambda marker: {"U": changed_state(_shape=None)}),
    ("values at", lambda marker: {"U": changed_state(indices=np.zeros(2, np.int32))}),
    ("do not follow each other", lambda marker: {"U": changed_state(indptr=np.array([0, 10 ** 9]))}),
    ("finite", lambda marker: {"U": changed_state(data=matrices()["U"][0].data * np.inf)})])
def test_hostile_and_damaged_authors_files_do_nothing_but_say_so(tmp_path, name, change):
  marker = tmp_path / "marker"
  path = write_authors(tmp_path / "mesh_downsampling.npz", change(marker))
  assert name in refused(path)
  assert not marker.exists()


def _plain(value):
  file = io.BytesIO()
  np.save(file, value)
  return file.getvalue()


def test_a_member_that_grows_without_end_is_not_unpacked(tmp_path):
  with zipfile.ZipFile(tmp_path / "p.npz", "w", zipfile.ZIP_DEFLATED) as archive:
    for key in pyramid_file.KEYS:
      archive.writestr(f"{key}.npy", bytes(100 << 20) if key == "down_ids" else b"")
  assert "104,857,600 bytes" in refused(tmp_path / "p.npz")


@pytest.mark.parametrize("kind", ["ours", "authors"])
def test_damaged_files_are_read_or_refused_but_never_raise_anything_else(tmp_path, kind):
  path, rng = str(tmp_path / "p.npz"), np.random.default_rng(0)
  pyramid_file.write(path, MADE) if kind == "ours" else write_authors(path)
  good = (tmp_path / "p.npz").read_bytes()
  for _ in range(60):
    bad = bytearray(good)
    for at in rng.integers(0, len(bad), 3):
      bad[at] = rng.integers(256)
    (tmp_path / "p.npz").write_bytes(bad[:rng.integers(1, len(bad))] if rng.random() < 0.2 else bad)
    try:
      pyramid_file.read(path, NUM)
    except InputError as error:
      assert "\n" not in str(error)


@pytest.mark.slow
def test_posed_mannequins_lose_little(tmp_path):
  """The errors of the command; less than 3 mm on average for 6,890 vertices."""
  arrays = mannequin.arrays("full")
  levels, edges = pyramid.load("", arrays)
  assert len(levels.down_ids) == 1723 and pyramid.errors_mm(levels, arrays, num=16).mean() < 3
  pyramid.write_picture(str(tmp_path / "p.png"), levels, edges, arrays)
  assert (tmp_path / "p.png").stat().st_size > 10_000
  with pytest.raises(InputError, match="cannot be written"):
    pyramid.write_picture(str(tmp_path / "no" / "p.png"), levels, edges, arrays)
