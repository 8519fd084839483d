"""The one training loop: python -m jhmr.train --config configs/quickstart.py [--workdir DIR] [--config.key=value]

The same command again goes on where the last checkpoint left off: batch i and all random numbers are functions
of (seed, i), so an interrupted run ends bit for bit where an uninterrupted one does. With several processes, every one
runs this command (`distributed` says how they find each other); workdir is on a disk they share.
"""

import faulthandler
import os
import sys
import time
from typing import NamedTuple

import jax
from jhmr import assets as assets_lib
from jhmr import checkpoint, command, distributed, evaluate, files, guard, optim, pace, parallel, pictures, report
from jhmr import systems
from jhmr.data import source as source_lib
from jhmr.errors import InputError
import numpy as np

_INIT_EXAMPLES = 64  # what a system's init sees of the first batch, whatever the number of processes
_PROFILED = (5, 8)   # steps after the start of which --profile writes a trace


class Run(NamedTuple):
  """Everything that is fixed once a run is set up."""
  config: object     # resolved: config.num_steps, durations in steps
  workdir: str
  cluster: distributed.Cluster
  mapper: parallel.Mapper
  system: object
  source: object
  splits: dict
  assets: dict       # on the devices
  step: object       # the guarded step, on one device of many
  writer: checkpoint.Writer
  log: report.Report
  profile: bool


def main(argv):
  config, workdir, options = command.parse_config(argv)
  with distributed.session(distributed.Options(*options[1:])) as cluster:
    train(config, workdir, cluster, options.profile)


def train(config, workdir, cluster=distributed.ALONE, profile=False):
  """Trains a config to its last step in workdir, from its newest checkpoint if it has one.

  Args:
    cluster: which of how many processes this is; all of them call this function.
    profile: write a trace of a few steps to <workdir>/profile.
  Returns:
    the final TrainState, replicated over the devices.
  Raises:
    InputError: for anything wrong with the config, its files or the workdir; before that, nothing is written.
    SystemExit: with distributed.EXIT_PREEMPTED, after SIGTERM; everything is saved.
  """
  started = time.monotonic()
  parts = _opened(config, workdir, cluster)
  newest, damaged = checkpoint.choose(workdir) if cluster.index == 0 else (None, [])
  newest = distributed.agree(cluster, -1 if newest is None else newest)
  begin = _fresh(config, cluster, parts, newest < 0)
  # --- nothing was written so far, and nothing is wrong with the input
  os.makedirs(workdir, exist_ok=True)
  logfile = report.open_log(workdir, cluster.index)
  try:
    run, state, origin = _set_up(config, workdir, cluster, profile, parts, newest, damaged, begin)
    _introduce(run, state, origin, time.monotonic() - started)
    return _loop(run, state)
  finally:
    for opened in (parts.source, *parts.splits.values()):
      opened.close()
    report.close_log(logfile)


class _Parts(NamedTuple):
  """What a config names, opened."""
  config: object     # resolved
  mapper: parallel.Mapper
  system: object
  source: object
  splits: dict
  assets: dict       # on the host


def _opened(config, workdir, cluster):
  """The _Parts of a config; writes nothing."""
  old = command.read_config(workdir) if os.path.exists(os.path.join(workdir, "config.json")) else None
  if old is not None:
    command.check_resumable(config, old)
  elif os.path.isdir(workdir) and set(os.listdir(workdir)) - {"logs"}:
    raise InputError(f"workdir {workdir!r} holds files that are not a run of ours: give an empty or new --workdir")
  mapper = parallel.make(config.parallel)
  assets = assets_lib.load(config)
  source = source_lib.open_source(config, assets, cluster.index, cluster.count)
  config = optim.resolve(config, source.epoch)
  unit = mapper.num_devices * max(config.accumulate, 1)
  if config.accumulate < 1 or config.batch_size % unit:
    raise InputError(f"config.batch_size {config.batch_size} does not divide into config.accumulate {config.accumulate} "
                     f"parts on each of {mapper.num_devices} devices: make it a multiple of {unit}")
  system = systems.load(config)
  return _Parts(config, mapper, system, source, evaluate.open_splits(config, assets, mapper), assets)


