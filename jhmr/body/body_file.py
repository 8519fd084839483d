"""Reads and writes SMPL model files: official pickles without chumpy, npz re-exports, our own.

The arrays, with N vertices, F faces, L betas:

    v_template [N, 3] m        shapedirs [N, 3, L] m     posedirs [207, 3 N] m, column 3 v + c
    J_regressor [24, N]        weights [N, 24]           parents [24], root -1      f [F, 3]

and, where a file or its neighbours have them, those of `OPTIONAL`.
"""

import io
import pathlib
import pickle

from jhmr import files
from jhmr.body import joints
from jhmr.body import pickles
from jhmr.errors import InputError
import numpy as np

NUM_JOINTS = len(joints.PARENTS)
NUM_POSE_FEATURES = 9 * (NUM_JOINTS - 1)
GENDERS = ("neutral", "female", "male")
OPTIONAL = {
    "regressor_extra9": "[9, N] SPIN's nine joints from posed vertices",
    "regressor_h36m17": "[17, N] the evaluation joints",
    "regressor_j19": "[19, N] ProHMR's joints",
    "vertex_joint_ids": "[21] vertices of joints.VERTEX21, for bodies of another topology",
    "vert_sym_idxs": "[N] each vertex's mirror image",
    "parts24": "[F] 1..24, body part of a face", "parts6": "[F] 1..6, coarse part",
    "iuv": "[F, 3, 3] part, U and V of each corner",
    "down_ids": "[n, M] coarse mesh: vertices averaged", "down_weights": "[n, M] their weights",
    "up_ids": "[N, M] back to the full mesh", "up_weights": "[N, M]",
    "down_faces": "[f, 3] faces of the coarse mesh"}

# Files beside an official model: key -> (file name, rows).
_BESIDE = {"regressor_extra9": ("J_regressor_extra.npy", len(joints.EXTRA9)),
           "regressor_h36m17": ("J_regressor_h36m.npy", len(joints.H36M17)),
           "regressor_j19": ("SMPL_to_J19.pkl", len(joints.names("j19")))}
_REQUIRED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "f")
_KEYS = (*_REQUIRED, "kintree_table", "parents", *OPTIONAL)
_ORIGINAL = {"neutral": ("basicModel_neutral_lbs_10_207_0_v1.0.0.pkl",),
             "female": ("basicModel_f_lbs_10_207_0_v1.0.0.pkl", "basicmodel_f_lbs_10_207_0_v1.1.0.pkl"),
             "male": ("basicmodel_m_lbs_10_207_0_v1.0.0.pkl", "basicmodel_m_lbs_10_207_0_v1.1.0.pkl")}
_WHERE_FROM = "download it again from smpl.is.tue.mpg.de, logged in"


def read_body_file(path, gender="neutral"):
  """Reads an SMPL model into canonical arrays (see above), without chumpy, scipy or pickle's dangers.

  Args:
    path: a .pkl or .npz file, or a directory with SMPL_NEUTRAL.pkl (or .npz, or the original download names), in it or
      in its folder smpl, as SPIN's data has it. Regressors are looked for beside the model and in that directory.
    gender: which file of a directory, one of GENDERS.
  Returns:
    {name: NumPy array}.
  Raises:
    InputError: one line, when the file is missing, damaged, refused, or not an SMPL model.
  """
  folder, path = pathlib.Path(path), _resolve(pathlib.Path(path), gender)
  raw = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
  arrays = _canonical(raw, path)
  for key, file in _beside(path, folder).items():
    if key not in arrays:
      arrays[key] = _read_beside(file, _BESIDE[key][1], len(arrays["v_template"]))
  return arrays


def files_of(path, gender="neutral"):
  """The files that `read_body_file` looks at: the model and the regressors beside it. Raises as it for no model."""
  model = _resolve(pathlib.Path(path), gender)
  return [model, *_beside(model, pathlib.Path(path)).values()]


def _beside(model, folder):
  """{key: file} of the regressors beside a model, or in the folder that was given."""
  places = {key: [place / name for place in (model.parent, folder)] for key, (name, _) in _BESIDE.items()}
  return {key: found[0] for key, files in places.items() if (found := [file for file in files if file.is_file()])}


def _resolve(path, gender):
  if gender not in GENDERS:
    raise InputError(f"gender {gender!r} is not one of {', '.join(GENDERS)}")
  if path.is_dir():
    stem = f"SMPL_{gender.upper()}"
    found = [folder / name for folder in (path, path / "smpl")
             for name in (stem + ".pkl", stem + ".npz", *_ORIGINAL[gender]) if (folder / name).is_file()]
    if not found:
      raise InputError(f"directory {str(path)!r} has no {stem}.pkl or {stem}.npz: put the {gender} model there, "
                       "or name a file")
    return found[0]
  if not path.is_file():
    raise InputError(f"body model {str(path)!r} does not exist: give a .pkl or .npz file, or the directory of "
                     "SMPL_NEUTRAL.pkl, or 'mannequin'")
  if path.suffix not in (".pkl", ".npz"):
    raise InputError(f"body model {str(path)!r} is neither .pkl nor .npz: give a file of one of those kinds")
  return path


