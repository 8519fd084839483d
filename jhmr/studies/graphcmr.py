"""GraphCMR on rendered people: graph against fully connected layers, what SMPL costs, and other inputs than pixels.

Paper: Kolotouros, Pavlakos, Daniilidis, "Convolutional Mesh Regression for Single-Image Human Shape Reconstruction",
CVPR 2019, tables 1 to 3. HMR, with the same images in the same order, stands for the regression of parameters. All are
trained half as long as other runs of the open benchmark.
"""

import functools

import jax
from jhmr import evaluate, fit_scores, intervals, metrics, plots, study
import numpy as np

INPUTS = {"graphcmr": "RGB", "graphcmr_parts": "body parts", "graphcmr_iuv": "surface coordinates"}
MESHES = {"graphcmr_fc": "mesh, fully connected", "graphcmr": "mesh, graph"}
HMR = "hmr_half"
SPLITS = ("val", "val_occluded")
ERRORS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")
WIDE_MM = 10.0      # what graph must gain over fully connected layers
LITTLE = 0.05       # what SMPL may lose against the mesh it is made from


def errors(run, split, load):
  """{"smpl/mpjpe_mm": [N], "mesh/mpjpe_mm": [N], "mean/mpjpe_mm": [N], ...} of every labelled image of a split.

  "mean" is the mean pose, "mesh" is missing for a system without one.
  """
  trained = load(run)

  @jax.jit
  def of_batch(state, batch, assets):
    predicted = trained.system.predict(state, batch, assets)
    found = {"smpl": metrics.per_example(predicted, batch, assets),
             "mean": metrics.per_example(evaluate.predict_mean(state, batch, assets), batch, assets)}
    if predicted.vertices is not None:
      found["mesh"] = metrics.of_mesh(predicted, batch, assets)
    return ({f"{kind}/{m}": values[m] for kind, values in found.items() for m in ERRORS},
            batch["mask"] * batch["has_pose"])

  return fit_scores.over_split(trained.config, trained.assets, split,
                               lambda batch: of_batch(trained.state, batch, trained.assets))


def replicated(found, split):
  """{"run/kind/error": [1 + resamples]} of a split; the images of all runs are the same, and are drawn together."""
  return intervals.replicates({f"{run}/{name}": values for run in STUDY.runs
                               for name, values in found[f"{run}_{split}"].items()})


def claims(found):
  """The paper's claims as quantities that must be below a limit, on val."""
  one = replicated(found, "val")
  against = lambda a, b: one[a] - one[b]
  return [
      *(study.Claim(f"table 1: mesh by graph, against fully connected, {m}", "mm",
                    against(f"graphcmr/mesh/{m}", f"graphcmr_fc/mesh/{m}"), -WIDE_MM) for m in ERRORS[:2]),
      *(study.Claim(f"table 1: graph and SMPL, against regression of parameters (HMR), {m}", "mm",
                    against(f"graphcmr/smpl/{m}", f"{HMR}/smpl/{m}")) for m in ERRORS[:2]),
      *(study.Claim(f"table 3: {label}: what SMPL loses against the mesh, {m}", "%",
                    100 * (one[f"{run}/smpl/{m}"] / one[f"{run}/mesh/{m}"] - 1), 100 * LITTLE)
        for run, label in INPUTS.items() for m in ERRORS[:2]),
      *(study.Claim(f"table 2: {label}: graph and SMPL, against the mean pose", "mm",
                    against(f"{run}/smpl/pa_mpjpe_mm", f"{run}/mean/pa_mpjpe_mm")) for run, label in INPUTS.items())]


def tables(found):
  """The paper's tables, measured."""
  made = []
  for split in SPLITS:
    one = replicated(found, split)
    row = lambda label, key, one=one: {"method": label} | {m: study.cell(one[f"{key}/{m}"]) for m in ERRORS}
    table = lambda title, rows, split=split: study.Table(f"{title}, {split}", ("method", *ERRORS), rows)
    made.append(table("Table 1", [
        row("parameters (HMR)", f"{HMR}/smpl"), *(row(label, f"{run}/mesh") for run, label in MESHES.items()),
        row("graph + SMPL", "graphcmr/smpl"), row("fully connected + SMPL", "graphcmr_fc/smpl"),
        row("mean pose", f"{HMR}/mean")]))
    made.append(table("Tables 2 and 3: inputs, and both kinds of output", [
        row(f"{label}: {kind}", f"{run}/{key}") for run, label in INPUTS.items()
        for key, kind in (("mesh", "non-parametric"), ("smpl", "parametric"))]))
  return made


def figure(found):
  """MPJPE over the share of people, sorted: of kinds of network, and of inputs."""
  def curve(label, run, kind):
    values = np.sort(found[f"{run}_val"][f"{kind}/mpjpe_mm"])
    return plots.Curve(label, 100 * (np.arange(len(values)) + 0.5) / len(values), values)

  draw = lambda curves, title: plots.plot(curves, title, "share of people, %", "MPJPE, mm")
  kinds = [curve(label, run, "mesh") for run, label in MESHES.items()]
  kinds += [curve("graph + SMPL", "graphcmr", "smpl"), curve("parameters (HMR)", HMR, "smpl")]
  return np.concatenate([draw(kinds, "what is regressed"),
                         draw([curve(label, run, "smpl") for run, label in INPUTS.items()], "input")], 1)


STUDY = study.Study(
    runs=(HMR, "graphcmr_fc", *INPUTS), settings={},
    measured={f"{run}_{split}": functools.partial(errors, run, split)
              for run in (HMR, "graphcmr_fc", *INPUTS) for split in SPLITS},
    tables=tables, claims=claims, figure=figure)
