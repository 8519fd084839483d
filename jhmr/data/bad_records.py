"""Counts and names the records of a split that could not be used, and stops a run that meets too many."""

import logging
from typing import Callable, NamedTuple

from jhmr.errors import InputError

_FEW = 10    # bad reads that never stop a run: a share of so few says nothing
_SHOWN = 3


class Ledger(NamedTuple):
  """The books of one opened split of one process; they start empty when a run is resumed."""
  add: Callable    # (reads, [rows.Bad]) -> None
  stats: Callable  # () -> {"bad_records": distinct ones met so far, "reads": of records, good or bad}


def open_ledger(directory, split, max_share):
  """A Ledger that warns once of each bad record, on the logger "jhmr.data".

  Its `add` raises InputError when more than max_share of the reads so far, and at least 10, were bad.
  """
  log = logging.getLogger("jhmr.data")
  met, count = {}, {"reads": 0, "bad": 0}

  def add(reads, bad):
    count["reads"] += reads
    count["bad"] += len(bad)
    for record in bad:
      if record.index not in met:
        met[record.index] = record
        log.warning("bad record in split %r of data set %r, skipped: %s", split, str(directory), _name(record))
    if count["bad"] >= _FEW and count["bad"] > max_share * count["reads"]:
      first = "; ".join(_name(record) for record in list(met.values())[:_SHOWN])
      share = count["bad"] / count["reads"]
      raise InputError(f"{count['bad']} of {count['reads']} reads ({share:.0%}) of split {split!r} of data set "
                       f"{str(directory)!r} met a bad record, more than config.data.max_bad_share {max_share:g}: "
                       f"{first}; build the data set again, or raise that share")

  return Ledger(add, lambda: {"bad_records": len(met), "reads": count["reads"]})


def _name(record):
  return f"record {record.index}" + (f" (id {record.id})" if record.id >= 0 else "") + f": {record.reason}"
