"""The table of best fits: what is stored in any orientation is read in any other, the same on every device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import fits_memory, parallel
from jhmr.body import rotations
from jhmr.data import augment
from jhmr.errors import InputError

N = 20
matrices = lambda pose: np.asarray(rotations.axis_angle_to_matrix(np.asarray(pose).reshape(-1, 24, 3)))


def poses(seed, size, angle=None):
  """Axis-angle poses [size, 72], all joints turned by `angle` where one is given."""
  axis = np.random.default_rng(seed).normal(size=(size, 24, 3))
  if angle is not None:
    axis *= angle / np.linalg.norm(axis, axis=-1, keepdims=True)
  return axis.reshape(size, 72).astype(np.float32)


def draw(seed, size, num_examples=N):
  """Arguments of `update` for a batch of distinct ids."""
  rng = np.random.default_rng(seed)
  f32 = lambda x: x.astype(np.float32)
  return {"ids": rng.permutation(num_examples)[:size].astype(np.int32), "pose": poses(seed, size),
          "betas": f32(rng.normal(size=(size, 10))), "objective": f32(rng.uniform(size=size)),
          "better": np.ones(size, bool), "flip": f32(rng.integers(0, 2, size)),
          "angle_rad": f32(rng.uniform(-1, 1, size) * (rng.random(size) < 0.6))}


def table(seed=0):
  return fits_memory.create(N, {"pose": poses(seed, N), "betas": np.ones((N, 10)), "known": np.arange(N) < 15})


@jax.jit
def alone(memory, batch):
  return fits_memory.update(memory, **batch, axis_name=None)


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


# --- orientation


@pytest.mark.parametrize("angle", [0.0, 1e-4, 1.0, np.pi - 1e-4, np.pi])
def test_what_is_stored_from_any_crop_is_read_in_it_again(angle):
  for flip in (0, 1):
    for turn in (0.0, -1.0, 0.3, np.pi / 3, np.pi - 1e-4):
      pose, both = poses(3, 8, angle), (jnp.full(8, np.float32(flip)), jnp.full(8, np.float32(turn)))
      batch = draw(0, 8) | {"pose": pose, "flip": both[0], "angle_rad": both[1]}
      read, betas, known = fits_memory.take(alone(fits_memory.create(N), batch), batch["ids"], *both)
      np.testing.assert_allclose(matrices(read), matrices(pose), atol=1e-5)
      np.testing.assert_array_equal(betas, batch["betas"])
      assert known.all()


def test_bodies_turn_and_flip_as_the_labels_of_augmented_crops_do():
  pose = matrices(poses(1, 1))[0]
  for flip, angle in ((False, 0.7), (True, 0.0), (True, -0.9)):
    chosen = augment.Augmentation(flip, angle)
    expected = augment._pose(pose, augment._turn(chosen), flip)  # pylint: disable=protected-access
    shown = fits_memory.shown(poses(1, 1), np.float32([flip]), np.float32([angle]))
    np.testing.assert_allclose(matrices(shown)[0], expected, atol=1e-5)


def test_without_augmentation_every_bit_stays():
  pose, zeros = poses(2, 8, np.pi), np.zeros(8, np.float32)
  np.testing.assert_array_equal(fits_memory.shown(pose, zeros, zeros), pose)
  np.testing.assert_array_equal(fits_memory.stored(pose, zeros, zeros), pose)


# --- what is written


def test_only_better_finite_fits_of_existing_examples_are_written():
  memory, batch = table(), draw(5, 8)
  batch["better"][:2] = False
  batch["pose"][2, 7] = np.nan
  batch["objective"][3] = np.nan
  batch["betas"][4, 0] = np.inf
  batch["ids"][5:7] = N, -1
  after = alone(memory, batch)
  changed = np.flatnonzero(np.any(np.asarray(after["pose"]) != memory["pose"], -1))
  np.testing.assert_array_equal(changed, [batch["ids"][7]])
  assert after["known"].sum() == np.sum(memory["known"]) + (not memory["known"][batch["ids"][7]])


def test_of_equal_ids_the_best_fit_wins_and_the_first_of_equals():
  batch = draw(6, 8) | {"ids": np.int32([3, 3, 3, 5, 5, 7, 7, 7]), "flip": np.zeros(8, np.float32),
                        "angle_rad": np.zeros(8, np.float32),
                        "objective": np.float32([2, 1, 3, 4, 4, -1, np.nan, 0]), "better": np.arange(8) != 5}
  after = alone(table(), batch)
  for example, row in ((3, 1), (5, 3), (7, 7)):
    np.testing.assert_array_equal(after["pose"][example], batch["pose"][row])
    np.testing.assert_array_equal(after["betas"][example], batch["betas"][row])


def test_rows_that_do_not_exist_read_as_unknown_zeros():
  ones = np.ones(4, np.float32)
  pose, betas, known = fits_memory.take(table(), np.int32([N, -1, 17, 2]), ones, ones)
  np.testing.assert_array_equal(known, [False, False, False, True])
  assert not np.any(pose[:3]) and not np.any(betas[:2]) and np.any(pose[3])


# --- devices


def loop(state, batch, assets):
  """Reads, then writes what it was given: a step of SPIN without a network."""
  del assets
  read = fits_memory.take(state, batch["ids"], batch["flip"], batch["angle_rad"])
  return fits_memory.update(state, **batch), {"read": jax.lax.all_gather(read, "data", tiled=True)}


def run(kind, num_devices, batches):
  mapper = parallel.make(kind, jax.devices()[:num_devices])
  step, state, reads = mapper.train(loop), mapper.replicate(table()), []
  for batch in batches:
    state, metrics = step(state, mapper.to_devices(batch), mapper.replicate({}))
    reads.append(jax.device_get(metrics["read"]))
  copies = [[np.asarray(s.data) for s in x.addressable_shards] for x in jax.tree.leaves(state)]
  assert all(len(c) == num_devices for c in copies)
  for of_one in copies:
    for other in of_one[1:]:
      np.testing.assert_array_equal(of_one[0], other)  # every device holds the same
  return jax.device_get(state), reads


def test_any_number_of_devices_and_both_mappers_hold_the_same_table():
  batches = [draw(seed, 16) for seed in range(3)]
  batches[1]["ids"][:] = np.arange(16) % 5  # the same examples on several devices at once
  batches[1]["objective"][:] = np.arange(16) // 2 % 3
  expected = jax.device_get(table())
  for batch in batches:
    expected = jax.device_get(alone(expected, batch))
  for kind, num_devices in (("pmap", 1), ("pmap", 2), ("pmap", 8), ("shard_map", 8)):
    assert_same(run(kind, num_devices, batches)[0], expected)


def test_what_one_device_improves_every_device_reads_later():
  first = draw(1, 8) | {"ids": np.arange(8, dtype=np.int32), "better": np.arange(8) == 3}
  later = draw(2, 8) | {"ids": np.full(8, 3, np.int32)}
  _, ((before, _, _), (pose, betas, known)) = run("pmap", 8, [first, later])
  assert known.all()
  np.testing.assert_array_equal(betas, np.broadcast_to(first["betas"][3], betas.shape))
  stored = fits_memory.stored(*(first[k][3:4] for k in ("pose", "flip", "angle_rad")))
  expected = fits_memory.shown(np.repeat(stored, 8, 0), later["flip"], later["angle_rad"])
  np.testing.assert_allclose(matrices(pose), matrices(expected), atol=1e-5)
  assert np.abs(before[3] - pose[3]).max() > 0.1


# --- files


def test_fits_come_from_the_authors_array_and_from_named_arrays(tmp_path):
  pose, betas = poses(1, 5), np.ones((5, 10), np.float32)
  np.save(tmp_path / "h36m_fits.npy", np.concatenate([pose, betas], 1).astype(np.float64))
  np.savez(tmp_path / "ours.npz", pose=pose, betas=betas, quality=np.array([1, 2, np.inf, 4, 5]))
  fits = fits_memory.read(f"{tmp_path}/h36m_fits.npy, {tmp_path}/ours.npz")
  np.testing.assert_array_equal(fits["known"], [True] * 7 + [False] + [True] * 2)
  np.testing.assert_array_equal(fits["pose"][:7], np.concatenate([pose, pose[:2]]))
  assert not fits["pose"][7].any() and fits["betas"].dtype == np.float32
  assert_same(fits_memory.create(10, fits)["pose"], fits["pose"])


def test_fits_that_the_authors_call_invalid_are_none(tmp_path):
  np.savez(tmp_path / "mpii.npz", pose=poses(1, 3), betas=np.ones((3, 10)), valid_fit=np.array([1.0, 0.0, 1.0]))
  fits = fits_memory.read(str(tmp_path / "mpii.npz"))
  np.testing.assert_array_equal(fits["known"], [True, False, True])
  assert not fits["pose"][1].any()


@pytest.mark.parametrize("arrays, says", [
    (None, "cannot be read"), ({"pose": np.zeros((5, 72))}, "cannot be read"),
    ({"pose": np.zeros((5, 70)), "betas": np.zeros((5, 10))}, "holds pose"),
    ({"pose": np.zeros((5, 72)), "betas": np.zeros((4, 10))}, "holds pose"),
    ({"pose": np.full((5, 72), np.nan), "betas": np.zeros((5, 10))}, "row 0 and others")])
def test_files_that_are_no_fits_are_refused_by_name(tmp_path, arrays, says):
  path = tmp_path / "fits.npz"
  if arrays:
    np.savez(path, **arrays)
  with pytest.raises(InputError, match=says) as error:
    fits_memory.read(str(path))
  assert str(path) in str(error.value) and "\n" not in str(error.value)
