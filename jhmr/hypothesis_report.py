"""Tables and plots of `hypothesis_pass`, with 95 % intervals over images."""

import os

from jhmr import hypotheses, hypothesis_pass, intervals, pictures, plots, report
from jhmr.body import draw
from jhmr.errors import InputError
import numpy as np

HOWS = ("mode", "mean", "median", "min", "worst")
SPREAD = ("consistency2d_px", "consistency2d_mode_px", "diversity_mm", "diversity_visible_mm", "diversity_hidden_mm",
          "std_x_mm", "std_y_mm", "std_z_mm")
CALIBRATION = ("calibration_error", "latent_energy", "latent_coverage_error", "bits_per_dim", "log_prob_gap")
OTHERS = ("pck_mode", "pck_best", "cps_mode", "cps_best")


def summarise(rows, seed=0, resamples=intervals.RESAMPLES):
  """{name: {"value", "low", "high"}} of a split's rows, floats or lists; what is undefined is None.

  Args:
    rows: of `hypothesis_pass.make_scorer`.
  Raises:
    InputError: when no image of the split has a pose label.
  """
  if not len(rows["latent_energy"]):
    raise InputError("--hypotheses: no image of this split has a pose label to compare with: choose other --splits")
  samples = intervals.replicates(rows, resamples, seed)
  for curve in ("calibration", "latent_coverage"):
    samples[f"{curve}_error"] = hypotheses.calibration_error(samples[curve])
  for i, axis in enumerate("xyz"):
    samples[f"std_{axis}_mm"] = samples["std_mm"][..., i]
  return {name: intervals.as_json(x) for name, x in samples.items()}


def cell(summary, position=None):
  """'71.3 [69.9, 72.8]', or '-' when there is nothing to measure."""
  value, low, high = (summary[k] if position is None else summary[k][position] for k in ("value", "low", "high"))
  if value is None:
    return "-"
  return f"{value:.4g}" if low is None or high is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def print_tables(summaries, num):
  """Four tables: errors, errors of n hypotheses, what is seen and how spread, calibration.

  Args:
    summaries: {split: of `summarise`}.  num: hypotheses an image.
  """
  both = [(split, s, m) for split, s in summaries.items() for m in hypothesis_pass.ORACLES]
  report.say(f"{num} hypotheses an image, the first of them the mode; [95 % interval over images]")
  report.table([{"split": split, "error": m} | {how: cell(s[f"{m}_{how}"]) for how in HOWS} for split, s, m in both],
               ("split", "error", *HOWS))
  few = hypothesis_pass.counts_quantised(num)
  report.table([row for split, s, m in both for row in _of_n(split, s, m, num)],
               ("split", "best of n", "error", *(f"n={n}" for n in dict.fromkeys((*few, num)))))
  for names in (OTHERS, SPREAD, CALIBRATION):
    report.table([{"split": split} | {n: cell(s[n]) for n in names} for split, s in summaries.items()],
                 ("split", *names))


def _of_n(split, summary, metric, num):
  few, first = hypothesis_pass.counts_quantised(num), hypothesis_pass.counts_of_first(num)
  for kind in ("medoids", "centroids"):
    yield {"split": split, "best of n": kind, "error": metric} | {
        f"n={n}": cell(summary[f"{metric}_{kind}"], i) for i, n in enumerate(few)}
  yield {"split": split, "best of n": "first", "error": metric} | {
      f"n={n}": cell(summary[f"{metric}_first"], first.index(n)) for n in (*few, num)}


def figures(summaries, num):
  """A sheet, uint8 [H, W, 3]: a row a split, error against the number of hypotheses and the calibration curves."""
  sheet = []
  for split, s in summaries.items():
    line = lambda label, x, key, s=s: plots.Curve(label, np.asarray(x, float), *(
        np.asarray(s[key][k], float) for k in ("value", "low", "high")))
    counts, few = hypothesis_pass.counts_of_first(num), hypothesis_pass.counts_quantised(num)
    errors = [line(f"{m.removesuffix('_mm')}, {label}", x, f"{m}_{kind}") for m in hypothesis_pass.ORACLES
              for label, x, kind in (("first n", counts, "first"), ("medoids", few, "medoids"))]
    sheet += [plots.plot(errors, f"{split}: best of n", "hypotheses n", "mm", log_x=True),
              plots.plot([line("joints", hypotheses.QUANTILES, "calibration"),
                          line("latent", hypotheses.QUANTILES, "latent_coverage")],
                         f"{split}: calibration", "quantile", "frequency", diagonal=True)]
  return draw.grid(sheet, columns=2)


def write_figures(path, summaries, num):
  """Writes the sheet beside a JSON file: rows.json -> rows.png."""
  pictures.write(os.path.splitext(path)[0] + ".png", figures(summaries, num))


def as_json(summaries, num, chunk):
  """What the JSON file holds: the summaries and what their lists go by."""
  return {"hypotheses": num, "chunk": chunk, "interval": intervals.LEVEL, "resamples": intervals.RESAMPLES,
          "n_of_first": hypothesis_pass.counts_of_first(num), "n_quantised": hypothesis_pass.counts_quantised(num),
          "quantiles": hypotheses.QUANTILES.tolist(), "splits": summaries}
