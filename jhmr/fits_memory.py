"""The best body found so far of every training example: a table that SPIN reads, improves and keeps in its state.

    memory = create(num_examples, assets.get("fits"))
    pose, betas, known = take(memory, batch["id"], flip, angle_rad)       # as the augmented crop shows the person
    memory = update(memory, batch["id"], pose, betas, quality, better, flip, angle_rad)

Rows are indexed by the example's id and hold the person as the unaugmented image shows it: pose [N, 72] axis-angle in
radians, betas [N, 10], and whether there is a fit at all. Every device of every process holds the same table, so that
an example that one of them improved is what all of them read later, wherever the example is shown next. 300,000 rows
take 0.1 GB.
"""

import json

import jax
import jax.numpy as jnp
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.errors import InputError
from jhmr.state import AXIS
import numpy as np

NUM_POSE, NUM_BETAS = 72, 10
_FLIP24 = joints.flip("smpl24")
_AXIS_SIGN = np.array([1, -1, -1], np.float32)  # of an axis-angle vector in a mirror that negates x


def create(num_examples, fits=None):
  """A table of num_examples rows, from {"pose" [N, 72], "betas" [N, 10], "known" [N]} or without any fit.

  Raises:
    ValueError: when fits has another number of rows.
  """
  if not fits:
    return {"pose": jnp.zeros((num_examples, NUM_POSE), jnp.float32),
            "betas": jnp.zeros((num_examples, NUM_BETAS), jnp.float32), "known": jnp.zeros(num_examples, bool)}
  if len(fits["pose"]) != num_examples:
    raise ValueError(f"{len(fits['pose'])} fits for {num_examples} examples")
  return {"pose": jnp.asarray(fits["pose"], jnp.float32), "betas": jnp.asarray(fits["betas"], jnp.float32),
          "known": jnp.asarray(fits["known"], bool)}


def check_ids(ids, num_examples):
  """Raises InputError when ids [B] (NumPy) of training examples are not rows of a table."""
  if len(ids) and not 0 <= np.min(ids) <= np.max(ids) < num_examples:
    raise InputError(f"ids of the training data lie in {np.min(ids)}..{np.max(ids)}, but there are {num_examples} "
                     f"examples: number them 0..{num_examples - 1} when the data set is built")


def take(memory, ids, flip, angle_rad):
  """The fits of examples, turned and mirrored as their crops are.

  Args:
    ids: [B]; flip [B] and angle_rad [B]: of the batch, see `data.spec`.
  Returns:
    (pose [B, 72], betas [B, 10], known [B] bool); zeros where there is no fit, or no such row.
  """
  row = lambda table, empty: table.at[_valid(ids, table)].get(mode="fill", fill_value=empty)
  pose = shown(row(memory["pose"], 0.0), flip, angle_rad)
  known = row(memory["known"], False)
  return jnp.where(known[:, None], pose, 0.0), row(memory["betas"], 0.0), known


def update(memory, ids, pose, betas, objective, better, flip, angle_rad, axis_name=AXIS):
  """The table with better fits of a batch in it, the same on every device.

  An example that is in the global batch several times gets its fit of the lowest objective, the first row of those that
  are equal. Fits that are not finite are left out.

  Args:
    ids: [B]; pose [B, 72] as the crop shows the person; betas [B, 10].
    objective: [B] of the fits, for examples that are there several times.
    better: [B] bool, whose fits to keep.
    flip, angle_rad: [B], as in `take`.
    axis_name: the mapped axis; None outside of one.
  Returns:
    the new table.
  Source: SPIN, authors' `train/fits_dict.py`. Differs: there the last of equal ids wins, whatever its quality.
  """
  pose = stored(pose, flip, angle_rad)
  finite = lambda x: jnp.all(jnp.isfinite(x), -1)
  better = better & jnp.isfinite(objective) & finite(pose) & finite(betas)
  size = memory["known"].shape[0]
  rows = {"id": jnp.where(better, _valid(ids, memory["known"]), size), "objective": objective, "pose": pose,
          "betas": betas}
  if axis_name is not None:
    rows = jax.lax.all_gather(rows, axis_name, tiled=True)
  ids, _, order = jax.lax.sort((rows["id"], jnp.where(rows["id"] < size, rows["objective"], 0.0),
                                jnp.arange(rows["id"].shape[0])), num_keys=3)
  repeated = jnp.concatenate([jnp.zeros(1, bool), ids[1:] == ids[:-1]])
  ids = jnp.where(repeated, size, ids)  # beyond the table: dropped
  put = lambda table, values: table.at[ids].set(values, mode="drop")
  return {"pose": put(memory["pose"], rows["pose"][order]), "betas": put(memory["betas"], rows["betas"][order]),
          "known": put(memory["known"], True)}


