"""Checkpoints come back exactly, anywhere; damage to any file is noticed; a full disk costs one checkpoint, no more."""

import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import checkpoint, files, parallel
from jhmr.errors import InputError
from jhmr.state import TrainState


def state_of(step):
  x = jnp.arange(6, dtype=jnp.float32).reshape(2, 3) * step
  return TrainState(step=jnp.asarray(step, jnp.int32), params={"net": {"w": x, "b": x[0].astype(jnp.bfloat16)}},
                    opt_state={"net": (jnp.asarray(step, jnp.int32), {"mu": x + 1})}, stats={"net": {"mean": x * 2}},
                    memory={}, skipped=jnp.asarray(0, jnp.int32))


def devices(n):
  return parallel.make("pmap", jax.devices()[:n])


def write(workdir, scores, mapper, keep=2, state=state_of):
  writer = checkpoint.open_writer(workdir, keep)
  for step, score in scores.items():
    checkpoint.save(writer, mapper.replicate(state(step)), step, score)
  checkpoint.close(writer)
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def read(workdir, mapper):
  """(state, step, damage of newer ones) that a run would go on from."""
  step, damaged = checkpoint.choose(workdir)
  writer = checkpoint.open_writer(workdir)
  state = checkpoint.restore(writer, step, state_of(0), mapper.replicated)
  checkpoint.close(writer)
  return state, step, damaged


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32))


@pytest.mark.parametrize("readers", [1, 8])
def test_a_checkpoint_of_four_devices_restores_exactly_on(tmp_path, readers):
  write(tmp_path, {3: 1.0}, devices(4))
  state, step, damaged = read(tmp_path, devices(readers))
  assert (step, damaged) == (3, [])
  assert_same(state, state_of(3))
  assert len(state.step.sharding.device_set) == readers


def test_no_checkpoint_is_none(tmp_path):
  assert checkpoint.choose(tmp_path) == (None, [])


def test_the_last_ones_and_the_best_one_are_kept(tmp_path):
  assert write(tmp_path, {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.8, 5: 0.7}, devices(1)) == [2, 4, 5]


def test_inference_takes_the_best_or_the_named_one_as_numpy(tmp_path):
  write(tmp_path, {1: 0.5, 2: 0.1, 3: 0.9}, devices(1))
  loaded, step = checkpoint.load_for_inference(str(tmp_path))
  assert step == 2
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(loaded))  # of no device: any machine reads it
  np.testing.assert_array_equal(loaded["params"]["net"]["w"], np.asarray(state_of(2).params["net"]["w"]))
  np.testing.assert_array_equal(loaded["stats"]["net"]["mean"], np.asarray(state_of(2).stats["net"]["mean"]))
  assert checkpoint.load_for_inference(str(tmp_path), 3)[1] == 3
  with pytest.raises(InputError, match=r"it has \[2, 3\]"):
    checkpoint.load_for_inference(str(tmp_path), 7)


def test_inference_takes_the_averaged_parameters(tmp_path):
  def averaged(step):
    state = state_of(step)
    return state.replace(ema=jax.tree.map(lambda x: x + 5, state.params))
  write(tmp_path, {1: 0.5}, devices(1), state=averaged)
  loaded, _ = checkpoint.load_for_inference(str(tmp_path))
  np.testing.assert_array_equal(loaded["params"]["net"]["w"], np.asarray(state_of(1).params["net"]["w"]) + 5)


def test_inference_takes_the_newest_when_none_was_scored(tmp_path):
  write(tmp_path, {1: checkpoint.NOT_SCORED, 2: checkpoint.NOT_SCORED}, devices(1))
  assert checkpoint.load_for_inference(str(tmp_path))[1] == 2


