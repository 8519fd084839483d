"""Scores sets of n hypotheses: `python -m jhmr.evaluate --workdir RUN --best-of 1,5,10,25`, MPJPE-n and RE-n.

For systems that make sets in their own way (`System.choose`): heads that are quantised, means of a mixture, draws of an
autoencoder. Two rules say which of the n counts, both need the answer:
  min  every error its own best one. Source: 3D Multi-bodies (Biggs et al. 2020), section 5.
  mse  for all errors the one with the least squared error of 24 joints. Source: their code's `eval` loop.
"""

import jax.numpy as jnp
from jhmr import (hypotheses, hypothesis_pass, hypothesis_report, intervals, losses, metrics, regression, report,
                  sampling)
from jhmr.body import camera, landmarks, smpl
from jhmr.errors import InputError
from jhmr.state import labelled_pose

COUNTS = (1, 5, 10, 25)  # Source: 3D Multi-bodies, table 1
RULES = ("min", "mse")
ERRORS = ("mpjpe_mm", "pa_mpjpe_mm")
SPREAD = ("consistency2d_px", "diversity_visible_mm", "diversity_hidden_mm")
SETS = ("h36m17", "coco17", "gt24")


def parse(text):
  """'1,5,10' -> (1, 5, 10). Raises InputError when these are not rising numbers from 1 on."""
  try:
    counts = tuple(int(n) for n in text.split(","))
  except ValueError:
    counts = ()
  if not counts or counts[0] < 1 or any(b <= a for a, b in zip(counts, counts[1:])):
    raise InputError(f"--best-of is {text!r}: give rising numbers from 1 on, such as 1,5,10,25")
  return counts


def check(system):
  """Raises InputError for a system that makes no sets of hypotheses."""
  if system.choose is None:
    raise InputError("--best-of needs a system that makes sets of hypotheses, such as multibodies: for a density over "
                     "poses there is --hypotheses")


def body_of(assets):
  """The part of the assets' body that these metrics need; at set-up. Raises InputError when it cannot make SETS."""
  return landmarks.rigid_body(assets["body"], SETS)


def make_scorer(mapper, system, counts=COUNTS, seed=0):
  """score(state, batches, assets) -> {name: NumPy [N] or (numerator [N], denominator [N])} of the labelled images.

  Names are "<error>_<rule>_<n>" and "<spread>_<n>"; n is also "all", for what the system predicts.

  Args:
    batches, assets: as `evaluate.make_scorer` takes them; assets["best_of_body"] is that of `body_of`.
    counts: the n; a set is a function of (seed, the image's id, n).
  Raises:
    InputError: for a system that makes no sets.
  """
  check(system)

  def measure(state, batch, assets):
    body, labels = assets["best_of_body"], {k: v for k, v in batch.items() if k != "image"}
    keys = sampling.keys_of_ids(seed, batch["id"])
    sets = {n: system.choose(state, batch, assets, keys, n) for n in counts}
    sets["all"] = system.predict(state, batch, assets)
    found = {f"{name}_{n}": value for n, made in sets.items() for name, value in of_set(made, labels, body).items()}
    return found, batch["mask"] * batch["has_pose"]

  return hypothesis_pass.over_images(mapper, measure)


def of_set(prediction, batch, body):
  """{"<error>_<rule>": [B], "<spread>": (numerator [B], denominator [B])} of one set of hypotheses [B, S].

  Args:
    batch: labels, and `visible` where there are any.
    body: of `body_of`.
  """
  posed = smpl.forward(body, prediction.betas, prediction.pose)
  truth = smpl.forward(body, batch["betas"], labelled_pose(batch))
  errors = hypotheses.errors(metrics.centred(body, posed)[0], metrics.centred(body, truth)[0])
  nearest = jnp.argmin(squared_error(body, posed, truth), -1)[:, None]
  found = {f"{name}_min": metrics.best_of(errors[name]) for name in ERRORS}
  found |= {f"{name}_mse": jnp.take_along_axis(errors[name], nearest, 1)[:, 0] for name in ERRORS}
  points, (labels, seen) = smpl.keypoints(body, posed, "coco17"), hypothesis_pass.seen_keypoints(batch)
  off = hypotheses.reprojection(camera.project_crop(points, prediction.camera), labels, seen)
  spread = 1000 * hypotheses.spread(points)
  return found | {"consistency2d_px": hypotheses.consistency(off * camera.CROP_PX / 2, seen),
                  "diversity_visible_mm": hypotheses.diversity(spread, seen),
                  "diversity_hidden_mm": hypotheses.diversity(spread, 1 - seen)}


def squared_error(body, posed, truth):
  """Mean squared distance [B, S] of 24 joints to those of the truth [B], both centred between the hips."""
  points, target = (smpl.keypoints(body, p, "gt24") for p in (posed, truth))
  off = losses.centred(points, regression.HIPS) - losses.centred(target, regression.HIPS)[:, None]
  return jnp.mean(jnp.sum(off ** 2, -1), -1)


def summarise(rows, seed=0):
  """{name: {"value", "low", "high"}} of a split's rows. Raises InputError when no image has a pose label."""
  if not len(rows[f"{ERRORS[0]}_min_all"]):
    raise InputError("--best-of: no image of this split has a pose label to compare with: choose other --splits")
  return {name: intervals.as_json(x) for name, x in intervals.replicates(rows, seed=seed).items()}


def print_tables(summaries, counts):
  """Errors by both rules, then spread.

  Args:
    summaries: {split: of `summarise`}.
  """
  names = [*counts, "all"]
  cells = lambda s, name: {f"n={n}": hypothesis_report.cell(s[f"{name}_{n}"]) for n in names}
  columns = tuple(f"n={n}" for n in names)
  report.say("the best of n hypotheses; [95 % interval over images]")
  report.table([{"split": split, "error": name, "chosen by": rule} | cells(s, f"{name}_{rule}")
                for split, s in summaries.items() for name in ERRORS for rule in RULES],
               ("split", "error", "chosen by", *columns))
  report.table([{"split": split, "of all n": name} | cells(s, name)
                for split, s in summaries.items() for name in SPREAD],
               ("split", "of all n", *columns))
