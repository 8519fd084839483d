"""The loop: the same on any mapper and device count, one program, one round of gradients; what it stops for."""

import contextlib
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from jhmr import checkpoint, command, distributed, files, guard, optim, parallel, report, systems, train
from jhmr import assets as assets_lib
from jhmr.data import source as source_lib
from jhmr.errors import InputError
from data import disk
import runs
from test_parallel import count_compilations

@pytest.fixture(scope="module")
def setting(data_set):
  """A config, its assets and ten batches on the host, some of the people with 2D labels only.

  Adam's eps is above rounding errors, else it would turn those of vanishing gradients into whole steps.
  """
  config = runs.config_of(*runs.light(data_set), "batch_size=8", "net.batch_norm=sync", "optim.learning_rate=1e-4")
  with config.unlocked():
    config.optim.eps = 1e-6
  config = optim.resolve(config, 40)
  assets = assets_lib.load(config)
  source = source_lib.open_source(config, assets)
  finish = jax.jit(source.on_device)
  batches = [jax.device_get(finish(source.batch(i), assets)) for i in range(10)]
  assert 0 < np.mean([b["has_pose"] for b in batches]) < 1
  return config, assets, batches


def run_steps(setting, kind, num_devices):
  """Losses and parameters of ten steps of HMR."""
  config, assets, batches = setting
  mapper, system = parallel.make(kind, jax.devices()[:num_devices]), systems.load(config)
  state = mapper.replicate(system.init(jax.random.key(0), batches[0], assets))
  assets, step, losses = mapper.replicate(assets), mapper.train(system.step), []
  for i, batch in enumerate(batches):
    with count_compilations() as compiled:
      state, metrics = step(state, mapper.to_devices(batch), assets)
    assert i == 0 or not compiled, f"step {i} compiled {compiled}"
    losses.append(float(metrics["loss"]))
  return losses, [np.asarray(x) for x in jax.tree.leaves(state.params)]


@pytest.fixture(scope="module")
def one_device(setting):
  return run_steps(setting, "pmap", 1)


@pytest.mark.parametrize("kind, num_devices", [("pmap", 8), ("shard_map", 1), ("shard_map", 8)])
def test_ten_steps_agree_with_one_device_under(setting, one_device, kind, num_devices):
  losses, params = run_steps(setting, kind, num_devices)
  np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
  for a, b in zip(params, one_device[1]):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_workdir_of_another_config_is_refused_and_left_alone(tmp_path):
  (tmp_path / "config.json").write_text(command.to_json(runs.config_of("batch_size=4")))
  before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
  with pytest.raises(InputError, match="batch_size .there 4"):
    train.train(runs.config_of("batch_size=2"), str(tmp_path))
  assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_run_is_not_written_into(tmp_path):
  (tmp_path / "thesis.tex").write_text("precious")
  with pytest.raises(InputError, match="not a run"):
    train.train(runs.config_of(), str(tmp_path))
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("overrides, said", [
    (("body=absent.pkl",), "absent.pkl"),
    (("system=hmrr",), "hmrr"),
    (("parallel=pjit",), "pjit"),
    (("batch_size=3",), "multiple of"),
    (("data.source=/nowhere/at/all",), "/nowhere/at/all"),
    (("splits=('vall',)",), "vall"),
    (("net.backbone=resnet51",), "resnet51"),
    (("eval_every=0",), "config.eval_every is 0: give 1 or more"),
    (("keep=0",), "config.keep is 0"),
    (("ema=1.5",), "config.ema is 1.5"),
    (("splits=()",), "config.splits is empty"),
    (("duration=inf steps",), "give a duration"),
    (("accumulate=3",), "config.accumulate 3 parts"),
    (("warm_start=/nowhere",), "/nowhere"),
])
def test_wrong_configs_are_one_line_and_write_nothing(tmp_path, overrides, said):
  workdir = tmp_path / "run"
  with pytest.raises(InputError) as error:
    train.train(runs.config_of(*overrides), str(workdir))
  assert said in str(error.value) and "\n" not in str(error.value)
  assert not workdir.exists()


