"""Batches of lifting: 2D poses of a file, or of rendered people, and the 3D poses to be found; see `lift_spec`.

Row r of training batch i is a function of (config.seed, i, r) alone: every epoch is a permutation of its own.
"""

import functools
import math
import os

import numpy as np

from jhmr import files
from jhmr import report
from jhmr.data import lift_people
from jhmr.data import lift_poses
from jhmr.data import lift_spec
from jhmr.data.source import local_size, Source, STREAM
from jhmr.errors import InputError
from jhmr.fitting import npz_files

TRAIN = "train"
STATISTICS = "lift_stats.npz"  # in a workdir
SHAPES = {f"{kind}{of}": shape for of, shape in (("2d", (lift_spec.NUM_2D, 2)), ("3d", (lift_spec.NUM_3D, 3)))
          for kind in ("mean", "std")}
# Systems that make each pose's size and place their own: they want all of its joints, and look at no statistics.
BY_ITSELF = ("cinn_lifting",)
_LEAST_STD = 1e-6  # of a coordinate that changes


def settings(config):
  """lift_people.Settings of config.data. Raises InputError for a key that means nothing."""
  given = {k: v for k, v in config.data.items() if k != "source"}
  if odd := sorted(given.keys() - set(lift_people.Settings._fields)):
    raise InputError(f"config.data.{odd[0]} is not a setting of poses: there are source, "
                     f"{', '.join(lift_people.Settings._fields)}")
  return lift_people.Settings(**given)


@functools.lru_cache(maxsize=2)
def _made(chosen):
  """Poses of rendered people, made once: the arrays of `lift_poses`."""
  def make():
    report.say(f"making {chosen.people + chosen.val + chosen.val_hard:,} poses of rendered people, once")
    return lift_poses.complete(lift_people.made(chosen, report.say), "poses of rendered people")

  # A body's name, not its folder: its bytes are among the sources.
  name = "_".join(str(value) for value in chosen._replace(body=os.path.basename(os.path.normpath(chosen.body))))
  return files.cached(f"lift_people_{name}", lift_people.sources(chosen.body), make)


_read = functools.lru_cache(maxsize=2)(lift_poses.read)


def check(config, arrays, where):
  """Raises InputError, naming `where`, when poses lack what a config's system cannot do without."""
  if config.get("system", "") not in BY_ITSELF:
    return
  if (gaps := np.isnan(arrays["pose2d"]).any((1, 2))).any():
    raise InputError(f"{where}: {gaps.sum():,} of {len(gaps):,} poses lack a 2D joint, which {config.system} cannot do "
                     "without: leave them out, or take a system of configs/lifting_baselines.py")
  if config.net.condition and (gaps := ~arrays["gaussians"].any((1, 2))).any():
    raise InputError(f"{where}: {gaps.sum():,} of {len(gaps):,} poses have no gaussians, which {config.system} looks "
                     "at: give them, or take a run with config.net.condition=False")


def _arrays(config):
  return _made(settings(config)) if config.data.source == STREAM else _read(config.data.source)


def labelled(config):
  """Whether config.data.source has labels to train on."""
  arrays = _arrays(config)
  return bool(np.any((arrays["split"] == TRAIN) & (arrays["has_pose3d"] > 0)))


def actions(config):
  """Names of the actions of config.data.source: field "action" is a position in them."""
  return _arrays(config)["actions"].tolist()


def splits(config):
  """Names of the splits of config.data.source; without that of training, where there are others."""
  names = dict.fromkeys(_arrays(config)["split"].tolist())
  return [name for name in names if name != TRAIN] or [*names]


def rows_of(config, name):
  """The arrays of one split, fields of `lift_spec` alone. Raises InputError when it is empty, and as `check`."""
  arrays = _arrays(config)
  chosen = np.flatnonzero(arrays["split"] == name)
  if not len(chosen):
    raise InputError(f"split {name!r} does not exist in config.data.source {config.data.source!r}: there are "
                     f"{', '.join(sorted(set(arrays['split'].tolist())))}")
  found = {k: np.asarray(arrays[k][chosen], field.dtype) for k, field in lift_spec.FIELDS.items() if k in arrays}
  check(config, found, f"split {name!r} of {config.data.source!r}")
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
  """What z-scores are made with: {"mean2d", "std2d" [16, 2], "mean3d", "std3d" [17, 3]}.

  Those of the file config.lift_stats, as every run leaves one in its workdir; "": of the data's training split, its
  joints that were found and its labels. A coordinate that never changes has the deviation 1, one that is never known
  the mean 0 too. Source: Martinez et al. 2017, authors' `data_utils.py`.
  Raises:
    InputError: for a file that is not of such numbers.
  """
  if path := config.get("lift_stats", ""):
    found = npz_files.read(path, tuple(SHAPES), "statistics of poses")
    if odd := [k for k, shape in SHAPES.items() if k not in found or found[k].shape != shape
               or not np.all(np.isfinite(found[k])) or k.startswith("std") and np.any(found[k] <= 0)]:
      raise InputError(f"statistics of poses {path!r}: {odd[0]} is not {SHAPES[odd[0]]} finite numbers, deviations "
                       f"above 0: give the {STATISTICS} of a run")
    return {k: np.asarray(found[k], np.float32) for k in SHAPES}
  rows = rows_of(config, TRAIN)
  return (_moments("2d", rows["pose2d"], np.isfinite(rows["pose2d"])) |
          _moments("3d", rows["pose3d"], np.broadcast_to(rows["has_pose3d"][:, None, None] > 0, rows["pose3d"].shape)))


def _moments(name, values, known):
  """{mean and std of `name`: over the rows of values [N, K, C] that are known, of each coordinate}."""
  values, count = np.where(known, values, 0).astype(np.float64), np.maximum(known.sum(0), 1)
  mean = values.sum(0) / count
  std = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(0) / count)
  return {f"mean{name}": mean.astype(np.float32),
          f"std{name}": np.where(std > _LEAST_STD, std, 1.0).astype(np.float32)}
