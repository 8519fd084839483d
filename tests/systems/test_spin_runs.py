"""Whole runs of SPIN on people from disk, mirrored and turned: stopped and resumed, on one process and on two."""

import jax
import numpy as np
import pytest

from jhmr import distributed, train
import runs
from test_resume import assert_ends_alike, whole_state

SPIN = str(runs.ROOT / "configs" / "spin.py") + ":smoke"


def overrides(data_set, *more):
  return (f"data.source={data_set}", "image_size=32", "eval_every=100", "checkpoint_every=6", "net.dropout=0.1",
          "data.share_2d_only=0.0", "batch_size=16", *more)


def table(workdir, step):
  state = whole_state(workdir, step)
  return {name: state[f"['memory']['fits']['{name}']"] for name in ("pose", "betas", "known")}


@pytest.mark.long
def test_a_resumed_run_has_the_same_fits_to_the_bit(tmp_path, data_set, monkeypatch):
  fits = tmp_path / "fits.npy"
  np.save(fits, np.zeros((40, 82), np.float32))
  config = lambda: runs.config_of(*overrides(data_set, "duration=6", "ema=0.9", f"fits={fits}"), config=SPIN)
  train.train(config(), str(tmp_path / "whole"))
  monkeypatch.setattr(distributed, "preempted", lambda cluster, step: step == 3)
  with pytest.raises(SystemExit):
    train.train(config(), str(tmp_path / "broken"))
  monkeypatch.undo()
  fits.unlink()  # by now the checkpoint has them
  train.train(config(), str(tmp_path / "broken"))
  assert_ends_alike(tmp_path / "whole", tmp_path / "broken", 6)
  assert table(tmp_path / "whole", 6)["known"].all(), "6 batches of 16 show all 40"


@pytest.mark.long
def test_two_processes_keep_the_table_that_one_keeps(tmp_path, data_set):
  plain = overrides(data_set, "duration=6", "net.dropout=0.0")
  runs.succeed(runs.start(tmp_path / "one", *plain, devices=4, config=SPIN, quick=False))
  one = table(tmp_path / "one", 6)
  runs.succeed(*runs.start_cluster(tmp_path / "two", *plain, config=SPIN, quick=False))
  two = table(tmp_path / "two", 6)
  np.testing.assert_array_equal(one["known"], two["known"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), one, two)
  for a, b in zip(runs.lines(tmp_path / "one"), runs.lines(tmp_path / "two"), strict=True):
    if a["kind"] == "train":
      np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)
      assert a["fits_improved"] == b["fits_improved"]
