"""A run that lifts poses, from training to the scores of its sets."""

import json

import numpy as np
import pytest

from jhmr import evaluate, train
from jhmr.data import lift_source
from jhmr.errors import InputError
import runs

CONFIG = str(runs.ROOT / "configs" / "lifting_baselines.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory, pose_file):
  workdir = str(tmp_path_factory.mktemp("lift") / "run")
  train.train(runs.config_of(f"data.source={pose_file}", config=f"{CONFIG}:mdn,smoke"), workdir)
  return workdir


@pytest.mark.slow
def test_sets_are_scored_and_statistics_are_the_runs_own(run, tmp_path, capsys):
  path = tmp_path / "rows.json"
  evaluate.main(["evaluate", "--workdir", run, "--best-of", "1,5", "--out", str(path)])
  said, found = capsys.readouterr().out, json.loads(path.read_text())
  assert "of n hypotheses" in said and {r["split"] for r in found["rows"]} == {"val", "val_hard"}
  scores = found["best_of"]["splits"]["val"]
  best, guess = (next(r for r in found["rows"] if r["split"] == "val" and r["method"] == "lift_mdn")[m]
                 for m in ("mpjpe_mm", "pa_mpjpe_mm"))
  assert scores["mpjpe_mm_min_1"]["value"] == pytest.approx(best, rel=1e-5), "one hypothesis is the best guess"
  assert scores["pa_mpjpe_mm_min_1"]["value"] == pytest.approx(guess, rel=1e-5)
  assert scores["mpjpe_mm_min_5"]["value"] < best and scores["std_z_mm_5"]["value"] > 0
  stored = dict(np.load(f"{run}/{lift_source.STATISTICS}"))
  loaded = evaluate.load_run(run)[3]["lift_stats"]
  assert all(np.array_equal(stored[k], loaded[k]) for k in stored)


@pytest.mark.slow
def test_what_is_of_images_is_refused(run):
  for flags, named in ((("--hypotheses", "8"), "--hypotheses is of bodies"), (("--body", "x.pkl"), "--body is of bodies")):
    with pytest.raises(InputError, match=named):
      evaluate.main(["evaluate", "--workdir", run, *flags])
