"""What a fit of thousands of people has finished, on disk: one file a batch, there whole or not at all.

A person is known by a key, the hash of everything that decides their result. So a command that is given again, after
whatever ended it, asks which keys are there and fits the others; who has other keypoints or settings has another key.
"""

import hashlib
import json
import os

from jhmr import files, report
import numpy as np

FOLDER = "parts"


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
    x = np.asarray(x)
    hashed.update(f"{x.dtype.str}{x.shape}".encode() + x.tobytes())
  return hashed.hexdigest()


def add(out, keys, arrays):
  """Writes the results of a batch: {name: [P, ...]} of the people with these keys."""
  name = hashlib.blake2b("".join(keys).encode(), digest_size=12).hexdigest()
  with files.whole(os.path.join(out, FOLDER, f"{name}.npz"), "wb") as f:
    np.savez(f, keys=np.array(keys), **arrays)


def finished(out):
  """{key: (path, row)} of everybody in the folder; a file that cannot be read is named and counts for nobody."""
  folder, found = os.path.join(out, FOLDER), {}
  for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
    path = os.path.join(folder, name)
    if name.endswith(".npz") and not name.startswith("."):
      found |= {key: (path, row) for row, key in enumerate(_read(path, ("keys",)).get("keys", ()))}
  return found


def sweep(out):
  """Removes what a killed process was writing; nobody else may be at work in the folder."""
  folder = os.path.join(out, FOLDER)
  for name in os.listdir(folder):
    if name.startswith(".") and name.endswith(".tmp"):
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


def _read(path, names=None):
  """{name: array} of one file; {} when it is damaged, and then it is done again."""
  try:
    with np.load(path, allow_pickle=False) as stored:
      return {name: stored[name] for name in names or stored.files}
  except Exception as error:  # a disk may have made anything of it  # pylint: disable=broad-except
    report.warn(f"{path!r} cannot be read ({type(error).__name__}: {error}): its people are fitted again")
    return {}
