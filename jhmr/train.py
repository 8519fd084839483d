"""The one training loop: python -m jhmr.train --config configs/quickstart.py [--workdir DIR] [--config.key=value]

The same command again goes on where the last checkpoint left off: batch i and all random numbers are functions
of (seed, i), so an interrupted run ends bit for bit where an uninterrupted one does. With several processes, every one
runs this command (`distributed` says how they find each other); workdir is on a disk they share.
"""

import contextlib
import errno
import faulthandler
import os
import sys
import threading
import time

import jax
from jhmr import checkpoint, command, distributed, evaluate, files, guard, lift_pictures, pace, pictures, report, task
from jhmr import run as run_lib
from jhmr.data import source as source_lib
from jhmr.errors import InputError
import numpy as np

_PROFILED = (5, 8)   # steps after the start of which --profile writes a trace
_clocks = []         # the running clock of _still_alive
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST)


def main(argv):
  config, workdir, options = command.parse_config(argv)
  with distributed.session(options.cluster) as cluster:
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
  prepared = run_lib.prepare(config, workdir, cluster)
  # --- nothing was written so far, and nothing is wrong with the input
  with contextlib.ExitStack() as ends:
    for opened in (prepared.source, *prepared.splits.values()):
      ends.callback(opened.close)
    ends.callback(_still_alive, 0)
    try:
      os.makedirs(workdir, exist_ok=True)
      ends.callback(report.close_log, report.open_log(workdir, cluster.index))
      if cluster.index == 0:
        ends.enter_context(files.locked(os.path.join(workdir, "logs", "lock")))
      run, state = run_lib.start(prepared, workdir, cluster, profile)
      origin, prepared = prepared.origin, None  # its state would stay in memory for the whole run
      if cluster.count == 1:
        ends.callback(checkpoint.settle, run.writer)
      _introduce(run, state, origin, time.monotonic() - started)
      return _loop(run, state)
    except OSError as error:
      if error.errno not in _OF_DISKS:
        raise
      raise InputError(f"cannot write to --workdir {workdir!r} ({error}): give another, or make room there and run the "
                       "same command again") from error


def _introduce(run, state, origin, seconds):
  config, sizes = run.config, {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in state.params.items()}
  report.say(f"{config.system} in {run.workdir}: {origin}")
  seen = f"poses of {config.data.source}" if task.lifts(config) else f"body {config.body}"
  report.say(f"parameters: {', '.join(f'{k} {v:,}' for k, v in sizes.items())}; {seen}; "
             f"batch {config.batch_size} on {run.mapper.num_devices} x {jax.devices()[0].device_kind} "
             f"({config.parallel}, processes: {run.cluster.count}); set up in {seconds:.0f} s")


def _loop(run, state):
  """All steps that are left, and the end; returns the final state."""
  config, mapper, source = run.config, run.mapper, run.source
  whole = mapper.train(lambda state, batch, assets: run.step(state, source.on_device(batch, assets), assets))
  scorer, rows, start = evaluate.make_scorer(config, mapper, run.system), [], int(state.step)
  feed = source_lib.ahead(lambda i: mapper.to_devices(source.batch(i)), start, config.num_steps)
  due = lambda every, step: step % every == 0 or step == config.num_steps
  waited = paused = 0.0
  last, unread, flops = None, None, None
  if start and due(config.eval_every, start) and not _scored(run, start):  # preempted before it could be
    rows = evaluate.score_splits(scorer, guard.averaged(state), run.splits, run.assets)
    checkpoint.save(run.writer, mapper.globally(state), start, _tell(run, start, rows))
  for step in range(start + 1, config.num_steps + 1):
    _still_alive(config.stuck_after_s if last else 0)
    _profile(run, step - start)
    before = time.monotonic()
    batch = next(feed)
    waited += time.monotonic() - before
    if last is None:
      flops = _flops(whole, state, batch, run.assets, config.accumulate)
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
    _still_alive(0)  # evaluation and checkpoints take what they take
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
      report.flush(run.log)
    checkpoint.check(run.writer)
    paused += time.monotonic() - before
    if stop:
      checkpoint.close(run.writer)
      report.say(f"preempted: step {step} is saved in {run.workdir}; the same command goes on from there")
      report.close(run.log)
      sys.exit(distributed.EXIT_PREEMPTED)
  _check(run, state, unread)
  checkpoint.close(run.writer)
  rows = rows or evaluate.score_splits(scorer, guard.averaged(state), run.splits, run.assets)
  return _finish(run, state, rows)


