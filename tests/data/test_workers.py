"""Worker processes give the batches that threads give, end when they should, and never outlive who asked."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jhmr.data import pools
from jhmr.data import source
from jhmr.errors import InputError
import disk


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  """40 training examples, 3 of them bad."""
  return disk.write(tmp_path_factory.mktemp("data") / "people", 40, 10,
                    {("train", 4): "truncated", ("train", 5): "nan", ("train", 33): "empty", ("val", 2): "empty"})


def children(pid):
  """Process ids of the running children of a process."""
  found = []
  for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      state, parent = entry.read_text().rpartition(")")[2].split()[:2]
    except OSError:
      continue
    if int(parent) == pid and state != "Z":
      found.append(int(entry.parent.name))
  return found


def test_workers_threads_and_a_direct_seek_agree_to_the_bit(directory, caplog):
  sequential = disk.training(directory, maps=True, num_threads=3)
  batches = [sequential.batch(i) for i in range(11)]
  workers = disk.training(directory, maps=True, num_workers=2)
  for i in (10, 0, 1, 2, 7):
    disk.assert_same(workers.batch(i), batches[i])
  alone = disk.training(directory, maps=True, num_threads=0)
  disk.assert_same(alone.batch(6), batches[6])
  halves = [disk.training(directory, (p, 2), maps=True, num_workers=2) for p in range(2)]
  for i in (9, 3):
    parts = [half.batch(i) for half in halves]
    disk.assert_same({name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, batches[i])
  assert sequential.stats()["bad_records"] == 3 and workers.stats()["bad_records"] > 0
  assert all("skipped: record" in r.getMessage() for r in caplog.records)
  for opened in (workers, *halves, sequential, alone):
    opened.close()
    opened.close()


def test_training_and_evaluation_share_workers_until_both_are_done(directory):
  before = set(children(os.getpid()))
  training = disk.training(directory, num_workers=2)
  split = source.open_split(disk.config(directory, num_workers=2), None, "val")
  assert set(children(os.getpid())) == before  # none is needed yet
  expected = source.open_split(disk.config(directory), None, "val").batch(0)
  training.batch(0)
  disk.assert_same(split.batch(0), expected)
  assert len(set(children(os.getpid())) - before) == 2
  training.close()
  disk.assert_same(split.batch(0), expected)
  split.close()
  assert set(children(os.getpid())) == before and not pools._shared


def test_a_worker_that_dies_is_replaced(directory, caplog):
  expected = disk.training(directory).batch(8)
  before = set(children(os.getpid()))
  opened = disk.training(directory, num_workers=1)
  opened.batch(0)
  for worker in set(children(os.getpid())) - before:
    os.kill(worker, signal.SIGKILL)
  disk.assert_same(opened.batch(8), expected)
  assert "a data worker died (exit code -9)" in caplog.text
  opened.close()


def test_a_worker_that_dies_again_stops_the_run(directory, monkeypatch):
  monkeypatch.setattr(pools, "_COMMAND", "import sys; sys.exit(3)  # {path!r}")
  opened = disk.training(directory, num_workers=1)
  with pytest.raises(InputError, match=r"exit code 3.*twice: lower config.data.num_workers"):
    opened.batch(0)
  opened.close()


def test_a_row_without_any_readable_record_is_the_users_error_in_workers_too(tmp_path):
  broken = {("train", i): "truncated" for i in range(1, 100)}
  opened = disk.training(disk.write(tmp_path / "people", 100, 1, broken), batch_size=64, num_workers=1)
  with pytest.raises(InputError, match="32 records tried for one row"):
    opened.batch(0)
  opened.close()


_PARENT = """
import sys, time
import ml_collections
from jhmr.data import source
config = ml_collections.ConfigDict(dict(seed=1, batch_size=8, image_size=32, data=dict(
    source=sys.argv[1], mocap="", num_workers=int(sys.argv[2]))))
opened = source.open_source(config, None)
batch = opened.batch(0)
print("ready", int(batch["id"].sum()), flush=True)
if sys.argv[3] == "stay":
  time.sleep(60)
"""


def parent(directory, num_workers, then):
  return subprocess.Popen([sys.executable, "-W", "error", "-c", _PARENT, str(directory), str(num_workers), then],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_workers_die_with_a_parent_that_is_killed(directory):
  process = parent(directory, 2, "stay")
  assert process.stdout.readline().startswith("ready")
  workers = children(process.pid)
  assert workers
  for worker in workers:
    loaded = pathlib.Path(f"/proc/{worker}/maps").read_text()
    assert "jaxlib" not in loaded and b"JAX_PLATFORMS=cpu" in pathlib.Path(f"/proc/{worker}/environ").read_bytes()
  process.kill()
  process.wait()
  end = time.monotonic() + 10
  alive = lambda: [w for w in workers if pathlib.Path(f"/proc/{w}/stat").exists()
                   and pathlib.Path(f"/proc/{w}/stat").read_text().rpartition(")")[2].split()[0] != "Z"]
  while alive() and time.monotonic() < end:
    time.sleep(0.05)
  assert not alive()
  process.stdout.close()
  process.stderr.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_program_that_just_ends_does_not_hang_and_makes_no_noise(directory, num_workers):
  process = parent(directory, num_workers, "end")
  out, err = process.communicate(timeout=60)
  assert process.returncode == 0 and out.startswith("ready")
  assert all(line.startswith("bad record in split") for line in err.splitlines()), err


def test_interrupts_are_for_the_parent(directory):
  """Ctrl-C reaches the whole group: workers must go on until the parent says so."""
  before = set(children(os.getpid()))
  opened = disk.training(directory, num_workers=1)
  opened.batch(0)
  for worker in set(children(os.getpid())) - before:
    os.kill(worker, signal.SIGINT)
    os.kill(worker, signal.SIGTERM)
  assert opened.batch(1)["id"].shape == (8,)
  assert set(children(os.getpid())) - before
  opened.close()
