"""Where batches come from: rendered on the device inside the step, or read from a data set on disk.

    source = open_source(config, assets)
    state, metrics = step(state, source.batch(i), assets)      # inside: source.on_device(batch, assets)

`batch(i)` is a function of (config.seed, i) alone, on the host, and holds this process's rows of global batch i;
`on_device` is pure and turns it into the full batch of `data.spec`, for one device's part of it too.
"""

import collections
import concurrent.futures
import difflib
import hashlib
import json
import math
import os
from typing import Callable, NamedTuple

import numpy as np

from jhmr import task
from jhmr.data import lift_spec
from jhmr.data import spec
from jhmr.data import synthetic
from jhmr.errors import InputError

STREAM = "stream"  # config.data.source for rendered people; anything else is the directory of a built data set
# Keys of config.data that are read here, in `pipeline` or by `assets`.
_OTHER_KEYS = ("source", "mocap", "num_workers", "num_threads", "max_bad_share", "maps", "examples", "chart")

# Of synthetic.Settings, those that change neither people nor 2D keypoints.
_NOT_WHO = ("image_size", "photo", "share_2d_only", "input")


class Source(NamedTuple):
  """An opened source of batches."""
  batch: Callable      # i -> {name: NumPy [local batch, ...]}, this process's rows of global batch i
  on_device: Callable  # (batch, assets) -> batch of `fields(config)`; pure, for jit and for each device
  size: int            # examples; of the endless stream, those before indices repeat
  num_batches: int     # ceil(size / batch_size)
  epoch: int = 0       # examples of an epoch, their ids are 0..epoch - 1; 0 where the data never end
  stats: Callable = dict            # () -> {"bad_records", "reads"} so far in this process; {} for a stream
  close: Callable = lambda: None    # () -> None: ends threads and workers; no batches after that


def settings(config):
  """synthetic.Settings of config.image_size and config.data.

  Raises:
    InputError: for a key of config.data that means nothing, or a value out of range.
  """
  values = dict(config.get("data", {}))
  defaults = synthetic.Settings()
  for key in values:
    if key not in (*synthetic.Settings._fields, *_OTHER_KEYS) or key == "image_size":
      close = difflib.get_close_matches(key, (*synthetic.Settings._fields, *_OTHER_KEYS), n=1, cutoff=0.0)[0]
      raise InputError(f"config.data.{key} is not a setting of rendered people: did you mean config.data.{close}?")
  chosen = {k: _like(getattr(defaults, k), v, k) for k, v in values.items() if k in synthetic.Settings._fields}
  result = synthetic.Settings(image_size=int(config.image_size), **chosen)
  synthetic.check(result)
  return result


def _like(default, value, key):
  """A config's value as the type of the default, so that lists and ints from a command line are welcome."""
  try:
    return tuple(float(x) for x in value) if isinstance(default, tuple) else type(default)(value)
  except (TypeError, ValueError) as e:
    raise InputError(f"config.data.{key} is {value!r}: give something like {default!r}") from e


def open_source(config, assets, process_index=0, process_count=1):
  """Training batches of a config.

  Args:
    config: reads seed, batch_size (over all processes), image_size and data. Rendered people are endless unless
      `data.examples` says how many there are; then index i shows example i % examples.
    assets: of `assets.load`.
    process_index, process_count: which rows of every global batch are ours.
  Returns:
    Source.
  Raises:
    InputError: for settings out of range, a data set that is missing or damaged, a batch that does not divide.
  """
  del assets  # nothing to prepare from them yet; part of the interface because preparing may need them
  if task.lifts(config):
    from jhmr.data import lift_source  # it builds on this file
    return lift_source.open_source(config, process_index, process_count)
  local = local_size(config, process_count)
  if config.data.source != STREAM:
    from jhmr.data import pipeline  # grain and TFDS take seconds to import: only for those who read from disk
    return pipeline.open_training(config, process_index, process_count)
  chosen, seed, epoch = settings(config), int(config.seed), num_examples(config)
  size = epoch or 2**31 - 1

  def batch(i):
    first = i * config.batch_size + process_index * local
    return {"index": ((first + np.arange(local, dtype=np.int64)) % size).astype(np.int32)}

  return Source(batch, lambda batch, assets: synthetic.examples(assets, seed, batch["index"], chosen), size,
                math.ceil(size / config.batch_size), epoch)


