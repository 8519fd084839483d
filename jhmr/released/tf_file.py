"""Arrays out of checkpoints of TensorFlow 1, without TensorFlow.

A checkpoint is PREFIX.index, a sorted table of blocks as LevelDB has them, and PREFIX.data-00000-of-00001, the numbers.
A block is entries whose keys share their beginning with the key before, and restart points, which reading in order does
not need. The last 48 bytes of the table say where the block of blocks is. Each value is a message of protocol buffers
that says what a variable is and where its numbers lie.

Source: TensorFlow's `tensor_bundle.proto`, `lib/io/format.cc`; TensorFlow writes these blocks uncompressed.
"""

import os
import struct

from jhmr.errors import InputError
import numpy as np

_MAGIC, _FOOTER, _AFTER_BLOCK = 0xDB4775248B80FB57, 48, 5  # behind each block: how it is compressed, and a checksum
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}         # others are of no weight
_VARINT, _BYTES = 0, 2                                     # kinds of fields of a message
_SKIPPED = {1: 8, 5: 4}                                    # fields of a fixed size
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _SLICES = 1, 2, 3, 4, 5, 7  # fields of an entry


class _Bad(ValueError):
  """What is wrong with a file."""


def read(path, inside=()):
  """The variables of a checkpoint.

  Args:
    path: PREFIX, PREFIX.index or PREFIX.data-00000-of-00001.
    inside: unused; variables are not nested.
  Returns:
    {name: array}, of floating and whole numbers.
  Raises:
    InputError: when a file is missing, damaged, or has several parts.
  """
  del inside
  prefix = path.removesuffix(".index").removesuffix(".data-00000-of-00001")
  names = f"{prefix}.index", f"{prefix}.data-00000-of-00001"
  if missing := [n for n in names if not os.path.isfile(n)]:
    raise InputError(f"checkpoint {missing[0]!r} does not exist: give PREFIX of PREFIX.index and "
                     "PREFIX.data-00000-of-00001, as TensorFlow saved them")
  try:
    with open(names[0], "rb") as f:
      entries = _entries(f.read())
    with open(names[1], "rb") as f:
      return {name: array for name, entry in entries.items() if (array := _array(f, entry, name)) is not None}
  except (_Bad, struct.error, IndexError, TypeError, OverflowError, UnicodeDecodeError) as error:
    raise InputError(f"checkpoint {prefix!r} cannot be read: {error}: get both its files again") from error


def _entries(table):
  """{name: fields of its entry} of a whole table."""
  if len(table) < _FOOTER or struct.unpack("<Q", table[-8:])[0] != _MAGIC:
    raise _Bad("its index is no table of TensorFlow")
  _, place = _handle(table, len(table) - _FOOTER)  # of the table's own notes
  (start, size), _ = _handle(table, place)
  found = {}
  for _, value in _block(table, start, size):
    (start, size), _ = _handle(value, 0)
    found |= dict(_block(table, start, size))
  header = _message(found.pop(b"", b""))
  if header.get(1, 1) != 1:
    raise _Bad(f"it has {header[1]} parts")
  if header.get(2, 0):
    raise _Bad("its numbers have the high byte first")
  return {name.decode(): _message(value) for name, value in found.items()}


def _handle(data, place):
  """((offset, size) of a block, where it is written; the place behind)."""
  start, place = _varint(data, place)
  size, place = _varint(data, place)
  return (start, size), place


def _block(table, start, size):
  """(key, value) of each entry of a block."""
  if start + size + _AFTER_BLOCK > len(table) or size < 4:
    raise _Bad("its index ends too early")
  if table[start + size]:
    raise _Bad("its index is compressed")
  data = table[start:start + size]
  end = size - 4 - 4 * struct.unpack("<I", data[-4:])[0]  # restart points follow
  if end < 0:
    raise _Bad("its index is damaged")
  place, key, found = 0, b"", []
  while place < end:
    shared, place = _varint(data, place)
    more, place = _varint(data, place)
    length, place = _varint(data, place)
    if shared > len(key) or place + more + length > end:
      raise _Bad("its index is damaged")
    key, place = key[:shared] + data[place:place + more], place + more
    found.append((key, data[place:place + length]))
    place += length
  return found


def _varint(data, place):
  """(a number of seven bits a byte, the lowest first; the place behind)."""
  value = shift = 0
  while shift < 64:
    byte = data[place]
    value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
    if byte < 128:
      return value, place
  raise _Bad("its index is damaged")


def _fields(data):
  """(number, value) of each field of a message, numbers and bytes alone."""
  place = 0
  while place < len(data):
    tag, place = _varint(data, place)
    number, kind = tag >> 3, tag & 7
    if kind == _VARINT:
      value, place = _varint(data, place)
      yield number, value
    elif kind == _BYTES:
      length, place = _varint(data, place)
      if place + length > len(data):
        raise _Bad("its index is damaged")
      yield number, data[place:place + length]
      place += length
    elif kind in _SKIPPED:
      place += _SKIPPED[kind]
    else:
      raise _Bad("its index is damaged")


def _message(data):
  """{number of a field: value}, of fields that are there several times the last."""
  return dict(_fields(data))


def _array(f, entry, name):
  """The array of an entry; None for what is not made of numbers."""
  if entry.get(_DTYPE) not in _DTYPES:
    return None
  if _SLICES in entry or entry.get(_SHARD, 0):
    raise _Bad(f"{name} is in several parts")
  dims = [_message(value).get(1, 0) for number, value in _fields(entry.get(_SHAPE, b"")) if number == 2]
  dtype, size = np.dtype(_DTYPES[entry[_DTYPE]]), entry.get(_SIZE, 0)
  if size != dtype.itemsize * int(np.prod(dims, dtype=object)):
    raise _Bad(f"{name} has {size} bytes, which its shape {dims} does not")
  f.seek(entry.get(_OFFSET, 0))
  data = f.read(size)
  if len(data) != size:
    raise _Bad(f"its numbers end before {name}")
  return np.frombuffer(data, dtype).reshape(dims)
