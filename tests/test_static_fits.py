"""Static fits: every example has its row, an interrupted run goes on, SPIN starts from them."""

import json

import numpy as np
import pytest

from data import disk
from jhmr import assets, fits_memory, static_fits
from jhmr.data import source
from jhmr.data.builders import examples
from jhmr.errors import InputError
from jhmr.fitting import smplify
import runs

SPIN = str(runs.ROOT / "configs" / "spin.py") + ":smoke"


def fit(out, *overrides):
  argv = ["static_fits", f"--config={SPIN}", f"--out={out}", "--method=spin", "--steps=20",
          *(f"--config.{o}" for o in overrides)]
  static_fits.main(argv)
  with np.load(out) as f:
    return dict(f)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
  """A folder of 20 people of random keypoints; the record of one cannot be read, and one has no keypoints."""
  out = tmp_path_factory.mktemp("people") / "set"
  made = [disk.record(i, "empty" if i == 5 else "") | {"id": i} for i in range(20)]
  made[7]["keypoints2d"] = np.zeros((49, 3), np.float32)
  examples.write(out, {"train": made, "val": made[:4]})
  return f"data.source={out}", "data.max_bad_share=0.5", "batch_size=8"


@pytest.fixture(scope="module")
def fits(tmp_path_factory, people):
  out = tmp_path_factory.mktemp("fits") / "fits.npz"
  return out, fit(out, *people)


def test_every_example_on_disk_has_a_fit_under_its_id(fits, capfd):
  out, found = fits
  shapes = {"pose": (20, 72), "betas": (20, 10), "quality": (20,), "data": ()}
  assert {k: v.shape for k, v in found.items()} == shapes
  np.testing.assert_array_equal(np.flatnonzero(np.isinf(found["quality"])), [5, 7])
  assert np.unique(found["pose"], axis=0).shape == (20, 72)
  assert np.linalg.norm(found["pose"].reshape(20, 24, 3), axis=-1).max() < np.pi + 1e-3
  np.testing.assert_array_equal(np.flatnonzero(~fits_memory.read(str(out))["known"]), [5, 7])
  assert not out.with_name("fits.npz.partial").exists()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_alike(fits, people, tmp_path, monkeypatch, capfd):
  _, whole = fits
  out, put, calls = tmp_path / "fits.npz", static_fits._put, []  # pylint: disable=protected-access

  def interrupted(found, rows, size):
    if len(calls) == 2:
      raise KeyboardInterrupt
    calls.append(put(found, rows, size))

  monkeypatch.setattr(static_fits, "_SAVE_EVERY_S", 0)
  with monkeypatch.context() as patch:
    patch.setattr(static_fits, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
      fit(out, *people)
  assert not out.exists()
  again = fit(out, *people)
  assert "going on from batch 2" in capfd.readouterr().out
  for name, value in whole.items():
    np.testing.assert_array_equal(again[name], value)


def test_what_cannot_be_fitted_is_said_at_once(tmp_path):
  with pytest.raises(InputError, match="rendered people never end"):
    fit(tmp_path / "fits.npz", "data.examples=0")
  with pytest.raises(InputError, match="give a file .npz"):
    fit(tmp_path / "nowhere" / "fits.npz")
  with pytest.raises(InputError, match="a config of spin"):
    static_fits.main(["static_fits", f"--config={runs.HMR}", f"--out={tmp_path}/fits.npz"])
  for flag, says in (("--workdir=x", "unknown option '--workdir=x'"), ("--profile", "unknown option"),
                     ("--steps=-1", "--steps is -1")):
    with pytest.raises(InputError, match=says):
      static_fits.main(["static_fits", f"--config={SPIN}", f"--out={tmp_path}/fits.npz", flag])


def made_of(path, config):
  """A file of fits that says that it is of the config's data."""
  np.savez(path, pose=np.zeros((24, 72)), betas=np.zeros((24, 10)), data=json.dumps(source.identity(config)))
  return f"fits={path}"


def test_fits_of_other_data_are_refused_by_what_differs(tmp_path, people):
  configured = lambda *overrides, name="spin": runs.config_of(
      *overrides, config=f"{runs.ROOT}/configs/open_benchmark.py:{name},smoke")
  fits = made_of(tmp_path / "fits.npz", configured())
  check = lambda config: assets._fits(config)  # pylint: disable=protected-access
  for name in ("spin", "spin_25", "spin_static"):  # the same people, otherwise fitted and shown
    assert len(check(configured(fits, "image_size=32", "batch_size=4", "data.photo=0.5", name=name))["pose"]) == 24
  with pytest.raises(InputError, match="fits.npz' is of other data: seed .there 0, here 1. differ"):
    check(configured(fits, "seed=1"))
  with pytest.raises(InputError, match="data set .there absent"):
    check(configured(fits, people[0]))
  np.savez(tmp_path / "silent.npz", pose=np.zeros((24, 72)), betas=np.zeros((24, 10)))
  check(configured(f"fits={tmp_path}/silent.npz", "seed=1"))


def test_joints_that_do_not_count_are_the_configs_for_its_own_method():
  config = runs.config_of("fitting.ignored=('nose',)", config=SPIN)
  ignored = lambda method: static_fits._method(config, method).ignored  # pylint: disable=protected-access
  assert ignored("spin") == ("nose",) and ignored("smplify") == smplify.METHODS["smplify"].ignored
