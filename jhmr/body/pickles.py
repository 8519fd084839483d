"""Arrays out of pickles, safely: nothing a pickle names is ever imported, called or constructed.

Body model files are Python 2 pickles that name chumpy, old scipy and old NumPy modules. Here every global a pickle asks
for becomes an inert `_Stub` that records its arguments and state, or is refused; arrays are then built from the
recorded bytes, dtype and shape. So neither chumpy nor scipy is needed, no module path can age, and a hostile file
can at worst be rejected.
"""

import contextlib
import pickle
import re

import numpy as np

_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric",
          "numpy.matrixlib.defmatrix")
_BUILTINS = ("__builtin__", "builtins")
_SPARSE = re.compile(r"scipy\.sparse(\._?(csc|csr|coo))?:(csc|csr|coo)_(matrix|array)")
_MIXTURE = re.compile(r"sklearn\.mixture(\.\w+)*:(GMM|GaussianMixture)")
_ALLOWED = {
    *((m, n) for m in _NUMPY for n in ("ndarray", "dtype", "matrix", "_reconstruct", "scalar", "_frombuffer")),
    *((m, n) for m in _BUILTINS for n in ("object", "set", "list", "dict", "bytes", "bytearray")),
    ("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor"), ("_codecs", "encode"),
    ("collections", "OrderedDict"), ("collections", "defaultdict")}
_DTYPE = re.compile(r"[fiu][1248]|b1|\?|bool")
_LAYOUTS = ("csc_", "csr_", "coo_")
_MAX_DENSE = 1e7  # entries of a sparse matrix; a joint regressor has 24 x 6,890
_MAX_DEPTH = 16   # of objects inside objects; real files need three


class BadPickle(ValueError):
  """The pickle is damaged, refused, or holds something that is not an array."""


class _Stub:
  """Stands for an instance of any class and for the result of any call: keeps what it was given."""
  name = ""

  def __init__(self, *args, **kwargs):
    del kwargs
    self.args, self.state = args, None

  def __new__(cls, *args, **kwargs):
    del kwargs
    self = object.__new__(cls)
    self.args, self.state = args, None
    return self

  def __setstate__(self, state):
    self.state = state


# Python's own unpickler rather than the C one: its memo is a dict, so a file cannot ask for gigabytes of memo.
class SafeUnpickler(pickle._Unpickler):
  """Knows no class at all; a subclass hands out, in `find_class`, what may be built."""

  def find_class(self, module, name):
    raise BadPickle(f"it asks for {module}.{name}")

  def get_extension(self, code):
    raise BadPickle(f"it uses extension code {code}")

  # Hashing a tuple of a million tuples inside each other overflows C's stack and kills the process.
  dispatch = dict(pickle._Unpickler.dispatch)
  for _code, _keys in ((pickle.SETITEM, lambda stack: stack[-2:-1]), (pickle.SETITEMS, lambda stack: stack[::2]),
                       (pickle.DICT, lambda stack: stack[::2]), (pickle.ADDITEMS, list), (pickle.FROZENSET, list)):
    def _load(self, keys=_keys, load=dispatch[_code[0]]):
      if not all(map(plain_key, keys(self.stack))):
        raise BadPickle("a key of tuples inside tuples")
      load(self)

    dispatch[_code[0]] = _load


class _Unpickler(SafeUnpickler):
  """Hands out stubs only."""

  def find_class(self, module, name):
    sparse = _SPARSE.fullmatch(f"{module}:{name}")
    chumpy = module.split(".")[0] == "chumpy" and name.isidentifier()
    mixture = _MIXTURE.fullmatch(f"{module}:{name}")
    if not (chumpy or sparse or mixture or (module, name) in _ALLOWED):
      raise BadPickle(f"it asks for {module}.{name}, which no body model needs")
    # Calls and instances alike. Every stub has its own class, so a pickle that alters one alters nothing else.
    return type("_Stub", (_Stub,), {"name": f"{module}.{name}"})


def plain_key(key, depth=3):
  """Whether a key of a dict or set can be hashed safely: no tuples deep inside tuples."""
  return not isinstance(key, tuple) or (depth > 0 and len(key) <= 64 and all(plain_key(k, depth - 1) for k in key))