def _fresh(config, cluster, parts, wanted):
  """(function that makes the first state from examples, those examples, the state or None, its origin in words)."""
  system, source, assets = parts.system, parts.source, parts.assets
  first = distributed.first_rows(source.batch(0), _INIT_EXAMPLES, cluster.count)
  make = lambda batch: guard.prepared(system.init(jax.random.key(config.seed), batch, assets), config.ema)
  if not wanted:
    return make, first, None, ""
  state = make(jax.jit(source.on_device)(first, assets))
  return (make, first, *(checkpoint.warm_start(state, config.warm_start) if config.warm_start else (state, "a fresh run")))


def _set_up(asked, workdir, cluster, profile, parts, newest, damaged, begin):
  """(Run, state on the devices, where the state came from in words)."""
  config, mapper, main = parts.config, parts.mapper, cluster.index == 0
  make, first, state, origin = begin
  if main:
    for step, trouble in damaged:
      report.warn(f"checkpoint {step} is damaged ({trouble}): moved to {workdir}/damaged, going on from {newest}")
    checkpoint.set_aside(workdir, [step for step, _ in damaged])
    with files.whole(os.path.join(workdir, "config.json")) as f:
      f.write(command.to_json(asked))
  distributed.agree(cluster, 0)  # nobody looks into the folder before it is in order
  writer = checkpoint.open_writer(workdir, config.keep, main)
  if state is None:
    shapes = jax.eval_shape(make, jax.eval_shape(parts.source.on_device, first, parts.assets))
    state = mapper.locally(checkpoint.restore(writer, newest, shapes, mapper.replicated))
    origin = f"resumed at step {newest}"
  else:
    state = mapper.replicate(state)
  log = report.open_report(workdir, max(newest, 0), config.num_steps, main)
  return Run(config, workdir, cluster, mapper, parts.system, parts.source, parts.splits, mapper.replicate(parts.assets),
             guard.guarded(parts.system.step, config.ema), writer, log, profile), state, origin


def _introduce(run, state, origin, seconds):
  config, sizes = run.config, {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in state.params.items()}
  report.say(f"{config.system} in {run.workdir}: {origin}")
  report.say(f"parameters: {', '.join(f'{k} {v:,}' for k, v in sizes.items())}; body {config.body}; "
             f"batch {config.batch_size} on {run.mapper.num_devices} x {jax.devices()[0].device_kind} "
             f"({config.parallel}, {run.cluster.count} process{'es' * (run.cluster.count > 1)}); set up in {seconds:.0f} s")


def _loop(run, state):
  """All steps that are left, and the end; returns the final state."""
  config, mapper, source = run.config, run.mapper, run.source
  whole = mapper.train(lambda state, batch, assets: run.step(state, source.on_device(batch, assets), assets))
  scorer, rows, start = evaluate.make_scorer(config, mapper, run.system), [], int(state.step)
  feed = source_lib.ahead(lambda i: mapper.to_devices(source.batch(i)), start, config.num_steps)
  due = lambda every, step: step % every == 0 or step == config.num_steps
  waited = paused = 0.0
  last, unread, flops = None, None, None
  for step in range(start + 1, config.num_steps + 1):
    _still_alive(config.stuck_after_s if last else 0)
    _profile(run, step - start)
    before = time.monotonic()
    batch = next(feed)
    waited += time.monotonic() - before
    if last is None:
      flops = _flops(whole, state, batch, run.assets)
    state, metrics = whole(state, batch, run.assets)
    # Read one step late, so that the devices never wait for the host; the guard has kept the state sound meanwhile.
    _check(run, state, unread)
    unread = (step, metrics)
    if due(config.log_every, step) or step == start + 1:
      metrics = jax.device_get(metrics)
      now = pace.mark(step, waited, paused)
      found = pace.since(last, now, config.batch_size, flops) if last else None
      report.progress(run.log, step, metrics, pace.text(found, config.num_steps - step) if found else "compiled")
      if due(config.log_every, step):
        report.scalars(run.log, step, "train", metrics)
        if found:
          report.scalars(run.log, step, "timing", found | source.stats(), "timing.jsonl")
      last = now
    stop = distributed.preempted(run.cluster, step)
    before = time.monotonic()
    score = checkpoint.NOT_SCORED
    if due(config.eval_every, step) and not stop:
      rows = evaluate.score_splits(scorer, guard.averaged(state), run.splits, run.assets)
      score = _tell(run, step, rows)
    if due(config.checkpoint_every, step) or stop:
      _check(run, state, unread)
      unread = None
      checkpoint.save(run.writer, mapper.globally(state), step, score)
    checkpoint.check(run.writer)
    paused += time.monotonic() - before
    if stop:
      checkpoint.close(run.writer)
      report.say(f"preempted: step {step} is saved in {run.workdir}; the same command goes on from there")
      report.close(run.log)
      sys.exit(distributed.EXIT_PREEMPTED)
  _still_alive(0)
  _check(run, state, unread)
  checkpoint.close(run.writer)
  return _finish(run, state, rows or evaluate.score_splits(scorer, guard.averaged(state), run.splits, run.assets))