def test_a_wrong_config_key_exits_with_code_two_and_one_line(tmp_path):
  (code, _, err), = runs.finish(runs.start(tmp_path / "run", "batchsize=3"))
  assert code == 2 and not (tmp_path / "run").exists()
  assert [l for l in err.splitlines() if l.startswith("error:")] == err.splitlines()[-1:]
  assert "did you mean config.batch_size?" in err


def test_a_loss_that_is_not_finite_stops_the_run_naming_term_and_checkpoint(tmp_path, data_set):
  config = runs.config_of(*runs.light(data_set), "optim.learning_rate=1e30", "optim.clip_norm=0.0", "duration=4",
                          "log_every=1", "checkpoint_every=1")
  with pytest.raises(InputError, match=r"step [23]: .*loss.* not finite .*the last checkpoint is step [12]"):
    train.train(config, str(tmp_path / "run"))


def test_a_bad_step_may_be_left_out_and_is_counted(tmp_path, data_set, monkeypatch, capfd):
  plain = source_lib.open_source

  def poisoned(*arguments):
    source = plain(*arguments)
    def batch(i):
      rows = source.batch(i)
      return rows | {"betas": np.full_like(rows["betas"], np.inf if i == 1 else 0)}
    return source._replace(batch=batch)
  monkeypatch.setattr(source_lib, "open_source", poisoned)
  overrides = (*runs.light(data_set), "duration=4", "log_every=1", "checkpoint_every=1", "keep=5")
  state = train.train(runs.config_of(*overrides, "skip_bad_steps=1"), str(tmp_path / "skipped"))
  assert (int(state.step), int(state.skipped)) == (4, 1)
  assert "step 2: " in capfd.readouterr().err
  rows = [r for r in runs.lines(tmp_path / "skipped") if r["kind"] == "train"]
  assert [r["skipped"] for r in rows] == [0, 1, 1, 1] and np.isfinite(rows[-1]["loss"])
  one, two = (checkpoint.load_for_inference(str(tmp_path / "skipped"), i)[0] for i in (1, 2))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
    np.testing.assert_array_equal(a, b)
  with pytest.raises(InputError, match=r"step 2: .*betas.* not finite .betas of example .* is not finite"):
    train.train(runs.config_of(*overrides), str(tmp_path / "stopped"))


def all_reduces(text):
  """[[shape of every operand]] of each all-reduce in compiled HLO."""
  ops = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
  return [sorted(tuple(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"f32\[([\d,]*)\]", op))
          for op in ops]


@contextlib.contextmanager
def optimised():
  """Compiles as a user would; the tests do without most optimisations, to be quicker."""
  before = jax.config.values["jax_disable_most_optimizations"]
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_gradients_are_reduced_in_one_round(setting, kind):
  config, assets, batches = setting
  config = optim.resolve(config, 0)  # a copy
  with config.unlocked():
    config.net.batch_norm = "device"  # synchronised batch norm has reductions of its own
  mapper, system = parallel.make(kind), systems.load(config)
  state = jax.eval_shape(lambda: guard.prepared(system.init(jax.random.key(0), batches[0], assets), 0.9))
  step = mapper.train(guard.guarded(system.step, 0.9))
  with optimised():
    rounds = all_reduces(step.lower(state, mapper.to_devices(batches[0]), assets).compile().as_text())
  kernels = sorted(x.shape for x in jax.tree.leaves(state.params) if x.ndim > 1)
  with_kernels = [r for r in rounds if any(len(shape) > 1 for shape in r)]
  assert len(with_kernels) == 1, "every gradient in one all-reduce"
  assert [shape for shape in with_kernels[0] if len(shape) > 1] == kernels
  assert len(rounds) == 2 and set(rounds[0] if rounds[1] is with_kernels[0] else rounds[1]) == {()}  # label counts


