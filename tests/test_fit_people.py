"""The command `fit` on many people: order, batches, what is fitted again and what is not, kills, and bad files."""

import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time
import zlib

import cv2
import numpy as np
import pytest

import fake_solver
from fitting import malformed
from jhmr import command, fit, fit_cameras, fit_journal, fit_outputs, fit_people, fit_smplify, predict
from jhmr.errors import InputError
from jhmr.fitting.keypoint_formats import Person

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def run(monkeypatch, tmp_path):
  """fit(out, *options) on tmp_path/keypoints; returns the people fitted this time."""
  monkeypatch.setattr(fit_smplify, "solver", fake_solver.make())

  def go(*options, out="out", keypoints="keypoints"):
    fake_solver.SEEN.clear()
    fake_solver.BATCHES.clear()
    fit.main(["fit", "--keypoints", str(tmp_path / keypoints), "--out", str(tmp_path / out), "--no-meshes",
              "--no-pictures", *map(str, options)])
    return len(fake_solver.SEEN)
  return go


def write(folder, count, first=0):
  folder.mkdir(exist_ok=True)
  for i in range(first, first + count):
    flat = np.round(malformed.standing(shift=i), 3).ravel().tolist()
    (folder / f"{i:04d}_keypoints.json").write_text(malformed.openpose(flat))


def results(tmp_path, out="out"):
  with np.load(tmp_path / out / "fits.npz") as stored:
    return dict(stored)


def parts(tmp_path, out="out"):
  return {p: p.stat().st_mtime_ns for p in (tmp_path / out / fit_journal.FOLDER).glob("*.npz")}


def test_results_are_in_the_order_of_the_files_whatever_the_batches(run, tmp_path):
  write(tmp_path / "keypoints", 21)
  assert run() == 21 and len(parts(tmp_path)) == 3
  assert run("--batch", 5, out="fives") == 21 and len(parts(tmp_path, "fives")) == 5
  table, fives = results(tmp_path), results(tmp_path, "fives")
  assert table["names"].tolist() == [f"{i:04d}" for i in range(21)]
  crop = table["box_size_px"][:, None, None] / 224  # the fake is off by one pixel of a crop, in x and in y
  np.testing.assert_allclose(table["fitted_px"] - table["keypoints"][..., :2], crop + np.zeros((21, 25, 2)), rtol=1e-3)
  for name in table:
    np.testing.assert_array_equal(table[name], fives[name])


def test_only_what_is_new_or_changed_is_fitted_again(run, tmp_path):
  folder = tmp_path / "keypoints"
  write(folder, 20)
  assert run() == 20
  before = parts(tmp_path)
  assert run() == 0 and parts(tmp_path) == before
  write(folder, 3, first=20)
  (folder / "0007_keypoints.json").write_text(malformed.openpose(malformed.changed(0, 5.0)))
  (folder / "0003_keypoints.json").unlink()
  assert run() == 4 and before.items() <= parts(tmp_path).items()
  assert results(tmp_path)["names"].tolist() == [f"{i:04d}" for i in range(23) if i != 3]
  assert run("--num-steps", 7) == 22   # other settings: everybody
  assert run() == 0                    # and those of before are still there
  assert run("--focal", 900, "--image-size", "640,480") == 22


def test_a_damaged_part_is_named_and_done_again(run, tmp_path, capsys):
  write(tmp_path / "keypoints", 20)
  run()
  wanted = results(tmp_path)
  first, second, *_ = sorted(parts(tmp_path))
  first.write_bytes(first.read_bytes()[:500])
  second.write_bytes(b"")
  (first.parent / ".half.npz.abc.tmp").write_bytes(b"what a killed process left")
  assert 4 < run() < 20
  assert str(first) in capsys.readouterr().err and not list(first.parent.glob("*.tmp"))
  for name, values in results(tmp_path).items():
    np.testing.assert_array_equal(values, wanted[name])


@pytest.mark.parametrize("count", [6, 20])
def test_a_part_whose_arrays_are_damaged_but_not_its_keys_is_done_again(run, tmp_path, capsys, count):
  write(tmp_path / "keypoints", count)
  run()
  wanted, first = results(tmp_path), min(parts(tmp_path))
  data = first.read_bytes()
  with np.load(first) as stored:
    place = data.index(stored["pose"].tobytes()[-400:])
  first.write_bytes(data[:place] + bytes(255 - b for b in data[place:place + 8]) + data[place + 8:])
  assert 0 < run() <= 8 and str(first) in capsys.readouterr().err
  assert run() == 0 and str(first) not in capsys.readouterr().err
  for name, values in results(tmp_path).items():
    np.testing.assert_array_equal(values, wanted[name])


