"""Scores a checkpoint: python -m jhmr.evaluate --workdir runs/quickstart [--splits val,val_occluded,multiview]

Every metric is per example; a mask weighs away the padding of the last batch, so the numbers do not
depend on how many devices share the work.
"""

import argparse
import json
import os

import jax.numpy as jnp
from jhmr import assets as assets_lib
from jhmr import checkpoint, command, metrics, parallel, report, systems
from jhmr.data import source as source_lib
from jhmr.errors import InputError
from jhmr.state import Prediction, TrainState
import numpy as np

COLUMNS = ("split", "method", "examples", "mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "pck", "auc")


def predict_mean(state, batch, assets):
  """The baseline that looks at no image: the mean pose, facing the camera."""
  del state
  rows = lambda x: jnp.broadcast_to(x, (batch["image"].shape[0], 1, *x.shape))
  mean = assets["mean"]
  return Prediction(global_orient=rows(mean["pose"][:1]), body_pose=rows(mean["pose"][1:]), betas=rows(mean["betas"]),
                    camera=rows(mean["camera"]), log_prob=jnp.zeros((batch["image"].shape[0], 1)))


def make_scorer(mapper, predict, split):
  """A function (state, assets) -> {metric: mean over the split, "examples": count}; compiles once, on first use."""

  def score(state, batch, assets):
    batch = split.on_device(batch, assets)
    values = metrics.per_example(predict(state, batch, assets), batch, assets)
    return values | {"weight": batch["mask"] * batch["has_pose"]}

  program = mapper.evaluate(score)

  def run(state, assets):
    totals, weight = {}, 0.0
    for i in range(split.num_batches):
      values = program(state, mapper.to_devices(split.batch(i)), assets)
      w = values.pop("weight").astype(np.float64)
      weight += w.sum()
      for name, value in values.items():
        totals[name] = totals.get(name, 0.0) + np.sum(np.where(w > 0, value, 0) * w)
    return {k: v / max(weight, 1.0) for k, v in totals.items()} | {"examples": int(weight)}

  return run


def load_run(workdir, step=None, body=None):
  """A trained system, ready to predict.

  Args:
    workdir: of a training run.  step: which checkpoint; None is the best.  body: another body file than the run's.
  Returns:
    (config, system, state with params and stats only, assets).
  Raises:
    InputError: when there is no run or no such checkpoint.
  """
  config = command.read_config(workdir)
  if body:
    config = config.copy_and_resolve_references().unlock()
    config.body = body
  loaded, step = checkpoint.load_for_inference(workdir, step)
  state = TrainState(step=jnp.asarray(step, jnp.int32), opt_state={}, memory={}, **loaded)
  return config, systems.load(config), state, assets_lib.load(config)


def main(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.evaluate", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--workdir", required=True, help="of a training run")
  parser.add_argument("--splits", default="", help="comma-separated; default: the config's")
  parser.add_argument("--step", type=int, help="which checkpoint; default: the best")
  parser.add_argument("--parallel", default="pmap", help="pmap or shard_map")
  parser.add_argument("--out", help="also write the rows as JSON here")
  args = parser.parse_args(argv[1:])
  if args.out and not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
    raise InputError(f"the folder of --out {args.out!r} does not exist: make it first")
  config, system, state, assets = load_run(args.workdir, args.step)
  mapper = parallel.make(args.parallel)
  splits = {n: source_lib.open_split(config, assets, n) for n in (args.splits or ",".join(config.splits)).split(",")}
  state, assets = mapper.replicate(state), mapper.replicate(assets)
  rows = []
  for name, split in splits.items():
    for method, predict in (("mean pose", predict_mean), (config.system, system.predict)):
      scores = make_scorer(mapper, predict, split)(state, assets)
      rows.append({"split": name, "method": method} | scores)
  report.table(rows, COLUMNS)
  if args.out:
    with open(args.out, "w") as f:
      json.dump({"step": int(state.step), "rows": rows}, f, indent=2)


if __name__ == "__main__":
  command.run(main)
