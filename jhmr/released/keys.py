"""From {their key: array} to our trees: every key is expected, has its shape, and goes to one place."""

from typing import Any, Callable, NamedTuple

from jhmr.errors import InputError
import numpy as np

_SHOWN = 5  # keys named of each kind of trouble


class Entry(NamedTuple):
  """One array of ours."""
  path: tuple        # ("params", "net", "backbone", "conv1", "kernel")
  names: tuple       # their key, or several that are put together
  shape: tuple       # of each of theirs
  convert: Callable  # their arrays -> ours


class Converted(NamedTuple):
  """What a family's `convert` makes of a file."""
  params: dict          # of a TrainState
  stats: dict           # of a TrainState
  # {"betas": [10], "camera": [3]}, and "pose" [144] 6D in SPIN's layout where they say it: what the weights add their
  # outputs to; None if there is none
  start: Any = None
  said: tuple = ()      # lines for the user


def same(path, name, shape):
  """An array that is stored as it is."""
  return Entry(path, (name,), tuple(shape), lambda x: x)


def dense(path, name, inputs, outputs):
  """A linear layer with bias: torch keeps its weight as [out, in]."""
  return [Entry((*path, "kernel"), (f"{name}.weight",), (outputs, inputs), lambda w: w.T),
          same((*path, "bias"), f"{name}.bias", (outputs,))]


def conv(path, name, inputs, outputs, size):
  """A convolution without bias: torch keeps it as [out, in, height, width]."""
  return Entry((*path, "kernel"), (f"{name}.weight",), (outputs, inputs, size, size), lambda w: w.transpose(2, 3, 1, 0))


def batch_norm(path, name, channels):
  """A batch norm; `path` begins below "params", which holds half of it, "stats" the other."""
  ours = (("params", "scale", "weight"), ("params", "bias", "bias"), ("stats", "mean", "running_mean"),
          ("stats", "var", "running_var"))
  return [same((tree, *path, leaf), f"{name}.{theirs}", (channels,)) for tree, leaf, theirs in ours]


def length(arrays, key, axis=0):
  """Size of an axis of one array; None when there is no such array or axis."""
  shape = arrays[key].shape if key in arrays else ()
  return shape[axis] if len(shape) > axis else None


def without_prefix(arrays, prefix):
  """{key: array} without a prefix that every key has; of networks trained on several GPUs, "module."."""
  if not all(k.startswith(prefix) for k in arrays):
    return arrays
  return {k.removeprefix(prefix): v for k, v in arrays.items()}


def split(arrays, ignored):
  """Sets aside what has no counterpart.

  Args:
    arrays: {their key: array}.
    ignored: {words for the user: compiled pattern of keys}.
  Returns:
    (the rest, one line that counts what was set aside; "" if nothing was).
  """
  groups = {words: [k for k in arrays if pattern.fullmatch(k)] for words, pattern in ignored.items()}
  left = {k: v for k, v in arrays.items() if not any(k in group for group in groups.values())}
  counted = ", ".join(f"{words} ({len(group)})" for words, group in groups.items() if group)
  return left, f"{len(arrays) - len(left)} keys have no counterpart here: {counted}" if counted else ""


def converted(arrays, ignored, entries, where, what, said=()):
  """The Converted of a file with exactly these entries, once what is ignored is set aside; as `split` and `fill`."""
  arrays, line = split(arrays, ignored)
  tree = fill(arrays, entries, where, what)
  return Converted(tree["params"], tree.get("stats", {}),
                   said=(f"{len(arrays)} arrays; {line or 'every key was used'}", *said))


def fill(arrays, entries, where, what):
  """Our arrays, float32, in nested dicts.

  Args:
    arrays: {their key: array}, nothing else in it.
    entries: list of Entry that names each key once.
    where: the file, what: whose weights these should be; for messages.
  Returns:
    {"params": ..., "stats": ...}.
  Raises:
    InputError: naming keys that are missing, unexpected, of another shape, or not finite.
  """
  shapes = {name: e.shape for e in entries for name in e.names}
  wrong = [f"{k} {_text(arrays[k].shape)}, not {_text(s)}" for k, s in shapes.items()
           if k in arrays and arrays[k].shape != s]
  trouble = [_list("missing", [k for k in shapes if k not in arrays]),
             _list("unexpected", [k for k in arrays if k not in shapes]), _list("of another shape", wrong)]
  if any(trouble):
    raise InputError(f"{where!r} does not hold {what}: {'; '.join(filter(None, trouble))}: give the right --kind and "
                     "a --config of the same sizes")
  if odd := [k for k in shapes if not np.all(np.isfinite(arrays[k]))]:
    raise InputError(f"{where!r} holds numbers that are not finite: {_list('in', odd)}: get the file again")
  tree = {}
  for entry in entries:
    value = entry.convert(*(np.asarray(arrays[k], np.float32) for k in entry.names))
    *folders, leaf = entry.path
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = np.ascontiguousarray(value)
  return tree


def _text(shape):
  return "[" + ", ".join(map(str, shape)) + "]"


def _list(word, names):
  more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
  return f"{word} {', '.join(names[:_SHOWN])}{more}" if names else ""
