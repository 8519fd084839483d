"""Lifting of rendered people's 2D poses: many hypotheses, what each part of the method gives, and how they spread.

Paper: Wehrbein, Rudolph, Rosenhahn, Wandt, "Probabilistic Monocular 3D Human Pose Estimation with Normalizing Flows",
ICCV 2021, tables 1, 3 and 4, figure 5, section 4.5. val_hard are people of whom some joint's heatmap is wide, as in its
H36MA. The detector is simulated on 64 x 64 heatmaps, and its heatmaps are fitted as the paper fits them.
"""

import functools

import jax.numpy as jnp
from jhmr import hypothesis_pass, intervals, lift_scores, lifting, plots, sampling, study
from jhmr.body import joints
from jhmr.data import lift_spec
from jhmr.state import Lifted
import numpy as np

COUNTS = (1, 2, 5, 10, 25, 50, 100, 200)
ALL = COUNTS[-1]
SPLITS = ("val_hard", "val")
HARD = SPLITS[0]
FULL = "lifting"
SHORT = "lifting_short"  # what the ablations are compared with: as long as they are
ABLATIONS = {"lifting_unconditioned": "without the condition", "lifting_no_covariance": "without the covariance loss",
             "lifting_no_critic": "without the critic", "lifting_no_best": "without the best of many",
             "lifting_k1": "k = 1", "lifting_k10": "k = 10", "lifting_k50": "k = 50"}
BASELINES = {"lift_mdn": "mixture of 5 (Li and Lee)", "lift_prohmr": "flow (ProHMR)"}
NOISE = "noise"     # not a run: the best guess of FULL, and noise
ONE = "lift_martinez"
LABELS = {FULL: "Wehrbein et al.", SHORT: "Wehrbein et al., shorter"} | ABLATIONS | BASELINES | {
    NOISE: "the best guess and noise"}
ERRORS = {"mpjpe_mm": "MPJPE", "pa_mpjpe_mm": "PA-MPJPE"}
_PLAIN_M = 0.01     # deviation of joints whose heatmap says nothing, that of a sharp one


def sets(run, split, load):
  """Every metric of sets of COUNTS hypotheses of every pose; see `lift_scores.make_scorer`."""
  trained = load(run)
  return study.score_split(trained, trained.assets, split, functools.partial(lift_scores.make_scorer, counts=COUNTS))


def guess(split, load):
  """The errors of one pose each of every example."""
  found = sets(ONE, split, load)
  return {f"{m}_min_1": found[f"{m}_{lift_scores.GUESS}"] for m in ERRORS}


def noise(split, load):
  """The same of the best guess and noise: in the image as wide as heatmaps say, in depth as wide as its errors on val.

  Source: Wehrbein et al. 2021, section 4.4, whose deviation in depth is a constant that is not given.
  """
  trained = load(FULL)

  def off(mapper, system):
    def measure(state, batch, assets):
      error = system.predict(state, batch, assets).joints[:, 0, :, 2] - batch["pose3d"][..., 2]
      return {"square": jnp.mean(error ** 2, -1)}, batch["mask"] * batch["has_pose3d"]
    return hypothesis_pass.over_images(mapper, measure)

  depth_m = float(np.sqrt(study.score_split(trained, trained.assets, "val", off)["square"].mean()))
  return study.score_split(trained, trained.assets, split, lambda mapper, system: lift_scores.make_scorer(
      mapper, system._replace(choose=functools.partial(noisy, system, depth_m)), COUNTS))


def noisy(system, depth_m, state, batch, assets, keys, num):
  """num hypotheses: the best guess, and it with noise of every joint; z in depth as of `sampling.noise`."""
  found = system.predict(state, batch, assets).joints[:, :1]
  cov, _ = lifting.covariance_target(batch["gaussians"])                                    # [B, 13, 3]
  z = sampling.noise(keys, jnp.arange(num), 3 * lift_spec.NUM_3D).reshape(len(found), num, -1, 3)
  std_x = jnp.sqrt(jnp.maximum(cov[..., 0], 1e-12))
  slope = cov[..., 1] / std_x
  std_y = jnp.sqrt(jnp.maximum(cov[..., 2] - slope ** 2, 0))
  where = np.array([joints.names(lift_spec.SET_3D).index(name) for name in lifting.MATCHED])
  moved = _PLAIN_M * z[..., :2]
  x, y = z[:, :, where, 0], z[:, :, where, 1]
  # The covariance is that of y upwards.
  moved = moved.at[:, :, where].set(jnp.stack([std_x[:, None] * x, -(slope[:, None] * x + std_y[:, None] * y)], -1))
  moved = jnp.concatenate([moved, depth_m * z[..., 2:]], -1).at[:, :, 0].set(0.0)  # the pelvis is the origin
  return Lifted(found + moved, jnp.zeros((len(found), num)))


def replicated(found, split):
  """{"run/name": [1 + resamples]} of a split; all are of the same poses, which are drawn together."""
  return intervals.replicates({f"{run}/{k}": v for run in (*LABELS, ONE) for k, v in found[f"{run}_{split}"].items()})