def read(file):
  """The object in a binary file: numbers, strings, containers and stubs; pass it on to `array`.

  Raises:
    BadPickle: when the pickle is cut short, damaged, or names anything but arrays and chumpy objects.
  """
  try:
    return _Unpickler(file, encoding="latin1").load()
  except BadPickle:
    raise
  except Exception as error:  # damaged pickles raise nearly every kind
    raise BadPickle(f"it is damaged or not a pickle ({type(error).__name__}: {error})") from error


def attributes(value):
  """What a value of `read` holds by name: a dict as it is, an object's attributes.

  Raises:
    BadPickle: when it is neither.
  """
  found = value.state if isinstance(value, _Stub) else value
  if not isinstance(found, dict):
    raise BadPickle(f"a {type(value).__name__} where a dict should be")
  return found


def array(value, depth=0):
  """The array a value of `read` stands for: dense, sparse (made dense), or wrapped by chumpy.

  Raises:
    BadPickle: when it stands for none, or its bytes do not fit its shape.
  """
  if depth > _MAX_DEPTH:
    raise BadPickle("objects are nested too deeply")
  if not isinstance(value, _Stub):
    raise BadPickle(f"a {type(value).__name__} where an array should be")
  kind = _kind(value)
  short = kind.rsplit(".", 1)[-1]
  with _blaming(kind):
    if short == "_frombuffer":
      return _from_buffer(*value.args)
    if _is_plain(kind):
      return _from_state(value.state)
    if short.startswith(_LAYOUTS):
      return _from_sparse(short[:3], value.state, depth)
    if kind.startswith("chumpy"):
      return _from_chumpy(kind, value.state, depth)
  raise BadPickle(f"{kind} where an array should be")


def items(value):
  """What a value of `read` lists: an array of objects as a list of values to pass on to `array` or `entries`.

  Raises:
    BadPickle: when it is no such array, of one axis.
  """
  kind = _kind(value) if isinstance(value, _Stub) else type(value).__name__
  with _blaming(kind):
    if _is_plain(kind) and isinstance(value.state[-1], list) and tuple(value.state[-4]) == (len(value.state[-1]),):
      return value.state[-1]
  raise BadPickle(f"{kind} where an array of objects should be")


def entries(value):
  """A sparse matrix of `read` without its zeros; entries at the same place are to be added.

  Returns:
    (shape (m, n), rows [e] int64, columns [e] int64, values [e]).
  Raises:
    BadPickle: when it is none, or its entries do not fit its shape.
  """
  kind = _kind(value) if isinstance(value, _Stub) else type(value).__name__
  short = kind.rsplit(".", 1)[-1]
  with _blaming(kind):
    if short.startswith(_LAYOUTS):
      shape = _shape_of(value.state)
      return shape, *_entries(short[:3], value.state, shape, 0)
  raise BadPickle(f"{kind} where a sparse matrix should be")


@contextlib.contextmanager
def _blaming(kind):
  """Whatever a hostile state makes NumPy say becomes a BadPickle that names the kind of object."""
  try:
    yield
  except BadPickle:
    raise
  except Exception as error:
    raise BadPickle(f"{kind} has a damaged state ({type(error).__name__}: {error})") from error


def _is_plain(kind):
  return kind.rsplit(".", 1)[-1] == "_reconstruct" or kind in ("numpy.ndarray", "numpy.matrix")


def _kind(stub):
  """Qualified name of the class a stub is an instance of, through copyreg._reconstructor of old protocols."""
  if stub.name.endswith("._reconstructor") and stub.args and isinstance(stub.args[0], type):
    return getattr(stub.args[0], "name", "")
  return stub.name


def _from_state(state):
  """NumPy's own state: (version, shape, dtype, Fortran order, bytes); version is absent in very old files."""
  shape, dtype, fortran, data = state[-4:]
  return _from_buffer(data, dtype, shape, "F" if fortran else "C")


