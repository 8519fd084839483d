"""The loop: killed and resumed runs end bit for bit where uninterrupted ones do, on any mapper and device count."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from jhmr import checkpoint, command, parallel, systems, train
from jhmr import assets as assets_lib
from jhmr.data import source as source_lib
from jhmr.errors import InputError
from test_parallel import count_compilations

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = str(ROOT / "configs" / "quickstart.py") + ":smoke"


def config_of(*overrides):
  return command.parse_config(["x", f"--config={SMOKE}", *(f"--config.{o}" for o in overrides)])[0]


@pytest.fixture(scope="module")
def setting():
  """A config, its assets and ten rendered batches on the host, half of the people with 2D labels only.

  The batches are rendered once: pictures of one device's share come from another program and differ by rounding.
  Adam's eps is above rounding errors, else it would turn those of vanishing gradients into whole steps.
  """
  config = config_of("batch_size=8", "net.batch_norm=sync", "data.share_2d_only=0.5", "optim.learning_rate=1e-4")
  with config.unlocked():
    config.optim.eps = 1e-6
  assets = assets_lib.load(config)
  source = source_lib.open_source(config, assets)
  render = jax.jit(source.on_device)
  batches = [jax.device_get(render(source.batch(i), assets)) for i in range(10)]
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


def start(workdir, *overrides):
  """`python -m jhmr.train` on one CPU device, as a user would run it."""
  env = os.environ | {"XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
  arguments = [f"--config={SMOKE}", f"--workdir={workdir}", *(f"--config.{o}" for o in overrides)]
  return subprocess.Popen([sys.executable, "-m", "jhmr.train", *arguments], cwd=ROOT, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


LONG = ("duration=12", "checkpoint_every=3", "log_every=1", "eval_every=100")


def test_a_run_killed_in_the_middle_ends_bitwise_where_an_uninterrupted_one_does(tmp_path):
  whole = start(tmp_path / "whole", *LONG)
  assert whole.communicate()[0] and whole.returncode == 0
  broken = start(tmp_path / "broken", *LONG)
  for line in broken.stdout:
    if line.startswith("step 8/"):
      broken.send_signal(signal.SIGKILL)
  broken.communicate()
  assert broken.returncode == -signal.SIGKILL
  again = start(tmp_path / "broken", *LONG)
  out, _ = again.communicate()
  assert again.returncode == 0 and "resumed at step" in out
  read = lambda name: [json.loads(l) for l in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
  a, b = read("whole"), read("broken")
  assert [r["step"] for r in a if r["kind"] == "train"] == list(range(1, 13))
  assert a == b
  x, y = (checkpoint.load_for_inference(str(tmp_path / n), 12)[0] for n in ("whole", "broken"))
  for p, q in zip(jax.tree.leaves(x), jax.tree.leaves(y)):
    np.testing.assert_array_equal(p, q)


def test_a_finished_run_leaves_everything_a_user_looks_for(finished_run):
  left = {p.name for p in finished_run.iterdir()}
  assert {"config.json", "metrics.jsonl", "checkpoints", "events", "predictions.png"} <= left
  lines = [json.loads(l) for l in (finished_run / "metrics.jsonl").read_text().splitlines()]
  assert {l["kind"] for l in lines} == {"train", *config_of().splits}
  assert all(l["pa_mpjpe_mm"] > 0 for l in lines if l["kind"] == "val")


def test_a_workdir_of_another_config_is_refused_and_left_alone(tmp_path):
  (tmp_path / "config.json").write_text(command.to_json(config_of("batch_size=4")))
  before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
  with pytest.raises(InputError, match="batch_size .there 4"):
    train.train(config_of("batch_size=2"), str(tmp_path))
  assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_run_is_not_written_into(tmp_path):
  (tmp_path / "thesis.tex").write_text("precious")
  with pytest.raises(InputError, match="not a run"):
    train.train(config_of(), str(tmp_path))
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("overrides, said", [
    (("body=absent.pkl",), "absent.pkl"),
    (("system=hmrr",), "hmrr"),
    (("parallel=pjit",), "pjit"),
    (("batch_size=3",), "multiple of"),
    (("data.source=/nowhere/at/all",), "/nowhere/at/all"),
    (("splits=('vall',)",), "vall"),
    (("net.backbone=resnet51",), "resnet51"),
])
def test_wrong_configs_are_one_line_and_write_nothing(tmp_path, overrides, said):
  workdir = tmp_path / "run"
  with pytest.raises(InputError) as error:
    train.train(config_of(*overrides), str(workdir))
  assert said in str(error.value) and "\n" not in str(error.value)
  assert not workdir.exists()


def test_a_wrong_config_key_exits_with_code_two_and_one_line(tmp_path):
  process = start(tmp_path / "run", "batchsize=3")
  out, err = process.communicate()
  assert process.returncode == 2 and not (tmp_path / "run").exists()
  assert [l for l in err.splitlines() if l.startswith("error:")] == err.splitlines()[-1:]
  assert "did you mean config.batch_size?" in err


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_term(tmp_path):
  config = config_of("optim.learning_rate=1e30", "optim.clip_norm=0.0", "duration=4", "log_every=1")
  with pytest.raises(InputError, match="not finite"):
    train.train(config, str(tmp_path / "run"))
