"""Errors of lifted poses and of sets of them: 17 joints, the pelvis at the origin, as in the literature of lifting.

Protocol 1 is the mean over joints (`mpjpe_mm`), protocol 2 the same after a similarity (`pa_mpjpe_mm`), both over all
17 joints, the pelvis with its error of 0 among them. Source: Martinez et al. 2017; Wehrbein et al. 2021, section 4.1.
"""

import jax.numpy as jnp
from jhmr import hypotheses, hypothesis_pass, hypothesis_report, intervals, metrics, report, sampling
from jhmr.body import joints, procrustes
from jhmr.data import lift_spec
from jhmr.errors import InputError
import numpy as np

COLUMNS = ("split", "method", "examples", "mpjpe_mm", "pa_mpjpe_mm", "pck", "cps")
COUNTS = (1, 5, 10, 200)  # Source: Wehrbein et al. 2021, tables 1 and 5
ERRORS = ("mpjpe_mm", "pa_mpjpe_mm")
HOWS = ("min", "mean", "median", "worst")
AXES = ("std_x_mm", "std_y_mm", "std_z_mm")
_NAMES = joints.names(lift_spec.SET_3D)
# Source: Wehrbein et al. 2021, authors' `eval_functions.py`.
_PCK = np.array([i for i, name in enumerate(_NAMES) if name not in ("pelvis", "spine", "jaw")])
_CPS = np.array([i for i, name in enumerate(_NAMES) if name != "spine"])


def errors(points, target):
  """Errors of every hypothesis.

  Args:
    points: [B, S, 17, 3] metres; target: [B, 17, 3]; both with the pelvis at the origin.
  Returns:
    {"mpjpe_mm", "pa_mpjpe_mm", "pck" at 150 mm of 14 joints, "worst_mm" of 16 joints after the alignment}: [B, S].
  """
  target = jnp.broadcast_to(target[:, None], points.shape)
  aligned = procrustes.align(points, target)
  return {"mpjpe_mm": 1000 * metrics.mpjpe(points, target), "pa_mpjpe_mm": 1000 * metrics.mpjpe(aligned, target),
          "pck": metrics.pck(points[..., _PCK, :], target[..., _PCK, :]),
          "worst_mm": 1000 * jnp.max(metrics.distances(aligned, target)[..., _CPS], -1)}


def of_set(points, target):
  """{name: [B]} of a set of hypotheses: each error's least, mean, middle and worst one, the best PCK and CPS, spread.

  Each error takes its own best hypothesis, which needs the answer. Source: Wehrbein et al. 2021, tables 1 to 4.
  """
  each = errors(points, target)
  found = {f"{name}_{how}": value for name in ERRORS for how, value in hypotheses.reduced(each[name]).items()
           if how in HOWS}
  found |= {"pck": metrics.best_of(each["pck"], higher_is_better=True),
            "cps": hypotheses.cps(jnp.min(each["worst_mm"], 1))}
  if points.shape[1] > 1:
    found |= dict(zip(AXES, jnp.moveaxis(1000 * hypotheses.std_per_axis(points), -1, 0)))
  return found


def predict_mean(state, batch, assets):
  """The baseline that looks at nothing: the mean of the poses trained on, [B, 1, 17, 3]."""
  del state
  return jnp.broadcast_to(assets["lift_stats"]["mean3d"], (len(batch["mask"]), 1, len(_NAMES), 3))


def measurer(config, system):
  """measure(state, batch, assets) -> ({method: {name: [B]}}, [B] > 0 for those that count), of the mean pose and a run.
  """
  def measure(state, batch, assets):
    guesses = {"mean pose": predict_mean(state, batch, assets),
               config.system: system.predict(state, batch, assets).joints[:, :1]}
    values = {}
    for name, points in guesses.items():
      each = {k: v[:, 0] for k, v in errors(points, batch["pose3d"]).items()}
      values[name] = {k: v for k, v in each.items() if k in COLUMNS} | {"cps": hypotheses.cps(each["worst_mm"])}
    return values, batch["mask"] * batch["has_pose3d"]

  return measure


def make_scorer(mapper, system, counts=COUNTS, seed=0):
  """score(state, batches, assets) -> {"<name>_<n>": NumPy [N], "action": [N]} of the labelled poses.

  Args:
    batches, assets: as `evaluate.make_scorer` takes them.
    counts: sizes of the sets; a set is a function of (seed, the example's id, n).
  Raises:
    InputError: for a system that gives one pose alone.
  """
  if system.choose is None:
    raise InputError("--best-of needs a system that gives several poses, such as cinn_lifting: this run gives one")

  def measure(state, batch, assets):
    keys, found = sampling.keys_of_ids(seed, batch["id"]), {}
    for n in counts:
      made = system.choose(state, batch, assets, keys, n)
      found |= {f"{name}_{n}": value for name, value in of_set(made.joints, batch["pose3d"]).items()}
    action = batch.get("action", jnp.full_like(batch["id"], -1))
    return found | {"action": action}, batch["mask"] * batch["has_pose3d"]

  return hypothesis_pass.over_images(mapper, measure)


def weighed(rows):
  """Rows as ratios whose mean is that of the means of all actions, where every pose has one: {name: (above, below)}.

  Source: Martinez et al. 2017; Wehrbein et al. 2021: the average of 15 actions.
  """
  action = rows["action"]
  counts = np.unique(action, return_inverse=True, return_counts=True)
  weight = 1.0 / counts[2][counts[1]] if np.all(action >= 0) else np.ones(len(action))
  return {name: (weight * value, weight) for name, value in rows.items() if name != "action"}


def summarise(rows, seed=0):
  """{name: {"value", "low", "high"}} of a split's rows, intervals over poses. Raises InputError when there are none."""
  if not len(rows["action"]):
    raise InputError("--best-of: no pose of this split has a label to compare with: choose other --splits")
  return {name: intervals.as_json(x) for name, x in intervals.replicates(weighed(rows), seed=seed).items()}


def print_tables(summaries, counts):
  """Errors of sets of n hypotheses, PCK and CPS of the best, and how they spread.

  Args:
    summaries: {split: of `summarise`}.
  """
  columns = tuple(f"n={n}" for n in counts)
  cells = lambda s, name: {f"n={n}": hypothesis_report.cell(s[key]) for n in counts if (key := f"{name}_{n}") in s}
  report.say("of n hypotheses; [95 % interval over poses]")
  report.table([{"split": split, "error": name, "of them": how} | cells(s, f"{name}_{how}")
                for split, s in summaries.items() for name in ERRORS for how in HOWS],
               ("split", "error", "of them", *columns))
  report.table([{"split": split, "of all n": name} | cells(s, name)
                for split, s in summaries.items() for name in ("pck", "cps", *AXES)], ("split", "of all n", *columns))