def test_what_a_killed_process_was_writing_is_swept(run, tmp_path):
  write(tmp_path / "keypoints", 2)
  run()
  for name in (".fits.npz.abc.tmp", ".mine.tmp", "parts/.x.npz.abc.tmp"):
    (tmp_path / "out" / name).write_bytes(b"")
  run()
  assert [p.name for p in (tmp_path / "out").rglob("*.tmp")] == [".mine.tmp"]


def test_batches_are_of_few_sizes_and_hold_at_most_what_was_asked_for():
  sizes = [fit_people.batch_size(*pair) for pair in ((3, 512), (17, 512), (300, 512), (300, 10**6), (9, 5))]
  assert sizes == [16, 64, 512, 1024, 5]


def test_killed_at_any_time_it_loses_and_repeats_nothing(run, tmp_path):
  write(tmp_path / "keypoints", 300)
  code = ("import sys; sys.path[:0] = ['tests']; import fake_solver; from jhmr import fit, fit_smplify; "
          "fit_smplify.solver = fake_solver.make(0.1); fit.main(sys.argv)")
  arguments = ["--keypoints", str(tmp_path / "keypoints"), "--out", str(tmp_path / "out"), "--no-meshes",
               "--no-pictures"]
  done = {}
  for more in (5, 9):  # twice, the second time a process that has itself resumed
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    wanted = len(done) + more
    while process.poll() is None and len(parts(tmp_path) if (tmp_path / "out").exists() else ()) < wanted:
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    now = parts(tmp_path)
    assert done.items() <= now.items() and len(now) >= wanted and not (tmp_path / "out" / "fits.npz").exists()
    done = now
  left = 300 - 8 * len(done)
  assert run() == left and done.items() <= parts(tmp_path).items()
  assert len(parts(tmp_path)) == 38  # 300 in batches of 8
  assert run(out="at_once") == 300
  for name, values in results(tmp_path, "at_once").items():
    np.testing.assert_array_equal(values, results(tmp_path)[name])


def test_a_disk_that_cannot_be_written_to_is_one_line(run, tmp_path, monkeypatch):
  write(tmp_path / "keypoints", 20)
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="Not a directory"):
    run(out="file/out")
  add, full = fit_journal.add, iter((False, True))

  def filling(*arguments):
    if next(full):
      raise OSError(28, "No space left on device")
    add(*arguments)
  with monkeypatch.context() as patch:
    patch.setattr(fit_journal, "add", filling)
    with pytest.raises(InputError, match="No space left"):
      run()
  assert run() == 12  # the batch of 8 that was written stays


def test_two_commands_do_not_write_to_one_folder(run, tmp_path):
  from jhmr import files
  write(tmp_path / "keypoints", 2)
  run()
  with files.locked(str(tmp_path / "out" / fit_journal.FOLDER / "lock")):
    with pytest.raises(InputError, match="give another --out"):
      run()


def test_bad_files_are_named_and_their_neighbours_come_out(run, tmp_path, capsys):
  folder = tmp_path / "keypoints"
  write(folder, 3)
  names = malformed.write_bad(folder)
  run()
  said = capsys.readouterr()
  assert results(tmp_path)["names"].tolist() == ["0000", "0001", "0002"]
  listed = (tmp_path / "out" / fit_people.SKIPPED).read_text().splitlines()
  unmentioned = {n for n in names if not any(n.split(".")[0] in line for line in listed)}
  assert unmentioned <= {"coco_crowd.json", "empty_list.json"}
  assert len(said.err.splitlines()) == fit_people.SAID + 1 and f"and {len(listed) - fit_people.SAID} more" in said.err
  for name in names:
    path = folder / name
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
  run()
  assert not (tmp_path / "out" / fit_people.SKIPPED).exists()


@pytest.mark.parametrize("name", ["truncated.json", "deep.json", "person_null.json", "pickled.npz", "loop.json"])
def test_nothing_usable_is_exit_code_2_one_line_and_no_folder(run, tmp_path, monkeypatch, capsys, name):
  folder = tmp_path / "keypoints"
  folder.mkdir()
  malformed.write_bad(folder)
  monkeypatch.setattr(sys, "argv", ["fit", "--keypoints", str(folder / name), "--out", str(tmp_path / "out")])
  with pytest.raises(SystemExit) as exit_code:
    command.run(fit.main)
  said = capsys.readouterr()
  assert exit_code.value.code == 2 and len(said.err.splitlines()) == 1 and name in said.err and not said.out
  assert not (tmp_path / "out").exists()


