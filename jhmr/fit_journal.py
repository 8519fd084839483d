"""What a fit of thousands of people has finished, on disk: one file a batch, there whole or not at all.

A person is known by a key, the hash of everything that decides their result. So a command that is given again, after
whatever ended it, asks which keys are there and fits the others; who has other keypoints or settings has another key.
"""

import hashlib
import json
import os

from jhmr import files, report
import jax
import numpy as np

FOLDER = "parts"
RESULTS = ("fits.npz", "fits.json", "skipped.txt")  # what is written beside it
_CHUNK = 1 << 20


def key_of(settings, arrays):
  """The key of one person.

  Args:
    settings: what decides the result and is the same for all; JSON.
    arrays: what is the person's own.
  Returns:
    24 hexadecimal digits.
  """
  hashed = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=12)
  for x in arrays:
    _add_array(hashed, x)
  return hashed.hexdigest()


def digest(tree):
  """24 hexadecimal digits of a pytree's arrays and where they are in it: what was loaded, whichever file it was in."""
  hashed = hashlib.blake2b(digest_size=12)
  for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
    hashed.update(jax.tree_util.keystr(path).encode())
    _add_array(hashed, x)
  return hashed.hexdigest()


def run_digest(config, state, assets):
  """The same of a run that `evaluate.load_run` has loaded, and of its config but for where bodies are read from."""
  config = {k: v for k, v in json.loads(config.to_json_best_effort()).items() if k not in ("body", "mean_params")}
  return key_of(config, (digest((state.params, state.stats)), digest(assets)))


def stamp(path):
  """24 hexadecimal digits of what a file holds; "" for one that cannot be read."""
  hashed = hashlib.blake2b(digest_size=12)
  try:
    with open(path, "rb") as f:
      while chunk := f.read(_CHUNK):
        hashed.update(chunk)
  except (OSError, ValueError):
    return ""
  return hashed.hexdigest()


def _add_array(hashed, x):
  x = np.asarray(x)
  hashed.update(f"{x.dtype.str}{x.shape}".encode() + x.tobytes())


def add(out, keys, arrays):
  """Writes the results of a batch: {name: [P, ...]} of the people with these keys."""
  name = hashlib.blake2b("".join(keys).encode(), digest_size=12).hexdigest()
  with files.whole(os.path.join(out, FOLDER, f"{name}.npz"), "wb") as f:
    np.savez(f, keys=np.array(keys), **arrays)


def finished(out):
  """{key: (path, row)} of everybody in the folder. A damaged file is named, removed, and counts for nobody."""
  folder, found = os.path.join(out, FOLDER), {}
  for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
    path = os.path.join(folder, name)
    if name.endswith(".npz") and not name.startswith("."):
      found |= {key: (path, row) for row, key in enumerate(_read_whole(path).get("keys", ()))}
  return found


def sweep(out):
  """Removes what a killed process was writing; nobody else may be at work in the folder."""
  ours = tuple(f".{name}." for name in RESULTS)
  for folder in (out, os.path.join(out, FOLDER)):
    for name in os.listdir(folder):
      if name.endswith(".tmp") and name.startswith("." if folder != out else ours):
        os.unlink(os.path.join(folder, name))


def gather(keys, found):
  """{name: [N, ...]} of the people with these keys, in their order, of what `finished` found of all of them."""
  rows = {}
  for i, key in enumerate(keys):
    path, row = found[key]
    rows.setdefault(path, []).append((i, row))
  whole = {}
  for path, pairs in rows.items():
    i, row = map(list, zip(*pairs))
    for name, values in _read(path).items():
      if name != "keys":
        whole.setdefault(name, np.zeros((len(keys), *values.shape[1:]), values.dtype))[i] = values[row]
  return whole


def _read(path):
  with np.load(path, allow_pickle=False) as stored:
    return {name: stored[name] for name in stored.files}


def _read_whole(path):
  """{name: array} of one file, every byte of which is checked; {} when it is damaged."""
  try:
    arrays = _read(path)  # zipfile compares the checksum of what it has read to the end
    if len({len(x) for x in arrays.values()}) != 1 or len(arrays) < 2:
      raise ValueError("its arrays do not belong together")
    return arrays
  except Exception as error:  # a disk may have made anything of it  # pylint: disable=broad-except
    report.warn(f"{path!r} cannot be read ({type(error).__name__}: {error}): its people are fitted again")
    if not isinstance(error, OSError):  # which may pass
      os.unlink(path)
    return {}
