"""Checkpoints come back exactly, anywhere; damaged ones are skipped and named."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import checkpoint, parallel
from jhmr.errors import InputError
from jhmr.state import TrainState


def state_of(step):
  x = jnp.arange(6, dtype=jnp.float32).reshape(2, 3) * step
  return TrainState(step=jnp.asarray(step, jnp.int32), params={"net": {"w": x, "b": x[0].astype(jnp.bfloat16)}},
                    opt_state={"net": (jnp.asarray(step, jnp.int32), {"mu": x + 1})}, stats={"net": {"mean": x * 2}},
                    memory={})


def devices(n):
  return parallel.make("pmap", jax.devices()[:n])


def write(workdir, scores, mapper, keep=2):
  with checkpoint.open_manager(workdir, keep) as manager:
    for step, score in scores.items():
      checkpoint.save(manager, mapper.replicate(state_of(step)), score)
    manager.wait_until_finished()
    return sorted(manager.all_steps())


def read(workdir, mapper):
  with checkpoint.open_manager(workdir) as manager:
    target = mapper.replicate(state_of(0))
    return checkpoint.restore(manager, target, target.step.sharding)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32))


@pytest.mark.parametrize("readers", [1, 8])
def test_a_checkpoint_of_four_devices_restores_exactly_on(tmp_path, readers):
  write(tmp_path, {3: 1.0}, devices(4))
  restored = read(tmp_path, devices(readers))
  assert restored.step == 3
  assert_same(restored.state, state_of(3))


def test_no_checkpoint_is_none(tmp_path):
  assert read(tmp_path, devices(1)) is None


def test_the_last_ones_and_the_best_one_are_kept(tmp_path):
  assert write(tmp_path, {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.8, 5: 0.7}, devices(1)) == [2, 4, 5]


def test_inference_takes_the_best_or_the_named_one_as_numpy(tmp_path):
  write(tmp_path, {1: 0.5, 2: 0.1, 3: 0.9}, devices(1))
  loaded, step = checkpoint.load_for_inference(str(tmp_path))
  assert step == 2
  np.testing.assert_array_equal(loaded["params"]["net"]["w"], np.asarray(state_of(2).params["net"]["w"]))
  np.testing.assert_array_equal(loaded["stats"]["net"]["mean"], np.asarray(state_of(2).stats["net"]["mean"]))
  assert checkpoint.load_for_inference(str(tmp_path), 3)[1] == 3
  with pytest.raises(InputError, match=r"it has \[2, 3\]"):
    checkpoint.load_for_inference(str(tmp_path), 7)


def test_inference_takes_the_newest_when_none_was_scored(tmp_path):
  write(tmp_path, {1: checkpoint.NOT_SCORED, 2: checkpoint.NOT_SCORED}, devices(1))
  assert checkpoint.load_for_inference(str(tmp_path))[1] == 2


def test_a_damaged_newest_checkpoint_is_skipped_and_named(tmp_path):
  write(tmp_path, {1: 0.5, 2: 0.1}, devices(1))
  shutil.rmtree(tmp_path / "checkpoints" / "2" / "state")
  restored = read(tmp_path, devices(1))
  assert restored.step == 1 and restored.skipped[0].startswith("2: ")
  assert_same(restored.state, state_of(1))


def test_only_damaged_checkpoints_is_an_error_not_a_fresh_start(tmp_path):
  write(tmp_path, {1: 0.5}, devices(1))
  for file in pathlib.Path(tmp_path / "checkpoints" / "1" / "state").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  with pytest.raises(InputError, match="can be read"):
    read(tmp_path, devices(1))


def test_a_folder_without_checkpoints_is_one_line(tmp_path):
  with pytest.raises(InputError, match="train first"):
    checkpoint.load_for_inference(str(tmp_path))