def test_a_shared_shape_keeps_all_pictures_of_a_person_together(run, tmp_path):
  who = np.repeat([4, 2, 9, 7], [5, 3, 6, 2])
  points = np.stack([malformed.standing(shift=i) for i in range(16)])
  np.savez(tmp_path / "video.npz", keypoints=points, joint_set="openpose25", person=who)
  assert run("--shared-shape", keypoints="video.npz") == 16  # in batches of 8
  assert [sorted(np.bincount(b)[np.bincount(b) > 0]) for b in fake_solver.BATCHES] == [[3, 5], [2, 6]]
  points[0, 0, 0] += 1
  np.savez(tmp_path / "video.npz", keypoints=points, joint_set="openpose25", person=who)
  assert run("--shared-shape", keypoints="video.npz") == 5  # all pictures of that person, nobody else


def test_a_picture_that_can_be_read_later_brings_all_frames_of_its_person_together(run, tmp_path, monkeypatch):
  write(tmp_path / "keypoints", 3)
  photos = tmp_path / "photos"
  photos.mkdir()
  for name in ("0000", "0001", "0002"):
    cv2.imwrite(str(photos / f"{name}.png"), np.zeros((160, 120, 3), np.uint8))
  whole = (photos / "0001.png").read_bytes()
  (photos / "0001.png").write_bytes(b"<html>")
  made = fake_solver.make()
  monkeypatch.setattr(fit_smplify, "solver", lambda *arguments: made(*arguments)._replace(crop_px=8))
  again = lambda: run("--shared-shape", "--workdir", "run", "--images", photos)
  assert again() == 2 and again() == 0
  (photos / "0001.png").write_bytes(whole)
  assert again() == 3 and fake_solver.BATCHES == [[0, 0, 0]] and again() == 0
  os.utime(photos / "0001.png", (0, 0))
  assert again() == 0
  # A picture that fails only when its turn comes: next time all of them are fitted, not the one alone.
  cv2.imwrite(str(photos / "0000.png"), np.ones((160, 120, 3), np.uint8))
  read, fails = predict.read_image, iter([False, True])  # for its size, for its crop
  with monkeypatch.context() as patch:
    patch.setattr(predict, "read_image", lambda path: read("absent" if "0002" in path and next(fails, 0) else path))
    patch.setattr(fit_cameras, "unreadable", lambda paths: {})
    assert again() == 2
  assert again() == 3 and again() == 0


def test_files_without_ids_are_one_person_and_several_people_an_error(run, tmp_path):
  write(tmp_path / "keypoints", 20)
  assert run("--shared-shape") == 20 and fake_solver.BATCHES == [[0] * 20]
  (tmp_path / "keypoints" / "pair.json").write_text(malformed.openpose(malformed.FLAT, malformed.FLAT))
  with pytest.raises(InputError, match="several people"):
    run("--shared-shape", out="other")


def test_cameras_are_the_file_s_the_picture_s_or_the_crop_s():
  points = np.float32(malformed.standing())
  person = lambda **k: Person("a", points, "openpose25", **k)
  people = [person(), person(image_size=(640.0, 480.0)), person(focal_px=900.0, center_px=(300.0, 200.0)),
            person(image_size=(640.0, 480.0), focal_px=700.0)]
  arrays = fit_cameras.arrays_of(people)
  side = arrays["box_size_px"][0]
  np.testing.assert_allclose(arrays["focal_px"], [5000 / 224 * side, 5000, 900, 700], rtol=1e-6)
  np.testing.assert_allclose(arrays["center_px"][0], arrays["box_center_px"][0])
  np.testing.assert_allclose(arrays["center_px"][1:], [[320, 240], [300, 200], [320, 240]])
  np.testing.assert_array_equal(arrays["in_crop"], [1, 0, 0, 0])
  asked = fit_cameras.arrays_of(people, 1200.0, (320.0, 240.0))
  np.testing.assert_allclose(asked["focal_px"], [1200, 1200, 900, 700])
  np.testing.assert_allclose(asked["center_px"][0], [160, 120])
  # A scaled picture shows the same body at the same place.
  scale = fit_cameras.scale_of(arrays, as_crops=True)
  small = fit_cameras.scaled(arrays, scale)
  np.testing.assert_allclose(small["box_size_px"], 224, rtol=1e-6)
  ray = lambda a: (a["keypoints"][..., :2] - a["center_px"][:, None]) / a["focal_px"][:, None, None]
  np.testing.assert_allclose(ray(small), ray(arrays), atol=1e-6)
  np.testing.assert_array_equal(fit_cameras.scale_of(arrays, as_crops=False)[1:], 1)