def identity(config):
  """What decides which people a config's training examples show: {name: text or number}, to compare two configs by."""
  if config.data.source != STREAM:
    return {"data set": _digest(os.path.join(config.data.source, "dataset_info.json"))}
  named = lambda path: os.path.basename(os.path.normpath(path)) if path else ""  # the same file in another folder
  people = {k: v for k, v in settings(config)._asdict().items() if k not in _NOT_WHO}
  return json.loads(json.dumps({f"data.{k}": v for k, v in people.items()} | {  # tuples become lists, as in a file
      "data.examples": num_examples(config), "data.mocap": named(config.data.get("mocap", "")),
      "body": named(config.body), "seed": int(config.seed)}))


def _digest(path):
  """Of a data set's description, which has the sizes of all its files; "" where it is missing."""
  if not os.path.isfile(path):
    return ""
  with open(path, "rb") as f:
    return hashlib.sha256(f.read()).hexdigest()


def num_examples(config):
  """`config.data.examples` of rendered people, 0 where they never end; InputError when it is no count."""
  number = _like(0, config.data.get("examples", 0), "examples")
  if not 0 <= number < 2**31:
    raise InputError(f"config.data.examples is {number}: give how many people to render, or 0 for no end")
  return number


def open_split(config, assets, name, process_index=0, process_count=1):
  """Batches of an evaluation split, padded to whole ones; `mask` is 0 on the padding.

  Args:
    name: a split of the data set config.data.source names, or else one of `synthetic.splits()`, rendered.
  Raises:
    InputError: when neither has the split; otherwise as `open_source`.
  """
  del assets
  if task.lifts(config):
    from jhmr.data import lift_source
    return lift_source.open_split(config, name, process_index, process_count)
  local = local_size(config, process_count)
  if config.data.source != STREAM:
    from jhmr.data import pipeline, records
    if name in records.open_data_set(config.data.source).info.splits:
      return pipeline.open_evaluation(config, name, process_index, process_count)
  if name not in synthetic.splits():
    raise InputError(f"split {name!r} does not exist: rendered splits are {', '.join(synthetic.splits())}")
  chosen, size = settings(config), synthetic.splits()[name].size

  def batch(i):
    index = i * config.batch_size + process_index * local + np.arange(local)
    return {"index": np.minimum(index, size - 1).astype(np.int32), "mask": (index < size).astype(np.float32)}

  def on_device(batch, assets):
    full = synthetic.split_examples(assets, name, batch["index"], chosen)
    return full | {"mask": batch["mask"]}

  return Source(batch, on_device, size, math.ceil(size / config.batch_size))


def ahead(batch, start, stop, depth=2):
  """Yields batch(start), ..., batch(stop - 1), each prepared in another thread up to `depth` before it is asked for."""
  pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="jhmr-feed")
  pending = collections.deque(pool.submit(batch, i) for i in range(start, min(start + depth, stop)))
  try:
    for i in range(start, stop):
      if i + depth < stop:
        pending.append(pool.submit(batch, i + depth))
      yield pending.popleft().result()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def fields(config):
  """{name: Field} of what batches of a config can have."""
  return lift_spec.FIELDS if task.lifts(config) else spec.FIELDS


def local_size(config, process_count):
  """Rows of every batch that are one process's. Raises InputError when a batch does not divide."""
  if config.batch_size < 1 or config.batch_size % process_count:
    raise InputError(f"config.batch_size {config.batch_size} does not divide over {process_count} processes")
  return config.batch_size // process_count