def _from_buffer(data, dtype, shape, order):
  dtype, data = _dtype(dtype), _bytes(data)
  shape = tuple(int(n) for n in (shape if isinstance(shape, (tuple, list)) else (shape,)))
  if any(n < 0 for n in shape):
    raise BadPickle(f"an array of shape {shape}")
  view = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")
  return view.astype(dtype.newbyteorder("="))  # a copy: writable, and the file's bytes can go


def _dtype(stub):
  if isinstance(stub, _Stub) and stub.name == "numpy.dtype" and _DTYPE.fullmatch(str(stub.args[0])):
    dtype = np.dtype(str(stub.args[0]))
    return dtype.newbyteorder(">") if stub.state and stub.state[1] == ">" else dtype
  named = getattr(stub, "args", [stub])
  raise BadPickle(f"an array of {named[0] if named else stub!r}, not of plain numbers")


def _bytes(value):
  if isinstance(value, _Stub) and value.name == "_codecs.encode":
    value = value.args[0]
  elif isinstance(value, _Stub) and value.name.rsplit(".", 1)[-1] in ("bytes", "bytearray"):
    value = value.args[0] if value.args else b""
  return value.encode("latin1") if isinstance(value, str) else bytes(memoryview(value))


def _from_sparse(layout, state, depth):
  """Dense float64 array from the attributes of a scipy matrix; duplicate entries add up."""
  shape = _shape_of(state)
  if np.prod(shape, dtype=float) > _MAX_DENSE:
    raise BadPickle(f"a sparse matrix of shape {shape}")
  rows, cols, data = _entries(layout, state, shape, depth)
  dense = np.zeros(shape)
  np.add.at(dense, (rows, cols), data)
  return dense


def _shape_of(state):
  shape = tuple(int(n) for n in state.get("_shape", state.get("shape")))
  if len(shape) != 2 or min(shape) < 0:
    raise BadPickle(f"a sparse matrix of shape {shape}")
  return shape


def _entries(layout, state, shape, depth):
  """Rows, columns and values from the attributes of a scipy matrix."""
  part = lambda name: array(state[name], depth + 1)
  data = part("data")
  if layout == "coo":
    coords = state.get("coords", (state.get("row"), state.get("col")))
    rows, cols = (array(c, depth + 1).astype(np.int64) for c in coords)
  else:
    minor, starts = part("indices").astype(np.int64), part("indptr").astype(np.int64)
    if starts[0] != 0 or np.diff(starts).min() < 0 or starts[-1] > len(data):
      raise BadPickle("a sparse matrix whose rows do not follow each other")
    major = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    # scipy keeps spare room at the end of indices and data
    minor, data = minor[:starts[-1]], data[:starts[-1]]
    rows, cols = (minor, major) if layout == "csc" else (major, minor)
  if not rows.shape == cols.shape == data.shape or data.ndim != 1:
    raise BadPickle(f"a sparse matrix of {data.shape} values at {rows.shape} rows and {cols.shape} columns")
  if data.size and (min(rows.min(), cols.min()) < 0 or rows.max() >= shape[0] or cols.max() >= shape[1]):
    raise BadPickle(f"a sparse matrix of shape {shape} with entries outside it")
  return rows, cols, data


def _from_chumpy(kind, state, depth):
  """A Ch keeps its array in `x` (functions keep their argument there); a Select picks flat indices and shapes them."""
  short, inner = kind.rsplit(".", 1)[-1], lambda key: array(state[key], depth + 1)
  if short == "Ch" and "x" in state:
    return inner("x")
  if short == "Select" and {"a", "idxs"} <= set(state):
    chosen = inner("a").ravel()[inner("idxs").astype(np.int64)]
    return _shaped(chosen, state.get("preferred_shape"), depth)
  if short == "Reshape" and {"a", "newshape"} <= set(state):
    return _shaped(inner("a"), state["newshape"], depth)
  raise BadPickle(f"{kind} is a chumpy expression, not an array: convert the file once where chumpy is installed")


def _shaped(value, shape, depth):
  shape = array(shape, depth + 1) if isinstance(shape, _Stub) else shape
  return value if shape is None else value.reshape(tuple(int(n) for n in np.atleast_1d(shape)))