def _sniff(path):
  """Names the usual non-models: a login page, a git-lfs pointer, an empty file."""
  try:
    with open(path, "rb") as file:
      start = file.read(64).lstrip()
  except OSError as error:
    raise InputError(f"body model {str(path)!r} cannot be read: {error.strerror}") from error
  if not start:
    raise InputError(f"body model {str(path)!r} is empty: {_WHERE_FROM}")
  if start.startswith(b"<"):
    raise InputError(f"body model {str(path)!r} is a web page, not a model: {_WHERE_FROM}")
  if start.startswith(b"version https://git-lfs"):
    raise InputError(f"body model {str(path)!r} is a git-lfs pointer, not the model: run `git lfs pull`")


def _read_pickle(path):
  raw = _unpickle(path)
  if not isinstance(raw, dict):
    raise InputError(f"body model {str(path)!r} holds a {type(raw).__name__} instead of named arrays: {_WHERE_FROM}")
  return {key: _unwrap(raw[key], key, path) for key in _KEYS if key in raw}


def _unpickle(path):
  _sniff(path)
  try:
    with open(path, "rb") as file:
      return pickles.read(file)
  except pickles.BadPickle as error:
    raise InputError(f"body model {str(path)!r} is not read: {_line(error)}; {_WHERE_FROM}") from error


def _unwrap(value, key, path):
  try:
    return pickles.array(value)
  except pickles.BadPickle as error:
    raise InputError(f"body model {str(path)!r}: {key} is unusable: {_line(error)}; {_WHERE_FROM}") from error


def _line(error):
  """An exception's message on one line of bounded length."""
  return " ".join(str(error).split())[:200]


def _read_npz(path):
  _sniff(path)
  try:
    with np.load(path, allow_pickle=False) as file:
      return {key: file[key] for key in _KEYS if key in file.files}
  except Exception as error:  # zip, zlib and NumPy raise nearly every kind; pickled objects are a ValueError
    raise InputError(f"body model {str(path)!r} is not read: damaged, or it holds objects instead of plain arrays "
                     f"({type(error).__name__}: {_line(error)}); save it again with plain arrays") from error


def _read_beside(path, rows, num_vertices):
  """A joint regressor [rows, N] from a .npy or .pkl file; of a longer .npy (GraphCMR's 14 rows) the last rows."""
  if path.suffix == ".pkl":
    value = _unwrap(_unpickle(path), "the joint regressor", path)
  else:
    try:
      value = np.load(path, allow_pickle=False)
    except Exception as error:  # as for npz
      raise InputError(f"joint regressor {str(path)!r} is not read ({_line(error)}): replace or remove it") from error
  if value.ndim != 2 or len(value) < rows or value.shape[1] != num_vertices or not _finite(value):
    raise InputError(f"joint regressor {str(path)!r} has shape {value.shape} where ({rows}, {num_vertices}) finite "
                     "numbers are needed: replace or remove it")
  return value[-rows:]


def _canonical(raw, path):
  """Checks every array and brings it to its documented layout."""
  problem = (_missing(raw) or _bad_numbers(raw) or _bad_shape(raw) or _bad_index(raw) or _bad_sum(raw)
             or _bad_tree(raw))
  if problem:
    raise InputError(f"body model {str(path)!r} is not a usable SMPL model: {problem}; {_WHERE_FROM}")
  arrays = {key: value for key, value in raw.items() if key != "kintree_table"}
  return arrays | {"posedirs": _posedirs(raw), "parents": _parents(raw), "f": raw["f"].astype(np.int64)}


# Each of these says what is wrong with the arrays, or None.

def _missing(raw):
  missing = [key for key in _REQUIRED if key not in raw]
  if not {"kintree_table", "parents"} & set(raw):
    missing.append("kintree_table")
  return f"it lacks {', '.join(missing)}" if missing else None


def _bad_numbers(raw):
  bad = [key for key, value in raw.items() if not _finite(value)]
  return f"{bad[0]} ({raw[bad[0]].dtype}) is not all finite numbers" if bad else None


def _finite(value):
  return value.dtype.kind in "fiub" and bool(np.isfinite(value).all())


