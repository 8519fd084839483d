"""A run that lifts poses, from training to the scores of its sets."""

import json

import numpy as np
import pytest

from jhmr import evaluate, fit, lift_pictures, predict, train
from jhmr.data import lift_poses, lift_source, lift_spec
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
  best, aligned = (next(r for r in found["rows"] if r["split"] == "val" and r["method"] == "lift_mdn")[m]
                 for m in ("mpjpe_mm", "pa_mpjpe_mm"))
  assert scores["mpjpe_mm_min_1"]["value"] == pytest.approx(best, rel=1e-5), "one hypothesis is the best guess"
  assert scores["pa_mpjpe_mm_min_1"]["value"] == pytest.approx(aligned, rel=1e-5)
  assert scores["mpjpe_mm_guess"]["value"] == pytest.approx(best, rel=1e-5)
  assert scores["pa_mpjpe_mm_guess"]["value"] == pytest.approx(aligned, rel=1e-5)
  assert "of each action" not in said and found["best_of"]["actions"]["val"] == {}, "the file has none"
  assert scores["mpjpe_mm_min_5"]["value"] < best and scores["std_z_mm_5"]["value"] > 0
  stored = dict(np.load(f"{run}/{lift_source.STATISTICS}"))
  loaded = evaluate.load_run(run, lifting=True)[3]["lift_stats"]
  assert all(np.array_equal(stored[k], loaded[k]) for k in stored)


@pytest.mark.slow
def test_another_file_is_scored_by_its_splits_and_actions_with_the_statistics_of_the_run(run, tmp_path, capsys):
  rows = lift_spec.fake_batch(12, seed=5)
  path, out = str(tmp_path / "other.npz"), tmp_path / "rows.json"
  lift_poses.write(path, {k: rows[k] for k in ("pose2d", "gaussians", "pose3d")} | {
      "hard": np.zeros(12), "actions": np.array(["walking", "sitting"]), "action": np.array([0] * 8 + [1] * 4),
      "split": np.array(["gs", "no_gs", "gs", "no_gs"] * 3)})
  command = ["evaluate", "--workdir", run, "--poses", path, "--out", str(out)]
  evaluate.main([*command, "--best-of", "1,5"])
  said, found = capsys.readouterr().out, json.loads(out.read_text())
  assert [r["split"] for r in found["rows"]] == ["gs", "gs", "no_gs", "no_gs"]
  mean = np.load(f"{run}/{lift_source.STATISTICS}")["mean3d"]
  kept = rows["pose3d"][::2] - rows["pose3d"][::2, :1]
  off = 1000 * np.linalg.norm(kept - mean, axis=-1).mean()
  assert found["rows"][0]["mpjpe_mm"] == pytest.approx(off, rel=1e-4) and found["rows"][0]["examples"] == 6
  actions = found["best_of"]["actions"]["gs"]
  assert "of each action" in said and [*actions] == ["walking", "sitting"]
  assert found["best_of"]["splits"]["gs"]["mpjpe_mm_min_5"]["value"] == pytest.approx(
      np.mean([of["mpjpe_mm_min_5"] for of in actions.values()]), rel=1e-5), "the mean of actions"
  evaluate.main([*command, "--splits", "no_gs"])
  again = json.loads(out.read_text())
  assert again["rows"] == found["rows"][2:] and "best_of" not in again
  with pytest.raises(InputError, match="there are gs, no_gs"):
    evaluate.main([*command, "--splits", "val"])


@pytest.mark.slow
def test_poses_of_a_file_are_lifted_alike_in_any_company(run, pose_file, tmp_path):
  rows = lift_poses.read(pose_file)
  lift_poses.write(str(tmp_path / "some.npz"), {"pose2d": rows["pose2d"][:3]})  # the mixture looks at no Gaussian
  for path, name in ((pose_file, "all"), (str(tmp_path / "some.npz"), "some")):
    predict.main(["predict", "--workdir", run, "--poses", path, "--num-samples", "7", "--out", str(tmp_path / name)])
  found, few = (dict(np.load(tmp_path / name / "lifted.npz")) for name in ("all", "some"))
  assert found["joints"].shape == (88, 7, 17, 3) and found["log_prob"].shape == (88, 7)
  np.testing.assert_allclose(few["joints"], found["joints"][:3], atol=1e-6)
  assert (tmp_path / "all" / "all.png").is_file()
  with pytest.raises(InputError, match="give --poses"):
    predict.main(["predict", "--workdir", run, "--images", str(tmp_path), "--out", str(tmp_path / "out")])


def test_a_joint_that_is_missing_is_not_drawn():
  batch = lift_spec.fake_batch(1)
  pose2d, points = batch["pose2d"][0], batch["pose3d"]
  pose2d[2] = np.nan
  whole, gone = (lift_pictures.panels(p, points)[0] for p in (np.nan_to_num(pose2d, nan=pose2d[0, 0]), pose2d))
  assert gone.shape == whole.shape and (gone != whole).any() and (gone != 255).any()


@pytest.mark.slow
def test_what_is_of_images_is_refused(run):
  for flags, named in ((("--hypotheses", "8"), "--hypotheses is of bodies"), (("--body", "x.pkl"), "--body is of bodies")):
    with pytest.raises(InputError, match=named):
      evaluate.main(["evaluate", "--workdir", run, *flags])
  with pytest.raises(InputError, match="lifts 2D poses: give a run that sees images"):
    fit.main(["fit", "--workdir", run, "--split", "val"])


@pytest.mark.slow
def test_poses_are_no_benchmark_and_nothing_for_a_run_of_images(finished_run, pose_file):
  for flags, said in (((), "sees images: leave it out"), (("--benchmark", "3dpw"), "--poses are no --benchmark")):
    with pytest.raises(InputError, match=said):
      evaluate.main(["evaluate", "--workdir", str(finished_run), "--poses", pose_file, *flags])
