"""ProHMR on rendered people: what its paper claims of the mode, of samples, of fitting and of several views.

Paper: Kolotouros et al., "Probabilistic Modeling for Human Mesh Recovery", ICCV 2021, tables 1 to 5; hidden parts as in
3D Multi-bodies (Biggs et al. 2020). HMR, with the same images in the same order, stands for a regressor.
"""

import functools

import jax
from jhmr import fit_files, fit_scores, hypothesis_pass, hypothesis_report, intervals, metrics, study
from jhmr.body import landmarks

NUM_HYPOTHESES = 4096
NOISE_PX = 5.0         # of noisy keypoints, in a crop of 224 pixels
SET = "openpose25"     # keypoints that are fitted
ERRORS = ("mpjpe_mm", "pa_mpjpe_mm")
WORSE_BY = 0.05        # what the mode may lose against HMR


def image_errors(run, split, load):
  """{metric: [N]} of a run's best guess for every labelled image of a split."""
  trained = load(run)

  @jax.jit
  def of_batch(state, batch, assets):
    found = metrics.per_example(trained.system.predict(state, batch, assets), batch, assets)
    return found, batch["mask"] * batch["has_pose"]

  found = fit_scores.over_split(trained.config, trained.assets, split,
                                lambda batch: of_batch(trained.state, batch, trained.assets))
  return {m: found[m] for m in ERRORS}


def hypotheses(split, load):
  """Every metric of NUM_HYPOTHESES hypotheses of every image; see `hypothesis_pass.score_hypotheses`."""
  trained = load("prohmr")
  assets = trained.assets | {"hypothesis_body": hypothesis_pass.body_of(trained.assets)}
  return study.score_split(trained, assets, split,
                           functools.partial(hypothesis_pass.make_scorer, num=NUM_HYPOTHESES))


def keypoint_fits(noise_px, known_px, load):
  """{"mode/mpjpe_mm": [N], ..., "fit/pa_mpjpe_mm": [N]} of people whose labelled keypoints are fitted.

  Args:
    noise_px: what is added to the keypoints.  known_px: what the weights suit; 0: the authors' weights.
  """
  trained = load("prohmr")
  body = landmarks.rigid_body(trained.assets["body"], (SET,))
  options = fit_files.Options(SET, use_hips=True, noise_px=known_px)
  return flat(fit_scores.keypoint_errors(trained.config, trained.system, trained.state,
                                          trained.assets, body, "val", noise_px, options))


def views(load):
  """{"single view/mpjpe_mm": [P], ...} of people seen from four sides."""
  trained = load("prohmr")
  return flat(fit_scores.view_errors(trained.config, trained.system, trained.state, trained.assets,
                                      "multiview", "vmap", 0))


def flat(errors):
  """{method: {metric: [N]}} -> {"method/metric": [N]}, of ERRORS."""
  return {f"{method}/{metric}": values[metric] for method, values in errors.items() for metric in ERRORS}


def replicated(found):
  """{measurement: {name: [1 + resamples, ...]}}; one measurement's images are resampled together."""
  return {name: intervals.replicates(rows) for name, rows in found.items()}


def joined(found):
  """Errors of all runs on val, resampled together, since the images are the same."""
  return intervals.replicates({f"{run}/{m}": found[f"{run}_val"][m] for run in STUDY.runs for m in ERRORS})


def claims(found):
  """The paper's claims as quantities that must be below a limit; those of PA-MPJPE unless they say otherwise."""
  m = "pa_mpjpe_mm"
  runs, one = joined(found), replicated(found)
  many, hidden, several = one["hypotheses_val"], one["hypotheses_val_occluded"], one["views"]
  few = many[f"{m}_medoids"]
  falls = [few[:, i + 1] - few[:, i] for i in range(few.shape[1] - 1)] + [many[f"{m}_min"] - few[:, -1]]
  ns = [*hypothesis_pass.counts_quantised(NUM_HYPOTHESES), "all"]
  fit = lambda name: one[name][f"fit/{m}"] - one[name][f"mode/{m}"]
  return [
      study.Claim("table 1: the mode is as good as HMR", "%",
                  100 * (runs[f"prohmr/{m}"] / runs[f"hmr/{m}"] - 1), 100 * WORSE_BY),
      study.Claim("table 5: with the mode loss, against without", "mm",
                  runs[f"prohmr/{m}"] - runs[f"prohmr_without_mode/{m}"]),
      *(study.Claim(f"table 2: the best of {b} hypotheses, against {a}", "mm", fall)
        for a, b, fall in zip(ns, ns[1:], falls)),
      study.Claim("table 3: fitting exact keypoints, against the mode", "mm", fit("keypoints_exact")),
      study.Claim(f"table 3: fitting keypoints with noise of {NOISE_PX:g} px, against the mode", "mm",
                  fit("keypoints_noisy")),
      study.Claim(f"the same with weights that suit noise of {NOISE_PX:g} px (ours)", "mm", fit("keypoints_weighed")),
      study.Claim("table 4: averaged rotations, against a single view", "mm",
                  several[f"rotation averaging/{m}"] - several[f"single view/{m}"]),
      study.Claim("table 4: refined views, against averaged rotations", "mm",
                  several[f"refined/{m}"] - several[f"rotation averaging/{m}"]),
      study.Claim("hidden parts: spread of visible joints, against hidden ones", "mm",
                  hidden["diversity_visible_mm"] - hidden["diversity_hidden_mm"])]


