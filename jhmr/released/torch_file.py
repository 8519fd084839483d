"""Arrays out of files of `torch.save`, without torch and without running what a file names.

Two formats, told apart by their first bytes:
    zip, since torch 1.6:    <name>/data.pkl with the objects, <name>/data/<key> with the numbers of each storage
    legacy, before:          four pickles (magic number, version, machine, objects), the keys of the storages,
                             then for each its count as int64 and its numbers
In both a tensor is a call of torch that views a storage, and a storage a persistent id. Both become inert here, and so
does every class of the packages that training frameworks put into checkpoints; anything else is refused. Numbers are
read when they are asked for, so the optimiser's state, twice the weights, is never read.
"""

import io
import os
import zipfile

from jhmr.body import pickles
from jhmr.body.pickles import BadPickle
from jhmr.errors import InputError
import ml_dtypes
import numpy as np

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16, "Long": "<i8", "Int": "<i4",
           "Short": "<i2", "Char": "<i1", "Byte": "<u1", "Bool": "?"}
_BY_NAME = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long",
            "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool"}
# Packages whose classes may stand in a checkpoint beside the weights: callbacks, hyper-parameters, schedules.
_INERT = frozenset(("torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning", "lightning_fabric",
                    "yacs", "omegaconf", "argparse", "pathlib", "numpy", "collections", "copyreg", "copy_reg",
                    "_codecs", "prohmr", "human_body_prior", "dotmap", "configer"))
_BUILTINS = frozenset(("object", "set", "frozenset", "list", "dict", "tuple", "bytes", "bytearray", "slice", "complex",
                       "int", "float", "str", "bool", "range"))
_ENLARGED = 1e8  # entries that a tensor may have beyond those of its storage, by strides of 0


def read(path, inside=()):
  """The named arrays of a checkpoint: a file of `torch.save`, or an .npz.

  Args:
    inside: keys under one of which the arrays may be; the first that is there. A tuple of keys: the arrays under each
      that is there, their names behind its own and a dot.
  Returns:
    {name: array}; bfloat16 comes as float32.
  Raises:
    InputError: when the file is missing, damaged, refused, or holds no named arrays.
  """
  if not os.path.isfile(path):
    raise InputError(f"checkpoint {path!r} does not exist: give the file the authors released")
  try:
    with open(path, "rb") as f:
      zipped = f.read(4) == b"PK\x03\x04"
      f.seek(0)
      return _named(*(_open_zip(f) if zipped else _open_legacy(f)), inside)
  except (BadPickle, OSError) as error:
    raise InputError(f"checkpoint {path!r} cannot be read: {error}: get the file again, or save its state_dict alone "
                     "with torch.save") from error


def _named(objects, read_storage, inside):
  """The arrays among the objects, read."""
  for key in inside if isinstance(objects, dict) else ():
    parts = {k: objects[k] for k in (key if isinstance(key, tuple) else (key,)) if isinstance(objects.get(k), dict)}
    if parts:
      joined = {f"{k}.{name}": value for k, part in parts.items() for name, value in part.items()}
      objects = joined if isinstance(key, tuple) else parts[key]
      break
  if not isinstance(objects, dict):
    raise BadPickle("it holds a whole model, not a dict of tensors" if isinstance(objects, _Inert) else
                    f"it holds a {type(objects).__name__}, not a dict of tensors")
  found = {}
  for name, value in objects.items():
    array = value if isinstance(value, np.ndarray) else _tensor(value, read_storage, name)
    if array is not None:
      found[str(name)] = array
  if not found:
    raise BadPickle(f"there are no tensors in it, only {', '.join(map(str, list(objects)[:6])) or 'nothing'}")
  return found


# --- the two formats: (file) -> (objects, read_storage(key, numel, dtype))


