"""The command `fit`: keypoint files, groups of views and splits to bodies; and what is said when that cannot be."""

import functools
import json
import types
from typing import Any, NamedTuple

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from fitting import fake_latent
from jhmr import assets as assets_lib
from jhmr import evaluate, fit, fit_files, fit_journal, fit_scores
from jhmr.body import camera, smpl
from jhmr.errors import InputError
from jhmr.state import TrainState
import runs


class Density(NamedTuple):
  encode: Any
  decode: Any
  dim: int = fake_latent.DIM


class FakeSystem(NamedTuple):
  latent: Any


def encode(state, batch, assets):
  """Looks at the crop's mean colour only, so that images differ."""
  del state, assets
  seen = batch["image"].mean((1, 2))
  shift = 0.05 * jnp.sin(jnp.arange(fake_latent.DIM) * (1 + seen[:, :1])) + 0.05 * seen[:, 1:2]
  return fake_latent.Encoded(shift, jnp.zeros((seen.shape[0], 10)),
                             jnp.broadcast_to(jnp.array([0.8, 0.0, 0.0]), (seen.shape[0], 3)))


def decode(state, z, encoded, assets):
  del state
  pose = fake_latent.decode(z, encoded)
  root = assets["mean"]["pose"][0] @ pose[:, :, :1]  # facing the camera
  pose = jnp.concatenate([root, pose[:, :, 1:]], 2)
  return pose, pose[..., :2], jnp.zeros(z.shape[:2])


@functools.cache
def loaded():
  config = runs.config_of("body=mannequin_small", "image_size=32", "batch_size=16", "eval_batches=1")
  state = TrainState(step=jnp.zeros((), jnp.int32), params={}, opt_state={}, stats={}, memory={})
  return config, FakeSystem(Density(encode, decode)), state, assets_lib.load(config)


@pytest.fixture
def run(monkeypatch):
  monkeypatch.setattr(evaluate, "load_run", lambda workdir, step=None, body=None: loaded())
  return lambda *arguments: fit.main(["fit", "--workdir", "run", *map(str, arguments)])


def openpose(path, people):
  path.write_text(json.dumps({"people": [{"pose_keypoints_2d": np.ravel(p).tolist()} for p in people]}))


def standing(shift=0.0, seen=25):
  """Keypoints [25, 3] of somebody upright in the middle of a picture of 120 x 160 pixels."""
  rng = np.random.default_rng(0)
  points = np.stack([60 + shift + 15 * rng.uniform(-1, 1, 25), np.linspace(20, 140, 25)], -1)
  return np.concatenate([points, (np.arange(25) < seen)[:, None]], -1)


@pytest.fixture
def photos(tmp_path):
  folder = tmp_path / "photos"
  folder.mkdir()
  for i, name in enumerate(("a", "b", "few", "alone")):
    image = np.random.default_rng(i).integers(0, 200 + 10 * i, (160, 120, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / f"{name}.png"), image)
  (folder / "broken.jpg").write_bytes(b"<html>not found</html>")
  openpose(folder / "a_keypoints.json", [standing(-10), standing(10)])
  openpose(folder / "b_keypoints.json", [standing()])
  openpose(folder / "few_keypoints.json", [standing(seen=3)])
  openpose(folder / "broken_keypoints.json", [standing()])
  return folder


