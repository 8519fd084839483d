"""3D Multi-bodies on rendered people of whom parts are hidden: sets of hypotheses, and what each part of it gives.

Paper: Biggs, Ehrhardt, Joo, Graham, Vedaldi, Novotny, "3D Multi-bodies: Fitting Sets of Plausible 3D Human Models to
Ambiguous Image Data", NeurIPS 2020, tables 1 and 2. As in its supplement, D, it begins with a trained HMR, which goes
on alone with the same images in the same order too. The baselines begin with the backbone of that HMR, since their
heads are others, and train twice as long from there.
"""

import functools
import os
from typing import NamedTuple

from jhmr import best_of, checkpoint, intervals, joint_prior, plots, study
from jhmr.studies import prohmr
import numpy as np

COUNTS = best_of.COUNTS
SPLITS = ("val_occluded", "val")
HARD = SPLITS[0]
TRUNK, HMR = "hmr", "hmr_on"   # runs: where all begin, and HMR that goes on
PRIOR = "joint_prior"


class Method(NamedTuple):
  """One row of the tables."""
  run: str
  prior: bool   # whether hypotheses are weighed by the prior
  label: str


METHODS = {
    "full": Method("multibodies", True, "3D Multi-bodies"),
    "uniform": Method("multibodies", False, "without the prior"),
    "free": Method("multibodies_no_reprojection", True, "without reprojection of all"),
    "neither": Method("multibodies_no_reprojection", False, "without either"),
    "mdn": Method("smpl_mdn", False, "SMPL-MDN"),
    "cvae": Method("smpl_cvae", False, "SMPL-CVAE")}
TABLE_1, TABLE_2 = ("mdn", "cvae", "full"), ("neither", "free", "uniform", "full")
BASELINES = ("smpl_mdn", "smpl_cvae")
RUNS = tuple(dict.fromkeys(m.run for m in METHODS.values()))
LABELS = {"mpjpe_mm": "MPJPE", "pa_mpjpe_mm": "PA-MPJPE"}


def prepare(config_file, workdir, smoke):
  """{run: options of its training}: all go on with the trunk, which is trained before them, or with its backbone."""
  del config_file, smoke
  trunk = os.path.abspath(os.path.join(workdir, TRUNK))
  part = {run: checkpoint.ONLY_BACKBONE for run in BASELINES}
  return {run: [f"--config.warm_start={trunk}{part.get(run, '')}"] for run in (HMR, *RUNS)}


def sets(method, split, load):
  """Every metric of sets of COUNTS hypotheses of every image; see `best_of.make_scorer`."""
  trained = load(method.run)
  assets = trained.assets | {"best_of_body": best_of.body_of(trained.assets)}
  if method.prior:
    assets["joint_prior"] = joint_prior.load(load(PRIOR).home)
  return study.score_split(trained, assets, split, functools.partial(best_of.make_scorer, counts=COUNTS))


def replicated(found, split):
  """{"method/name": [1 + resamples]} of a split, HMR among them; the images are the same, and are drawn together."""
  rows = {f"{name}/{k}": v for name in METHODS for k, v in found[f"{name}_{split}"].items()}
  return intervals.replicates(rows | {f"hmr/{k}": v for k, v in found[f"{HMR}_{split}"].items()})


def claims(found):
  """The paper's claims as quantities that must be below a limit, of people whose parts are hidden."""
  one = replicated(found, HARD)
  several = [(m, n) for m in best_of.ERRORS for n in COUNTS[1:]]
  against = lambda name, m, n: one[f"full/{m}_min_{n}"] - one[f"{name}/{m}_min_{n}"]
  return [
      *(study.Claim(f"table 1: {LABELS[m]} of the best of {n}, against {METHODS[name].label}", "mm",
                    against(name, m, n))
        for name in ("mdn", "cvae") for m, n in several),
      *(study.Claim(f"table 2: {LABELS[m]} of the best of {n}, against {METHODS[name].label}", "mm",
                    against(name, m, n))
        for name in ("free", "uniform", "neither") for m, n in several),
      *(study.Claim(f"section 5.1: {LABELS[m]} of n = 1, against HMR", "mm", one[f"full/{m}_min_1"] - one[f"hmr/{m}"])
        for m in best_of.ERRORS),
      study.Claim("hidden parts: spread of visible joints, against hidden ones, n = 25", "mm",
                  one["full/diversity_visible_mm_25"] - one["full/diversity_hidden_mm_25"])]


def tables(found):
  """The paper's tables, measured, and how the sets spread."""
  made, counts = [], tuple(f"n = {n}" for n in COUNTS)
  for split in SPLITS:
    one = replicated(found, split)
    cells = lambda name, key, one=one: {c: study.cell(one[f"{name}/{key}_{n}"]) for c, n in zip(counts, COUNTS)}
    all_cell = lambda name, key, one=one: {"all": study.cell(one[f"{name}/{key}_all"])}
    hmr = lambda m, one=one: {"method": "HMR", "error": m, counts[0]: study.cell(one[f"hmr/{m}"])}
    for title, chosen in (("Table 1: the best of n", TABLE_1), ("Table 2: what each part gives", TABLE_2)):
      rows = [hmr(m) for m in best_of.ERRORS] if chosen is TABLE_1 else []
      rows += [{"method": METHODS[name].label, "error": m} | cells(name, f"{m}_min") | all_cell(name, f"{m}_min")
               for name in chosen for m in best_of.ERRORS]
      made.append(study.Table(f"{title}, {split}", ("method", "error", *counts, "all"), rows))
    nearest = [{"method": METHODS[name].label, "error": m} | cells(name, f"{m}_mse")
               for name in TABLE_1 for m in best_of.ERRORS]
    made.append(study.Table(f"The one nearest in joints counts (authors' code), {split}",
                            ("method", "error", *counts), nearest))
    made.append(study.Table(f"What sets are like, {split}", ("method", "of n = 25", "value"), [
        {"method": METHODS[name].label, "of n = 25": k, "value": study.cell(one[f"{name}/{k}_25"])}
        for name in METHODS for k in best_of.SPREAD]))
  return made


def figure(found):
  """Error against the number of hypotheses, with intervals, of people whose parts are hidden."""
  one = replicated(found, HARD)

  def curve(name, m):
    of = [intervals.interval(one[f"{name}/{m}_min_{n}"]) for n in COUNTS]
    return plots.Curve(METHODS[name].label, np.array(COUNTS, float), *(
        np.array([x[k] for x in of], float) for k in ("value", "low", "high")))

  return np.concatenate([plots.plot([curve(name, m) for name in ("mdn", "cvae", "neither", "full")],
                                    f"{HARD}: best of n", "hypotheses n", f"{label}, mm", log_x=True)
                         for m, label in LABELS.items()], 1)


STUDY = study.Study(
    runs=(TRUNK, PRIOR, HMR, *RUNS), settings={"counts": COUNTS},
    measured={f"{HMR}_{split}": functools.partial(prohmr.image_errors, HMR, split) for split in SPLITS} | {
        f"{name}_{split}": functools.partial(sets, method, split)
        for split in SPLITS for name, method in METHODS.items()},
    tables=tables, claims=claims, figure=figure, prepare=prepare)
