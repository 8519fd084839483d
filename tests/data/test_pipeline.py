"""Data sets on disk: what is written comes back, and batches do not know how many processes or threads read them."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from jhmr.data import build
from jhmr.data import images
from jhmr.data import records
from jhmr.data import source
from jhmr.data import spec
from jhmr.data.builders import synthetic_people
from jhmr.errors import InputError
import disk
import people

NUM_TRAIN, NUM_VAL = 21, 5


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """(directory of a data set, {split seed's examples as they were rendered})."""
  out, written = tmp_path_factory.mktemp("data") / "people", []
  plain = records.encode
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(records, "encode", lambda example: written.append(example) or plain(example))
    build.build(out, NUM_TRAIN, NUM_VAL, image_size=64, body="mannequin_small")
  return out, written


def config(directory, batch_size=4, **settings):
  return disk.config(directory, batch_size, image_size=48, **settings)


def test_reading_back_equals_what_was_written(built):
  directory, written = built
  read = {}
  for split, size in (("train", NUM_TRAIN), ("val", NUM_VAL)):
    data, wanted = records.open_split(directory, split)
    assert len(data) == size
    read[split] = {int(e["id"]): e for e in (records.decode(data[i], wanted) for i in range(size))}
    assert sorted(read[split]) == list(range(size))
  for split, example in [("train", e) for e in written[:NUM_TRAIN]] + [("val", e) for e in written[NUM_TRAIN:]]:
    stored = read[split][int(example["id"])]
    for name in ("keypoints3d", "visible", "betas", "transl", "focal_px", "center_px", "has_pose", "parts", "iuv"):
      np.testing.assert_array_equal(stored[name], example[name], err_msg=name)
    np.testing.assert_array_equal(stored["pose"][1:], example["body_pose"])
    np.testing.assert_allclose(stored["depth"], example["depth"], atol=0.51 * records.DEPTH_STEP_M)
    np.testing.assert_allclose(stored["keypoints2d"][:, :2] / 32 - 1, example["keypoints2d"][:, :2],
                               atol=1e-5 + 2 * np.max(example["keypoints2d"][:, 2] == 0))
    pixels = images.to_uint8(example["image"]).astype(float)
    assert np.abs(stored["image"] - pixels).mean() < 10  # JPEG of small, grainy pictures


def test_validation_people_are_not_training_people(built):
  _, written = built
  betas = np.stack([e["real_betas"] for e in written])
  train, val = betas[:NUM_TRAIN], betas[NUM_TRAIN:]
  assert np.abs(train[:, None] - val).max(-1).min() > 0.05
  assert all(e["has_pose"] for e in written[NUM_TRAIN:]) and not all(e["has_pose"] for e in written[:NUM_TRAIN])


def test_batches_are_functions_of_seed_and_step(built):
  directory, _ = built
  whole = source.open_source(config(directory), None)
  batches = [whole.batch(i) for i in range(8)]
  again = source.open_source(config(directory, num_threads=1), None)
  disk.assert_same(again.batch(6), batches[6])  # resumed at step 6, one thread
  halves = [source.open_source(config(directory), None, p, 2) for p in range(2)]
  for i in (0, 5, 7):
    parts = [half.batch(i) for half in halves]
    disk.assert_same({name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, batches[i])
  other = source.open_source(config(directory, seed=2), None).batch(0)
  assert np.any(other["id"] != batches[0]["id"])


def test_every_example_comes_once_an_epoch_in_new_order_and_new_clothes(built):
  directory, _ = built
  stream = source.open_source(config(directory, batch_size=NUM_TRAIN), None)
  first, second = stream.batch(0), stream.batch(1)
  np.testing.assert_array_equal(np.sort(first["id"]), np.arange(NUM_TRAIN))
  np.testing.assert_array_equal(np.sort(second["id"]), np.arange(NUM_TRAIN))
  assert np.any(first["id"] != second["id"])
  assert np.abs(first["gain"][np.argsort(first["id"])] - second["gain"][np.argsort(second["id"])]).max() > 0.1


def test_on_the_device_it_is_what_the_table_of_fields_says(built):
  directory, _ = built
  training = source.open_source(config(directory, maps=True), None)
  for opened in (training, source.open_split(config(directory), None, "val")):
    batch = jax.jit(opened.on_device)(opened.batch(0), people.assets())
    spec.check_batch(jax.device_get(batch), 48)
    assert ("iuv" in batch) == ("depth" in batch) == (opened is training)
    assert np.all(np.abs(np.asarray(batch["real_pose"]) @ np.swapaxes(batch["real_pose"], -1, -2) - np.eye(3)) < 1e-5)


def test_gains_act_before_normalisation(built):
  directory, _ = built
  stream = source.open_source(config(directory), None)
  host = stream.batch(0)
  device = jax.jit(stream.on_device)(host, people.assets())
  expected = np.clip(host["image"] * host["gain"][:, None, None], 0, 255)
  np.testing.assert_allclose(device["image"], np.asarray(images.normalize(expected)), atol=1e-5)


def test_evaluation_is_in_order_unaugmented_and_padded(built):
  directory, written = built
  split = source.open_split(config(directory, batch_size=4), None, "val")
  assert split.size == NUM_VAL and split.num_batches == 2
  batches = [split.batch(i) for i in range(2)]
  np.testing.assert_array_equal(np.concatenate([b["mask"] for b in batches]), [1, 1, 1, 1, 1, 0, 0, 0])
  for i, row in enumerate(np.concatenate([b["id"] for b in batches])[:NUM_VAL]):
    original = written[NUM_TRAIN:][row]
    np.testing.assert_allclose(batches[i // 4]["global_orient"][i % 4], original["global_orient"], atol=1e-6)
    inside = original["keypoints2d"][:, 2] > 0
    np.testing.assert_allclose(batches[i // 4]["keypoints2d"][i % 4, inside, :2],
                               1.5 * original["keypoints2d"][inside, :2], atol=1e-4)  # the box inside the wider picture


def test_rendered_splits_serve_a_data_set_that_lacks_them(built):
  directory, _ = built
  assert source.open_split(config(directory), None, "multiview").size == 512


def test_what_cannot_be_read_is_named_at_the_start(built, tmp_path):
  directory, _ = built
  (tmp_path / "empty").mkdir()
  damaged = tmp_path / "damaged"
  damaged.mkdir()
  for file in pathlib.Path(directory).iterdir():
    (damaged / file.name).write_bytes(file.read_bytes()[:2000] if "train" in file.name else file.read_bytes())
  for name, says in (("absent", "does not exist"), ("empty", "not a TFDS data set"), ("damaged", "cannot be read")):
    with pytest.raises(InputError, match=says) as caught:
      source.open_source(config(tmp_path / name), None)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_format_without_random_access_and_missing_files_are_named(tmp_path):
  other = disk.write(tmp_path / "other", 2, 1)
  info = other / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  gone = disk.write(tmp_path / "gone", 2, 1)
  next(gone.glob("*train*")).unlink()
  for directory in (other, gone):
    with pytest.raises(InputError, match="split 'train' of data set .* cannot be read") as caught:
      disk.training(directory)
    assert "\n" not in str(caught.value)


def test_a_data_set_built_anew_in_the_same_place_is_another_one(tmp_path):
  assert disk.training(disk.write(tmp_path / "people", 3, 1)).size == 3
  shutil.rmtree(tmp_path / "people")
  again = disk.training(disk.write(tmp_path / "people", 1, 1), batch_size=2)
  assert again.size == 1 and list(again.batch(3)["id"]) == [1000, 1000]


def test_a_build_overwrites_nothing_and_says_what_is_wrong(built, tmp_path):
  directory, _ = built
  for out, arguments, says in ((directory, (1, 1), "exists"), (tmp_path / "a" / "b", (1, 1), "does not exist"),
                               (tmp_path / "c", (0, 1), "at least one"), (tmp_path / "c", (1, 1, 8), "image_size")):
    with pytest.raises(InputError, match=says):
      build.build(out, *arguments)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch, error):
  def stop(*_):
    raise error
  monkeypatch.setattr(synthetic_people.SyntheticPeople, "_generate_examples", stop)
  with pytest.raises(error):
    build.build(tmp_path / "people", 2, 2, image_size=64, body="mannequin_small")
  assert not list(tmp_path.iterdir())


_ENDLESS = """
import sys, time
from jhmr.data.builders import examples
def endless():
  yield examples.record(0, b"", [1, 1, 1], (4, 4))
  print("begun", file=sys.stderr, flush=True)
  time.sleep(60)
examples.write(sys.argv[1], {"train": endless()})
"""


def test_what_a_killed_build_leaves_is_removed_by_the_next_and_nothing_else_is(tmp_path, capsys):
  command, env = [sys.executable, "-c", _ENDLESS, str(tmp_path / "people")], {"PYTHONPATH": os.pathsep.join(sys.path)}
  one, other = (subprocess.Popen(command, text=True, stderr=subprocess.PIPE, env=os.environ | env) for _ in range(2))
  for process in (one, other):
    assert process.stderr.readline() == "begun\n"
  (tmp_path / ".people.mine_too").mkdir()
  one.kill()
  one.wait()
  assert len(list(tmp_path.iterdir())) == 3
  disk.write(tmp_path / "people", 2, 1)
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 1 and said[0].startswith(f"removed {tmp_path / '.people.'}") and "interrupted" in said[0]
  left = sorted(d.name for d in tmp_path.iterdir())
  assert len(left) == 3 and left[-1] == "people" and ".people.mine_too" in left  # and the one still being written
  other.kill()
  other.communicate()
  one.stderr.close()
