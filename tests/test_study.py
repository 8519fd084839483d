"""The open benchmark: its verdicts follow the numbers, and what was done is not done again."""

import json

from jhmr import intervals, study
from jhmr.errors import InputError
from jhmr.studies import prohmr, spin
import numpy as np
import pytest


def made_up(good, rng):
  """What a study of 200 images might measure: each claim true, or each one false."""
  sign = -1.0 if good else 1.0
  base = rng.normal(80, 10, 200)
  better = lambda by: base + sign * by + rng.normal(0, 1, 200)
  pair = lambda one, other: {f"{name}/{m}": v for name, v in ((one, base), (other, better(5))) for m in prohmr.ERRORS}
  curve = lambda: np.stack([better(5 * i) for i in range(1, 5)], -1)
  errors = lambda value: {m: value for m in prohmr.ERRORS}
  hypotheses = {f"{m}_{kind}": curve() for m in prohmr.ERRORS for kind in ("medoids", "centroids")}
  hypotheses |= {f"{m}_min": better(30) for m in prohmr.ERRORS}
  names = ("consistency2d_px", "consistency2d_mode_px", "diversity_mm", "diversity_visible_mm", "log_likelihood",
           "latent_energy")
  hypotheses |= {n: np.full(200, 3.0) for n in names}
  hypotheses["diversity_hidden_mm"] = (np.full(200, 3 - sign), np.ones(200))
  several = pair("single view", "rotation averaging") | {f"refined/{m}": better(10) for m in prohmr.ERRORS}
  splits = ("val", "val_occluded")
  return ({f"hmr_{s}": errors(base) for s in splits} | {f"prohmr_{s}": errors(better(10)) for s in splits} |
          {f"prohmr_without_mode_{s}": errors(base) for s in splits} | {f"hypotheses_{s}": hypotheses for s in splits} |
          {f"keypoints_{k}": pair("mode", "fit") for k in ("exact", "noisy", "weighed")} | {"views": several})


def made_up_spin(good, rng):
  """The same for the study of SPIN."""
  sign = -1.0 if good else 1.0
  base = rng.normal(80, 10, 200)
  off = lambda by: base + sign * by + rng.normal(0, 1, 200)
  errors = lambda value: {m: value for m in spin.ERRORS}
  gain = {"exact": 5.0, "noisy": -5.0}  # of SMPLify, which hurts with noisy keypoints
  order = ("hmr_unpaired", "spin_none", "spin_static", "spin_static_smplify", "spin_25", "spin")  # from worst to best
  found = {f"{run}_{s}": errors(off(5 * order.index(run))) for run in spin.UNPAIRED for s in ("val", "val_occluded")}
  for method in spin.METHODS:
    for kind in spin.KINDS:
      fit = off(gain[kind] if method.startswith("smplify") else 5.0)
      found[f"{method}_{kind}"] = {f"{k}/{m}": v for k, v in (("mode", base), ("fit", fit)) for m in spin.ERRORS}
  return found


@pytest.mark.parametrize("good", [True, False])
def test_every_claim_of_spin_follows_the_numbers(good):
  found = made_up_spin(good, np.random.default_rng(2))
  claims = spin.claims(found)
  assert len(claims) == 13 and {study.verdict(c) for c in claims} == {(good, good)}
  text, picture = study.markdown(spin.tables(found)), spin.figure(found)
  assert f"{found['eft_noisy']['fit/mpjpe_mm'].mean():.4g} [" in text and picture.std() > 5
  assert set(found) == set(spin.STUDY.measured) | {"latent_weighed_exact"}


@pytest.mark.parametrize("good", [True, False])
def test_every_claim_follows_the_numbers(good):
  found = made_up(good, np.random.default_rng(0))
  claims = prohmr.claims(found)
  assert len(claims) == 12 and {study.verdict(c) for c in claims} == {(good, good)}
  assert {row["holds"] for row in study.claims_table(claims).rows} == {"yes" if good else "no"}


def test_tables_show_what_was_measured():
  found = made_up(True, np.random.default_rng(1))
  tables = prohmr.tables(found)
  text = study.markdown(tables)
  expected = f"{found['hypotheses_val']['mpjpe_mm_medoids'][:, 2].mean():.4g} ["
  assert expected in text and all(t.title in text for t in tables)
  for table in tables:
    assert set(table.rows[0]) <= set(table.columns)


def test_an_interval_across_the_limit_is_no_proof():
  samples = intervals.replicates({"x": np.r_[np.full(50, -1.0), np.full(46, 1.0)]})["x"]
  assert study.verdict(study.Claim("a", "mm", samples)) == (True, False)


def test_ratios_survive_the_file():
  rows = {"a": np.arange(3.0), "b": (np.ones(3), np.arange(3.0))}
  back = study.unpacked(study.packed(rows))
  np.testing.assert_array_equal(back["a"], rows["a"])
  np.testing.assert_array_equal(back["b"], rows["b"])


def test_an_unknown_study_or_config_is_one_line(tmp_path):
  with pytest.raises(InputError, match="prohmr"):
    study.main(["study", "prohrm"])
  with pytest.raises(InputError, match="does not exist"):
    study.main(["study", "prohmr", "--config", str(tmp_path / "none.py")])


@pytest.mark.long
def test_a_study_is_done_once(tmp_path, capsys, monkeypatch):
  arguments = ["study", "prohmr", "--smoke", "--workdir", str(tmp_path)]
  study.main(arguments)
  first = json.loads((tmp_path / "prohmr.json").read_text())
  assert len(first["claims"]) == 12 and (tmp_path / "prohmr.png").stat().st_size > 1000
  assert "Table 2, val_occluded" in capsys.readouterr().out
  monkeypatch.setattr(study.subprocess, "run", None)
  monkeypatch.setattr(study, "load_run", None)
  study.main(arguments)
  assert json.loads((tmp_path / "prohmr.json").read_text()) == first
  with pytest.raises(InputError, match="seed"):
    other = tmp_path / "other.py"
    other.write_text(open("configs/open_benchmark.py").read().replace("seed=0", "seed=1"))
    study.main([*arguments, "--config", str(other)])
