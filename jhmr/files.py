"""Files that are there whole or not at all."""

import contextlib
import os
import tempfile


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
