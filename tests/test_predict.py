"""From images, or a split, to parameters, meshes and pictures; and what is said when that cannot be."""

import json

import cv2
import numpy as np
import pytest

from jhmr import evaluate, predict
from jhmr.body import camera
from jhmr.errors import InputError
import runs


def run(workdir, *arguments):
  predict.main(["predict", "--workdir", str(workdir), *map(str, arguments)])


@pytest.fixture
def photos(tmp_path):
  folder = tmp_path / "photos"
  folder.mkdir()
  image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
  for name in ("a.jpg", "b.png"):
    cv2.imwrite(str(folder / name), image)
  (folder / "c.jpg").write_bytes(b"<html>not found</html>")
  return folder


def test_a_split_becomes_parameters_meshes_and_pictures(finished_run, tmp_path):
  run(finished_run, "--split", "val", "--num", 2, "--out", tmp_path)
  stored = np.load(tmp_path / "val_0001.npz")
  assert stored["body_pose"].shape == (1, 23, 3, 3) and stored["joints_cam_m"].shape == (1, 24, 3)
  np.testing.assert_allclose(np.linalg.det(stored["body_pose"]), 1, atol=1e-5)
  faces = [l for l in (tmp_path / "val_0001.obj").read_text().splitlines() if l.startswith("f ")]
  assert len(faces) == 2800
  assert cv2.imread(str(tmp_path / "val_0001.png")) is not None and cv2.imread(str(tmp_path / "all.png")) is not None


def test_boxes_pick_the_people_and_bad_files_of_a_folder_are_named(finished_run, photos, tmp_path, capsys):
  boxes = tmp_path / "boxes.json"
  boxes.write_text(json.dumps({"a.jpg": [[10, 5, 40, 80], [60, 5, 50, 80]], "c.jpg": [[0, 0, 9, 9]]}))
  out = tmp_path / "out"
  run(finished_run, "--images", photos, "--boxes", boxes, "--out", out, "--no-pictures", "--no-meshes")
  assert sorted(p.name for p in out.iterdir()) == ["a_0.json", "a_0.npz", "a_1.json", "a_1.npz"]
  assert "c.jpg" in capsys.readouterr().err
  stored = json.loads((out / "a_1.json").read_text())
  assert stored["image"] == "a.jpg" and stored["box_center_px"] == [85.0, 45.0] and stored["box_size_px"] == 80.0


def test_the_full_image_camera_shows_joints_where_the_crop_does(finished_run, photos, tmp_path):
  run(finished_run, "--images", photos / "b.png", "--out", tmp_path, "--no-pictures")
  s = np.load(tmp_path / "b.npz")
  full = np.asarray(camera.perspective(s["joints_cam_m"][0], s["focal_px"], s["image_size"] / 2))
  in_crop = s["joints_cam_m"] - s["transl_m"][:, None]
  crop = np.asarray(camera.project_crop(in_crop, s["camera"]))[0] * s["box_size_px"] / 2 + s["box_center_px"]
  # One camera has the distance of a 224-pixel crop, the other that of the photo: perspective differs by a little.
  np.testing.assert_allclose(full, crop, atol=0.02 * s["box_size_px"])


@pytest.mark.parametrize("arguments, said", [
    (["--images", "absent.jpg"], "absent.jpg"),
    (["--images", "{photos}/c.jpg"], "not an image"),
    (["--images", "{photos}", "--boxes", "{photos}/c.jpg"], "boxes"),
    (["--split", "vall"], "vall"),
    (["--split", "val", "--step", "77"], "77"),
    (["--split", "val", "--body", "absent.pkl"], "absent.pkl"),
    (["--split", "val", "--num", "0"], "--num"),
])
def test_wrong_input_is_one_line_and_writes_nothing(finished_run, photos, tmp_path, arguments, said):
  out = tmp_path / "out"
  with pytest.raises(InputError) as error:
    run(finished_run, *[a.format(photos=photos) for a in arguments], "--out", out)
  assert said in str(error.value) and not out.exists()


def test_nobodys_files_are_replaced(finished_run, photos, tmp_path):
  before = {p.name: p.read_bytes() for p in photos.iterdir()}
  for images in (photos, photos / "b.png"):
    with pytest.raises(InputError, match="would be replaced"):
      run(finished_run, "--images", images, "--out", photos)
  (photos / "a.png").write_bytes(before["b.png"])
  with pytest.raises(InputError, match="written twice"):
    run(finished_run, "--images", photos, "--out", tmp_path / "out")
  assert {n: (photos / n).read_bytes() for n in before} == before


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
  with pytest.raises(InputError, match="holds no run"):
    run(tmp_path, "--split", "val", "--out", tmp_path / "out")


def test_evaluate_prints_the_baseline_beside_the_system(finished_run, tmp_path, capsys):
  evaluate.main(["evaluate", "--workdir", str(finished_run), "--out", str(tmp_path / "rows.json")])
  rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
  assert [(r["split"], r["method"]) for r in rows] == [("val", "mean pose"), ("val", "hmr")]
  # The same numbers as at the end of training: neither the restored state nor the batches differ.
  logged = [json.loads(l) for l in (finished_run / "metrics.jsonl").read_text().splitlines()]
  assert rows[1]["pa_mpjpe_mm"] == pytest.approx([l for l in logged if l["kind"] == "val"][-1]["pa_mpjpe_mm"], rel=1e-5)
  assert "mean pose" in capsys.readouterr().out


def test_a_finished_run_leaves_everything_a_user_looks_for(finished_run):
  left = {p.name for p in finished_run.iterdir()}
  assert {"config.json", "metrics.jsonl", "checkpoints", "events", "predictions.png"} <= left
  lines = [json.loads(l) for l in (finished_run / "metrics.jsonl").read_text().splitlines()]
  assert {l["kind"] for l in lines} == {"train", *runs.config_of().splits}
  assert all(l["pa_mpjpe_mm"] > 0 for l in lines if l["kind"] == "val")