def claims(found):
  """The paper's claims as quantities that must be below a limit, on val_hard."""
  one = replicated(found, HARD)
  best = lambda run, m, n=ALL: one[f"{run}/{m}_min_{n}"]
  rivals = {**BASELINES, NOISE: LABELS[NOISE]}
  return [
      *(study.Claim(f"table 3: {label} of the best of {ALL}, against {what}", "mm", best(FULL, m) - best(run, m))
        for run, what in rivals.items() for m, label in ERRORS.items()),
      *(study.Claim(f"table 4: {label} of the best of {ALL}, against {what}", "mm", best(SHORT, m) - best(run, m))
        for run, what in ABLATIONS.items() for m, label in ERRORS.items()),
      *(study.Claim(f"table 4: CPS, {what} against all", "", one[f"{run}/cps_{ALL}"] - one[f"{SHORT}/cps_{ALL}"])
        for run, what in ABLATIONS.items()),
      study.Claim("section 4.5: PA-MPJPE of the worst, against without the critic", "mm",
                  one[f"{SHORT}/pa_mpjpe_mm_worst_{ALL}"] - one[f"lifting_no_critic/pa_mpjpe_mm_worst_{ALL}"]),
      *(study.Claim(f"section 4.5: spread along {axis}, against depth", "mm",
                    one[f"{FULL}/std_{axis}_mm_{ALL}"] - one[f"{FULL}/std_z_mm_{ALL}"]) for axis in "xy"),
      *(study.Claim(f"figure 5: MPJPE of the best of {b}, against {a}", "mm",
                    best(FULL, "mpjpe_mm", b) - best(FULL, "mpjpe_mm", a)) for a, b in zip(COUNTS, COUNTS[1:]))]


def tables(found):
  """The paper's tables, measured."""
  made, shown = [], (1, 5, 10, ALL)
  for split in SPLITS:
    one = replicated(found, split)
    cell = lambda run, key, one=one: study.cell(one[f"{run}/{key}"]) if f"{run}/{key}" in one else ""
    rows = [{"method": "Martinez et al.", "error": m, "n = 1": cell(ONE, f"{m}_min_1")} for m in ERRORS]
    rows += [{"method": LABELS[run], "error": m} | {f"n = {n}": cell(run, f"{m}_min_{n}") for n in shown}
             for run in (FULL, *BASELINES, NOISE) for m in ERRORS]
    counts = tuple(f"n = {n}" for n in shown)
    made.append(study.Table(f"Table 1: the best of n, {split}", ("method", "error", *counts), rows))
    keys = {"MPJPE": f"mpjpe_mm_min_{ALL}", "PA-MPJPE": f"pa_mpjpe_mm_min_{ALL}", "PCK": f"pck_{ALL}",
            "CPS": f"cps_{ALL}", "worst PA-MPJPE": f"pa_mpjpe_mm_worst_{ALL}"}
    for title, chosen in (("Table 3", (FULL, *BASELINES, NOISE)), ("Table 4", (SHORT, *ABLATIONS))):
      made.append(study.Table(f"{title}: {ALL} hypotheses, {split}", ("method", *keys), [
          {"method": LABELS[run]} | {name: cell(run, key) for name, key in keys.items()} for run in chosen]))
    made.append(study.Table(f"How {ALL} hypotheses spread, {split}", ("method", "x, mm", "y, mm", "depth, mm"), [
        {"method": LABELS[run]} | {name: cell(run, f"std_{axis}_mm_{ALL}") for name, axis in (
            ("x, mm", "x"), ("y, mm", "y"), ("depth, mm", "z"))} for run in (FULL, *BASELINES, NOISE)]))
  return made


def figure(found):
  """Figure 5: error against the number of hypotheses, with intervals, of ambiguous poses."""
  one = replicated(found, HARD)

  def curve(run, m):
    of = [intervals.interval(one[f"{run}/{m}_min_{n}"]) for n in COUNTS]
    return plots.Curve(LABELS[run], np.array(COUNTS, float), *(
        np.array([x[k] for x in of], float) for k in ("value", "low", "high")))

  return np.concatenate([plots.plot([curve(run, m) for run in (FULL, *BASELINES, NOISE)], f"{HARD}: best of n",
                                    "hypotheses n", f"{label}, mm", log_x=True) for m, label in ERRORS.items()], 1)


STUDY = study.Study(
    runs=(FULL, SHORT, *ABLATIONS, *BASELINES, ONE), settings={"counts": COUNTS},
    measured={f"{run}_{split}": functools.partial(sets, run, split)
              for split in SPLITS for run in (FULL, SHORT, *ABLATIONS, *BASELINES)} | {
        f"{NOISE}_{split}": functools.partial(noise, split) for split in SPLITS} | {
        f"{ONE}_{split}": functools.partial(guess, split) for split in SPLITS},
    tables=tables, claims=claims, figure=figure)
