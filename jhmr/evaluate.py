"""Scores a checkpoint: python -m jhmr.evaluate --workdir runs/quickstart [--splits val,val_occluded,multiview]

Every metric is per example; a mask weighs away the padding of the last batch, so the numbers do not
depend on how many devices share the work. `--hypotheses 4096` also scores that many samples of a density
over poses, see `hypothesis_pass`; `--best-of 1,5,10,25` sets of so many hypotheses, see `best_of`, for lifting
`lift_scores`. `--benchmark` scores on published data sets, see `evaluate_files`; `--poses` a run that lifts on a file.
"""

import argparse
import json
import os
from typing import Callable, NamedTuple

import jax.numpy as jnp
from jhmr import assets as assets_lib
from jhmr import (best_of, checkpoint, command, files, hypothesis_pass, hypothesis_report, joint_prior, lift_scores,
                  metrics, parallel, report, systems, task)
from jhmr.data import lift_source
from jhmr.data import source as source_lib
from jhmr.errors import InputError
from jhmr.state import Prediction, TrainState
import ml_collections
import numpy as np

COLUMNS = ("split", "method", "examples", "mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "pck", "auc")


def predict_mean(state, batch, assets):
  """The baseline that looks at no image: the mean pose, facing the camera."""
  del state
  rows = lambda x: jnp.broadcast_to(x, (batch["image"].shape[0], 1, *x.shape))
  mean = assets["mean"]
  return Prediction.of(rows(mean["pose"]), rows(mean["betas"]), rows(mean["camera"]))


class Split(NamedTuple):
  """An opened evaluation split."""
  batches: Callable  # assets -> iterator over its whole batches on the devices
  close: Callable    # ends what reads it


def open_splits(config, assets, mapper, names=None, optional=()):
  """{name: Split}; its batches have the required fields, and those of `optional` that the split has."""

  fields = source_lib.fields(config)

  def opened(name):
    split = source_lib.open_split(config, assets, name, mapper.process_index, mapper.process_count)
    needed = lambda batch: {k: v for k, v in batch.items() if fields[k].required or k in optional}
    prepare = mapper.rows(lambda state, batch, assets: needed(split.on_device(batch, assets)))

    def batches(assets):
      for i in range(min(split.num_batches, config.eval_batches or split.num_batches)):
        yield prepare((), mapper.to_devices(split.batch(i)), assets)
    return Split(batches, split.close)

  return {name: opened(name) for name in names or config.splits}


def make_scorer(config, mapper, system):
  """score(state, batches, assets) -> one row a method, the mean pose first; one program for every split.

  A mesh that is no posed body (`Prediction.vertices`) has a row of its own. A split without any label has scores of
  None: they are shown as "-", and no checkpoint is the best for them.
  """
  program = mapper.rows((lift_scores.measurer if task.lifts(config) else measurer)(config, system))

  def score(state, batches, assets):
    totals, weight = {}, 0.0
    for batch in batches(assets):
      values, w = mapper.join(program(state, batch, assets))
      weight += w.sum(dtype=np.float64)
      for name, rows in values.items():
        for metric, value in rows.items():
          row = totals.setdefault(name, {})
          row[metric] = row.get(metric, 0.0) + np.sum(np.where(w > 0, value, 0), dtype=np.float64)
    mean = lambda row: {metric: total / weight if weight else None for metric, total in row.items()}
    names = sorted(totals, key=lambda name: (name != "mean pose", name))
    return [{"method": name, "examples": int(weight)} | mean(totals[name]) for name in names]

  return score


def measurer(config, system):
  """measure(state, batch, assets) -> ({method: {name: [B]}}, [B] > 0 for those that count), of the mean pose and a run.
  """
  def measure(state, batch, assets):
    predictions = {"mean pose": predict_mean(state, batch, assets), config.system: system.predict(state, batch, assets)}
    values = {name: metrics.per_example(p, batch, assets) for name, p in predictions.items()}
    values |= {f"{name} mesh": metrics.of_mesh(p, batch, assets) for name, p in predictions.items()
               if p.vertices is not None}
    return values, batch["mask"] * batch["has_pose"]

  return measure


def judged(config):
  """The method of `make_scorer` whose scores tell how far a run is: its mesh where that alone learns, else its body."""
  return f"{config.system} mesh" if config.get("train", "") == "graph" else config.system


def score_splits(score, state, splits, assets):
  """The rows of every split, labelled with its name: what `report.table` prints under COLUMNS."""
  return [{"split": name} | row for name, split in splits.items()
          for row in score(state, split.batches, assets)]


def columns(config):
  """Of the table of a run's scores."""
  return lift_scores.COLUMNS if task.lifts(config) else COLUMNS


def summary(config, scores):
  """One line: 'mpjpe_mm 101.2  pa_mpjpe_mm 70.3  ...'."""
  if not scores["examples"]:
    return "no labels, no scores"
  return "  ".join(f"{name} {scores[name]:.4g}" for name in columns(config)[3:])


def load_run(workdir, step=None, body=None, lifting=False):
  """A trained system, ready to predict.

  Args:
    workdir: of a training run.  step: which checkpoint; None is the best.  body: another body file than the run's.
    lifting: whether the caller knows what to do with a run that lifts 2D poses.
  Returns:
    (config, system, state with params and stats only, assets).
  Raises:
    InputError: when there is no run or no such checkpoint, or it lifts and should not.
  """
  config = command.read_config(workdir)
  if task.lifts(config) and not lifting:
    raise InputError(f"{workdir!r} lifts 2D poses: give a run that sees images")
  if body:
    config = ml_collections.ConfigDict(config)
    config.body = body
  if task.lifts(config) and os.path.isfile(path := os.path.join(workdir, lift_source.STATISTICS)):
    config = ml_collections.ConfigDict(config)
    config.lift_stats = path  # the data may be elsewhere by now
  loaded, step = checkpoint.load_for_inference(workdir, step)
  state = TrainState(step=jnp.asarray(step, jnp.int32), opt_state={}, memory={}, **loaded)
  return config, systems.load(config), state, assets_lib.load(config, training=False)


def main(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.evaluate", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--workdir", required=True, help="of a training run")
  parser.add_argument("--splits", default="", help="comma-separated; default: the config's; of --poses all but train")
  parser.add_argument("--step", type=int, help="which checkpoint; default: the best")
  parser.add_argument("--batch_size", type=int, help="default: the run's")
  parser.add_argument("--parallel", default="pmap", help="pmap or shard_map")
  parser.add_argument("--hypotheses", type=int, default=0, metavar="N",
                      help="also score N samples an image, the mode among them; for systems with a density")
  parser.add_argument("--best-of", metavar="N,N,...",
                      help="also score sets of N hypotheses an image; for systems that make sets, such as multibodies; "
                      "of a run that lifts, also its one guess, and each action")
  parser.add_argument("--poses", metavar="NPZ", help="score a run that lifts 2D poses on this file of "
                      "jhmr.data.lift_poses, in the place of its own data")
  parser.add_argument("--prior", metavar="WORKDIR", help="of configs/joint_prior.py: weighs hypotheses of --best-of; "
                      "default: the run's own, if it has one")
  parser.add_argument("--chunk", type=int, help=f"how many of them at a time, default {hypothesis_pass.CHUNK}")
  parser.add_argument("--out", help="also write the rows as JSON here, and plots of the hypotheses beside it")
  parser.add_argument("--body", help="another body than the run's: an SMPL file or folder")
  real = parser.add_argument_group("published benchmarks, in the place of splits; see docs/real_data.md")
  real.add_argument("--benchmark", metavar="NAME", help="3dpw, h36m_p1, h36m_p2, mpi_inf_3dhp, up_3d or lsp")
  real.add_argument("--annotations", metavar="NPZ", help="in the format of SPIN's dataset_extras")
  real.add_argument("--images", metavar="FOLDER", help="that its image names are below")
  real.add_argument("--masks", metavar="FOLDER", help="that its label images are below; default: as --images")
  real.add_argument("--ambiguous", metavar="NPZ", help="crops of parts of people: of 3D Multi-bodies' *_amb3.npz, or "
                    "paper or code, which make such crops from 2D keypoints")
  real.add_argument("--crop", help="exact, the default, or spin: the bytes of the authors' code")
  real.add_argument("--skip-missing", action="store_true", help="leave out people whose files are missing")
  real.add_argument("--result-file", metavar="NPZ", help="write what SPIN's evaluation does: joints, poses, cameras")
  args = parser.parse_args(argv[1:])
  if args.chunk and not args.hypotheses:
    raise InputError("--chunk goes with --hypotheses: name how many, or leave it out")
  if args.benchmark:
    if args.poses:
      raise InputError("--poses are no --benchmark: leave one out")
    from jhmr import evaluate_files  # it builds on this file
    evaluate_files.score(args)
    return
  alone = ("annotations", "images", "masks", "ambiguous", "crop", "skip_missing", "result_file")
  if odd := [name for name in alone if getattr(args, name)]:
    raise InputError(f"--{odd[0].replace('_', '-')} goes with --benchmark: name one, or leave it out")
  if args.out and not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
    raise InputError(f"the folder of --out {args.out!r} does not exist: make it first")
  chunk, counts = args.chunk or hypothesis_pass.CHUNK, best_of.parse(args.best_of) if args.best_of else ()
  config, system, state, assets = load_run(args.workdir, args.step, args.body, lifting=True)
  lifts, names = task.lifts(config), args.splits.split(",") if args.splits else None
  if lifts and (odd := [name for name in ("hypotheses", "prior", "body") if getattr(args, name)]):
    raise InputError(f"--{odd[0]} is of bodies in images, but {args.workdir!r} lifts 2D poses: leave it out")
  if args.poses and not lifts:
    raise InputError(f"--poses needs a run that lifts 2D poses, but {args.workdir!r} sees images: leave it out")
  assets = assets | joint_prior.given(args.prior, system)
  config = ml_collections.ConfigDict(config)
  config.batch_size = args.batch_size or config.batch_size
  if args.poses:
    config.data.source = args.poses  # the statistics in the assets stay the run's
    names = names or lift_source.splits(config)
  mapper = parallel.make(args.parallel)
  if args.hypotheses:
    score_many = hypothesis_pass.make_scorer(mapper, system, args.hypotheses, chunk)
    assets = assets | {"hypothesis_body": hypothesis_pass.body_of(assets)}
  of_sets = lift_scores if lifts else best_of
  if counts:
    score_sets = of_sets.make_scorer(mapper, system, counts)
    assets = assets if lifts else assets | {"best_of_body": best_of.body_of(assets)}
  splits = open_splits(config, assets, mapper, names,
                       ("visible", *lift_scores.LABELS) if args.hypotheses or counts else ())
  state, assets = mapper.replicate(state), mapper.replicate(assets)
  rows = score_splits(make_scorer(config, mapper, system), state, splits, assets)
  report.table(rows, columns(config))
  found = {"step": int(state.step), "rows": rows}
  if args.hypotheses:
    summaries = {name: hypothesis_report.summarise(score_many(state, split.batches, assets))
                 for name, split in splits.items()}
    hypothesis_report.print_tables(summaries, args.hypotheses)
    found["hypotheses"] = hypothesis_report.as_json(summaries, args.hypotheses, chunk)
  if counts:
    measured = {name: score_sets(state, split.batches, assets) for name, split in splits.items()}
    sets = {name: of_sets.summarise(each) for name, each in measured.items()}
    of_sets.print_tables(sets, counts)
    found["best_of"] = {"n": counts if system.choose else (), "splits": sets}
    if lifts:
      actions = {name: lift_scores.of_actions(each, lift_source.actions(config)) for name, each in measured.items()}
      lift_scores.print_actions(actions, counts)
      found["best_of"]["actions"] = actions
  for split in splits.values():
    split.close()
  if args.out:
    with files.whole(args.out) as f:
      json.dump(found, f, indent=2)
    if args.hypotheses:
      hypothesis_report.write_figures(args.out, summaries, args.hypotheses)


if __name__ == "__main__":
  command.run(main)
