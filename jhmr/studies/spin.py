"""SPIN on rendered people without any 3D label, and fitting on top of regressors.

Papers: Kolotouros et al., "Learning to Reconstruct 3D Human Pose and Shape via Model-fitting in the Loop", ICCV 2019,
table 1 (fits in the loop against static ones) and its unpaired rows; ProHMR (ICCV 2021), table 3: what SMPLify, EFT and
fits in the latent space make of a regression, with exact keypoints and with noisy ones.
"""

import functools
import os
import subprocess
import sys

from jhmr import fit_eft, fit_smplify, intervals, plots, study
from jhmr.errors import InputError
from jhmr.studies import prohmr
import numpy as np

UNPAIRED = ("hmr_unpaired", "spin_none", "spin_static", "spin", "spin_25", "spin_static_smplify")
FITS = {"spin_static": "static fits", "spin": "fits in the loop, 100 + 100 steps",
        "spin_25": "fits in the loop, 25 + 25 steps", "spin_none": "2D keypoints alone",
        "spin_static_smplify": "static fits by SMPLify's four stages (ours)",
        "hmr_unpaired": "HMR: 2D keypoints and a critic"}
NOISE_PX = prohmr.NOISE_PX
ERRORS = prohmr.ERRORS
REGRESSOR = "hmr"      # with 3D labels: what fits start from
KINDS = {"exact": 0.0, "noisy": NOISE_PX}
METHODS = ("smplify_gmm", "smplify_vae", "eft", "latent", "latent_weighed")
LABELS = {"smplify_gmm": "SMPLify, Gaussians", "smplify_vae": "SMPLify, pose VAE", "eft": "EFT",
          "latent": "ProHMR's latent space", "latent_weighed": "the same, weights that suit the noise (ours)"}


def prepare(config_file, workdir, smoke):
  """Static fits of the training people, once; returns {run: options of its training}.

  By the loop's own method and number of steps as the authors' code has it, from a cold start; and by SMPLify's four
  stages.
  """
  os.makedirs(workdir, exist_ok=True)
  made = {}
  for method, steps in (("spin", 100), ("smplify", 0)):
    out = os.path.abspath(os.path.join(workdir, f"static_fits_{method}.npz"))
    mode = "spin,smoke" if smoke else "spin"
    command = [sys.executable, "-m", "jhmr.static_fits", f"--config={config_file}:{mode}", "--out", out,
               "--method", method, "--steps", str(3 if smoke else steps)]
    if not os.path.exists(out) and (code := subprocess.run(command, check=False).returncode):
      raise InputError(f"static fits ended with code {code}, see above: mend that, and give the same command again")
    made[method] = [f"--config.fits={out}"]
  return dict.fromkeys(("spin", "spin_25", "spin_static"), made["spin"]) | {"spin_static_smplify": made["smplify"]}


def on_top(method, noise_px, load):
  """{"mode/...": [N], "fit/...": [N]} of val's people: a regression, and what a method makes of it."""
  if method.startswith("latent"):
    return prohmr.keypoint_fits(noise_px, noise_px if method == "latent_weighed" else 0.0, load)
  run = load(REGRESSOR)
  split = functools.partial(_of_split, run, noise_px)
  if method == "eft":
    options = fit_eft.Options(prohmr.SET)
    errors = fit_eft.keypoint_errors(run.config, run.state, run.assets, "val", noise_px, options)
    errors["fit"] = errors.pop("eft")
    return prohmr.flat(errors)
  if method == "smplify_vae":  # SMPLify-X's weights; its stages begin at what the VAE makes of the regression
    return split(fit_smplify.Options("smplify_x", prohmr.SET, vae=load("pose_vae").home))
  return split(fit_smplify.Options("spin", prohmr.SET))


def _of_split(run, noise_px, options):
  trained = run.config, run.system, run.state, run.assets
  return prohmr.flat(fit_smplify.keypoint_errors(*trained, "val", noise_px, options))


