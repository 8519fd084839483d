"""A run killed at any moment and started again ends bit for bit as one that was left alone."""

import json
import pathlib
import random
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from jhmr import distributed, train
import runs

STEPS = 60
KILLS = 8


def whole_state(workdir, step):
  """Every leaf of the saved TrainState, optimiser and counters too, by name."""
  import orbax.checkpoint as ocp
  reader, item = ocp.PyTreeCheckpointer(), pathlib.Path(workdir) / "checkpoints" / str(step) / "state"
  tree = reader.metadata(item).item_metadata.tree
  args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  state = reader.restore(item, args=ocp.args.PyTreeRestore(restore_args=args))
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def assert_ends_alike(one, two, step):
  a, b = whole_state(one, step), whole_state(two, step)
  assert a.keys() == b.keys() and len(a) > 100
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
  assert runs.lines(one) == runs.lines(two)
  steps = [r["step"] for r in runs.lines(two) if r["kind"] == "train"]
  assert steps == list(range(1, step + 1)), "every step once"


def kill_at_a_random_moment(process, workdir, rng):
  """SIGKILL while a checkpoint is being written, half of the time; else some steps or milliseconds later."""
  during_save, patience = rng.random() < 0.5, rng.randrange(1, 12)
  for line in process.stdout:
    if line.startswith("step "):
      patience -= 1
    if patience <= 0:
      break
  end = time.monotonic() + (2.0 if during_save else rng.uniform(0, 0.2))
  found = False
  while time.monotonic() < end and not found and process.poll() is None:
    found = during_save and any((pathlib.Path(workdir) / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
  process.kill()
  process.communicate()
  return found


@pytest.mark.long
def test_kills_at_any_moment_change_nothing(tmp_path, data_set):
  overrides = (*runs.light(data_set), f"duration={STEPS}", "log_every=1", "checkpoint_every=2", "eval_every=20",
               "ema=0.9", "batch_size=2", "net.hidden=8", "net.dropout=0.1")
  runs.succeed(runs.start(tmp_path / "whole", *overrides))
  rng, kills, saves = random.Random(0), 0, 0
  while kills < KILLS:
    process = runs.start(tmp_path / "broken", *overrides)
    during_save = kill_at_a_random_moment(process, tmp_path / "broken", rng)
    if process.returncode == 0:
      break
    assert process.returncode == -signal.SIGKILL
    kills, saves = kills + 1, saves + during_save
    if kills < KILLS and (tmp_path / "broken" / "checkpoints" / str(STEPS - 10)).exists():
      # Nearly done: the rest of the kills fall on a new run, so that there are enough.
      runs.succeed(runs.start(tmp_path / "broken", *overrides))
      assert_ends_alike(tmp_path / "whole", tmp_path / "broken", STEPS)
      (tmp_path / "broken").rename(tmp_path / f"broken_{kills}")
  runs.succeed(runs.start(tmp_path / "broken", *overrides))
  assert_ends_alike(tmp_path / "whole", tmp_path / "broken", STEPS)
  assert kills == KILLS and saves >= 2, (kills, saves)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [{3, 4, 12}], ids=str)
def test_preemption_at_any_step_loses_nothing(tmp_path, data_set, monkeypatch, steps):
  """In this process, so that the step is exact: 4, 8 and 12 are steps of evaluation, 12 is the last."""
  overrides = (*runs.light(data_set), "log_every=1", "checkpoint_every=100", "eval_every=4", "duration=12")
  train.train(runs.config_of(*overrides), str(tmp_path / "whole"))
  monkeypatch.setattr(distributed, "preempted", lambda cluster, step: step in steps and not steps.discard(step))
  for _ in range(len(steps)):
    with pytest.raises(SystemExit) as end:
      train.train(runs.config_of(*overrides), str(tmp_path / "broken"))
    assert end.value.code == distributed.EXIT_PREEMPTED
  train.train(runs.config_of(*overrides), str(tmp_path / "broken"))
  assert_ends_alike(tmp_path / "whole", tmp_path / "broken", 12)
  scores = [json.loads((tmp_path / n / "checkpoints/12/metrics/metrics").read_text()) for n in ("whole", "broken")]
  assert scores[0] == scores[1], "and the last checkpoint is as good as it is"


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_its_code(tmp_path, data_set):
  overrides = (*runs.light(data_set), "log_every=1", "checkpoint_every=100000", "duration=100000")
  process = runs.start(tmp_path / "run", *overrides)
  for line in process.stdout:
    if line.startswith("step 5/"):
      process.send_signal(signal.SIGTERM)
      break
  (code, out, _), = runs.finish(process)
  assert code == distributed.EXIT_PREEMPTED and "preempted: step" in out
  last = runs.lines(tmp_path / "run")[-1]["step"]
  assert (tmp_path / "run" / "checkpoints" / str(last)).is_dir()


@pytest.mark.long
def test_a_full_disk_ends_the_run_with_one_line_and_an_older_checkpoint(tmp_path, data_set):
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "none", disk]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("mounting a small file system needs root")
  try:
    overrides = (*runs.light(data_set), "duration=40", "log_every=1", "checkpoint_every=2", "keep=9")
    (code, _, err), = runs.finish(runs.start(disk / "run", *overrides))
    assert code == 2, err
    # tensorstore's threads may print what failed in them around our line, and into it.
    assert err.count("(the disk is full); checkpoint ") == 1, err[-3000:]
    kept = sorted(int(p.name) for p in (disk / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert kept and f"checkpoint {kept[-1]} is intact" in err
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    out, _ = runs.succeed(runs.start(disk / "run", *overrides))
    assert f"resumed at step {kept[-1]}" in out
  finally:
    subprocess.run(["umount", "-l", disk], check=True)
