"""Arrays of .npz files that anybody may have made: no pickles, no lying headers, nothing that unpacks without end."""

import zipfile

from jhmr.errors import InputError
import numpy as np

MOST_BYTES = 4 << 30     # of the arrays that are read of one file
BOMB_BYTES = 256 << 20   # from here on an array that was packed BOMB_RATIO times smaller is not believed
BOMB_RATIO = 200
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read(path, keys, what="keypoints"):
  """{key: array} of those of `keys` that an .npz has; others are not unpacked. Errors call the file `what`.

  Raises:
    InputError: when the file is no zip archive, is damaged, or one of the arrays is none of numbers, booleans or text.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
      wanted = {key: members[key] for key in keys if key in members}
      _check_sizes(f"{what} {path!r}", wanted)
      return {key: _array(archive, info, f"{what} {path!r}: {key}") for key, info in wanted.items()}
  except InputError:
    raise
  except Exception as error:  # the file is anybody's: zipfile and numpy raise a dozen kinds of errors
    said = f"{type(error).__name__}: {str(error)[:120]}"
    raise InputError(f"{what} {path!r} cannot be read ({said}): write the .npz again with numpy.savez") from error


def _check_sizes(file, members):
  sizes = [(key, info.file_size, max(info.compress_size, 1)) for key, info in members.items()]
  for key, size, packed in sizes:
    if size > BOMB_BYTES and size > BOMB_RATIO * packed:
      raise InputError(f"{file}: {key} unpacks from {packed} to {size} bytes, which is not believed: write "
                       "it with numpy.savez")
  if (total := sum(size for _, size, _ in sizes)) > MOST_BYTES:
    raise InputError(f"{file} unpack to {total / 2**30:.1f} GB: split the file")


def _array(archive, info, where):
  """One member. The header says how many bytes follow, and they are counted before anything is made of them."""
  with archive.open(info) as f:
    version = np.lib.format.read_magic(f)
    if version not in _HEADERS:
      raise InputError(f"{where} is of .npy version {version}: write the .npz again with numpy.savez")
    shape, fortran, dtype = _HEADERS[version](f)
    if dtype.kind not in "fiubUS" or dtype.hasobject:
      raise InputError(f"{where} is an array of {dtype}: write numbers or text, no objects")
    data = f.read()
  count = 1
  for side in shape:
    count *= side  # of Python: NumPy's would overflow
  if count * dtype.itemsize != len(data):
    raise InputError(f"{where} says that it is {list(shape)} of {dtype}, but has {len(data)} bytes: write it again")
  return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def numbers(arrays, path, key):
  """An array of numbers as float32, or InputError."""
  if key not in arrays:
    raise InputError(f"keypoints {path!r} have no array {key!r}: write {key} [N, K, 3]")
  if arrays[key].dtype.kind not in "fiu":
    raise InputError(f"keypoints {path!r}: {key} is an array of {arrays[key].dtype}: write numbers")
  with np.errstate(over="ignore"):
    return arrays[key].astype(np.float32)


def column(arrays, path, key, count, shape=()):
  """[count, *shape] float32 of an optional array, one row for all or one each; NaN where it is absent."""
  if key not in arrays:
    return np.full((count, *shape), np.nan, np.float32)
  values = numbers(arrays, path, key)
  if values.shape not in (shape, (1, *shape), (count, *shape)):
    raise InputError(f"keypoints {path!r}: {key} is {list(values.shape)}: write {list(shape)} or {[count, *shape]}")
  return np.broadcast_to(values, (count, *shape))


def text(arrays, path, key, count):
  """[count] str of an optional array of text or whole numbers, "" where it is absent or empty."""
  if key not in arrays:
    return [""] * count
  values = arrays[key].reshape(1) if arrays[key].ndim == 0 else arrays[key]
  if values.shape != (count,) or values.dtype.kind not in "USiu":
    raise InputError(f"keypoints {path!r}: {key} is {list(values.shape)} of {values.dtype}: write {count} texts")
  return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
