"""Writes pickles as Python 2, chumpy, old scipy and old NumPy wrote them, and hostile ones."""

import io
import pickle
import struct

import numpy as np
from scipy import sparse


class Ch:
  """Stands for chumpy.ch.Ch, which keeps its array in `x`."""

  def __init__(self, x):
    self.x = np.asarray(x)
    self._dirty_vars, self._itr, self._status = {"x"}, None, "new"


class Select:
  """Stands for chumpy.reordering.Select: a.ravel()[idxs].reshape(preferred_shape)."""

  def __init__(self, a, idxs, preferred_shape):
    self.a, self.idxs, self.preferred_shape = a, np.asarray(idxs), preferred_shape


class Reshape:
  """Stands for chumpy.reordering.Reshape."""

  def __init__(self, a, newshape):
    self.a, self.newshape = a, newshape


class Exp:
  """Stands for a chumpy function; like Ch it keeps its argument in `x`."""

  def __init__(self, x):
    self.x = x


class Add:
  """Stands for a chumpy expression."""

  def __init__(self, a, b):
    self.a, self.b = a, b


OLD_NAMES = {
    ("numpy._core.multiarray", "_reconstruct"): ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"): ("numpy.core.numeric", "_frombuffer"),
    ("scipy.sparse._csc", "csc_matrix"): ("scipy.sparse.csc", "csc_matrix"),
    ("scipy.sparse._csr", "csr_matrix"): ("scipy.sparse.csr", "csr_matrix"),
    ("scipy.sparse._coo", "coo_matrix"): ("scipy.sparse.coo", "coo_matrix"),
    (__name__, "Ch"): ("chumpy.ch", "Ch"), (__name__, "Select"): ("chumpy.reordering", "Select"),
    (__name__, "Reshape"): ("chumpy.reordering", "Reshape"), (__name__, "Exp"): ("chumpy.ch_ops", "exp"),
    (__name__, "Add"): ("chumpy.ch_ops", "add")}


class _OldPickler(pickle._Pickler):
  """Pickles under the module paths of the time; in protocols below 3 bytes are Python 2 strings."""

  def save_global(self, obj, name=None):
    name = name or obj.__qualname__
    module, name = OLD_NAMES.get((obj.__module__, name), (obj.__module__, name))
    if self.proto >= 4:
      self.save(module)
      self.save(name)
      self.write(pickle.STACK_GLOBAL)
    else:
      module = {"builtins": "__builtin__", "copyreg": "copy_reg"}.get(module, module)
      self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
    self.memoize(obj)

  def save_bytes(self, obj):
    if self.proto < 3:
      self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)
      self.memoize(obj)
    else:
      super().save_bytes(obj)

  dispatch = dict(pickle._Pickler.dispatch)
  dispatch[bytes] = save_bytes
  dispatch[type] = save_global
  dispatch[type(save_global)] = save_global


def dumps(value, protocol):
  out = io.BytesIO()
  _OldPickler(out, protocol).dump(value)
  return out.getvalue()


def official(arrays, chumpy=True, layout="csc"):
  """The dict of an official file from arrays in the format of `read_body_file`: chumpy, sparse, uint32 and all."""
  num = len(arrays["v_template"])
  wrap = Ch if chumpy else np.asarray
  base = np.concatenate([np.zeros((num, 3, 2)), arrays["shapedirs"]], -1)  # what Select picks from
  ids = np.arange(base.size).reshape(base.shape)[..., 2:].ravel()
  table = np.stack([arrays["parents"], np.arange(24)]).astype(np.uint32)
  return {
      "v_template": wrap(arrays["v_template"]), "weights": wrap(arrays["weights"]),
      "shapedirs": Select(Ch(base), ids, arrays["shapedirs"].shape) if chumpy else arrays["shapedirs"],
      "posedirs": wrap(np.asfortranarray(arrays["posedirs"].T.reshape(num, 3, -1))),
      "J_regressor": getattr(sparse, f"{layout}_matrix")(arrays["J_regressor"]),
      "kintree_table": table, "f": arrays["f"].astype(np.uint32), "J": Add(Ch([1.]), Ch([2.])),
      "bs_style": "lbs", "bs_type": "lrotmin", "pose_training_info": {"gender": "neutral", "names": ["a", "b"]}}


class Calls:
  """Unpickling this calls function(*args)."""

  def __init__(self, function, *args, state=None):
    self.reduced = (function, args) if state is None else (function, args, state)

  def __reduce__(self):
    return self.reduced
