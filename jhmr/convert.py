r"""Turns weights the authors released into a run of ours.

    python -m jhmr.convert --kind prohmr --from data/checkpoint.pt --out runs/prohmr_released
    python -m jhmr.convert --kind prohmr --from data/checkpoint.pt --out ... --config.body=SMPL_NEUTRAL.pkl
    python -m jhmr.convert --kind spin --from model_checkpoint.pt --out runs/spin_released
    python -m jhmr.convert --kind eft --from cocoall_h36m_mpiinf.pt --out runs/eft_released
    python -m jhmr.convert --kind graphcmr --from model_checkpoint_h36m_up3d.pt --out runs/graphcmr_released \
        --config.body=SMPL_NEUTRAL.pkl --config.pyramid=mesh_downsampling.npz
    python -m jhmr.convert --kind multibodies_prior --from model_epoch_00000412.pth --out runs/multibodies_prior
    python -m jhmr.convert --kind multibodies --from model_epoch_XXXXXXXX.pth --out runs/multibodies_released \
        --config.prior=runs/multibodies_prior
    python -m jhmr.convert --kind wehrbein --from results/original_model/model.pt --out runs/wehrbein_released
    python -m jhmr.convert --kind martinez --from checkpoint-N.index --out runs/martinez_released \
        --config.data.source=h36m.npz
    python -m jhmr.convert --kind mdn --from checkpoint-4338038.index --out runs/mdn_released \
        --config.data.source=h36m.npz
    python -m jhmr.convert --kind prohmr_skeleton --from checkpoint.ckpt --out runs/prohmr_skeleton
    python -m jhmr.convert --kind resnet --from resnet50-19c8e357.pth --out runs/imagenet50

A whole system becomes a run at step 0 that evaluate, predict and `train --config.warm_start=...` take. A ResNet becomes
a backbone, for `train --config.warm_start=...` of any system. Every key of the file is accounted for or nothing is
written. Neither torch nor TensorFlow is needed, and nothing that a file names is executed.
"""

import argparse
import os
import shutil
import tempfile

import jax
import jax.numpy as jnp
from jhmr import assets as assets_lib
from jhmr import checkpoint, command, files, guard, optim, released, report, systems, task
from jhmr.body import rotations
from jhmr.data import lift_source, lift_spec, spec
from jhmr.data.source import STREAM
from jhmr.errors import InputError
from jhmr.released import torch_file
from jhmr.state import TrainState
import numpy as np

_EPOCH = 10 ** 6  # examples; any number does, since no shape depends on how long the run is
_MEAN = "mean_params.npz"
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # where a checkout keeps its configs


def parse(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.convert", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--from", dest="source", required=True, help="the released file: .pt, .pth, .npz, .index")
  parser.add_argument("--kind", required=True, choices=released.KINDS, help="what it holds")
  parser.add_argument("--out", required=True, help="the new workdir")
  parser.add_argument("--config", help="of the system, FILE.py[:MODE], default the one of --kind; with "
                      "--config.key=value for any of its keys")
  parser.add_argument("--legacy-lu", action="store_true", help="prohmr, prohmr_skeleton: densities as the authors' "
                      "flow library had them before September 2021; samples are the same either way")
  args, args.overrides = parser.parse_known_args(argv[1:])
  if odd := [a for a in args.overrides if not a.startswith("--config.")]:
    parser.error(f"unrecognized arguments: {' '.join(odd)}")
  return args


def main(argv):
  args = parse(argv)
  kind = released.load(args.kind)
  config = _config(args, kind)
  if os.path.exists(args.out) and not (os.path.isdir(args.out) and not os.listdir(args.out)):
    raise InputError(f"--out {args.out!r} exists: give a new folder")
  arrays = getattr(kind, "read", torch_file.read)(args.source, kind.INSIDE)
  if more := getattr(kind, "settings", lambda _: ())(arrays):
    config = _config(args, kind, more)
  found = kind.convert(arrays, config.net if config else None, args.source)
  for line in found.said:
    report.say(f"{args.source}: {line}")
  state, mean, statistics = as_state(found), None, None
  if config:
    assets = _assets(config)
    if not task.lifts(config) and config.body.startswith("mannequin"):
      report.warn(f"the weights were trained with SMPL, but config.body is {config.body!r}: give --config.body="
                  "SMPL_NEUTRAL.pkl, or betas and meshes will be those of the built-in body")
    for key, file in getattr(kind, "FILES", {}).items():
      if not config[key]:
        report.warn(f"config.{key} is empty: with these weights it should be {file}")
    state, mean = complete(found, config, assets), _mean(found, assets.get("mean"))
    statistics = assets.get("lift_stats")
  write(args.out, state, config, mean, statistics)
  counted = ", ".join(f"{k} {sum(x.size for x in jax.tree.leaves(v)):,}" for k, v in state.params.items())
  report.say(f"parameters: {counted}; {args.out} is ready: " + (
      f"python -m jhmr.evaluate --workdir {args.out}" if config else
      f"python -m jhmr.train --config ... --config.warm_start={args.out}"))


def _config(args, kind, more=()):
  """The config of the system the weights belong to, with `more` settings; None when they are a part of any."""
  if not kind.CONFIG:
    if args.config or args.overrides or args.legacy_lu:
      raise InputError(f"--kind {args.kind} is a part of any system: leave out --config and --legacy-lu")
    return None
  if args.legacy_lu and not hasattr(kind, "set_legacy_lu"):
    raise InputError(f"--legacy-lu is about ProHMR's flow, which --kind {args.kind} has not: leave it out")
  given = ["convert", f"--config={args.config or _shipped(kind.CONFIG)}"]
  if (system := command.parse_config(given)[0].system) not in kind.SYSTEMS:
    raise InputError(f"config.system is {system!r}, but the weights are for {' or '.join(kind.SYSTEMS)}: give another "
                     "--config")
  config = command.parse_config([*given, *(f"--config.{s}" for s in (*kind.SETTINGS, *more)), *args.overrides])[0]
  if args.legacy_lu:
    kind.set_legacy_lu(config)
  return config