def _open_zip(f):
  try:
    archive = zipfile.ZipFile(f)
  except Exception as error:  # a damaged archive raises nearly every kind
    raise BadPickle(f"it is damaged or cut short ({type(error).__name__}: {error})") from error
  names = archive.namelist()
  if any(n.endswith(".npy") for n in names):
    return _npz(f), None
  pickled = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
  if len(pickled) != 1:
    raise BadPickle("it is a zip archive, but not one of torch.save")
  folder = pickled[0].removesuffix("data.pkl")
  if f"{folder}byteorder" in names and _member(archive, f"{folder}byteorder") != b"little":
    raise BadPickle("it was written on a big-endian machine")

  def read_storage(key, numel, dtype):
    numbers = _member(archive, f"{folder}data/{key}")
    if len(numbers) < numel * dtype.itemsize:
      raise BadPickle(f"storage {key} is too short")
    return np.frombuffer(numbers, dtype, numel)

  return _unpickle(io.BytesIO(_member(archive, pickled[0]))), read_storage


def _member(archive, name):
  """One file of an archive, checked against its checksum. torch compresses nothing, so neither may a bomb."""
  try:
    info = archive.getinfo(name)
  except KeyError as error:
    raise BadPickle(f"{name} is missing in it") from error
  if info.compress_type != zipfile.ZIP_STORED:
    raise BadPickle(f"{name} is compressed, which torch.save never does")
  try:
    return archive.read(info)
  except Exception as error:  # cut short, wrong checksum, encrypted, of an unknown version
    raise BadPickle(f"{name} is damaged ({error})") from error


def _npz(f):
  try:
    f.seek(0)
    with np.load(f, allow_pickle=False) as arrays:
      return dict(arrays)
  except Exception as error:  # as for pickles
    raise BadPickle(f"{type(error).__name__}: {error}") from error


def _open_legacy(f):
  head = f.read(1)
  f.seek(0)
  if head != b"\x80" or _unpickle(f) != _MAGIC:
    raise BadPickle("it is no file of torch.save (torch 0.1.10 or newer), and no .npz")
  if (version := _unpickle(f)) != _VERSION:
    raise BadPickle(f"it has version {version} of torch's old format, not {_VERSION}")
  machine = _unpickle(f)
  if not (isinstance(machine, dict) and machine.get("little_endian", True)):
    raise BadPickle("it was written on a big-endian machine")
  sizes = {}
  objects, listed = _unpickle(f, sizes), _unpickle(f)
  starts, end = {}, os.fstat(f.fileno()).st_size
  for key in listed if isinstance(listed, list) else ():
    if not isinstance(key, str) or key not in sizes:
      raise BadPickle("it lists a storage that no tensor has")
    count = int.from_bytes(f.read(8), "little", signed=True)
    starts[key] = (f.tell(), count)
    if count < 0 or f.tell() + count * sizes[key] > end:
      raise BadPickle("it is cut short")
    f.seek(count * sizes[key], os.SEEK_CUR)

  def read_storage(key, numel, dtype):
    if key not in starts or starts[key][1] < numel:
      raise BadPickle(f"storage {key} is missing or too short")
    f.seek(starts[key][0])
    return np.frombuffer(f.read(numel * dtype.itemsize), dtype, numel)

  return objects, read_storage


# --- objects


class _Inert:
  """Stands for an instance of any class and for the result of any call: keeps what it was given."""
  name = ""

  def __new__(cls, *args, **kwargs):
    del kwargs
    self = object.__new__(cls)
    self.args, self.state = args, None
    return self

  def __init__(self, *args, **kwargs):
    pass

  def __setstate__(self, state):
    self.state = state

  def _ignore(self, *args):
    pass

  append = extend = add = __setitem__ = _ignore


class _Dict(dict):
  """Any dict of the collections module; attributes that a file gives it are dropped."""

  def __init__(self, *args):
    super().__init__()
    for key, value in args[0] if args and isinstance(args[0], list) else ():  # Python 2 wrote pairs
      if not pickles.plain_key(key):
        raise BadPickle("a key of tuples inside tuples")
      self[key] = value

  def __setstate__(self, state):
    pass


