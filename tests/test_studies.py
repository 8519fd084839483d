"""Studies of GraphCMR, 3D Multi-bodies and lifting: every claim and every table follows what was measured."""

from jhmr import best_of, study
from jhmr.studies import graphcmr, lifting, multibodies
import numpy as np
import pytest

N = 200


def of_graphs(good, rng):
  """What the study of GraphCMR might measure: each claim true, or each one false."""
  sign = -1.0 if good else 1.0
  base = rng.normal(120, 10, N)
  off = lambda by: base + sign * by + rng.normal(0, 1, N)
  errors = lambda kind, value: {f"{kind}/{m}": value for m in graphcmr.ERRORS}
  rgb, found = off(30), {}
  for run in graphcmr.STUDY.runs:
    mesh = rgb if run in graphcmr.INPUTS else base
    body = base if run == graphcmr.HMR else mesh * (1.01 if good else 1.1)
    mean = body - sign * 30
    for split in graphcmr.SPLITS:
      found[f"{run}_{split}"] = errors("smpl", body) | errors("mean", mean) | (
          {} if run == graphcmr.HMR else errors("mesh", mesh))
  return found


def of_sets(good, rng):
  """The same of 3D Multi-bodies."""
  sign = -1.0 if good else 1.0
  base = rng.normal(100, 10, N)
  order = ("mdn", "cvae", "neither", "free", "uniform", "full")  # from worst to best
  found = {}
  for split in multibodies.SPLITS:
    found[f"{multibodies.HMR}_{split}"] = {m: base + sign * 50 for m in best_of.ERRORS}
    for name in multibodies.METHODS:
      value = base + sign * (80 if name == "full" else 5 * order.index(name)) + rng.normal(0, 1, N)
      rows = {f"{m}_{rule}_{n}": value for m in best_of.ERRORS for rule in best_of.RULES
              for n in (*multibodies.COUNTS, "all")}
      spread = {"consistency2d_px": 5.0, "diversity_visible_mm": 20.0 + sign * 5, "diversity_hidden_mm": 20.0}
      found[f"{name}_{split}"] = rows | {f"{k}_{n}": (np.full(N, v), np.ones(N)) for k, v in spread.items()
                                         for n in (*multibodies.COUNTS, "all")}
  return found


def of_poses(good, rng):
  """The same of lifting."""
  sign = -1.0 if good else 1.0
  base, found = rng.normal(60, 5, N), {}
  for split in lifting.SPLITS:
    found[f"{lifting.ONE}_{split}"] = {f"{m}_min_1": base for m in lifting.ERRORS}
    for run in lifting.LABELS:
      worse = 0 if run in (lifting.FULL, lifting.SHORT) else -sign * 20
      rows = {}
      for i, n in enumerate(lifting.COUNTS):
        value = base + worse + sign * 3 * i + rng.normal(0, 0.1, N)
        rows |= {f"{m}_{how}_{n}": value for m in lifting.ERRORS for how in ("min", "worst")}
        rows |= {f"pck_{n}": base, f"cps_{n}": 200 - worse + rng.normal(0, 0.1, N)}
        rows |= {f"std_{axis}_mm_{n}": base + by * sign for axis, by in (("x", 10), ("y", 10), ("z", -10))}
      found[f"{run}_{split}"] = rows
  return found


@pytest.mark.parametrize("made_up, module, count", [(of_graphs, graphcmr, 13), (of_sets, multibodies, 33),
                                                    (of_poses, lifting, 37)])
@pytest.mark.parametrize("good", [True, False])
def test_claims_tables_and_figures_follow_the_numbers(made_up, module, count, good):
  found = made_up(good, np.random.default_rng(0))
  assert set(found) == set(module.STUDY.measured)
  claims = module.claims(found)
  assert len(claims) == count and {study.verdict(c) for c in claims} == {(good, good)}, [
      (c.text, study.cell(c.samples)) for c in claims]
  tables = module.tables(found)
  text = study.markdown(tables)
  key, name = {graphcmr: ("graphcmr_val", "smpl/pve_mm"), multibodies: ("full_val_occluded", "pa_mpjpe_mm_min_10"),
               lifting: ("lifting_val_hard", "pa_mpjpe_mm_min_10")}[module]
  value = found[key][name]
  assert f"{value.mean():.4g} [" in text
  for table in tables:
    assert all(set(row) <= set(table.columns) for row in table.rows)
  assert module.figure(found).std() > 5
