"""Save, restore and read checkpoints; the only file that imports orbax.

    <workdir>/config.json            what the run is
    <workdir>/checkpoints/<step>/    state: the whole TrainState
"""

import logging
import os
from typing import NamedTuple

import jax
from jhmr.errors import InputError
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs forty lines a save and warns of files it may lack


NOT_SCORED = 1e9  # score of a checkpoint on whose step no evaluation fell: never the best one


class Restored(NamedTuple):
  state: object   # the TrainState
  step: int       # the checkpoint it came from
  skipped: tuple  # newer checkpoints that could not be read, as "step: reason"


def open_manager(workdir, keep=2):
  """A CheckpointManager that keeps the last `keep` checkpoints and the best one (lowest `score`)."""
  score = lambda metrics: metrics["score"]
  policy = preservation_policy.AnyPreservationPolicy([
      preservation_policy.LatestN(keep),
      # Not `best_fn` with `max_to_keep`: that deletes the newest checkpoint when it is not among the best.
      preservation_policy.BestN(get_metric_fn=score, reverse=True, n=1)])
  options = ocp.CheckpointManagerOptions(best_fn=score, best_mode="min", preservation_policy=policy)
  return ocp.CheckpointManager(os.path.join(os.path.abspath(workdir), "checkpoints"), options=options)


def save(manager, state, score):
  """Starts an asynchronous save of `state` under its step; `score` (lower is better) decides which is kept as best."""
  step = int(state.step)
  if step not in manager.all_steps():
    manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), metrics={"score": float(score)})


def restore(manager, example, sharding):
  """The newest readable checkpoint, or None when there is none.

  Args:
    example: a TrainState (arrays or shapes) with the tree, shapes and dtypes to restore into.
    sharding: where each leaf goes, so that another device count can read it.
  Raises:
    InputError: when checkpoints exist and none can be read, naming the newest one's reason.
  """
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), example)
  skipped = []
  for step in sorted(manager.all_steps(), reverse=True):
    try:
      args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
      return Restored(manager.restore(step, args=args)["state"], step, tuple(skipped))
    except Exception as error:  # orbax raises many kinds for a damaged folder
      skipped.append(f"{step}: {str(error).splitlines()[0][:200]}")
  if skipped:
    raise InputError(f"no checkpoint under {manager.directory} can be read; newest: {skipped[0]}; "
                     "give another --workdir or restore the files")
  return None


def _best(manager, steps):
  """The step with the lowest score, the newest among equals."""
  return min(steps, key=lambda step: (manager.metrics(step)["score"], -step))


def load_for_inference(workdir, step=None):
  """params and stats of a run, as NumPy, without knowing its structure.

  Args:
    step: which checkpoint; None is the best one.
  Returns:
    ({"params": ..., "stats": ...}, step).
  Raises:
    InputError: when the run has no such checkpoint.
  """
  if not os.path.isdir(os.path.join(workdir, "checkpoints")):
    raise InputError(f"{workdir!r} holds no checkpoints: train first, or give the --workdir of a training run")
  with open_manager(workdir) as manager:
    steps = sorted(manager.all_steps())
    if not steps or (step is not None and step not in steps):
      raise InputError(f"no checkpoint {'' if step is None else step} under {manager.directory}: it has {steps}")
    step = _best(manager, steps) if step is None else step
    folder = os.path.join(manager.directory, str(step), "state")
  reader = ocp.PyTreeCheckpointer()
  try:
    tree = reader.metadata(folder).item_metadata.tree
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    whole = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=args))
  except Exception as error:
    raise InputError(f"checkpoint {folder} cannot be read ({str(error).splitlines()[0][:200]}): "
                     "choose another with --step") from error
  return {"params": whole["params"], "stats": whole.get("stats", {})}, step
