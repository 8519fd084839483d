"""Batches from a data set on disk: read, crop and augment on the host, finish on the device.

Row r of batch i is a function of (config.seed, i, r) alone, whatever the number of processes, workers and threads: the
order and the augmentation are drawn for positions of one global sequence, and process p of n takes rows
[p B/n, (p+1) B/n) of every batch. So a run resumes at its step, on other machines too.

A record that cannot be read is skipped, counted and named; see `rows.substitutes` and `bad_records`.

Any TFDS data set with the features of `jhmr.data.records.features` will do.
"""

import functools
import os
import threading

from grain import experimental as grain
import jax
import jax.numpy as jnp
import numpy as np

from jhmr.body import poses
from jhmr.data import ambiguous
from jhmr.data import bad_records
from jhmr.data import images
from jhmr.data import inputs
from jhmr.data import pools
from jhmr.data import rows
from jhmr.data.source import Source
from jhmr.errors import InputError

_AHEAD = 2  # batches prepared before they are asked for, at least


def open_training(config, process_index=0, process_count=1):
  """Shuffled, augmented batches without end of the split "train". Returns Source; see `source.open_source`."""
  return _open(config, "train", True, process_index, process_count)


def open_evaluation(config, name, process_index=0, process_count=1):
  """Batches of a split in order, not augmented, padded by repeating the last example.

  `mask` is 0 on the padding, and on a bad record, whose row shows another one.
  """
  return _open(config, name, False, process_index, process_count)


def _open(config, split, augmented, process_index, process_count):
  options = _options(config)
  plan = rows.Plan(str(config.data.source), split, int(config.image_size), bool(config.data.get("maps", False)),
                   int(config.seed), augmented, written_ns(config.data.source), options["hide"],
                   inputs.kind_of(config), options["chart"])
  shapes, size = rows.layout(plan), len(rows.open_plan(plan)[0])
  if plan.input != "rgb":
    rows.check_seen(plan)
  local, num_batches = config.batch_size // process_count, -(-size // config.batch_size)

  def where(i):
    """Positions in the global sequence and record indices of our rows of batch i."""
    first = i * config.batch_size + process_index * local
    positions = range(first, first + local)
    return positions, [_shuffled(plan.seed, size, p) if augmented else p for p in positions]

  pool = _pool(options["num_workers"], options["num_threads"])
  ledger = bad_records.open_ledger(plan.directory, split, options["max_bad_share"])
  batch = _prefetched(plan, shapes, where, local, pool, ledger, None if augmented else num_batches)
  return Source(batch, _finish, size, num_batches, size, ledger.stats, pool.close)


def _pool(num_workers, num_threads):
  if num_workers:
    return pools.processes(num_workers)
  # More threads than cores are slower: they wait for each other's turn with Python.
  return pools.threads(min(num_threads, os.cpu_count() or 1)) if num_threads else pools.none()


def written_ns(directory):
  """When a data set was written; a rebuilt one in the same folder is another."""
  file = os.path.join(directory, "dataset_info.json")
  return os.stat(file).st_mtime_ns if os.path.isfile(file) else 0  # a missing one is named when it is opened


def _options(config):
  """{"num_workers", "num_threads", "max_bad_share", "hide", "chart"} of config.data, checked."""
  chosen = {"num_workers": 0, "num_threads": 8, "max_bad_share": 0.05, "hide": "", "chart": inputs.CHARTS[0]}
  chosen = {name: type(value)(config.data.get(name, value)) for name, value in chosen.items()}
  for name in ("num_workers", "num_threads", "max_bad_share"):
    if chosen[name] < 0:
      raise InputError(f"config.data.{name} is {chosen[name]}: give 0 or more")
  if chosen["hide"] not in ("", *ambiguous.PROTOCOLS):
    raise InputError(f"config.data.hide is {chosen['hide']!r}: nothing, {' or '.join(ambiguous.PROTOCOLS)}")
  if chosen["chart"] not in inputs.CHARTS:
    raise InputError(f"config.data.chart is {chosen['chart']!r}: {' or '.join(inputs.CHARTS)}")
  if not 0 <= config.seed < 2**32:
    raise InputError(f"config.seed is {config.seed}: give a number in 0..{2**32 - 1}")
  return chosen


def _shuffled(seed, size, position):
  """Which record a position of the endless sequence shows: every epoch has each once, in an order of its own."""
  epoch, index = divmod(position, size)
  return grain.index_shuffle(index, max_index=size - 1, seed=_epoch_seed(seed, epoch), rounds=4)


@functools.lru_cache(maxsize=16)
def _epoch_seed(seed, epoch):
  return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def _prefetched(plan, shapes, where, local, pool, ledger, num_batches=None):
  """batch(i): rows filled by the pool, the next batches begun before they are asked for."""
  ahead = max(_AHEAD, -(-2 * pool.size // local)) if pool.size else 0
  chunk = max(1, min(8, local // (2 * pool.size or 1)))  # rows a task: few enough that the pool ends together
  pending, lock = {}, threading.Lock()  # the loop asks for a batch again to see what was wrong with it

  def submit(i):
    if i in pending or (num_batches is not None and i >= num_batches):
      return
    (positions, indices), out = where(i), rows.empty(shapes, local)
    pending[i] = out, [pool.submit(plan, positions[r:r + chunk], indices[r:r + chunk], out, r)
                       for r in range(0, local, chunk)]

  def batch(i):
    with lock:
      for j in range(i, i + 1 + ahead):
        submit(j)
      for stale in [j for j in pending if not i <= j <= i + ahead]:
        for future in pending.pop(stale)[1]:
          future.cancel()
      out, futures = pending.pop(i)
    bad = [record for future in futures for record in future.result()]
    ledger.add(local + len(bad), bad)
    return out

  return batch


def _finish(batch, assets):
  """On the device: channel gains, normalisation, and a pose for the adversarial prior.

  Source: SPIN, `rgb_processing`: each channel times its gain, clipped to 0..255.
  """
  pixels = jnp.clip(batch["image"].astype(jnp.float32) * batch["gain"][:, None, None], 0.0, 255.0)
  keys = jax.vmap(jax.random.key)(batch["prior"])
  pose, betas = jax.vmap(lambda key: poses.sample_any(assets.get("mocap"), key))(keys)
  rest = {name: value for name, value in batch.items() if name not in ("gain", "prior")}
  return rest | {"image": images.normalize(pixels), "real_pose": pose[:, 1:], "real_betas": betas}
