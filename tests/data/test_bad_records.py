"""A record that cannot be read is skipped, counted and named; a run that meets too many stops with one line."""

import logging
import pathlib
import re

import numpy as np
import pytest

from jhmr.data import images
from jhmr.data import records
from jhmr.data import rows
from jhmr.data import source
from jhmr.errors import InputError
import disk


@pytest.fixture(scope="module")
def one_percent(tmp_path_factory):
  """200 training examples of which 2 are bad, 10 of evaluation of which 2 are bad."""
  return disk.write(tmp_path_factory.mktemp("data") / "people", 200, 10, {
      ("train", 17): "truncated", ("train", 140): "nan", ("val", 3): "empty", ("val", 9): "undecodable"})


def epoch(opened):
  return [opened.batch(i) for i in range(opened.num_batches)]


def test_training_goes_on_and_the_log_names_each_bad_record_once(one_percent, caplog):
  opened = disk.training(one_percent)
  batches = epoch(opened) + epoch(opened)
  named = [r.getMessage() for r in caplog.records if r.name == "jhmr.data"]
  assert len(named) == 2 and all(r.levelno == logging.WARNING for r in caplog.records)
  assert any("record 17 (id 1017): its JPEG is truncated" in m and "'train'" in m for m in named)
  assert any("record 140 (id 1140): keypoints3d holds numbers that are not finite" in m for m in named)
  assert opened.stats() == {"bad_records": 2, "reads": 404}
  ids = np.concatenate([b["id"] for b in batches[:25]])
  assert len(ids) == 200 and len(set(ids)) == 198 and not {1017, 1140} & set(ids)
  assert all(b["mask"].all() for b in batches)


def test_what_stands_in_does_not_depend_on_who_reads(one_percent):
  whole = [disk.training(one_percent).batch(i) for i in range(25)]
  halves = [disk.training(one_percent, (p, 2), num_threads=1) for p in range(2)]
  for i in reversed(range(25)):
    parts = [half.batch(i) for half in halves]
    disk.assert_same({name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, whole[i])


@pytest.mark.parametrize("kind", disk.BROKEN)
def test_every_kind_of_damage_is_met(tmp_path, kind, caplog):
  directory = disk.write(tmp_path / "people", 6, 1, {("train", 2): kind})
  opened = disk.training(directory, batch_size=6)
  assert 1002 not in opened.batch(0)["id"] and opened.stats() == {"bad_records": 1, "reads": 7}
  assert len(caplog.records) == 1 and "record 2 (id 1002): " in caplog.text


def test_a_damaged_file_costs_its_records_not_the_run(tmp_path, caplog):
  directory = disk.write(tmp_path / "people", 60, 1)
  file = next(pathlib.Path(directory).glob("*train*"))
  data = bytearray(file.read_bytes())
  where = data.find(disk.jpeg(disk.picture(30))[200:260])
  if where < 0:
    where = len(data) // 2  # the records are compressed
  data[where] ^= 255
  file.write_bytes(bytes(data))
  opened = disk.training(directory, batch_size=60)
  opened.batch(0)
  assert opened.stats()["bad_records"] >= 1 and len(caplog.records) == opened.stats()["bad_records"]


def test_half_of_them_bad_stops_the_run_with_one_line(tmp_path):
  directory = disk.write(tmp_path / "people", 80, 1, {("train", i): "truncated" for i in range(0, 80, 2)})
  with pytest.raises(InputError) as caught:
    epoch(disk.training(directory))
  said = str(caught.value)
  assert re.match(r"\d+ of \d+ reads \(\d+%\) of split 'train' of data set '.*people' met a bad record, more than "
                  r"config.data.max_bad_share 0.05: record \d+ \(id 10\d\d\): its JPEG is truncated; ", said)
  assert "\n" not in said and "build the data set again" in said
  allowed = disk.training(directory, max_bad_share=0.9)
  assert all(np.all(b["id"] % 2 == 1) for b in epoch(allowed)) and allowed.stats()["bad_records"] == 40


def test_a_few_bad_records_never_stop_a_short_run(tmp_path):
  directory = disk.write(tmp_path / "people", 20, 1, {("train", i): "empty" for i in range(9)})
  assert disk.training(directory, batch_size=4, max_bad_share=0.0).batch(0)["mask"].all()


def test_evaluation_masks_bad_records_and_keeps_the_rest_in_order(one_percent, caplog):
  split = source.open_split(disk.config(one_percent), None, "val")
  batches = [split.batch(i) for i in range(2)]
  mask, ids = (np.concatenate([b[name] for b in batches]) for name in ("mask", "id"))
  np.testing.assert_array_equal(mask, [1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
  np.testing.assert_array_equal(ids[mask > 0], 1000 + np.array([0, 1, 2, 4, 5, 6, 7, 8]))
  assert all(np.isfinite(value).all() for b in batches for value in b.values())
  assert "skipped: record 3 (id 1003): its image is empty" in caplog.text and "split 'val'" in caplog.text
  assert len(caplog.records) == 2
  assert split.stats()["bad_records"] == 2


def test_opening_fails_only_when_nothing_can_be_read(tmp_path):
  broken = {("train", i): "truncated" for i in range(1, 20)}
  assert disk.training(disk.write(tmp_path / "one", 20, 1, broken)).size == 20
  with pytest.raises(InputError, match=r"split 'train' .*cannot be read \(record 19: its JPEG is truncated\): build"):
    disk.training(disk.write(tmp_path / "none", 20, 1, broken | {("train", 0): "empty"}))


def test_stand_ins_jump_and_come_once():
  for size in (1, 2, 5, 21, 360, 100_000):
    tried = list(rows.substitutes(size - 1, size))
    assert tried[0] == size - 1 and len(set(tried)) == len(tried) == min(size, rows.MAX_TRIES)
  far = np.array(list(rows.substitutes(500, 100_000)))
  assert np.diff(np.sort(far)).min() > 1000  # one damaged file does not hold them all


def test_a_thumbnails_end_is_not_the_pictures():
  whole = disk.jpeg(disk.picture(1))
  thumbnail = b"Exif\0\0" + disk.jpeg(disk.picture(2, 16, 16))
  made = whole[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + whole[2:]
  np.testing.assert_array_equal(images.decode(made)[0], images.decode(whole)[0])
  assert images.decode(made + b"\0" * 16)[1] == 1  # what cameras append does no harm
  with pytest.raises(ValueError, match="truncated"):
    images.decode(made[:-40])


@pytest.mark.parametrize("change, says", [
    (dict(num_workers=-1), "config.data.num_workers is -1: give 0 or more"),
    (dict(num_threads=-2), "num_threads is -2"),
    (dict(max_bad_share=-0.1), "config.data.max_bad_share"), (dict(seed=-1), "config.seed is -1")])
def test_settings_out_of_range_are_named(one_percent, change, says):
  with pytest.raises(InputError, match=says):
    disk.training(one_percent, **change)


def test_features_that_are_missing_are_named():
  with pytest.raises(ValueError, match="pose holds 0 values"):
    records.parse(b"", {"pose": ((24, 3, 3), np.float32)})
