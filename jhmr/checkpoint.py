"""Save, restore and read checkpoints; the only file that imports orbax.

    <workdir>/config.json                      what the run is
    <workdir>/checkpoints/<step>/state/        the whole TrainState
    <workdir>/checkpoints/<step>/files.json    size and checksum of every file of the step
    <workdir>/damaged/<step>/                  checkpoints that were found unsound when the run went on before them

A checkpoint is sound when every file is as files.json says. The list is made just before the finished folder takes its
name, so there is none without; two small files that orbax (0.12) writes at that instant are checked by what they say.
"""

import contextlib
import errno
import glob
import json
import logging
import os
import zlib
from typing import NamedTuple

import jax
from jhmr import files
from jhmr.errors import InputError
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs forty lines a save and warns of files it may lack
# It raises the first error of a save and leaves those of its other tasks to asyncio, which prints a traceback of each.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

NOT_SCORED = 1e9  # score of a checkpoint on whose step no evaluation fell: never the best one
BACKBONE = "backbone"  # the part of a network that can be started alone
ONLY_BACKBONE = ":backbone"  # behind the path of a run, of which nothing else is wanted
_LISTING = "files.json"
_LATE = {"_CHECKPOINT_METADATA": lambda text, step: json.loads(text)["commit_timestamp_nsecs"] is not None,
         "commit_success.txt": lambda text, step: text.endswith(f"/{step}")}
_BLOCK = 1 << 20


class Writer(NamedTuple):
  """An open folder of checkpoints."""
  manager: object
  saving: list   # [step] of the save that is under way


def _folder(workdir):
  return os.path.join(os.path.abspath(workdir), "checkpoints")


def open_writer(workdir, keep=2, main=True):
  """A Writer that keeps the last `keep` checkpoints and the best one (lowest `score`).

  Args:
    main: whether this is the process that lists the files.
  """
  score = lambda metrics: metrics["score"]
  policy = preservation_policy.AnyPreservationPolicy([
      preservation_policy.LatestN(keep),
      # Not `best_fn` with `max_to_keep`: that deletes the newest checkpoint when it is not among the best.
      preservation_policy.BestN(get_metric_fn=score, reverse=True, n=1)])
  saving, folder = [None], _folder(workdir)
  finished = lambda: main and _list(folder, saving[0])
  options = ocp.CheckpointManagerOptions(
      best_fn=score, best_mode="min", preservation_policy=policy, cleanup_tmp_directories=True,
      async_options=ocp.AsyncOptions(post_finalization_callback=finished))
  return Writer(ocp.CheckpointManager(folder, options=options), saving)


def save(writer, state, step, score):
  """Starts an asynchronous save of `state` under `step`; `score` (lower is better) decides which is kept as best.

  Raises:
    InputError: when this save or the one before it could not be written; older checkpoints are intact.
  """
  with _explained(writer):
    writer.manager.wait_until_finished()
    writer.saving[0] = step
    if step in writer.manager.all_steps():  # saved without a score, before a preemption
      writer.manager.delete(step)
    saved = writer.manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)),
                                metrics={"score": float(score)})
    if not saved:
      raise RuntimeError(f"orbax left checkpoint {step} out")


def check(writer):
  """Raises InputError if a save that was under way has failed."""
  with _explained(writer):
    writer.manager.check_for_errors()


def close(writer):
  """Waits for the save that is under way and closes the folder. Raises InputError if it could not be written."""
  with _explained(writer):
    writer.manager.wait_until_finished()
    writer.manager.close()


def settle(writer):
  """Lets a save that is under way end, well or not, when the run itself has failed."""
  with contextlib.suppress(Exception):
    writer.manager.wait_until_finished()


@contextlib.contextmanager
def _explained(writer):
  """An error while saving becomes one line, with the checkpoint that is still there."""
  try:
    yield
  except Exception as error:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error) or "ENOSPC" in str(error)
    if not full and not isinstance(error, OSError):
      raise  # a lost process, or a bug
    folder = writer.manager.directory
    kept = [s for s in _steps(folder) if s != writer.saving[0]]
    raise InputError(
        f"checkpoint {writer.saving[0]} could not be written to {folder} "
        f"({'the disk is full' if full else str(error).splitlines()[0][:200]}); "
        f"{f'checkpoint {kept[-1]} is intact' if kept else 'there is none before it'}: "
        f"{'make room' if full else 'mend the disk'} and run the same command again") from error


def _steps(folder):
  """The finished checkpoints in a folder, oldest first."""
  return sorted(int(n) for n in os.listdir(folder) if n.isdigit()) if os.path.isdir(folder) else []