def _shipped(file):
  """The path of one of our configs, FILE.py[:MODE], from wherever the command was started."""
  name, *mode = file.split(":")
  found = [":".join((f, *mode)) for f in (name, os.path.join(_ROOT, name)) if os.path.isfile(f)]
  if not found:
    raise InputError(f"{file!r} is neither here nor beside the package in {_ROOT!r}: name it with --config FILE")
  return found[0]


def _assets(config):
  """The assets of a config.

  Weights that lift poses want the statistics of the poses they were trained with: those of config.lift_stats or of the
  training split of a file. Rendered people never stand in for them. A system that looks at none is given neutral ones.
  """
  if not task.lifts(config):
    return assets_lib.load(config)
  source = config.data.source
  if source != STREAM and not os.path.isfile(source):
    raise InputError(f"config.data.source {source!r} does not exist: give a file of jhmr.data.lift_poses")
  if config.lift_stats or source != STREAM and lift_source.labelled(config):
    return assets_lib.load(config)
  if config.system not in lift_source.BY_ITSELF:
    raise InputError(f"{config.system} reads z-scores, of the poses it was trained with: give --config.lift_stats="
                     f"{lift_source.STATISTICS} or --config.data.source=FILE with their training split, labels and all")
  report.warn("no poses to train on in config.data.source: the row 'mean pose' of evaluate is of no pose, all joints "
              "at the pelvis")
  return {"lift_stats": {name: (np.ones if name.startswith("std") else np.zeros)(shape, np.float32)
                         for name, shape in lift_source.SHAPES.items()}}


def as_state(found):
  """A TrainState at step 0 with the converted weights and nothing else."""
  return TrainState(step=jnp.zeros((), jnp.int32), params=jax.tree.map(jnp.asarray, found.params),
                    stats=jax.tree.map(jnp.asarray, found.stats), opt_state={}, memory={})


def complete(found, config, assets):
  """The state that a run of `config` would have before its first step, with the converted weights in it.

  Raises:
    InputError: when the system of the config has other arrays.
  """
  resolved = optim.resolve(config, _EPOCH)
  system = systems.load(resolved)
  batch = lift_spec.fake_batch(2) if task.lifts(config) else spec.fake_batch(config.image_size, 2)
  fresh = lambda batch, assets: guard.prepared(system.init(jax.random.key(config.seed), batch, assets), config.ema)
  want = jax.eval_shape(fresh, batch, assets)
  names = [n for n in want.params if n in found.params]
  fit = lambda wanted, have: {n: jax.tree.map(jnp.asarray, checkpoint.fitted(wanted[n], have[n], config.system, n))
                              for n in names if n in wanted}
  params = fit(want.params, found.params)
  zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)  # optimisers start from nothing else
  return want.replace(step=zeros(want.step), params=params, stats=fit(want.stats, found.stats),
                      opt_state={n: zeros(want.opt_state[n]) for n in names}, memory=zeros(want.memory),
                      ema=jax.tree.map(jnp.copy, params) if want.ema else {}, skipped=zeros(want.skipped))


def _mean(found, mean):
  """Mean parameters to write beside the weights, when the config's are not those the weights start from; else None."""
  if found.start is None:
    return None
  pose = np.asarray(rotations.matrix_to_six_d(mean["pose"], "spin")).reshape(-1)
  ours = {"pose": pose, "betas": mean["betas"], "camera": mean["camera"]}
  if all(np.allclose(ours[k], v, atol=1e-6) for k, v in found.start.items()):
    return None
  report.say(f"{', '.join(found.start)} are added to the file's own means: {_MEAN}; when you start another run from "
             "these weights, set its config.mean_params to that file")
  start = ours | found.start
  return {"pose": start["pose"], "shape": start["betas"], "cam": start["camera"]}


def write(out, state, config=None, mean=None, statistics=None):
  """Writes a workdir that is there whole or not at all.

  Args:
    out: a folder that is empty or does not exist.
    state: a TrainState at step 0.
    config: of the run, None for a part of one.
    mean: what its mean_params file holds; None leaves config.mean_params as it is.
    statistics: of `lift_source.statistics`, to lie beside it.
  """
  out = os.path.abspath(out)
  os.makedirs(os.path.dirname(out), exist_ok=True)
  scratch = tempfile.mkdtemp(prefix=f".{os.path.basename(out)}.", dir=os.path.dirname(out))
  os.chmod(scratch, 0o755)
  writer = checkpoint.open_writer(scratch)
  try:
    checkpoint.save(writer, state, 0, checkpoint.NOT_SCORED)
    checkpoint.close(writer)
    if mean is not None:
      np.savez(os.path.join(scratch, _MEAN), **mean)
      with config.unlocked():
        config.mean_params = f"{command.WORKDIR}/{_MEAN}"  # the folder may be moved
    if statistics is not None:
      np.savez(os.path.join(scratch, lift_source.STATISTICS), **statistics)
    if config is not None:
      with files.whole(os.path.join(scratch, "config.json")) as f:
        f.write(command.to_json(config))
    os.rename(scratch, out)
  except BaseException:
    checkpoint.settle(writer)
    shutil.rmtree(scratch, ignore_errors=True)
    raise


if __name__ == "__main__":
  command.run(main)