@pytest.mark.parametrize("harm", ["deleted", "truncated", "changed"])
def test_any_single_file_harmed_falls_back_to_the_checkpoint_before(tmp_path, harm):
  write(tmp_path, {1: 0.5, 2: 0.1}, devices(1))
  newest = tmp_path / "checkpoints" / "2"
  names = sorted(p for p in newest.rglob("*") if p.is_file())
  assert len(names) >= 10
  for path in names:
    content = path.read_bytes()
    if harm == "deleted":
      path.unlink()
    elif harm == "truncated":
      path.write_bytes(content[:len(content) // 2])
    elif path.name in ("commit_success.txt", "_CHECKPOINT_METADATA") and path.parent == newest:
      continue  # times and places of no consequence
    else:
      path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    step, damaged = checkpoint.choose(tmp_path)
    assert step == 1 and [s for s, _ in damaged] == [2] and path.name in damaged[0][1], path
    with pytest.raises(InputError, match="damaged"):
      checkpoint.load_for_inference(str(tmp_path), 2)
    path.write_bytes(content)
  assert_same(read(tmp_path, devices(1))[0], state_of(2))


def test_a_harmed_checkpoint_is_moved_out_of_the_way_not_deleted(tmp_path):
  write(tmp_path, {1: 0.5, 2: 0.1}, devices(1))
  (tmp_path / "checkpoints" / "2" / "state" / "_METADATA").unlink()
  state, step, damaged = read(tmp_path, devices(1))
  assert step == 1
  assert_same(state, state_of(1))
  checkpoint.set_aside(tmp_path, [s for s, _ in damaged])
  assert write(tmp_path, {2: 0.3}, devices(1)) == [1, 2]
  assert (tmp_path / "damaged" / "2" / "state").is_dir()
  assert read(tmp_path, devices(1))[1:] == (2, [])


def test_only_harmed_checkpoints_is_an_error_not_a_fresh_start(tmp_path):
  write(tmp_path, {1: 0.5}, devices(1))
  for file in pathlib.Path(tmp_path / "checkpoints" / "1" / "state").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  with pytest.raises(InputError, match="is sound"):
    checkpoint.choose(tmp_path)


def test_a_folder_without_checkpoints_is_one_line(tmp_path):
  with pytest.raises(InputError, match="train first"):
    checkpoint.load_for_inference(str(tmp_path))


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a file system of two megabytes."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("mounting a small file system needs root")
  yield folder
  subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_intact(small_disk):
  def state(step):
    noise = jax.random.normal(jax.random.key(step), (int(300e3),))  # 1.2 MB that do not compress
    return state_of(step).replace(memory={"noise": noise})
  write(small_disk, {1: 0.5}, devices(1), state=state)
  with pytest.raises(InputError, match="2 could not be written.*disk is full.*checkpoint 1 is intact") as error:
    write(small_disk, {2: 0.4}, devices(1), state=state)
  assert "\n" not in str(error.value)
  assert checkpoint.choose(small_disk) == (1, [])


def other_run(workdir, state):
  write(workdir, {7: 0.5}, devices(1), state=lambda step: state)


def test_a_warm_start_takes_networks_never_the_step_or_the_optimiser(tmp_path):
  other_run(tmp_path, state_of(7))
  fresh = state_of(0)
  fresh = fresh.replace(params=fresh.params | {"critic": {"w": jnp.ones(3)}}, ema=fresh.params)
  state, said = checkpoint.warm_start(fresh, str(tmp_path))
  assert "step 7" in said and said.endswith(": net")
  assert int(state.step) == 0
  assert_same(state.opt_state, fresh.opt_state)
  assert_same(state.params["critic"], fresh.params["critic"])
  for tree in (state.params["net"], state.ema["net"]):
    assert_same(jax.tree.map(jnp.asarray, tree), state_of(7).params["net"])
  assert_same(jax.tree.map(jnp.asarray, state.stats), state_of(7).stats)


def test_a_warm_start_from_another_network_names_what_differs(tmp_path):
  state = state_of(7)
  other_run(tmp_path, state.replace(params={"net": {"w": jnp.ones((2, 4)), "c": jnp.ones(1)}}))
  with pytest.raises(InputError, match="b, c, w differ"):
    checkpoint.warm_start(state_of(0), str(tmp_path))
  with pytest.raises(InputError, match="nothing to start from"):
    checkpoint.warm_start(state_of(0).replace(params={"flow": {}}), str(tmp_path))


def test_a_backbone_alone_goes_into_every_network_that_has_one(tmp_path):
  leaf = lambda x: {"conv1": {"kernel": jnp.full((2, 3), x)}}
  moments = lambda x: {"bn1": {"mean": jnp.full(3, x)}}
  other_run(tmp_path, TrainState(step=jnp.asarray(7, jnp.int32), params={"backbone": leaf(5.0)}, opt_state={},
                                 memory={}, stats={"backbone": moments(6.0)}))
  params = {"net": {"backbone": leaf(0.0), "head": leaf(1.0)}, "detector": {"deep": {"backbone": leaf(0.0)}},
            "critic": leaf(2.0)}
  fresh = TrainState(step=jnp.asarray(0, jnp.int32), params=params, opt_state={"net": leaf(3.0)}, memory={}, ema=params,
                     stats={"net": {"backbone": moments(0.0), "flow": moments(1.0)}})
  state, said = checkpoint.warm_start(fresh, str(tmp_path))
  assert said.endswith(": net/backbone, detector/deep/backbone")
  for tree in (state.params, state.ema):
    assert_same(jax.tree.map(jnp.asarray, tree), {
        "net": {"backbone": leaf(5.0), "head": leaf(1.0)}, "detector": {"deep": {"backbone": leaf(5.0)}},
        "critic": leaf(2.0)})
  assert_same(jax.tree.map(jnp.asarray, state.stats), {"net": {"backbone": moments(6.0), "flow": moments(1.0)}})
  assert_same(state.opt_state, fresh.opt_state)
  assert float(fresh.params["net"]["backbone"]["conv1"]["kernel"][0, 0]) == 0


def test_the_backbone_of_a_run_is_taken_alone_when_asked_for(tmp_path):
  leaf = lambda x: {"conv1": {"kernel": jnp.full((2, 3), x)}}
  run = lambda x, head: TrainState(step=jnp.asarray(7, jnp.int32), params={"net": {"backbone": leaf(x), **head}},
                                   opt_state={}, memory={}, stats={"net": {"backbone": {"bn1": jnp.full(3, x)}}})
  other_run(tmp_path / "one", run(5.0, {"head": leaf(1.0)}))
  fresh = run(0.0, {"decoder": leaf(2.0)})
  state, said = checkpoint.warm_start(fresh, f"{tmp_path / 'one'}:backbone")
  assert said.endswith(": net/backbone")
  assert_same(jax.tree.map(jnp.asarray, state.params), {"net": {"backbone": leaf(5.0), "decoder": leaf(2.0)}})
  assert_same(jax.tree.map(jnp.asarray, state.stats), {"net": {"backbone": {"bn1": jnp.full(3, 5.0)}}})
  other_run(tmp_path / "none", run(0.0, {}).replace(params={"net": {"head": leaf(1.0)}}))
  with pytest.raises(InputError, match="of a run that has 0"):
    checkpoint.warm_start(fresh, f"{tmp_path / 'none'}:backbone")


def test_a_backbone_that_fits_nowhere_twice_or_not_is_an_error(tmp_path):
  leaf = lambda *shape: {"kernel": jnp.zeros(shape)}
  state = lambda params: TrainState(step=jnp.asarray(0, jnp.int32), params=params, opt_state={}, memory={}, stats={})
  other_run(tmp_path, state({"backbone": leaf(2)}))
  for params, match in (({"net": {"head": leaf(2)}}, "nothing to start from"),
                        ({"net": {"a": {"backbone": leaf(2)}, "b": {"backbone": leaf(2)}}}, "net/a/backbone, net/b"),
                        ({"net": {"backbone": leaf(3)}}, "'net/backbone' .* kernel differ")):
    with pytest.raises(InputError, match=match):
      checkpoint.warm_start(state(params), str(tmp_path))


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
  path = tmp_path / "a.txt"
  with files.whole(path) as f:
    f.write("first")
  with pytest.raises(RuntimeError):
    with files.whole(path) as f:
      f.write("sec")
      raise RuntimeError
  assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.txt"]
