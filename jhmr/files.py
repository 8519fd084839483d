"""Files that are there whole or not at all, folders that one process writes at a time, and arrays kept between runs."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import tempfile
import zipfile

from jhmr.errors import InputError
import numpy as np


@contextlib.contextmanager
def whole(path, mode="w"):
  """Opens a file to write that takes its name only when the block ends well; until then an old one stays.

  Args:
    path: the final name; its folder exists.
    mode: "w" or "wb".
  Yields:
    the open file, beside `path` under another name.
  """
  handle, scratch = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", suffix=".tmp",
                                     dir=os.path.dirname(os.path.abspath(path)))
  try:
    with os.fdopen(handle, mode) as f:
      yield f
      f.flush()
      os.fsync(f.fileno())
    os.chmod(scratch, 0o666 & ~_umask())
    os.replace(scratch, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.unlink(scratch)
    raise


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask


@contextlib.contextmanager
def locked(path, option="--workdir"):
  """Holds a lock file for the block; it ends with the process, however that ends.

  Args:
    path: <the folder that is written to>/<some folder>/<file>.
    option: how commands are told of another folder.
  Raises:
    InputError: when another process holds it. A disk without locks keeps nobody out.
  """
  with open(path, "w") as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      folder = os.path.dirname(os.path.dirname(path))
      raise InputError(f"another process is writing to {folder!r}: wait for it, or give another {option}") from error
    except OSError:
      pass
    yield


@contextlib.contextmanager
def writing(out, option="--out"):
  """A block that writes to a folder and reads nothing that is not its own: what the disk refuses is one line.

  Raises:
    InputError: for any OSError of the block.
  """
  try:
    yield
  except OSError as error:
    raise InputError(f"{option} {out!r} cannot be written to ({error.strerror or error}): what is finished stays, and "
                     "the same command goes on") from error


def check_folder(out, option="--out"):
  """Raises InputError unless a folder is there to write to, or can be made."""
  place = os.path.abspath(out)
  while not os.path.lexists(place):
    place = os.path.dirname(place)
  said = "Not a directory" if not os.path.isdir(place) else "" if os.access(place, os.W_OK | os.X_OK) else (
      "Permission denied")
  if said:
    raise InputError(f"{option} {out!r} cannot be written to ({said}: {place!r}): give another folder")


def cached(name, sources, make):
  """The dict of arrays that make() returns, made once as long as the files it comes from stay the same.

  Kept under $JHMR_CACHE or ~/.cache/jhmr; a cache that cannot be written is done without, a damaged one made again.

  Args:
    name: beginning of the file's name, says all that the arrays depend on but the sources.
    sources: paths of the files whose bytes decide.
  """
  path = cache_path(name, sources)
  try:
    with np.load(path, allow_pickle=False) as stored:
      return dict(stored)
  except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
    pass
  made = make()
  with contextlib.suppress(OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, "wb") as f:
      np.savez(f, **made)
  return made


def cache_path(name, sources):
  """Where `cached` keeps its arrays; the name holds a hash of the sources."""
  digest = hashlib.sha256(b"".join(pathlib.Path(p).read_bytes() for p in sources)).hexdigest()[:16]
  folder = pathlib.Path(os.environ.get("JHMR_CACHE") or pathlib.Path.home() / ".cache" / "jhmr")
  return folder / f"{name}_{digest}.npz"
