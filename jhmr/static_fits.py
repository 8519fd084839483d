"""SMPLify for every training example of a config, before any network: what SPIN may start from.

python -m jhmr.static_fits --config configs/spin.py --out fits.npz [--method smplify] [--config.key=value ...]

Writes pose [N, 72] axis-angle, betas [N, 10] and quality [N] (`systems.spin.quality`, infinite where there is no
keypoint or no readable record), row i for the example with id i: `--config.fits=fits.npz` of the same data, which the
file names. Nothing is augmented. Interrupted, the same command goes on where it was.

Joints that do not count are config.fitting.ignored for its own method, the method's for others. Steps: 500 of each
stage for Adam from a cold start ("spin"; its own 100 suit the start that a network gives), the method's own for the
others.

Source: SPIN, section 3.4, initial fits by SMPLify run before training.
Differs: fits start from the mean pose of the pose prior, seen from the front. The authors' start from poses that a
network regresses from 2D keypoints, and those of MPI-INF-3DHP are of several views together.
"""

import argparse
import contextlib
import copy
import json
import os
import time

import jax.numpy as jnp
from jhmr import assets as assets_lib
from jhmr import command, files, fit_smplify, fits_memory, parallel, report
from jhmr.body import rotations, smpl
from jhmr.data import source as source_lib
from jhmr.errors import InputError
from jhmr.fitting import smplify
from jhmr.systems import spin
import numpy as np

_OF_CONFIG = ("config", "noconfig")
_SAVE_EVERY_S = 60
_SAY_EVERY_S = 10


def main(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.static_fits", description=__doc__.split("\n", maxsplit=1)[0],
                                   epilog="--config and --config.key=value are those of jhmr.train")
  parser.add_argument("--out", required=True, help="file to write, .npz")
  parser.add_argument("--method", default="smplify", choices=smplify.METHODS, help="default: smplify")
  parser.add_argument("--steps", type=int, help="of every stage; default: 500 for spin, else the method's own")
  args, rest = parser.parse_known_args(argv[1:])
  if odd := [a for a in rest if a.startswith("-") and a.lstrip("-").split("=")[0].split(".")[0] not in _OF_CONFIG]:
    raise InputError(f"unknown option {odd[0]!r}: options are --out, --method, --steps, --config and "
                     "--config.key=value")
  if (args.steps or 0) < 0:  # 0 is the default
    raise InputError(f"--steps is {args.steps}: give 1 or more, or leave it out")
  if not args.out.endswith(".npz") or not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
    raise InputError(f"--out is {args.out!r}: give a file .npz in a folder that exists")
  config = command.parse_config([argv[0], *rest])[0]
  if config.system != "spin":
    raise InputError(f"config.system is {config.system!r}: give a config of spin, such as configs/spin.py")
  cold = fit_smplify.COLD_STEPS if smplify.METHODS[args.method].optimizer == "adam" else None
  found = fit_all(config, args.out, args.method, args.steps or cold)
  good = np.mean(found["quality"] < config.fitting.threshold)
  report.say(f"{len(found['quality']):,} fits are in {args.out}: median quality {np.median(found['quality']):.1f}, "
             f"{good:.0%} below config.fitting.threshold")


def fit_all(config, out, method, steps=None):
  """Fits all training examples and writes them to `out`; returns what it wrote.

  Args:
    config: of spin, with a number of training examples.
    method: name of smplify.METHODS; steps: of every stage, None is the method's own.
  Returns:
    {"pose" [N, 72], "betas" [N, 10], "quality" [N]}, float32, and "data", JSON text of `data.source.identity`.
  Raises:
    InputError: for data without an end, ids that are no indices, or whatever is wrong with the config.
  """
  config = copy.deepcopy(config)
  config.update(dict(fits="", fitting=dict(mode="in_the_loop")))  # "static" would ask for what is made here
  spin.check(config)
  source, assets = _open(config)
  program, mapper = _program(config, source, method, steps)
  assets = mapper.replicate(assets)
  partial, asked = f"{out}.partial", _fingerprint(config, method, steps)
  first, found = _resume(partial, asked, source.size)
  clock, saved, said = time.monotonic(), time.monotonic(), 0.0
  with contextlib.closing(source):
    for i in range(first, source.num_batches):
      rows = mapper.join(program((), mapper.to_devices(source.batch(i)), assets))
      _put(found, rows, source.size)
      now = time.monotonic()
      if now - said > _SAY_EVERY_S:
        said = now
        _say(i + 1, source, first, now - clock, config.batch_size)
      if now - saved > _SAVE_EVERY_S:
        saved = now
        _write(partial, found | {"done": i + 1, "asked": asked})
  found |= {"data": np.array(json.dumps(source_lib.identity(config), sort_keys=True))}
  _write(out, found)
  with contextlib.suppress(FileNotFoundError):
    os.unlink(partial)
  return found


