"""Opening a run: everything its config names, its newest sound checkpoint or a fresh state, and its reports.

Nothing is written before all that can be wrong with the input was looked at; `train` says when that is.
"""

import os
from typing import NamedTuple

import jax
from jhmr import assets as assets_lib
from jhmr import checkpoint, command, distributed, evaluate, files, guard, optim, parallel, report, systems, task
from jhmr.data import lift_source
from jhmr.data import source as source_lib
from jhmr.errors import InputError
import numpy as np

# What a config must have, beside what its system reads; the least value of those that are numbers.
_LEAST = {"seed": 0, "batch_size": 1, "eval_batches": 0, "log_every": 1, "eval_every": 1,
          "checkpoint_every": 1, "keep": 1, "accumulate": 1, "ema": 0, "skip_bad_steps": 0, "stuck_after_s": 0}
_NEEDED = (*_LEAST, "system", "duration", "splits", "parallel", "warm_start", "data", "optim")
_OF_IMAGES = ("image_size", "body", "mean_params")  # needed too, where a run is about images
_SAME_MEAN = 1e-5  # what mean parameters may differ by, rounding in other formats
_INIT_EXAMPLES = 64  # what a system's init sees, whatever the batch size and the number of processes


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


class Prepared(NamedTuple):
  """What a config names, opened, and where its state comes from."""
  asked: object      # the config as it was given
  config: object     # resolved
  mapper: parallel.Mapper
  system: object
  source: object
  splits: dict
  assets: dict       # on the host
  make: object       # examples -> the first state
  first: dict        # the examples it sees
  newest: int        # the checkpoint to go on from; -1 when there is none
  damaged: list      # [(newer checkpoint, what is wrong with it)]
  state: object      # a fresh one, on this process's first device, when there is no checkpoint
  origin: str        # where the state comes from, in words


def prepare(config, workdir, cluster):
  """Opens everything and finds everything that can be wrong with the input. Writes nothing.

  Returns:
    Prepared.
  Raises:
    InputError: for anything wrong with the config, its files or the workdir.
  """
  _check_numbers(config)
  _check_workdir(config, workdir)
  mapper = parallel.make(config.parallel)
  newest, damaged = checkpoint.choose(workdir) if cluster.index == 0 else (None, [])
  newest = distributed.agree(cluster, -1 if newest is None else newest)
  assets = assets_lib.load(config, fits=newest < 0)  # a checkpoint has them, whether or not the file is still there
  source = source_lib.open_source(config, assets, cluster.index, cluster.count)
  asked, config = config, optim.resolve(config, source.epoch)
  _check_batch(config, mapper)
  system = systems.load(config)
  splits = evaluate.open_splits(config, assets, mapper)
  first = _first_examples(cluster, source, config.batch_size)
  make = lambda batch: guard.prepared(system.init(jax.random.key(config.seed), batch, assets), config.ema)
  state, origin = None, f"resumed at step {newest}"
  if newest < 0:
    state, origin = make(jax.jit(source.on_device)(first, assets)), "a fresh run"
    if config.warm_start:
      _check_warm_start(config, assets.get("mean"))
      state, origin = checkpoint.warm_start(state, config.warm_start)
    state = distributed.shared(cluster, state)  # another run's best checkpoint may change while processes look
  return Prepared(asked, config, mapper, system, source, splits, assets, make, first, newest, damaged, state, origin)