def test_nothing_recompiles_over_many_steps(data_set, tmp_path, monkeypatch):
  at, plain = {}, report.progress
  with count_compilations() as compiled:
    monkeypatch.setattr(report, "progress", lambda log, step, *a: (at.update({step: len(compiled)}),
                                                                   plain(log, step, *a)))
    train.train(runs.config_of(*runs.light(data_set), "log_every=20", "checkpoint_every=35", "eval_every=80",
                               "duration=80"), str(tmp_path / "run"))
  assert at[1] > 0
  assert set(compiled[at[1]:at[80]]) <= {"jit(slice)"}, "the first checkpoint is cut into what each device writes"
  assert at[40] == at[80]


def test_one_corrupt_image_in_a_hundred_is_named_in_the_log_and_half_of_them_stop_the_run(tmp_path, capfd):
  few = disk.write(tmp_path / "few", 100, 8, {("train", 17): "truncated"})
  workdir = tmp_path / "run"
  train.train(runs.config_of(*runs.light(few), "duration=20", "log_every=20"), str(workdir))
  log = (workdir / "logs" / "process_0.log").read_text()
  assert log.count("bad record") == 1 and "record 17 (id 1017): its JPEG is truncated" in log
  assert runs.lines(workdir, "timing.jsonl")[-1]["bad_records"] == 1
  many = disk.write(tmp_path / "many", 100, 8, {("train", i): "truncated" for i in range(0, 100, 2)})
  with pytest.raises(InputError, match=r"reads .* of split 'train' .*many' met a bad record, more than"):
    train.train(runs.config_of(*runs.light(many), "duration=20"), str(tmp_path / "other"))


def test_a_profile_and_what_steps_took_are_there_on_request(tmp_path, data_set):
  train.train(runs.config_of(*runs.light(data_set), "duration=9", "log_every=3"), str(tmp_path / "run"), profile=True)
  assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
  rows = runs.lines(tmp_path / "run", "timing.jsonl")
  assert [r["step"] for r in rows] == [3, 6, 9]
  assert all(0 < r["step_s"] < 60 and 0 <= r["data_wait_s"] <= r["step_s"] and r["host_bytes"] > 1e8 for r in rows)
  np.testing.assert_allclose([r["examples_per_s"] * r["step_s"] for r in rows], 8)


def test_a_workdir_that_cannot_be_one_is_one_line(tmp_path, data_set):
  (tmp_path / "file").write_text("")
  config = runs.config_of(*runs.light(data_set))
  for workdir, said in ((tmp_path / "file", "cannot write to"), ("gs://bucket/run", "mount the bucket")):
    with pytest.raises(InputError, match=said):
      train.train(config, str(workdir))


def test_two_runs_never_write_to_one_workdir(tmp_path, data_set):
  (tmp_path / "logs").mkdir()
  with files.locked(tmp_path / "logs" / "lock"):
    with pytest.raises(InputError, match="another process is writing"):
      train.train(runs.config_of(*runs.light(data_set)), str(tmp_path))
  assert not (tmp_path / "config.json").exists()


@pytest.mark.long
def test_a_step_that_never_ends_ends_the_process_with_its_traceback(tmp_path, data_set):
  stuck = tmp_path / "stuck.py"
  stuck.write_text("import time\nfrom jhmr import command, train\n"
                   "ahead = train.source_lib.ahead\n"
                   "def slow(*a):\n"
                   "  for i, batch in enumerate(ahead(*a)):\n"
                   "    time.sleep(1000 if i == 3 else 0)\n"
                   "    yield batch\n"
                   "train.source_lib.ahead = slow\n"
                   "command.run(train.main)\n")
  process = subprocess.run([sys.executable, str(stuck), f"--config={runs.QUICK}", f"--workdir={tmp_path / 'run'}",
                            *(f"--config.{o}" for o in (*runs.light(data_set), "duration=9", "stuck_after_s=3"))],
                           cwd=runs.ROOT, env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(runs.ROOT)}, text=True,
                           capture_output=True, timeout=300, check=False)
  assert process.returncode == distributed.EXIT_PEER_LOST and "in slow" in process.stderr, process.stderr[-2000:]