def tables(found):
  """The paper's tables, measured."""
  one = replicated(found)
  row = lambda label, values, prefix="": {"method": label} | {m: study.cell(values[prefix + m]) for m in ERRORS}
  table = lambda title, rows: study.Table(title, ("method", *ERRORS), rows)
  regression = [row(f"{run}, {split}", one[f"{run}_{split}"])
                for split in ("val", "val_occluded") for run in STUDY.runs]
  kinds = {"exact": "exact", "noisy": "noisy", "weighed": "noisy, weights that suit it"}
  fits = [row(f"{method}, {kind}", one[f"keypoints_{name}"], f"{method}/")
          for name, kind in kinds.items() for method in fit_scores.METHODS]
  several = [row(method, one["views"], f"{method}/") for method in fit_scores.VIEW_METHODS]
  return [table("Tables 1 and 5: one guess", regression), *(of_n(one, split) for split in ("val", "val_occluded")),
          table(f"Table 3: fitting 25 keypoints, exact and with noise of {NOISE_PX:g} px", fits),
          table("Table 4: people seen from four sides", several), spreads(one)]


def of_n(one, split):
  """Table 2 of one split."""
  values, rows = one[f"hypotheses_{split}"], []
  ns = hypothesis_pass.counts_quantised(NUM_HYPOTHESES)
  for metric in ERRORS:
    for kind in ("medoids", "centroids"):
      cells = {f"n = {n}": study.cell(values[f"{metric}_{kind}"][:, i]) for i, n in enumerate(ns)}
      rows.append({"error": metric, "of": f"{kind} of {NUM_HYPOTHESES}"} | cells)
    rows.append({"error": metric, "of": "all", "all": study.cell(values[f"{metric}_min"])})
  return study.Table(f"Table 2, {split}: the best of n", ("error", "of", *(f"n = {n}" for n in ns), "all"), rows)


def spreads(one):
  """Diversity, consistency and calibration of the samples."""
  names = hypothesis_report.SPREAD[:5] + ("log_likelihood", "latent_energy")
  rows = [{"split": split} | {n: study.cell(one[f"hypotheses_{split}"][n]) for n in names}
          for split in ("val", "val_occluded")]
  return study.Table("What samples are like", ("split", *names), rows)


def figure(found):
  """Error against the number of hypotheses, and calibration, of both splits."""
  summaries = {split: hypothesis_report.summarise(found[f"hypotheses_{split}"]) for split in ("val", "val_occluded")}
  return hypothesis_report.figures(summaries, NUM_HYPOTHESES)


STUDY = study.Study(
    runs=("hmr", "prohmr", "prohmr_without_mode"),
    settings={"hypotheses": NUM_HYPOTHESES, "noise_px": NOISE_PX, "keypoints": SET},
    measured={f"{run}_{split}": functools.partial(image_errors, run, split)
              for run in ("hmr", "prohmr", "prohmr_without_mode") for split in ("val", "val_occluded")} | {
                  "hypotheses_val": functools.partial(hypotheses, "val"),
                  "hypotheses_val_occluded": functools.partial(hypotheses, "val_occluded"),
                  "keypoints_exact": functools.partial(keypoint_fits, 0.0, 0.0),
                  "keypoints_noisy": functools.partial(keypoint_fits, NOISE_PX, 0.0),
                  "keypoints_weighed": functools.partial(keypoint_fits, NOISE_PX, NOISE_PX),
                  "views": views},
    tables=tables, claims=claims, figure=figure)
