"""Batches of lifting: 2D poses of a file, or of rendered people, and the 3D poses to be found; see `lift_spec`.

Row r of training batch i is a function of (config.seed, i, r) alone: every epoch is a permutation of its own.
"""

import functools
import math

import numpy as np

from jhmr.data import lift_poses
from jhmr.data import lift_spec
from jhmr.data.source import local_size, Source, STREAM
from jhmr.errors import InputError

TRAIN = "train"


@functools.lru_cache(maxsize=2)
def read(source):
  """{name: [N, ...]} of the poses that config.data.source names: a file, or rendered people, made once."""
  return lift_poses.default() if source == STREAM else lift_poses.read(source)


def rows_of(config, name):
  """The arrays of one split, fields of `lift_spec` alone. Raises InputError when it is empty."""
  arrays = read(config.data.source)
  chosen = np.flatnonzero(arrays["split"] == name)
  if not len(chosen):
    raise InputError(f"split {name!r} does not exist in config.data.source {config.data.source!r}: there are "
                     f"{', '.join(sorted(set(arrays['split'].tolist())))}")
  found = {k: np.asarray(arrays[k][chosen], field.dtype) for k, field in lift_spec.FIELDS.items() if k in arrays}
  return found | {"id": np.arange(len(chosen), dtype=np.int32)}


def open_source(config, process_index=0, process_count=1):
  """Shuffled training batches without end. Returns Source; see `source.open_source`."""
  rows, local = rows_of(config, TRAIN), local_size(config, process_count)
  size = len(rows["id"])

  @functools.lru_cache(maxsize=2)  # a batch may lie in two epochs
  def order(epoch):
    return np.random.default_rng((int(config.seed), epoch)).permutation(size)

  def batch(i):
    place = i * config.batch_size + process_index * local + np.arange(local)
    chosen = np.array([order(int(p // size))[p % size] for p in place])
    return {k: v[chosen] for k, v in rows.items()} | {"mask": np.ones(local, np.float32)}

  return Source(batch, _as_it_is, size, math.ceil(size / config.batch_size), size)


def open_split(config, name, process_index=0, process_count=1):
  """Batches of a split in order, padded to whole ones; `mask` is 0 on the padding. As `source.open_split`."""
  rows, local = rows_of(config, name), local_size(config, process_count)
  size = len(rows["id"])

  def batch(i):
    index = i * config.batch_size + process_index * local + np.arange(local)
    return {k: v[np.minimum(index, size - 1)] for k, v in rows.items()} | {"mask": (index < size).astype(np.float32)}

  return Source(batch, _as_it_is, size, math.ceil(size / config.batch_size))


def _as_it_is(batch, assets):
  del assets
  return batch


def statistics(config):
  """What z-scores of the training split are made with: {"mean2d", "std2d" [16, 2], "mean3d", "std3d" [17, 3]}.

  A coordinate that never changes has the deviation 1. Source: Martinez et al. 2017, authors' `data_utils.py`.
  """
  rows, found = rows_of(config, TRAIN), {}
  for name in ("2d", "3d"):
    values = rows[f"pose{name}"].astype(np.float64)
    std = values.std(0)
    found |= {f"mean{name}": values.mean(0), f"std{name}": np.where(std > 0, std, 1.0)}
  return {k: v.astype(np.float32) for k, v in found.items()}