class _Unpickler(pickles.SafeUnpickler):
  """Hands out inert classes, and storages as the tuples that name them."""

  def __init__(self, file, sizes):
    super().__init__(file, encoding="latin1")
    self._sizes = sizes

  def find_class(self, module, name):
    if module == "collections" and name in ("OrderedDict", "defaultdict", "Counter"):
      return type("_Dict", (_Dict,), {})
    if module.split(".")[0] in _INERT or (module in ("builtins", "__builtin__") and name in _BUILTINS):
      # Every one has its own class, so a pickle that alters one alters nothing else.
      return type("_Inert", (_Inert,), {"name": f"{module}.{name}"})
    raise BadPickle(f"it asks for {module}.{name}, which no weights need")

  def persistent_load(self, pid):
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
      raise BadPickle("it holds a whole model, not a dict of tensors")
    _, kind, key, _, numel, *view = pid
    storage = _Storage(getattr(kind, "name", ""), str(key), int(numel), view[0] if view else None)
    if self._sizes is not None:
      self._sizes[storage.key] = storage.itemsize()
    return storage


class _Storage:
  """Numbers that tensors view: all of a storage, or in old files a part of it."""

  def __init__(self, kind, key, numel, view):
    self.kind, self.key, self.numel, self.view = kind, key, numel, view

  def itemsize(self):
    """Bytes of a number, also of those kinds that are never read."""
    known = self.kind.rsplit(".", 1)[-1].removesuffix("Storage")
    wide = {"Untyped": 1, "ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4}
    return wide.get(known) or _dtype(known).itemsize


def _dtype(kind):
  if kind not in _DTYPES:
    raise BadPickle(f"numbers of kind {kind}")
  return np.dtype(_DTYPES[kind])


def _unpickle(f, sizes=None):
  try:
    return _Unpickler(f, sizes).load()
  except BadPickle:
    raise
  except Exception as error:  # damaged pickles raise nearly every kind
    raise BadPickle(f"it is damaged or cut short ({type(error).__name__}: {error})") from error


def _tensor(value, read_storage, name):
  """The array of a tensor or parameter; None for anything else."""
  for _ in range(3):  # a parameter around a tensor, once or, in files of torch 0.1, as its state
    kind = getattr(value, "name", "")
    if kind.endswith((".Parameter", ".Variable", "._rebuild_parameter", "._rebuild_parameter_with_state")):
      held = value.args or value.state
      value = held[0] if isinstance(held, tuple) and held else None
  rebuild = getattr(value, "name", "").rsplit(".", 1)[-1]
  if rebuild not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
    return None
  try:
    storage, offset, shape, stride = value.args[:4]
    typed = value.args[6].name.rsplit(".", 1)[-1] if rebuild.endswith("v3") else None
    kind = _BY_NAME.get(typed, typed) if typed else storage.kind.rsplit(".", 1)[-1].removesuffix("Storage")
    return _view(storage, _dtype(kind), offset, tuple(shape), tuple(stride), read_storage, bool(typed))
  except BadPickle as error:
    raise BadPickle(f"{name}: {error}") from error
  except (TypeError, ValueError, AttributeError, IndexError, OverflowError, MemoryError) as error:
    raise BadPickle(f"{name} is damaged ({type(error).__name__}: {error})") from error


def _view(storage, dtype, offset, shape, stride, read_storage, in_bytes):
  """A tensor's numbers as an array of its own."""
  numel = storage.view[2] if storage.view else storage.numel // dtype.itemsize if in_bytes else storage.numel
  if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
    raise BadPickle(f"a tensor of shape {shape} and strides {stride}")
  if 0 in shape:
    return np.zeros(shape, dtype if dtype.kind != "V" else np.float32)
  count = int(np.prod(shape, dtype=object))
  if offset + sum((n - 1) * s for n, s in zip(shape, stride)) >= numel or count - numel > _ENLARGED:
    raise BadPickle(f"a tensor of shape {shape} in a storage of {numel} numbers")
  base = _numbers(storage, numel, dtype, read_storage)
  view = np.lib.stride_tricks.as_strided(base[offset:], shape, [s * dtype.itemsize for s in stride], writeable=False)
  return view.astype(np.float32) if dtype == ml_dtypes.bfloat16 else view.copy()


def _numbers(storage, numel, dtype, read_storage):
  """The numbers of a storage, or of the part (key, start, count) of another one that it is in old files."""
  if storage.view is None:
    return read_storage(storage.key, numel, dtype)
  _, start, count = storage.view
  if not (type(start) is int and type(count) is int and 0 <= start and 0 <= count and start + count <= storage.numel):
    raise BadPickle("a storage outside the one it is a part of")
  return read_storage(storage.key, start + count, dtype)[start:]
