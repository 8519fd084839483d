"""The input row: both loaders make the same pictures and labels, and a quick call returns numbers that make sense."""

import jax
import numpy as np
import pytest

from jhmr.benchmarks import input as row
from jhmr.benchmarks import timing
from jhmr.data import augment
from jhmr.data import records
from jhmr.data import rows

pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return row._write(tmp_path_factory.mktemp("input") / "boxes", 3, (200, 300, 384))


@pytest.mark.parametrize("augmentation", [
    augment.Augmentation(), augment.Augmentation(True, 0.0, 0.8, np.float32([0.7, 1.3, 1.0])),
    augment.Augmentation(False, 0.5, 1.25), augment.Augmentation(True, -0.9, 1.1)], ids=lambda a: f"{a.angle_rad}")
def test_both_loaders_make_the_same_example(folder, augmentation):
  opened = row.source(folder, num_threads=0)
  data, wanted = rows.open_plan(rows.Plan(str(folder / "set"), "train", row.SIZE, False, 0, True, 0))
  for i, file in enumerate(sorted(folder.glob("*.jpg"))):
    record = records.parse(data[i], wanted)
    ours = augment.apply(record, augmentation, row.SIZE)
    batch = {name: np.asarray(value)[None] for name, value in ours.items()} | {"prior": np.zeros(1, np.uint32)}
    image = np.asarray(jax.jit(opened.on_device)(batch, {})["image"])[0].transpose(2, 0, 1)
    peer = row.peer_row(file, record, augmentation)
    middle = (slice(None), slice(40, -40), slice(40, -40))  # Pillow's turn leaves black corners elsewhere than ours
    assert np.abs(image - peer["image"])[middle].mean() < 0.12 and peer["image"].dtype == np.float32  # of 4.5 in all
    for name in ("keypoints2d", "keypoints3d", "body_pose"):
      np.testing.assert_array_equal(ours[name], peer[name])


@pytest.mark.slow
def test_a_quick_call_returns_sane_numbers(monkeypatch):
  monkeypatch.setattr(timing, "_TURN_S", 0.01)
  monkeypatch.setattr(timing, "_SETTLE_S", 0.0)
  made = row.disk_input(seconds=0.03, num_images=8, step_batch=2)
  assert {"name", "unit", "ours", "peer", "peer_name", "flops_per_item", "bytes_per_item", "note"} == set(made)
  assert 20 < made["peer"] < 1e5 and 20 < made["ours"] < 1e5
  assert "is the bottleneck" in made["note"] and "photographs" in made["note"]