def shown(pose, flip, angle_rad):
  """Pose [B, 72] of an image's person -> of its augmented crop's: turned by -angle about z, then mirrored.

  Source: SPIN, authors' `train/fits_dict.py:__getitem__`.
  """
  return _mirrored(_turned(pose, -angle_rad), flip)


def stored(pose, flip, angle_rad):
  """The inverse of `shown`."""
  return _turned(_mirrored(pose, flip), angle_rad)


def _turned(pose, angle_rad):
  """The root turned about the camera's z axis; where there is nothing to do, it keeps every bit."""
  root = rotations.axis_angle_to_matrix(pose[:, :3])
  root = jnp.matmul(rotations.rotation_about("z", angle_rad), root, precision=jax.lax.Precision.HIGHEST)
  root = jnp.where(angle_rad[:, None] == 0, pose[:, :3], rotations.matrix_to_axis_angle(root))
  return jnp.concatenate([root, pose[:, 3:]], -1)


def _mirrored(pose, flip):
  parts = pose.reshape(-1, 24, 3)
  return jnp.where(flip[:, None] > 0, (parts[:, _FLIP24, :] * _AXIS_SIGN).reshape(pose.shape), pose)


def _valid(ids, table):
  """ids with negative ones, which would count from the end, moved beyond the table."""
  return jnp.where(ids < 0, table.shape[0], ids)


def read(paths):
  """Initial fits from files, for `assets`.

  Args:
    paths: one path or several with commas, in the order of the examples' ids: the authors' `<dataset>_fits.npy`
      [N, 82], or an .npz with pose [N, 72], betas [N, 10] and maybe quality [N], not finite where there is no fit (of
      `static_fits`), or valid_fit [N], 0 where there is none (the authors' released `<dataset>.npz`).
  Returns:
    {"pose" [N, 72], "betas" [N, 10] float32, "known" [N] bool}, NumPy.
  Raises:
    InputError: for a file that cannot be read or holds something else.
  """
  parts = [_read(path.strip()) for path in paths.split(",")]
  return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def data_of(paths):
  """{name: value} of the data that a file of `static_fits` was made of; {} where it does not say, or of several."""
  if "," in paths or not paths.strip().endswith(".npz"):
    return {}
  with np.load(paths.strip(), allow_pickle=False) as f:
    return json.loads(str(f["data"])) if "data" in f else {}


def _read(path):
  try:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
      pose, betas = np.split(np.asarray(loaded, np.float32), [NUM_POSE], axis=1)
      known = np.ones(len(pose), bool)
    else:
      with loaded:
        pose, betas = (np.asarray(loaded[name], np.float32) for name in ("pose", "betas"))
        known = np.isfinite(loaded["quality"]) if "quality" in loaded else np.ones(len(pose), bool)
        if "valid_fit" in loaded:
          known &= np.asarray(loaded["valid_fit"]).reshape(known.shape) > 0
  except Exception as error:  # NumPy, zip and pickle have their own kinds
    raise InputError(f"config.fits: {path!r} cannot be read ({(str(error) or repr(error)).splitlines()[0]}): give an "
                     ".npy of [N, 82] or an .npz with pose and betas") from error
  if (pose.shape, betas.shape, known.shape) != ((len(known), NUM_POSE), (len(known), NUM_BETAS), (len(known),)):
    raise InputError(f"config.fits: {path!r} holds pose {pose.shape} and betas {betas.shape}: give [N, {NUM_POSE}] and "
                     f"[N, {NUM_BETAS}]")
  if odd := np.flatnonzero(known & ~(np.isfinite(pose).all(1) & np.isfinite(betas).all(1))).tolist():
    raise InputError(f"config.fits: {path!r} is not finite in row {odd[0]}{' and others' if odd[1:] else ''}")
  clean = lambda x: np.where(known[:, None], x, np.float32(0))
  return {"pose": clean(pose), "betas": clean(betas), "known": known}