def _tell(run, step, rows):
  """Reports the scores of one evaluation; returns the one that decides which checkpoint is best."""
  score = checkpoint.NOT_SCORED
  for row in rows:
    if row["method"] == run.config.system:
      report.say(f"step {step}/{run.config.num_steps}  {row['split']}: {evaluate.summary(row)}")
      report.scalars(run.log, step, row["split"], {k: v for k, v in row.items() if k not in ("split", "method")})
      score = row["pa_mpjpe_mm"] if row["split"] == run.config.splits[0] else score
  return score


def _finish(run, state, rows):
  """Scores beside the baseline, and a picture."""
  report.table(rows, evaluate.COLUMNS)
  first = run.mapper.join(next(run.splits[run.config.splits[0]].batches(run.assets)))
  if run.cluster.index == 0:
    on_host = lambda tree: jax.tree.map(np.asarray, tree)
    sheet = pictures.prediction_sheet(run.system.predict, on_host(guard.averaged(state)), first, on_host(run.assets))
    pictures.write(os.path.join(run.workdir, "predictions.png"), sheet)
    report.picture(run.log, int(state.step), "predictions", sheet)
  report.say(f"checkpoints, metrics.jsonl, events/ and predictions.png are in {run.workdir}")
  report.close(run.log)
  return state


def _check(run, state, unread):
  """Stops the run when a step was not sound and no more may be left out, naming terms and examples."""
  if unread is None:
    return
  step, metrics = unread[0], jax.device_get(unread[1])
  odd = [k for k, v in metrics.items() if not np.isfinite(v)]
  if not odd:
    return
  if metrics["skipped"] <= run.config.skip_bad_steps:
    report.warn(f"step {step}: {', '.join(odd)} not finite; update left out ({metrics['skipped']:.0f} so far)")
    return
  _still_alive(0)
  culprit = guard.bad_examples(run.mapper, run.step, run.source.on_device, state.replace(step=state.step * 0 + step - 1),
                               run.source.batch(step - 1), run.assets)
  checkpoint.close(run.writer)
  raise InputError(f"step {step}: {', '.join(odd)} not finite ({culprit}), after {metrics['skipped'] - 1:.0f} updates "
                   f"left out; the last checkpoint is step {run.writer.manager.latest_step()}: mend the data, lower "
                   "config.optim.learning_rate, or raise config.skip_bad_steps")


def _flops(whole, state, batch, assets):
  """FLOPs of one device's step, or None where no peak is known to compare them with."""
  if pace.peak_flops(jax.devices()[0].device_kind) is None:
    return None
  return (whole.lower(state, batch, assets).cost_analysis() or {}).get("flops")


def _still_alive(seconds):
  """Restarts the clock that ends this process, with its traceback, when it makes no step for so long; 0 stops it."""
  faulthandler.cancel_dump_traceback_later()
  if seconds:
    faulthandler.dump_traceback_later(seconds, exit=True)


def _profile(run, count):
  """Starts and stops the trace around the steps --profile asks for."""
  if run.profile and run.cluster.index == 0:
    if count == _PROFILED[0]:
      jax.profiler.start_trace(os.path.join(run.workdir, "profile"))
    if count == _PROFILED[1]:
      jax.profiler.stop_trace()
      report.say(f"trace of {_PROFILED[1] - _PROFILED[0]} steps is in {run.workdir}/profile: open it with TensorBoard's "
                 "profile plug-in or xprof")


if __name__ == "__main__":
  command.run(main)