def test_a_folder_becomes_bodies_and_what_cannot_be_used_is_named(run, photos, tmp_path, capsys):
  out = tmp_path / "out"
  arguments = ("--images", photos, "--keypoints", photos, "--out", out, "--num-steps", 30)
  run(*arguments)
  said = capsys.readouterr()
  names = {p.name for p in out.iterdir()}
  for stem in ("a_0", "a_1", "b"):
    assert {f"{stem}.json", f"{stem}.npz", f"{stem}.png", f"{stem}_fit.obj", f"{stem}_regression.obj"} <= names
  assert "all.png" in names and not any(n.startswith(("few", "broken", "alone")) for n in names)
  assert "3 of 25 keypoints are confident" in said.err and "broken.jpg" in said.err and "alone" in said.err
  assert "people/s" in said.out and "left" in said.out
  stored = np.load(out / "b.npz")
  assert stored["body_pose"].shape == (2, 23, 3, 3) and stored["transl_m"].shape == (2, 3)
  assert stored["objective"][1] < stored["objective"][0] and stored["reprojection_px"][1] < stored["reprojection_px"][0]
  np.testing.assert_array_equal(stored["z"][0], 0)
  # The camera written sees the written body where the fit saw it.
  _, _, _, assets = loaded()
  pose = np.concatenate([stored["global_orient"], stored["body_pose"]], 1)
  points = smpl.keypoints(assets["body"], smpl.forward(assets["body"], stored["betas"], pose, stored["transl_m"]),
                          "openpose25")
  px = np.asarray(camera.perspective(points, stored["focal_px"], stored["center_px"]))
  keep = (stored["keypoints"][:, 2] > 0) & ~np.isin(np.arange(25), (8, 9, 12))
  gap = np.linalg.norm(px - stored["keypoints"][:, :2], axis=-1)[:, keep].mean(1)
  np.testing.assert_allclose(gap, stored["reprojection_px"], rtol=1e-2)

  before = {p: p.stat().st_mtime_ns for p in out.iterdir() if p.name.startswith("a_")}
  (out / "b.json").unlink()  # as if interrupted before it was written
  run(*arguments)
  assert "2 of 4 people" in capsys.readouterr().out and (out / "b.json").exists()
  assert before == {p: p.stat().st_mtime_ns for p in out.iterdir() if p.name.startswith("a_")}


def test_whole_images_have_their_own_camera(run, photos, tmp_path):
  run("--images", photos / "b.png", "--keypoints", photos / "b_keypoints.json", "--out", tmp_path / "out",
      "--full-frame", "--focal", 900, "--num-steps", 30, "--no-meshes", "--no-pictures")
  stored = json.loads((tmp_path / "out" / "b.json").read_text())
  assert stored["focal_px"] == 900 and stored["center_px"] == [60, 80] and stored["settings"]["full_frame"]
  assert stored["objective"][1] < stored["objective"][0]
  assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.json", "b.npz"]


def test_groups_of_views_are_refined(run, photos, tmp_path):
  groups = tmp_path / "groups.json"
  groups.write_text(json.dumps({"anna": ["a.png", "b.png", "few.png"], "otto": ["b.png", "alone.png"]}))
  out = tmp_path / "out"
  run("--images", photos, "--multiview", groups, "--out", out, "--num-steps", 60, "--no-meshes")
  views = [np.load(out / f"anna_{v}.npz")["body_pose"] for v in range(3)]
  before, after = (max(np.abs(views[0][i] - v[i]).max() for v in views[1:]) for i in (0, 1))
  assert before > 0.01 and after < 0.2 * before
  assert (out / "otto_1.json").exists() and (out / "anna_2.png").exists()


def test_splits_give_a_table_with_intervals(run, tmp_path, capsys):
  run("--split", "val", "--keypoint-noise-px", 2, "--out", tmp_path, "--num-steps", 20)
  rows = json.loads((tmp_path / "fit_val.json").read_text())["rows"]
  assert [r["method"] for r in rows] == ["mode", "fit", "fit - mode"]
  assert rows[2]["mpjpe_mm"] == pytest.approx(rows[1]["mpjpe_mm"] - rows[0]["mpjpe_mm"], abs=1e-3)
  run("--split", "multiview", "--multiview", "--out", tmp_path, "--num-steps", 20)
  rows = json.loads((tmp_path / "fit_multiview.json").read_text())["rows"]
  assert [r["method"] for r in rows[:3]] == ["single view", "rotation averaging", "refined"]
  assert rows[0]["people"] == 4 and "pa_mpjpe_mm" in capsys.readouterr().out


def test_a_split_without_pose_labels_is_one_line(monkeypatch):
  monkeypatch.setattr(fit_scores, "batches", lambda *_: iter(np.zeros((2, 3))))
  with pytest.raises(InputError, match="pose label"):
    fit_scores.over_split(None, None, "val", lambda batch: ({"mode": {"mpjpe_mm": batch}}, batch))


def test_views_of_a_person_are_found_wherever_they_are():
  ids, mask = fit_scores.by_person(np.array([7, 3, 7, 3, 7, 9]), np.array([1, 1, 1, 1, 1, 0]))
  np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 1]])
  np.testing.assert_array_equal(ids, [[1, 3, 3], [0, 2, 4]])


