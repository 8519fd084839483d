"""Files of a body's two resolutions: ours, plain arrays; and `mesh_downsampling.npz`, released with GraphCMR.

The authors' file has pickled scipy matrices: `A` adjacencies of three meshes, `U` and `D` the ways up and down between
them. Of each the first level is used. Nothing else of the file is opened, and nothing it names is imported or called,
see `pickles`.
"""

import io
import os
import warnings
import zipfile

from jhmr import files, sparse
from jhmr.body import pickles, remesh
from jhmr.errors import InputError
import numpy as np

KEYS = ("down_ids", "down_weights", "up_ids", "up_weights", "down_faces")
_AUTHORS = ("A", "U", "D")
_MOST_BYTES = 1 << 26  # of one array; the largest of the authors' file has 0.7 MB
_AGAIN = "make it again with python -m jhmr.body.pyramid"


def read(path, num):
  """The pyramid of a file, for a body of num vertices.

  Args:
    path: of a file that `write` made, or of the authors' `mesh_downsampling.npz`.
  Returns:
    {"down_ids" [n, M], "down_weights" [n, M], "up_ids" [N, M'], "up_weights" [N, M'], "edges" [E, 2]}, NumPy.
  Raises:
    InputError: one line, for a file that is missing, damaged, something else, or of a body of another size.
  """
  if not os.path.isfile(path):
    raise InputError(f"pyramid {path!r} does not exist: {_AGAIN.replace(' it again', ' one')}, or leave the path empty")
  try:
    with zipfile.ZipFile(path) as archive:
      names = set(archive.namelist())
      if {f"{key}.npy" for key in KEYS} <= names:
        found = {key: _plain(_member(archive, key)) for key in KEYS}
      elif {f"{key}.npy" for key in _AUTHORS} <= names:
        found = _of_authors(*(pickles.items(_object(_member(archive, key))) for key in _AUTHORS), num)
      else:
        raise pickles.BadPickle(f"it has neither {', '.join(KEYS)} nor {', '.join(_AUTHORS)}")
    if problem := _problem(found, num):
      raise pickles.BadPickle(problem)
  except pickles.BadPickle as error:
    raise InputError(f"pyramid {path!r} cannot be used: {_line(error)}; {_AGAIN}") from error
  except Exception as error:  # zip, zlib and NumPy raise nearly every kind
    raise InputError(f"pyramid {path!r} is not read, it is damaged or no npz file ({type(error).__name__}: "
                     f"{_line(error)}); {_AGAIN}") from error
  found = {key: value.astype(np.float32 if key.endswith("weights") else np.int64) for key, value in found.items()}
  if "down_faces" in found:
    found["edges"] = remesh.edge_faces(found.pop("down_faces"))[0]
  return found


def write(path, made):
  """Writes {key of KEYS: array} as an npz file, whole or not at all.

  Raises:
    InputError: when the name ends otherwise or the folder cannot be written.
  """
  if not str(path).endswith(".npz"):
    raise InputError(f"pyramid {path!r} must be named .npz")
  try:
    with files.whole(path, "wb") as f:
      np.savez_compressed(f, **{key: made[key] for key in KEYS})
  except OSError as error:
    raise InputError(f"pyramid {path!r} cannot be written: {error.strerror}") from error


def _line(error):
  return " ".join(str(error).split())[:200]


def _member(archive, key):
  """Bytes of an array in an npz file."""
  info = archive.getinfo(f"{key}.npy")
  if info.file_size > _MOST_BYTES:
    raise pickles.BadPickle(f"{key} has {info.file_size:,} bytes")
  return archive.read(info)


def _plain(data):
  """The array of a npy file's bytes; one of objects is a ValueError."""
  return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _object(data):
  """What is pickled in a npy file's bytes, behind its header, as `pickles.read` gives it."""
  file, form = io.BytesIO(data), np.lib.format
  readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that Python 2 wrote it
    _, _, dtype = readers[form.read_magic(file)](file)
  if not dtype.hasobject:
    raise pickles.BadPickle(f"an array of {dtype} where sparse matrices should be")
  return pickles.read(file)


def _of_authors(adjacencies, ups, downs, num):
  """First levels of the authors' lists of matrices. A's values do not matter, but where they are."""
  if len(adjacencies) < 2 or not ups or not downs:
    raise pickles.BadPickle("it has no second mesh")
  (of_a, *a), (of_u, *u), (of_d, *d) = map(pickles.entries, (adjacencies[1], ups[0], downs[0]))
  coarse = of_d[0]
  if of_d[1] != num or of_u[0] != num:
    raise pickles.BadPickle(f"it is of a mesh of {of_d[1]} vertices, the body has {num}")
  if of_u[1] != coarse or of_a != (coarse, coarse) or coarse > num:
    raise pickles.BadPickle(f"A {of_a}, U {of_u} and D {of_d} do not belong together")
  found = {}
  for way, (rows, columns, values), height in (("down", d, coarse), ("up", u, num)):
    order = np.lexsort((columns, rows))
    found[f"{way}_ids"], found[f"{way}_weights"] = sparse.padded(rows[order], columns[order], values[order], height)
  rows, columns, _ = a
  pairs = np.sort(np.stack([rows, columns], 1)[rows != columns], 1)
  return found | {"edges": np.unique(pairs, axis=0)}


def _problem(found, num):
  """What is wrong with the arrays, or None."""
  limits = {"down_ids": num, "up_ids": len(found["down_ids"]), "edges": len(found["down_ids"])}
  limits["down_faces"] = limits["edges"]
  for key in limits.keys() & found.keys():
    value = found[key]
    if value.ndim != 2 or not value.size or value.dtype.kind not in "iu":
      return f"{key} is {value.dtype} {value.shape}, not a table of vertices"
    if value.min() < 0 or value.max() >= limits[key]:
      return f"{key} points outside 0..{limits[key] - 1}"
  for way in ("down", "up"):
    weights, wanted = found[f"{way}_weights"], found[f"{way}_ids"].shape
    if weights.shape != wanted or weights.dtype.kind != "f" or not np.isfinite(weights).all():
      return f"{way}_weights is {weights.dtype} {weights.shape}, not finite weights {wanted}"
  if len(found["up_ids"]) != num:
    return f"it is of a mesh of {len(found['up_ids'])} vertices, the body has {num}"
  if "down_faces" in found and found["down_faces"].shape[1] != 3:
    return f"down_faces has shape {found['down_faces'].shape}, not three corners each"
  return None