def claims(found):
  """The papers' claims as quantities that must be below a limit, of PA-MPJPE."""
  m = "pa_mpjpe_mm"
  runs = intervals.replicates({f"{run}/{m}": found[f"{run}_val"][m] for run in UNPAIRED})
  one = prohmr.replicated(found)
  against = lambda a, b: runs[f"{a}/{m}"] - runs[f"{b}/{m}"]
  gain = lambda method, kind: one[f"{method}_{kind}"][f"fit/{m}"] - one[f"{method}_{kind}"][f"mode/{m}"]
  noisy = f"keypoints with noise of {NOISE_PX:g} px"
  return [
      study.Claim("SPIN, table 1: fits in the loop, against static fits", "mm", against("spin", "spin_static")),
      study.Claim("fits in the loop, against static fits by SMPLify's four stages (ours)", "mm",
                  against("spin", "spin_static_smplify")),
      study.Claim("static fits, against 2D keypoints alone", "mm", against("spin_static", "spin_none")),
      study.Claim("fits in the loop, against 2D keypoints alone", "mm", against("spin", "spin_none")),
      study.Claim("unpaired: fits in the loop, against HMR's critic", "mm", against("spin", "hmr_unpaired")),
      *(study.Claim(f"{LABELS[method]}: exact keypoints, against the regression", "mm", gain(method, "exact"))
        for method in ("smplify_gmm", "eft", "latent")),
      *(study.Claim(f"SMPLify hurts: the regression, against {name}, {noisy}", "mm", -gain(method, "noisy"))
        for method, name in (("smplify_gmm", "SMPLify with Gaussians"), ("smplify_vae", "SMPLify with the pose VAE"))),
      *(study.Claim(f"{LABELS[method]}: {noisy}, against the regression", "mm", gain(method, "noisy"))
        for method in ("eft", "latent", "latent_weighed"))]


def tables(found):
  """The papers' tables, measured."""
  one = prohmr.replicated(found)
  row = lambda label, values, prefix="": {"method": label} | {m: study.cell(values[prefix + m]) for m in ERRORS}
  unpaired = [row(f"{FITS[run]}, {split}", one[f"{run}_{split}"])
              for split in ("val", "val_occluded") for run in UNPAIRED]
  fits = []
  for kind in KINDS:
    fits.append(row(f"HMR, {kind}", one[f"smplify_gmm_{kind}"], "mode/"))
    fits += [row(f"HMR + {LABELS[m]}, {kind}", one[f"{m}_{kind}"], "fit/") for m in METHODS[:3]]
    fits.append(row(f"ProHMR, {kind}", one[f"latent_{kind}"], "mode/"))
    fits += [row(f"ProHMR + fit in {LABELS[m]}, {kind}" if m == "latent" else f"ProHMR + {LABELS[m]}, {kind}",
                 one[f"{m}_{kind}"], "fit/") for m in METHODS[3:] if f"{m}_{kind}" in one]
  columns = ("method", *ERRORS)
  return [study.Table("Trained without 3D labels", columns, unpaired),
          study.Table(f"Fits on top of regressions: keypoints exact, and with noise of {NOISE_PX:g} px", columns, fits)]


def figure(found):
  """PA-MPJPE over the share of people, sorted: every run, and every fit of noisy keypoints."""
  def curve(label, values):
    values = np.sort(values)
    return plots.Curve(label, 100 * (np.arange(len(values)) + 0.5) / len(values), values)

  m = "pa_mpjpe_mm"
  left = [curve(FITS[run], found[f"{run}_val"][m]) for run in UNPAIRED]
  right = [curve("regression", found["smplify_gmm_noisy"][f"mode/{m}"])]
  right += [curve(LABELS[method], found[f"{method}_noisy"][f"fit/{m}"]) for method in METHODS[:3]]
  draw = lambda curves, title: plots.plot(curves, title, "share of people, %", "PA-MPJPE, mm")
  return np.concatenate([draw(left, "trained without 3D labels"), draw(right, "fits of noisy keypoints")], 1)


STUDY = study.Study(
    runs=(*UNPAIRED, REGRESSOR, "prohmr", "pose_vae"),
    settings={"noise_px": NOISE_PX, "keypoints": prohmr.SET},
    measured={f"{run}_{split}": functools.partial(prohmr.image_errors, run, split)
              for run in UNPAIRED for split in ("val", "val_occluded")} | {
                  f"{method}_{kind}": functools.partial(on_top, method, noise)
                  for method in METHODS for kind, noise in KINDS.items()
                  if (method, kind) != ("latent_weighed", "exact")},
    tables=tables, claims=claims, figure=figure, prepare=prepare)