@pytest.mark.parametrize("arguments, said", [
    (["--images", "{photos}"], "--out"),
    (["--images", "{photos}", "--out", "{out}"], "--keypoints"),
    (["--images", "{photos}", "--out", "{out}", "--keypoints", "{photos}/b_keypoints.json"], "not a folder"),
    (["--images", "{photos}/a.png", "--out", "{out}", "--keypoints", "{photos}/a.png"], "cannot be read"),
    (["--images", "{photos}/few.png", "--out", "{out}", "--keypoints", "{photos}"], "3 of 25"),
    (["--images", "{photos}/alone.png", "--out", "{out}", "--keypoints", "{photos}"], "alone_keypoints.json"),
    (["--images", "{photos}", "--out", "{out}", "--keypoints", "{photos}", "--joint-set", "coco"], "coco17"),
    (["--images", "{photos}/b.png", "--out", "{out}", "--keypoints", "{photos}", "--joint-set", "coco17"], "17 joints"),
    (["--images", "{photos}", "--out", "{out}", "--multiview"], "lists each person"),
    (["--images", "{photos}", "--out", "{out}", "--multiview", "{photos}/b_keypoints.json"], "absent.png"),
    (["--images", "{photos}", "--out", "{out}", "--multiview", "{photos}/a.png"], "groups"),
    (["--split", "vall", "--out", "{out}"], "vall"),
    (["--split", "val", "--keypoint-noise-px", "-1"], "negative"),
    (["--split", "val", "--joint-set", "smplx45"], "labels make"),
    (["--images", "{photos}", "--out", "{photos}", "--keypoints", "{photos}"], "would be replaced"),
    (["--images", "{photos}", "--out", "{photos}/a.png/out", "--keypoints", "{photos}"], "Not a directory"),
    (["--split", "val", "--out", "{photos}/a.png"], "Not a directory"),
    (["--split", "multiview", "--multiview", "--use-hips"], "--use-hips does nothing"),
])
def test_wrong_input_is_one_line_and_writes_nothing(run, photos, tmp_path, arguments, said):
  if said == "absent.png":
    (photos / "b_keypoints.json").write_text('{"anna": ["absent.png"]}')
  out = tmp_path / "out"
  with pytest.raises(InputError) as error:
    run(*[a.format(photos=photos, out=out) for a in arguments])
  assert said in str(error.value) and not out.exists()


def test_a_run_without_a_density_is_one_line(run, monkeypatch):
  monkeypatch.setattr(evaluate, "load_run", lambda *a: (loaded()[0], FakeSystem(None), *loaded()[2:]))
  with pytest.raises(InputError, match="density"):
    run("--split", "val")


def test_groups_of_another_kind_are_one_line(tmp_path):
  from jhmr.fitting import keypoint_files
  (tmp_path / "g.json").write_text('{"anna": "left.jpg"}')
  (tmp_path / "g.csv").write_text("person,image\nanna,1.jpg\notto\n")
  for name in ("g.json", "g.csv"):
    with pytest.raises(InputError, match="list of picture names"):
      keypoint_files.read_groups(str(tmp_path / name))


def test_only_what_changed_is_fitted_again():
  args = types.SimpleNamespace(meshes=True, pictures=False)
  config, _, state, assets = loaded()
  settings = lambda keypoints, assets=assets, config=config: fit_files.settings_of(
      args, fit_journal.run_digest(config, state, assets), "stamp of a.png", keypoints)
  first, other = settings(np.zeros((25, 3))), runs.config_of("body=elsewhere", "image_size=32", "batch_size=16",
                                                             "eval_batches=1")
  assert first == settings(np.zeros((25, 3))) == settings(np.zeros((25, 3)), config=other)  # a body that was moved
  assert first != settings(np.ones((25, 3)))
  fatter = assets | {"body": assets["body"].replace(template=1.1 * assets["body"].template)}
  assert first != settings(np.zeros((25, 3)), assets=fatter)


def test_groups_may_be_a_csv(tmp_path):
  from jhmr.fitting import keypoint_files
  (tmp_path / "g.csv").write_text("person,image\nanna,1.jpg\notto,2.jpg\nanna,3.jpg\n")
  assert keypoint_files.read_groups(str(tmp_path / "g.csv")) == {"anna": ["1.jpg", "3.jpg"], "otto": ["2.jpg"]}
