"""Directories that appear whole or not at all, and what an interrupted writer leaves behind."""

import contextlib
import fcntl
import pathlib
import re
import shutil
import tempfile

_LOCK = "in-progress"  # held by the writer for as long as it lives: a lock ends with its process, however that ends


@contextlib.contextmanager
def beside(out, say=print):
  """A hidden directory on the disk of `out`, so that what is made in it can be renamed into place; always removed.

  Those that killed writers of the same `out` have left are removed first; `say` hears of each in one line.
  """
  for stale in _left_behind(out):
    shutil.rmtree(stale, ignore_errors=True)
    say(f"removed {stale}, which an interrupted build left behind")
  made = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
  try:
    with open(made / _LOCK, "w") as lock:
      with contextlib.suppress(OSError):  # a disk without locks: nothing is ever taken for stale there
        fcntl.flock(lock, fcntl.LOCK_EX)
      yield made
  finally:
    shutil.rmtree(made, ignore_errors=True)


def _left_behind(out):
  ours = re.compile(re.escape(f".{out.name}.") + "[a-z0-9_]{8}")  # as tempfile names them
  return [d for d in sorted(out.parent.iterdir()) if ours.fullmatch(d.name) and _is_stale(d / _LOCK)]


def _is_stale(lock):
  try:
    with open(lock) as f:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except OSError:  # its writer lives, or it is not one of ours
    return False