def test_a_picture_of_unknown_size_has_one_that_holds_the_person():
  points = np.float32(malformed.standing())
  person = Person("a", points, "openpose25", focal_px=900.0, transl_m=(0.0, 0.0, 3.0))
  people = [person._replace(center_px=(0.0, 0.0)), person._replace(center_px=(-40.0, 9.0)), person]
  arrays = fit_cameras.arrays_of(people)
  assert np.all(arrays["image_size"][:2] >= points[:, :2].max(0)) and np.isfinite(arrays["image_size"]).all()
  np.testing.assert_array_equal(np.isfinite(arrays["transl_m"]).all(1), [True, True, False])
  assert len(said := fit_cameras.unusable_translations(people, arrays)) == 1 and "center_px" in said[0]


def test_a_file_whose_translations_are_behind_the_camera_says_so(run, tmp_path, capsys):
  points = np.stack([malformed.standing(shift=i) for i in range(2)])
  np.savez(tmp_path / "keypoints.npz", keypoints=points, joint_set="openpose25", center_px=[60, 80],
           transl_m=[[0, 0, 3], [0, 0, -3]])
  assert run(keypoints="keypoints.npz") == 2
  said = capsys.readouterr().err
  assert "keypoints_1 is -3 m" in said and "all translations are fitted" in said


def test_pictures_that_are_missing_are_named_and_those_found_name_people(run, tmp_path, capsys):
  write(tmp_path / "keypoints", 3)
  (tmp_path / "photos").mkdir()
  cv2.imwrite(str(tmp_path / "photos" / "0001.png"), np.zeros((160, 120, 3), np.uint8))
  huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2**30, 2**30, 8, 2, 0, 0, 0)
  (tmp_path / "photos" / "0002.png").write_bytes(huge + struct.pack(">I", zlib.crc32(huge[12:])) + bytes(12))
  run("--images", tmp_path / "photos")
  said = capsys.readouterr().err
  assert "1 of 3 people have no picture" in said and "such as 0000" in said and "0002.png" in said
  entries = json.loads((tmp_path / "out" / "fits.json").read_text())["data"]
  assert [e["imageName"] for e in entries] == ["0000", "0001.png", "0002.png"]
  assert results(tmp_path)["image_size"][1].tolist() == [120, 160]


def test_hips_decide_what_is_valid_where_they_decide_the_fit():
  points = np.float32(malformed.standing())
  people, pixels = [Person("a", points, "openpose25")], points[None, :, :2].copy()
  arrays = fit_cameras.arrays_of(people)
  pixels[:, [8, 9, 12]] += 30 * arrays["box_size_px"] / 224
  found = {"pose": np.zeros((1, 24, 3, 3)), "betas": np.zeros((1, 10)), "transl_m": np.ones((1, 3)), "pixels": pixels}
  assert [fit_outputs.table_of(people, arrays, found, hips)["valid"].item() for hips in (False, True)] == [True, False]


def test_a_truth_that_does_not_fit_is_said_before_anybody_is_fitted(run, tmp_path):
  write(tmp_path / "keypoints", 2)
  good = {"names": ["0001", "x"], "pose": np.zeros((2, 24, 3, 3)), "betas": np.zeros((2, 10))}
  for odd in ({"pose": np.zeros((2, 72))}, {"betas": np.float32(0)}, {"names": ["a", "b"]}, {"names": "0001"},
              {"keypoints_px": np.zeros((3, 25, 2))}):
    np.savez(tmp_path / "truth.npz", **good | odd)
    with pytest.raises(InputError, match="truth.npz"):
      run("--truth", tmp_path / "truth.npz")
  assert not fake_solver.SEEN and not (tmp_path / "out").exists()
  np.savez(tmp_path / "truth.npz", **good)
  assert set(fit_outputs.read_truth(str(tmp_path / "truth.npz"), ["0001"])) == set(good)


def test_pictures_are_found_by_what_the_keypoint_file_calls_them(tmp_path):
  (tmp_path / "sub").mkdir()
  for name in ("a.jpg", "sub/b.jpg", "000000000139.png", "c.1.jpeg"):
    (tmp_path / name).write_bytes(b"")
  (tmp_path.parent / "outside.jpg").write_bytes(b"")
  person = lambda image: Person("x", None, "coco17", image=image)
  images = ("a", "sub/b.jpg", "000000000139", "c.1", "../outside.jpg", "", "train/a.jpg", "a\0", "none",
            "a.1")
  found = fit_cameras.find_pictures([person(i) for i in images], str(tmp_path))
  assert {i: os.path.basename(p) for i, p in found.items()} == {
      0: "a.jpg", 1: "b.jpg", 2: "000000000139.png", 3: "c.1.jpeg", 6: "a.jpg"}


