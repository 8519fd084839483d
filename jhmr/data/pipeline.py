"""Batches from a data set on disk: read, crop and augment on the host, finish on the device.

Row r of batch i is a function of (config.seed, i, r) alone, whatever the number of processes and threads: the order and
the augmentation are drawn for positions of one global sequence, and process p of n takes rows [p B/n, (p+1) B/n) of
every batch. So a run resumes at its step, on other machines too.

Any TFDS data set with the features of `builders.synthetic_people` will do.
"""

import concurrent.futures
import functools
import os

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds

from jhmr.body import poses
from jhmr.data import augment
from jhmr.data import images
from jhmr.data.builders import synthetic_people
from jhmr.data.source import Source
from jhmr.errors import InputError

_AHEAD = 2  # batches prepared before they are asked for


def open_data_set(directory):
  """The TFDS builder of a directory.

  Raises:
    InputError: naming the directory, when it is missing, is not a data set, or lacks features.
  """
  if not os.path.isdir(directory):
    raise InputError(f"data set {directory!r} does not exist: build one with python -m jhmr.data.build, "
                     "or set config.data.source=stream")
  try:
    builder = tfds.builder_from_directory(str(directory))
    features = set(builder.info.features)
  except Exception as e:  # TFDS raises whatever its parsers do
    raise InputError(f"{directory!r} is not a TFDS data set ({_first_line(e)}): give the directory with "
                     "dataset_info.json") from e
  missing = set(synthetic_people.features()) - features
  if missing:
    raise InputError(f"data set {directory!r} lacks {', '.join(sorted(missing))}: it needs the features of "
                     "jhmr/data/builders/synthetic_people.py")
  return builder


def open_split(directory, name):
  """Random access to a split's decoded examples; its first and last are read to see that they can be.

  Raises:
    InputError: naming the directory and the split.
  """
  builder = open_data_set(directory)
  if name not in builder.info.splits:
    raise InputError(f"data set {directory!r} has no split {name!r}: it has {', '.join(builder.info.splits)}")
  try:
    source = builder.as_data_source(split=name)
    for index in {0, len(source) - 1}:
      synthetic_people.decode(source[index])
  except Exception as e:  # array_record and OpenCV raise their own kinds
    raise InputError(f"split {name!r} of data set {directory!r} cannot be read ({_first_line(e)}): "
                     "build it again") from e
  return source


def _first_line(error):
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def open_training(config, process_index=0, process_count=1):
  """Shuffled, augmented batches without end of the split "train". Returns Source; see `source.open_source`."""
  data = open_split(config.data.source, "train")
  order = grain.MapDataset.source(data).seed(config.seed).shuffle().repeat()
  ready = order.random_map(functools.partial(_prepare, config.image_size, config.data.get("maps", False)))
  local = config.batch_size // process_count
  first = lambda i: i * config.batch_size + process_index * local
  batch = _prefetched(lambda i, row: ready[first(i) + row], local, config.data.get("num_threads", 8))
  return Source(batch, _finish, len(data), -(-len(data) // config.batch_size), epoch=len(data))


def open_evaluation(config, name, process_index=0, process_count=1):
  """Batches of a split in order, not augmented, padded by repeating the last example with mask 0."""
  data = open_split(config.data.source, name)
  local, maps = config.batch_size // process_count, config.data.get("maps", False)

  def row(i, r):
    position = i * config.batch_size + process_index * local + r
    example = _crop(config.image_size, maps, data[min(position, len(data) - 1)], augment.Augmentation())
    return example | {"prior": np.uint32(position), "mask": np.float32(position < len(data))}

  num_batches = -(-len(data) // config.batch_size)
  batch = _prefetched(row, local, config.data.get("num_threads", 8), num_batches)
  return Source(batch, _finish, len(data), num_batches)


def _prepare(size, maps, example, rng):
  """One augmented example; `rng` is NumPy's, seeded by grain with (seed, position)."""
  prior = rng.integers(2**32, dtype=np.uint32)
  return _crop(size, maps, example, augment.draw(rng)) | {"prior": prior, "mask": np.float32(1)}


def _crop(size, maps, stored, augmentation):
  example = synthetic_people.decode(stored)
  if not maps:
    example = {k: v for k, v in example.items() if k not in ("parts", "depth")}
  out = augment.apply(example, augmentation, size)
  return out | {name: np.int32(example[name]) for name in ("id", "person", "view")}


def _prefetched(row, local, num_threads, num_batches=None):
  """batch(i) from row(i, r): rows by a pool of threads (decoding and warping leave Python free), next batches ahead."""
  pool = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix="jhmr-data")
  pending = {}

  def submit(i):
    if i not in pending and (num_batches is None or i < num_batches):
      pending[i] = [pool.submit(row, i, r) for r in range(local)]

  def batch(i):
    for j in range(i, i + 1 + _AHEAD):
      submit(j)
    for stale in [j for j in pending if not i <= j <= i + _AHEAD]:
      for future in pending.pop(stale):
        future.cancel()
    rows = [future.result() for future in pending.pop(i)]
    return {name: np.stack([r[name] for r in rows]) for name in rows[0]}

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