def _tell(run, step, rows):
  """Reports the scores of one evaluation; returns the one that decides which checkpoint is best."""
  score = checkpoint.NOT_SCORED
  for row in rows:
    if row["method"] == evaluate.judged(run.config):
      report.say(f"step {step}/{run.config.num_steps}  {row['split']}: {evaluate.summary(run.config, row)}")
      if not row["examples"]:
        continue
      report.scalars(run.log, step, row["split"], {k: v for k, v in row.items() if k not in ("split", "method")})
      score = row["pa_mpjpe_mm"] if row["split"] == run.config.splits[0] else score
  return score


def _finish(run, state, rows):
  """Scores beside the baseline, and a picture."""
  report.table(rows, evaluate.columns(run.config))
  first = run.mapper.local(next(run.splits[run.config.splits[0]].batches(run.assets)))
  if run.cluster.index == 0:
    on_host = lambda tree: jax.tree.map(np.asarray, tree)
    first = jax.tree.map(lambda x: x[:pictures.ON_SHEET], first)
    draw = lift_pictures if task.lifts(run.config) else pictures
    sheet = draw.prediction_sheet(run.system, on_host(guard.averaged(state)), first, on_host(run.assets))
    pictures.write(os.path.join(run.workdir, "predictions.png"), sheet)
    report.picture(run.log, int(state.step), "predictions", sheet)
  distributed.agree(run.cluster, 0)  # the others wait here for the picture, not at the end, where waiting is limited
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
  before = state.replace(step=state.step * 0 + step - 1)  # its random numbers; its parameters are one update younger
  culprit = guard.bad_examples(run.mapper, run.step, run.source.on_device, before, run.source.batch(step - 1),
                               run.assets)
  checkpoint.close(run.writer)
  raise InputError(f"step {step}: {', '.join(odd)} not finite ({culprit}), after {metrics['skipped'] - 1:.0f} updates "
                   f"left out; the last checkpoint is step {run.writer.manager.latest_step()}: mend the data, lower "
                   "config.optim.learning_rate, or raise config.skip_bad_steps")


def _flops(whole, state, batch, assets, parts):
  """FLOPs of one device's step, or None where no peak is known to compare them with."""
  if pace.peak_flops(jax.devices()[0].device_kind) is None:
    return None
  flops = (whole.lower(state, batch, assets).cost_analysis() or {}).get("flops")
  return flops * parts if flops else None  # a loop over parts of the batch is counted once


def _still_alive(seconds):
  """Restarts the clock that ends this process, with its traceback, when a step takes so long; 0 stops it."""
  faulthandler.cancel_dump_traceback_later()
  while _clocks:
    _clocks.pop().cancel()
  if seconds:
    faulthandler.dump_traceback_later(seconds)
    _clocks.append(threading.Timer(seconds + 1, os._exit, (distributed.EXIT_PEER_LOST,)))
    _clocks[0].daemon = True
    _clocks[0].start()


def _scored(run, step):
  """Whether metrics.jsonl has the scores of a step; looked up by process 0."""
  return bool(distributed.agree(run.cluster, run.cluster.index == 0 and report.has_scores(run.log, step)))


def _profile(run, count):
  """Starts and stops the trace around the steps --profile asks for."""
  if run.profile and run.cluster.index == 0:
    if count == _PROFILED[0]:
      jax.profiler.start_trace(os.path.join(run.workdir, "profile"))
    if count == _PROFILED[1]:
      jax.profiler.stop_trace()
      report.say(f"trace of {_PROFILED[1] - _PROFILED[0]} steps is in {run.workdir}/profile: open it with "
                 "TensorBoard's profile plug-in or xprof")


if __name__ == "__main__":
  command.run(main)
