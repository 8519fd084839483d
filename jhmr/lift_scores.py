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
SCORES = (*ERRORS, "pck", "cps")  # of one pose
HOWS = ("min", "mean", "median", "worst")
GUESS = "guess"  # in the place of n: the one pose that a system predicts
LABELS = ("action", "hard")  # of `lift_spec`
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
  return reduced(errors(points, target), points)


def reduced(each, points):
  """`of_set` of hypotheses [B, S, 17, 3] whose `errors` are there."""
  found = {f"{name}_{how}": value for name in ERRORS for how, value in hypotheses.reduced(each[name]).items()
           if how in HOWS}
  found |= {"pck": metrics.best_of(each["pck"], higher_is_better=True),
            "cps": hypotheses.cps(jnp.min(each["worst_mm"], 1))}
  if points.shape[1] > 1:
    found |= dict(zip(AXES, jnp.moveaxis(1000 * hypotheses.std_per_axis(points), -1, 0)))
  return found


def of_one(points, target):
  """{name of SCORES: [B]} of one pose of each example, [B, 1, 17, 3]."""
  each = {name: value[:, 0] for name, value in errors(points, target).items()}
  return {name: each[name] for name in SCORES if name in each} | {"cps": hypotheses.cps(each["worst_mm"])}


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
    values = {name: of_one(points, batch["pose3d"]) for name, points in guesses.items()}
    return values, batch["mask"] * batch["has_pose3d"]

  return measure


def make_scorer(mapper, system, counts=COUNTS, seed=0):
  """score(state, batches, assets) -> {name: NumPy [N]} of the labelled poses.

  Names are "<name of `of_set`>_<n>" and, of the one pose that the system predicts, "<name of SCORES>_guess"; LABELS are
  those of the batches, where they have them.

  Args:
    batches, assets: as `evaluate.make_scorer` takes them.
    counts: sizes of the sets: the first n of the largest one, which is a function of (seed, the example's id). A
      system of one pose makes none.
  """
  def measure(state, batch, assets):
    keys = sampling.keys_of_ids(seed, batch["id"])
    guess = of_one(system.predict(state, batch, assets).joints[:, :1], batch["pose3d"])
    found = {f"{name}_{GUESS}": value for name, value in guess.items()}
    if system.choose:
      points = system.choose(state, batch, assets, keys, max(counts)).joints
      each = errors(points, batch["pose3d"])
      for n in counts:
        of_n = reduced({name: value[:, :n] for name, value in each.items()}, points[:, :n])
        found |= {f"{name}_{n}": value for name, value in of_n.items()}
    return found | {name: batch[name] for name in LABELS if name in batch}, batch["mask"] * batch["has_pose3d"]

  return hypothesis_pass.over_images(mapper, measure)


def scores_of(rows):
  """The rows without LABELS."""
  return {name: value for name, value in rows.items() if name not in LABELS}


def weighed(rows):
  """Rows as ratios whose mean is the one of the literature: {name: (above, below)}.

  Where every pose has an action it is the mean of the means of all actions; of a split of ambiguous poses alone, that
  of poses. Source: Martinez et al. 2017, Wehrbein et al. 2021: the average of 15 actions; the latter's authors'
  `eval_hard_subset.py`: a mean over poses.
  """
  found = scores_of(rows)
  num = len(next(iter(found.values())))
  action, hard = rows.get("action", np.full(num, -1)), rows.get("hard", np.zeros(num))
  counts = np.unique(action, return_inverse=True, return_counts=True)
  by_action = np.all(action >= 0) and not np.all(hard > 0)
  weight = 1.0 / counts[2][counts[1]] if by_action else np.ones(num)
  return {name: (weight * value, weight) for name, value in found.items()}


def summarise(rows, seed=0):
  """{name: {"value", "low", "high"}} of a split's rows, intervals over poses. Raises InputError when there are none."""
  if not len(next(iter(rows.values()))):
    raise InputError("--best-of: no pose of this split has a label to compare with: choose other --splits")
  return {name: intervals.as_json(x) for name, x in intervals.replicates(weighed(rows), seed=seed).items()}


def of_actions(rows, names):
  """{action: {name: mean over its poses}} of a split's rows, in the order of the names; {} where no action is known."""
  action = rows.get("action", np.zeros(0))
  return {name: {key: float(np.mean(value[action == i])) for key, value in scores_of(rows).items()}
          for i, name in enumerate(names) if np.any(action == i)}


def print_tables(summaries, counts):
  """Errors of the one guess and of sets of n hypotheses, PCK and CPS of the best, and how they spread.

  Args:
    summaries: {split: of `summarise`}.
  """
  sizes, columns = _columns(counts, *summaries.values())

  def table(of, labels):
    """`labels`: {(label, label): {size: key}}; what no size has is left out."""
    rows = [{"split": split} | dict(zip(of, label)) |
            {column: hypothesis_report.cell(s[keys[n]]) for n, column in zip(sizes, columns) if keys.get(n) in s}
            for split, s in summaries.items() for label, keys in labels.items() if any(k in s for k in keys.values())]
    report.table(rows, ("split", *of, *columns))

  report.say("of the guess, and of n hypotheses; [95 % interval over poses]")
  table(("error", "of them"), {(name, how): _keys(name, sizes, how) for name in ERRORS for how in HOWS})
  table(("of all n",), {(name,): {n: f"{name}_{n}" for n in sizes} for name in (*SCORES[2:], *AXES)})


def print_actions(found, counts):
  """Errors of each action: of the guess, and the least of n hypotheses. Nothing where no action is known.

  Args:
    found: {split: of `of_actions`}.
  """
  if not any(found.values()):
    return
  sizes, columns = _columns(counts, *(of for actions in found.values() for of in actions.values()))
  report.say("of each action: the guess, and the least error of n hypotheses")
  report.table([{"split": split, "error": name, "action": action} |
                {column: of.get(_keys(name, sizes)[n]) for n, column in zip(sizes, columns)}
                for split, actions in found.items() for name in ERRORS for action, of in actions.items()],
               ("split", "error", "action", *columns))


def _keys(name, sizes, how="min"):
  """{size: key} of an error; the guess is one pose, so that it is the least and no other."""
  return {n: f"{name}_{how}_{n}" for n in sizes if n != GUESS} | ({GUESS: f"{name}_{GUESS}"} if how == "min" else {})


def _columns(counts, *found):
  """(the guess and the sizes that were measured, what their columns are called)."""
  sizes = (GUESS, *(n for n in counts if any(f"{ERRORS[0]}_min_{n}" in of for of in found)))
  return sizes, tuple(n if n == GUESS else f"n={n}" for n in sizes)
