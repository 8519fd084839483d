"""Eight fake CPU devices, programs compiled quickly and kept, and warnings of ours as errors."""

import importlib.metadata
import os
import pathlib

import pytest

# All of this must be set before jax starts. NPROC: more threads than devices, or XLA's CPU
# collectives can starve and abort when eight devices share two cores.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most of the tests' time is compiling: a third less
_flags = "--xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # a flag that does not exist ends the process
  _flags += " --xla_cpu_use_fusion_emitters=false"  # these take more than half of the time of compiling
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flags}"
CACHE = pathlib.Path(__file__).parent.parent / ".cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(scope="session", autouse=True)
def small_sheets():
  """Runs end with a picture of few people: drawing one of twelve takes as long as all else in a short run."""
  from jhmr import pictures
  pictures.ON_SHEET = pictures.SHEET_PEOPLE = 2
  pictures.SHEET_SAMPLES = 8


@pytest.fixture(scope="session")
def data_set(tmp_path_factory):
  """A folder of 40 training and 12 validation people on disk."""
  from jhmr.data import build
  out = tmp_path_factory.mktemp("people") / "set"
  build.build(out, 40, 12, image_size=48, body="mannequin_small")
  return out


@pytest.fixture(scope="session")
def pose_file(tmp_path_factory):
  """A file of 88 made-up poses for lifting: 64 to train on, 16 and 8 ambiguous ones to score."""
  import numpy as np
  from jhmr.data import lift_poses, lift_spec
  path = str(tmp_path_factory.mktemp("poses") / "poses.npz")
  rows = lift_spec.fake_batch(88)
  lift_poses.write(path, {k: rows[k] for k in ("pose2d", "gaussians", "pose3d", "hard")} | {
      "split": np.repeat(["train", "val", "val_hard"], [64, 16, 8])})
  return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, data_set):
  """The workdir of a short run that ended well."""
  from jhmr import train  # jax starts here, after the settings above
  import runs
  workdir = tmp_path_factory.mktemp("finished") / "run"
  train.train(runs.config_of(*runs.light(data_set), "duration=2", "eval_every=2"), str(workdir))
  return workdir