def _open(config):
  """(the training examples in order, not augmented; assets)."""
  if config.data.source == source_lib.STREAM and not source_lib.num_examples(config):
    raise InputError("rendered people never end: set config.data.examples, such as 20000, or config.data.source")
  assets = assets_lib.load(config)
  if config.data.source == source_lib.STREAM:
    return source_lib.open_source(config, assets), assets
  return source_lib.open_split(config, assets, "train"), assets


def _program(config, source, method, steps):
  """(batch on the devices -> rows of fits there, mapper)."""
  mapper = parallel.make(config.parallel)
  unit = mapper.num_devices
  if config.batch_size % unit:
    raise InputError(f"config.batch_size {config.batch_size} does not divide over {unit} devices: make it a multiple")

  method = _method(config, method)

  def fit(state, batch, assets):
    del state
    full = source.on_device(batch, assets)
    body, target = assets["keypoint_body"], spin.targets_of(full["keypoints2d"])
    start = smplify.cold_start(body, target, assets["pose_prior"].mean_pose())
    found = smplify.fit(body, target, start, smplify.Priors(assets["pose_prior"]), method=method,
                        torso=config.fitting.torso, steps=steps)
    # Angles of at most pi: an optimiser may have gone around.
    pose = rotations.matrix_to_axis_angle(found.pose).reshape(-1, 72)
    points = smpl.keypoints(body, smpl.forward(body, found.body.betas, found.pose), "spin49")
    quality = spin.quality(points, target, config.fitting.ignored)
    sane = jnp.all(jnp.isfinite(pose), -1) & jnp.all(jnp.isfinite(found.body.betas), -1)
    return {"id": full["id"], "mask": full["mask"], "pose": pose, "betas": found.body.betas,
            "quality": jnp.where(sane & jnp.isfinite(quality), quality, jnp.inf)}

  return mapper.rows(fit), mapper


def _method(config, name):
  method = smplify.METHODS[name]
  return method._replace(ignored=tuple(config.fitting.ignored)) if name == config.fitting.method else method


def _put(found, rows, size):
  """Writes a batch's rows under their ids."""
  real = rows["mask"] > 0
  ids = rows["id"][real]
  fits_memory.check_ids(ids, size)
  for name in found:
    values = rows[name][real]
    found[name][ids] = np.where(np.isfinite(values), values, np.inf if name == "quality" else 0)


def _fingerprint(config, method, steps):
  """What fits are of, as text."""
  what = {k: v for k, v in json.loads(command.to_json(config)).items()
          if k in ("body", "pose_prior", "seed", "batch_size", "image_size", "data", "fitting")}
  if config.data.source != source_lib.STREAM:
    from jhmr.data import pipeline  # grain and TFDS take seconds to import
    what["written_ns"] = pipeline.written_ns(config.data.source)
  return json.dumps(what | {"method": method, "steps": steps}, sort_keys=True)


def _resume(partial, asked, size):
  """(first batch to do, arrays so far): those of an interrupted run of the same command, or fresh ones."""
  fresh = {"pose": np.zeros((size, 72), np.float32), "betas": np.zeros((size, 10), np.float32),
           "quality": np.full(size, np.inf, np.float32)}
  if not os.path.isfile(partial):
    return 0, fresh
  try:
    with np.load(partial, allow_pickle=False) as f:
      if str(f["asked"]) != asked or f["quality"].shape != (size,):
        raise ValueError("it is of another config")
      found = {name: f[name] for name in fresh}
      report.say(f"going on from batch {int(f['done'])}, as {partial} says")
      return int(f["done"]), found
  except (OSError, KeyError, ValueError) as error:
    report.warn(f"{partial} is not used ({error}): starting anew")
    return 0, fresh


def _write(path, arrays):
  with files.whole(path, "wb") as f:
    np.savez(f, **arrays)


def _say(done, source, first, seconds, batch_size):
  people = min(done * batch_size, source.size)
  rate = (done - first) * batch_size / seconds
  left = report.clock((source.num_batches - done) * batch_size / rate)
  report.say(f"{people:,} of {source.size:,} people, {rate:.0f} people/s, {left} left")


if __name__ == "__main__":
  command.run(main)
