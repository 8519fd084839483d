"""One row of a batch: which record, how it is augmented, and what takes the place of a record that cannot be read.

Threads and worker processes both fill rows through this file, so it imports no JAX, and a row is a function of
(data set, seed, position) alone, whoever fills it.
"""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from jhmr.data import ambiguous
from jhmr.data import augment
from jhmr.data import records
from jhmr.errors import InputError

MAX_TRIES = 32  # records tried for one row: half of a data set may be bad, and one row in 4 billion finds none


class Plan(NamedTuple):
  """All a row depends on besides its position; small, and the same in every process."""
  directory: str
  split: str
  image_size: int
  maps: bool       # also part labels, surface coordinates and depth
  seed: int
  augmented: bool  # False in evaluation, where a bad record and the padding have mask 0
  written_ns: int  # when the data set was: one built anew in the same place is another one
  hide: str = ""   # a protocol of `data.ambiguous`
  input: str = "rgb"   # what is shown, of `data.inputs`
  chart: str = "body"  # of surface coordinates


class Bad(NamedTuple):
  """A record that could not be used."""
  index: int  # in its split
  id: int     # its own, -1 when unknown
  reason: str


@functools.lru_cache(maxsize=8)
def open_plan(plan):
  """(records of the plan's split, features wanted); opened once in each process."""
  cv2.setNumThreads(0)  # rows are parallel already: OpenCV's own threads would fight with ours over the cores
  return records.open_split(plan.directory, plan.split, plan.maps, () if plan.input == "rgb" else (plan.input,))


def fill(plan, positions, indices, out, first=0):
  """Writes rows first, first + 1, ... of the batch `out`.

  Args:
    positions: of each row in the global sequence of examples; they seed the augmentation.
    indices: of the record each row shows; one beyond the split is padding and shows the last one.
    out: {name: array [local batch, ...]}, written in place.
  Returns:
    list of Bad that were met; their rows show `substitutes`. Padding reports none: its record has a row of its own.
  Raises:
    InputError: when a row finds no readable record.
  """
  data, wanted = open_plan(plan)
  bad = []
  for row, (position, index) in enumerate(zip(positions, indices), first):
    bad += _fill_row(plan, data, wanted, position, index, out, row)
  return bad


def _fill_row(plan, data, wanted, position, index, out, row):
  bad = []
  for candidate in substitutes(min(index, len(data) - 1), len(data)):
    record = {}
    try:
      record.update(records.parse(data[candidate], wanted))
      for name, value in _example(plan, record, position, out["image"][row]).items():
        out[name][row] = value
    except MemoryError:
      raise
    except Exception as e:  # array_record, protobuf, OpenCV and NumPy have their own kinds
      bad.append(Bad(candidate, int(record.get("id", -1)), records.reason(e)))
    else:
      padding = index >= len(data)
      out["mask"][row] = plan.augmented or not (padding or bad)
      return [] if padding else bad
  raise InputError(f"split {plan.split!r} of data set {plan.directory!r} cannot be read: {len(bad)} records tried for "
                   f"one row, record {bad[0].index}: {bad[0].reason}: build it again")


def _example(plan, record, position, crop):
  """{name: value} of one row, drawn and augmented."""
  records.check(record)
  rng = np.random.default_rng((plan.seed, position))
  prior = rng.integers(2**32, dtype=np.uint32) if plan.augmented else np.uint32(position)
  chosen = augment.draw(rng) if plan.augmented else augment.Augmentation()
  shown = ambiguous.apply(record | records.decode_maps(record), plan.hide, plan.seed if plan.augmented else 0)
  made = augment.apply(shown, chosen, plan.image_size, crop, plan.input, plan.chart)
  made = {name: value for name, value in made.items() if plan.maps or name not in augment.MAPS}
  return made | {name: np.int32(record[name]) for name in ("id", "person", "view")} | {
      "prior": prior, "mask": np.float32(1)}


def substitutes(index, size):
  """Record `index`, then those that stand in for it in turn, at most MAX_TRIES in all, no one twice.

  Steps of a golden section of the data set: neighbours tend to be damaged together, and to be the next rows too.
  """
  step = max(1, round(size * (math.sqrt(5) - 1) / 2))
  while math.gcd(step, size) > 1:
    step += 1
  return ((index + turn * step) % size for turn in range(min(size, MAX_TRIES)))


def layout(plan):
  """{name: (shape, dtype)} of a row, from the first readable of records spread over the split.

  Raises:
    InputError: naming the data set and the split, when none of them can be read.
  """
  data, wanted = open_plan(plan)
  if not len(data):
    raise InputError(f"split {plan.split!r} of data set {plan.directory!r} is empty: build it again")
  for index in _probes(data):
    try:
      made = _example(plan, records.parse(data[index], wanted), 0, None)
      return {name: (np.shape(value), np.asarray(value).dtype) for name, value in made.items()}
    except Exception as e:  # as in `_fill_row`
      problem = f"record {index}: {records.reason(e)}"
  raise InputError(f"split {plan.split!r} of data set {plan.directory!r} cannot be read ({problem}): build it again")


def check_seen(plan):
  """Raises InputError when a split has no labels to show, but for its photographs."""
  data, wanted = open_plan(plan)
  for index in _probes(data):
    try:
      if _example(plan, records.parse(data[index], wanted), 0, None)["image"].any():
        return
    except Exception:  # as in `_fill_row`; `layout` names it
      continue
  raise InputError(f"config.data.input is {plan.input!r}, but split {plan.split!r} of data set {plan.directory!r} has "
                   f"no {plan.input}: build it with them, or set config.data.input=rgb")


def _probes(data):
  """Indices of a few records, spread over a split."""
  return dict.fromkeys(np.linspace(0, len(data) - 1, 8).astype(int).tolist())


def empty(shapes, size):
  """{name: uninitialised array [size, ...]} for `fill`, of what `layout` returned."""
  return {name: np.empty((size, *shape), dtype) for name, (shape, dtype) in shapes.items()}