@pytest.mark.parametrize("arguments, said", [
    ([], "--keypoints"),
    (["--keypoints", "{k}"], "--out"),
    (["--keypoints", "{k}", "--out", "{k}"], "would be replaced"),
    (["--keypoints", "{k}/absent.json", "--out", "{out}"], "No such file"),
    (["--keypoints", "{k}/empty", "--out", "{out}"], "holds no keypoints"),
    (["--keypoints", "{k}", "--out", "{out}", "--joint-set", "coco"], "coco17"),
    (["--keypoints", "{k}", "--out", "{out}", "--joint-set", "coco17"], "17 joints"),
    (["--keypoints", "{k}", "--out", "{out}", "--image-size", "640x480"], "W,H"),
    (["--keypoints", "{k}", "--out", "{out}", "--image-size", "640,0"], "W,H"),
    (["--keypoints", "{k}", "--out", "{out}", "--focal", "-3"], "--focal"),
    (["--keypoints", "{k}", "--out", "{out}", "--focal", "nan"], "--focal"),
    (["--keypoints", "{k}", "--out", "{out}", "--batch", "-1"], "--batch"),
    (["--keypoints", "{k}", "--out", "{out}", "--split", "val"], "--split measures"),
    (["--keypoints", "{k}", "--out", "{out}", "--method", "latent"], "--workdir"),
    (["--keypoints", "{k}", "--out", "{out}", "--method", "spin", "--workdir", "run"], "--images"),
    (["--keypoints", "{k}", "--out", "{out}", "--method", "smplify_x", "--shared-shape"], "--method spin"),
    (["--keypoints", "{k}", "--out", "{out}", "--truth", "{k}/absent.npz"], "--truth"),
    (["--keypoints", "{k}", "--out", "{out}", "--images", "{k}/absent"], "--images"),
    (["--workdir", "run", "--split", "val", "--gmm", "gmm.pkl"], "--gmm does nothing"),
    (["--keypoints", "{k}", "--out", "{k}/0000_keypoints.json"], "Not a directory"),
    (["--keypoints", "{k}", "--out", "{out}", "--image-size", "²,3"], "W,H"),
    (["--keypoints", "{k}", "--out", "{out}", "--batch", "0"], "--batch"),
    (["--keypoints", "{k}", "--out", "{out}", "--keypoint-noise-px", "nan"], "--keypoint-noise-px is nan"),
    (["--keypoints", "{k}", "--out", "{out}", "--keypoint-noise-px", "2"], "does nothing with --method smplify without"),
    (["--keypoints", "{k}", "--out", "{out}", "--step", "0"], "--step does nothing"),
    (["--keypoints", "{k}", "--out", "{out}", "--threshold", "0"], "--threshold does nothing with --method smplify:"),
    (["--keypoints", "{k}", "--out", "{out}", "--boxes", "b.json"], "--boxes does nothing"),
    (["--keypoints", "{k}", "--out", "{out}", "--workdir", "run", "--shared-shape"], "--images"),
    *[(["--workdir", "run", "--split", "val", "--method", "spin", *odd], f"{odd[0]} does nothing") for odd in (
        ["--shared-shape"], ["--truth", "t.npz"], ["--image-size", "8,8"], ["--batch", "4"], ["--focal", "900"])],
    (["--workdir", "run", "--split", "val", "--method", "spin", "--meshes"], "--meshes does nothing"),
    (["--workdir", "run", "--images", "{k}", "--keypoints", "{k}", "--out", "{out}", "--focal", "9"], "--full-frame"),
    (["--workdir", "run", "--images", "{k}", "--keypoints", "{k}", "--out", "{out}", "--boxes", "b"], "--boxes does"),
])
def test_wrong_options_are_one_line_and_write_nothing(run, tmp_path, arguments, said):
  write(tmp_path / "keypoints", 1)
  (tmp_path / "keypoints" / "empty").mkdir()
  out = tmp_path / "out"
  with pytest.raises(InputError) as error:
    fit.main(["fit", *(a.format(k=tmp_path / "keypoints", out=out) for a in arguments)])
  assert said in str(error.value) and not out.exists()


def test_progress_says_rate_and_time_left(run, tmp_path, capsys):
  write(tmp_path / "keypoints", 20)
  run()
  said = capsys.readouterr().out
  assert "8/20 people" in said and "20/20 people" in said and "people/s" in said and "left" in said