def _checksums(folder):
  """{relative path: [bytes, crc32]} of every file below a folder but the list and what is written after it."""
  found = {}
  for root, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(root, name)
      if root != folder or name not in (_LISTING, *_LATE):
        found[os.path.relpath(path, folder)] = [os.path.getsize(path), _crc(path)]
  return found


def _crc(path):
  value = 0
  with open(path, "rb") as f:
    while block := f.read(_BLOCK):
      value = zlib.crc32(block, value)
  return value


def _list(folder, step):
  """Writes the list of a step that is about to take its name."""
  unnamed, = glob.glob(os.path.join(glob.escape(folder), f"{step}.orbax-checkpoint-tmp*"))
  listed = _checksums(unnamed)
  with files.whole(os.path.join(unnamed, _LISTING)) as f:
    json.dump(listed, f, indent=0, sort_keys=True)


def problem(folder):
  """What is wrong with the files of a checkpoint, in words; "" if nothing."""
  try:
    with open(os.path.join(folder, _LISTING)) as f:
      listed = json.load(f)
    found = _checksums(folder)
  except (OSError, ValueError) as error:
    return f"{_LISTING} cannot be read: {error}"
  odd = sorted(p for p in set(listed) | set(found) if listed.get(p) != found.get(p))
  odd += [name for name, sound in _LATE.items() if not _says(os.path.join(folder, name), sound)]
  if not odd:
    return ""
  word = "not listed" if odd[0] in found and odd[0] not in listed else "missing or damaged"
  return f"{odd[0]} is {word}" + (f", and {len(odd) - 1} more files" if len(odd) > 1 else "")


def _says(path, sound):
  try:
    with open(path) as f:
      return sound(f.read(), os.path.basename(os.path.dirname(path)))
  except (OSError, ValueError):
    return False


def choose(workdir):
  """Which checkpoint to go on from, and what is wrong with the newer ones.

  Returns:
    (step or None when there is none, [(newer step, problem)]).
  Raises:
    InputError: when there are checkpoints and all are damaged.
  """
  folder, odd = _folder(workdir), []
  for step in reversed(_steps(folder)):
    trouble = problem(os.path.join(folder, str(step)))
    if not trouble:
      return step, odd
    odd.append((step, trouble))
  if odd:
    raise InputError(f"no checkpoint under {folder} is sound; newest: {odd[0][0]}, {odd[0][1]}; "
                     "restore the files or give another --workdir")
  return None, []


def set_aside(workdir, steps):
  """Moves checkpoints out of the way, to <workdir>/damaged/, since their steps will be written again."""
  for step in steps:
    target, i = os.path.join(workdir, "damaged", str(step)), 1
    os.makedirs(os.path.dirname(target), exist_ok=True)
    while os.path.exists(target):
      target, i = os.path.join(workdir, "damaged", f"{step}.{i}"), i + 1
    os.rename(os.path.join(_folder(workdir), str(step)), target)


def restore(writer, step, example, sharding):
  """One checkpoint, onto any devices.

  Args:
    example: a TrainState (arrays or shapes) with the tree, shapes and dtypes to restore into.
    sharding: where each leaf goes, so that another device count can read it.
  Raises:
    InputError: when it cannot be read into this tree.
  """
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), example)
  try:
    args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
    return writer.manager.restore(step, args=args)["state"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f"checkpoint {step} under {writer.manager.directory} cannot be read "
                     f"({str(error).splitlines()[0][:200]}): give another --workdir or restore the files") from error


def load_for_inference(workdir, step=None):
  """params and stats of a run, as NumPy, without knowing its structure; averaged parameters where the run has them.

  Args:
    step: which checkpoint; None is the best one.
  Returns:
    ({"params": ..., "stats": ...}, step).
  Raises:
    InputError: when the run has no such checkpoint.
  """
  folder = _folder(workdir)
  if not os.path.isdir(folder):
    raise InputError(f"{workdir!r} holds no checkpoints: train first, or give the --workdir of a training run")
  steps = _steps(folder)
  if not steps or (step is not None and step not in steps):
    raise InputError(f"no checkpoint {'' if step is None else step} under {folder}: it has {steps}")
  step = min(steps, key=lambda s: (_score(folder, s), -s)) if step is None else step
  if trouble := problem(os.path.join(folder, str(step))):
    raise InputError(f"checkpoint {step} under {folder} is damaged ({trouble}): choose another of {steps} with --step")
  reader, item = ocp.PyTreeCheckpointer(), os.path.join(folder, str(step), "state")
  try:
    tree = reader.metadata(item).item_metadata.tree
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    whole = reader.restore(item, args=ocp.args.PyTreeRestore(restore_args=args))
  except Exception as error:
    raise InputError(f"checkpoint {item} cannot be read ({str(error).splitlines()[0][:200]}): "
                     "choose another with --step") from error
  return {"params": whole.get("ema") or whole["params"], "stats": whole.get("stats", {})}, step