def _bad_shape(raw):
  num, num_faces = (raw[key].shape[0] if raw[key].ndim == 2 else 0 for key in ("v_template", "f"))
  shapes = {"v_template": (num, 3), "shapedirs": (num, 3, -1), "J_regressor": (NUM_JOINTS, num),
            "weights": (num, NUM_JOINTS), "f": (num_faces, 3), "vertex_joint_ids": (len(joints.VERTEX21),),
            "vert_sym_idxs": (num,), "parts24": (num_faces,), "parts6": (num_faces,), "iuv": (num_faces, 3, 3),
            "down_ids": (-1, -1), "up_ids": (num, -1),
            "down_faces": (-1, 3)} | {key: (rows, num) for key, (_, rows) in _BESIDE.items()}
  shapes |= {f"{way}_weights": raw[f"{way}_ids"].shape for way in ("down", "up") if f"{way}_ids" in raw}
  for key, shape in shapes.items():
    if key in raw and not _fits(raw[key].shape, shape):
      return f"{key} has shape {raw[key].shape}, not {tuple('any' if n < 0 else n for n in shape)}"
  if raw["posedirs"].shape not in _posedirs_shapes(num):
    return f"posedirs has shape {raw['posedirs'].shape}, not {_posedirs_shapes(num)[0]}"
  return None


def _fits(shape, wanted):
  return len(shape) == len(wanted) and 0 not in shape and all(w in (-1, n) for n, w in zip(shape, wanted))


def _posedirs_shapes(num):
  """The three layouts in circulation."""
  return (num, 3, NUM_POSE_FEATURES), (3 * num, NUM_POSE_FEATURES), (NUM_POSE_FEATURES, 3 * num)


def _bad_index(raw):
  num = len(raw["v_template"])
  limits = dict.fromkeys(("f", "vertex_joint_ids", "vert_sym_idxs", "down_ids"), num)
  limits |= dict.fromkeys(("up_ids", "down_faces"), len(raw.get("down_ids", ())))
  for key, limit in limits.items():
    if key in raw and (raw[key].dtype.kind not in "iu" or raw[key].min() < 0 or raw[key].max() >= limit):
      return f"{key} points outside 0..{limit - 1}"
  return None


def _bad_sum(raw):
  """Skinning weights and joint regressor are averages; sums in the authors' files stray to 0.9996."""
  for key in ("weights", "J_regressor"):
    sums = raw[key].sum(1, dtype=np.float64)
    if np.abs(sums - 1).max() > 0.01:
      return f"a row of {key} sums to {sums[np.abs(sums - 1).argmax()]:.3g} instead of 1"
  return None


def _bad_tree(raw):
  parents = _parents(raw)
  if tuple(parents) != joints.PARENTS:
    return f"its kinematic tree of {len(parents)} joints is not SMPL's of {NUM_JOINTS}"
  return None


def _parents(raw):
  """Parents [24] int64; official files store the root's -1 as 4294967295 (uint32)."""
  parents = np.array(raw["kintree_table"] if "kintree_table" in raw else raw["parents"]).astype(np.int64)
  parents = np.atleast_1d(parents[0] if parents.ndim == 2 and len(parents) else parents.ravel())
  if parents.size:
    parents[0] = -1
  return parents


def _posedirs(raw):
  """[207, 3 N] from any of the three layouts."""
  value, num = raw["posedirs"], len(raw["v_template"])
  if value.shape == _posedirs_shapes(num)[2]:
    return value
  return np.ascontiguousarray(value.reshape(3 * num, NUM_POSE_FEATURES).T)


def write_body_file(path, arrays):
  """Writes arrays in the format of `read_body_file` as .pkl (which the smplx package loads) or .npz; atomic.

  Raises:
    InputError: when the name ends otherwise or the directory cannot be written.
  """
  path = pathlib.Path(path)
  if path.suffix not in (".pkl", ".npz"):
    raise InputError(f"body model {str(path)!r} must be named .pkl or .npz")
  num = arrays["v_template"].shape[0]
  table = np.stack([np.asarray(arrays["parents"], np.int64), np.arange(NUM_JOINTS)]).astype(np.uint32)
  out = {key: np.asarray(value) for key, value in arrays.items() if key != "parents"}
  out |= {"posedirs": np.ascontiguousarray(out["posedirs"].T).reshape(num, 3, NUM_POSE_FEATURES),
          "kintree_table": table, "f": out["f"].astype(np.uint32)}
  data = io.BytesIO()
  if path.suffix == ".npz":
    np.savez_compressed(data, **out)
  else:
    from scipy import sparse
    pickle.dump(out | {"J_regressor": sparse.csc_matrix(out["J_regressor"]), "bs_style": "lbs", "bs_type": "lrotmin"},
                data, protocol=2)
  _write_atomically(path, data.getbuffer())


def _write_atomically(path, data):
  """A reader sees the old file or the new one, never half of one."""
  try:
    with files.whole(path, "wb") as file:
      file.write(data)
  except OSError as error:
    raise InputError(f"body model {str(path)!r} cannot be written: {error.strerror}") from error
