"""The one training loop: python -m jhmr.train --config configs/quickstart.py [--workdir DIR] [--config.key=value]

The same command again goes on where the last checkpoint left off: batch i and all random numbers are functions
of (seed, i), so an interrupted run ends bit for bit where an uninterrupted one does.
"""

import os
import sys
import time

import jax
from jhmr import assets as assets_lib
from jhmr import checkpoint, command, evaluate, parallel, pictures, report, systems
from jhmr.data import source as source_lib
from jhmr.errors import InputError
import numpy as np


def main(argv):
  config, workdir = command.parse_config(argv)
  train(config, workdir)


def train(config, workdir):
  """Trains a config to its last step in workdir, from its newest checkpoint if it has one.

  Returns:
    the final TrainState, replicated over the devices.
  Raises:
    InputError: for anything wrong with the config, its files or the workdir; before that, nothing is written.
  """
  # --- everything that can be wrong with the input is found here, before anything is written
  old = command.read_config(workdir) if os.path.exists(os.path.join(workdir, "config.json")) else None
  if old is not None:
    command.check_resumable(config, old)
  elif os.path.isdir(workdir) and os.listdir(workdir):
    raise InputError(f"workdir {workdir!r} holds files that are not a run of ours: give an empty or new --workdir")
  mapper = parallel.make(config.parallel)
  system = systems.load(config)
  assets = assets_lib.load(config)
  source = source_lib.open_source(config, assets)
  splits = evaluate.open_splits(config, assets, mapper)
  mapper.to_devices(source.batch(0))

  # --- state: the newest checkpoint, or fresh
  started = time.monotonic()
  first = jax.eval_shape(source.on_device, source.batch(0), assets)
  init = lambda first: system.init(jax.random.key(config.seed), first, assets)
  assets = mapper.replicate(assets)
  os.makedirs(workdir, exist_ok=True)
  _write(os.path.join(workdir, "config.json"), command.to_json(config))
  manager = checkpoint.open_manager(workdir, config.keep)
  restored = checkpoint.restore(manager, jax.eval_shape(init, first), mapper.replicated)
  for damaged in restored.skipped if restored else ():
    print(f"warning: checkpoint {damaged}; using step {restored.step}", file=sys.stderr)
  state = restored.state if restored else mapper.replicate(init(jax.jit(source.on_device)(source.batch(0), assets)))
  start = int(state.step)
  _introduce(config, workdir, mapper, state, start, bool(restored), time.monotonic() - started)

  # --- the loop
  step_fn = mapper.train(lambda state, batch, assets: system.step(state, source.on_device(batch, assets), assets))
  scorer = evaluate.make_scorer(config, mapper, system)
  log, rows = report.open_report(workdir, start, config.num_steps), []
  due = lambda every, step: step % every == 0 or step == config.num_steps
  for step in range(start + 1, config.num_steps + 1):
    state, metrics = step_fn(state, mapper.to_devices(source.batch(step - 1)), assets)
    if due(config.log_every, step) or step == start + 1:
      metrics = jax.device_get(metrics)
      _stop_if_not_finite(metrics, step, manager)
      report.progress(log, step, metrics)
      if due(config.log_every, step):
        report.scalars(log, step, "train", metrics)
    score = checkpoint.NOT_SCORED
    if due(config.eval_every, step):
      rows = evaluate.score_splits(scorer, state, splits, assets)
      for row in rows:
        if row["method"] == config.system:
          report.say(f"step {step}/{config.num_steps}  {row['split']}: {evaluate.summary(row)}")
          report.scalars(log, step, row["split"], {k: v for k, v in row.items() if k not in ("split", "method")})
          score = row["pa_mpjpe_mm"] if row["split"] == config.splits[0] else score
    if due(config.checkpoint_every, step):
      checkpoint.save(manager, state, score)
  manager.wait_until_finished()
  manager.close()

  # --- the end: scores beside the baseline, and a picture
  report.table(rows or evaluate.score_splits(scorer, state, splits, assets), evaluate.COLUMNS)
  first = mapper.join(next(splits[config.splits[0]](assets)))
  sheet = pictures.prediction_sheet(system.predict, jax.device_get(state), first, jax.device_get(assets))
  pictures.write(os.path.join(workdir, "predictions.png"), sheet)
  report.picture(log, int(state.step), "predictions", sheet)
  report.say(f"checkpoints, metrics.jsonl, events/ and predictions.png are in {workdir}")
  report.close(log)
  return state


def _introduce(config, workdir, mapper, state, start, resumed, seconds):
  sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in state.params.items()}
  report.say(f"{config.system} in {workdir}: " + (f"resumed at step {start}" if resumed else "a fresh run"))
  report.say(f"parameters: {', '.join(f'{k} {v:,}' for k, v in sizes.items())}; body {config.body}; "
             f"batch {config.batch_size} on {mapper.num_devices} x {jax.devices()[0].device_kind} ({config.parallel}); "
             f"set up in {seconds:.0f} s")


def _stop_if_not_finite(metrics, step, manager):
  odd = [k for k, v in metrics.items() if not np.isfinite(v)]
  if odd:
    manager.wait_until_finished()
    raise InputError(f"step {step}: {', '.join(odd)} not finite; the last good checkpoint is step "
                     f"{manager.latest_step()}: lower config.optim.learning_rate or look at the data")


def _write(path, text):
  """Writes a text file whole or not at all."""
  with open(path + ".tmp", "w") as f:
    f.write(text)
  os.replace(path + ".tmp", path)


if __name__ == "__main__":
  command.run(main)