def _score(folder, step):
  """The score a checkpoint was saved with; the worst if its file is harmed."""
  try:
    with open(os.path.join(folder, str(step), "metrics", "metrics")) as f:
      return json.load(f)["score"]
  except (OSError, ValueError, KeyError):
    return float("inf")


def warm_start(state, workdir, step=None):
  """A fresh state with the networks of another run: their params and stats, never its step or optimiser.

  Args:
    state: fresh. Networks that the other run does not have stay as they are.
    workdir: of the other run; step: None is its best checkpoint. One that holds nothing but a BACKBONE (see
      `convert`) goes into every network that has one; with ONLY_BACKBONE behind it, so does that of any run.
  Returns:
    (state, one line that says what was taken).
  Raises:
    InputError: when no network is shared, or one's parameters differ, naming the odd ones.
  """
  loaded, step = load_for_inference(workdir.removesuffix(ONLY_BACKBONE), step)
  if workdir.endswith(ONLY_BACKBONE):
    loaded = _backbone_of(loaded, workdir)
  if set(loaded["params"]) == {BACKBONE}:
    shared = _backbones(state.params, workdir)
  else:
    shared = [(name,) for name in state.params if name in loaded["params"]]
  if not shared:
    raise InputError(f"{workdir!r} has networks {', '.join(loaded['params'])}, this run {', '.join(state.params)}: "
                     "nothing to start from")
  new = {"params": state.params, "stats": state.stats, "ema": state.ema}
  for place in shared:
    name = "/".join(place)
    taken = fitted(_at(state.params, place), loaded["params"][place[-1]], workdir, name)
    new["params"] = _put(new["params"], place, taken)
    if place[0] in state.ema:
      new["ema"] = _put(new["ema"], place, jax.tree.map(np.copy, taken))
    if _at(state.stats, place) is not None and place[-1] in loaded["stats"]:
      moments = fitted(_at(state.stats, place), loaded["stats"][place[-1]], workdir, name)
      new["stats"] = _put(new["stats"], place, moments)
  return state.replace(**new), f"started from step {step} of {workdir}: {', '.join(map('/'.join, shared))}"


def _backbone_of(loaded, workdir):
  """The params and stats of nothing but a run's backbone; InputError when it has none, or several."""
  places = _backbones(loaded["params"], workdir)
  if len(places) != 1:
    raise InputError(f"{workdir!r} asks for the backbone of a run that has {len(places)}: leave out "
                     f"{ONLY_BACKBONE!r}, or name a run with one")
  return {kind: {BACKBONE: part} for kind, tree in loaded.items() if (part := _at(tree, places[0])) is not None}


def _backbones(params, workdir):
  """Where each network has its backbone; InputError when one has several."""
  def places(tree, path):
    for key, value in tree.items() if isinstance(tree, dict) else ():
      yield from [(*path, key)] if key == BACKBONE else places(value, (*path, key))

  found = [list(places(tree, (name,))) for name, tree in params.items()]
  for several in found:
    if len(several) > 1:
      raise InputError(f"{workdir!r} holds one backbone, but this run has {', '.join(map('/'.join, several))}: which "
                       "one it is for cannot be told")
  return [place for several in found for place in several]


def _at(tree, place):
  """The part of a tree at a place; None where there is none."""
  for key in place:
    tree = tree.get(key) if isinstance(tree, dict) else None
  return tree


def _put(tree, place, value):
  """A tree with another part at a place."""
  return value if not place else dict(tree) | {place[0]: _put(tree[place[0]], place[1:], value)}


def fitted(example, loaded, workdir, name):
  """`loaded`, as NumPy, in the tree, shapes and dtypes of `example`; InputError when names or shapes differ."""
  keyed = lambda tree: {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
                        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
  want, have = keyed(example), keyed(loaded)
  odd = sorted(k for k in want.keys() | have.keys() if k not in want or k not in have or want[k].shape != have[k].shape)
  if odd:
    more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
    raise InputError(f"network {name!r} of {workdir!r} is another one: {', '.join(odd[:4])}{more} differ: give both "
                     "runs the same config.net")
  return jax.tree.unflatten(jax.tree.structure(example), [np.asarray(have[k], leaf.dtype) for k, leaf in want.items()])