def _first_examples(cluster, source, batch_size):
  """The first _INIT_EXAMPLES of the run, from as many batches as that takes; the same on every process."""
  count = range(-(-_INIT_EXAMPLES // batch_size))
  batches = [distributed.first_rows(cluster, source.batch(i), min(batch_size, _INIT_EXAMPLES)) for i in count]
  return {k: np.concatenate([b[k] for b in batches])[:_INIT_EXAMPLES] for k in batches[0]}


def _check_numbers(config):
  of_images = () if task.lifts(config) else _OF_IMAGES
  if missing := [k for k in (*_NEEDED, *of_images) if k not in config]:
    raise InputError(f"the config lacks {', '.join(missing)}: compare it with configs/quickstart.py")
  for name, least in _LEAST.items():
    if config[name] < least:
      raise InputError(f"config.{name} is {config[name]}: give {least} or more")
  if of_images and config.image_size < 1:
    raise InputError(f"config.image_size is {config.image_size}: give 1 or more")
  if not config.splits:
    raise InputError("config.splits is empty: name at least one split to score")
  if config.ema >= 1:
    raise InputError(f"config.ema is {config.ema}: give a number below 1, such as 0.999, or 0 for none")


def _check_workdir(config, workdir):
  if "://" in workdir:
    raise InputError(f"--workdir {workdir!r}: give a path; mount the bucket or disk first")
  if os.path.exists(os.path.join(workdir, "config.json")):
    command.check_resumable(config, command.read_config(workdir))
  elif os.path.isdir(workdir) and _strangers(workdir):
    raise InputError(f"workdir {workdir!r} holds files that are not a run of ours: give an empty or new --workdir")


def _check_warm_start(config, mean):
  """Weights mean nothing to a network that reads them otherwise, and no shape would show it.

  Args:
    mean: the mean parameters of config.
  """
  if (config.warm_start.endswith(checkpoint.ONLY_BACKBONE) or
      not os.path.isfile(os.path.join(config.warm_start, "config.json"))):
    return  # a part of a network
  there, here = command.flatten(command.read_config(config.warm_start)), command.flatten(config)
  if not all("net.iterations" in c for c in (there, here)):
    return  # not both regress: only the backbone is theirs
  for key in ("camera_convention", "net.activation", "net.iterations"):
    ours, theirs = (c.get(key, command.OLDER.get(key)) for c in (here, there))
    if theirs is not None and ours != theirs:
      raise InputError(f"config.{key} is {ours!r}, but config.warm_start {config.warm_start!r} is a run with "
                       f"{theirs!r}: give --config.{key}={theirs}")
  if there["mean_params"] == here["mean_params"]:
    return
  theirs = assets_lib.mean_parameters(there["mean_params"])
  if odd := [k for k, v in theirs.items() if not np.allclose(v, mean[k], atol=_SAME_MEAN)]:
    raise InputError(f"config.mean_params {config.mean_params!r} has another {' and '.join(odd)} than the "
                     f"{there['mean_params']!r} that config.warm_start {config.warm_start!r} starts its iterations "
                     f"from: give --config.mean_params={there['mean_params']}")


def _strangers(workdir):
  """What is in a workdir without a run, besides a scheduler's logs and what disks and killed writers leave."""
  return [n for n in os.listdir(workdir) if n not in ("logs", "lost+found") and not n.startswith(".")]


def _check_batch(config, mapper):
  unit = mapper.num_devices * config.accumulate
  if config.batch_size % unit:
    raise InputError(f"config.batch_size {config.batch_size} does not divide into config.accumulate "
                     f"{config.accumulate} parts on each of {mapper.num_devices} devices: make it a multiple of {unit}")


def start(prepared, workdir, cluster, profile=False):
  """Puts the workdir in order, restores, opens the reports.

  Returns:
    (Run, state on the devices).
  Raises:
    InputError: when the checkpoint does not fit the config.
  """
  p, main = prepared, cluster.index == 0
  if main:
    for step, trouble in p.damaged:
      report.warn(f"checkpoint {step} is damaged ({trouble}): moved to {workdir}/damaged, going on from {p.newest}")
    checkpoint.set_aside(workdir, [step for step, _ in p.damaged])
    with files.whole(os.path.join(workdir, "config.json")) as f:
      f.write(command.to_json(p.asked))
    if task.lifts(p.config):
      with files.whole(os.path.join(workdir, lift_source.STATISTICS), "wb") as f:
        np.savez(f, **p.assets["lift_stats"])
  distributed.agree(cluster, 0)  # nobody looks into the folder before it is in order
  writer = checkpoint.open_writer(workdir, p.config.keep, main)
  if p.state is None:
    shapes = jax.eval_shape(p.make, jax.eval_shape(p.source.on_device, p.first, p.assets))
    state = p.mapper.locally(checkpoint.restore(writer, p.newest, shapes, p.mapper.replicated))
  else:
    state = p.mapper.replicate(p.state)
  lasting = {k: v for k, v in p.assets.items() if k != "fits"}  # the state has them by now
  log = report.open_report(workdir, max(p.newest, 0), p.config.num_steps, main)
  return Run(p.config, workdir, cluster, p.mapper, p.system, p.source, p.splits, p.mapper.replicate(lasting),
             guard.guarded(p.system.step, p.config.ema), writer, log, profile), state
