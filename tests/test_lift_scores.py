"""Scores of lifted poses equal loops, and what is known by hand."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from jhmr import checkpoint, evaluate, lift_scores, parallel, report, sampling, train
from jhmr.body import joints, rotations
from jhmr.data import lift_spec
from jhmr.errors import InputError
from jhmr.state import Lifted, System
import similarity

B, S = 6, 5
NAMES = joints.names("lift17")


@pytest.fixture(scope="module")
def poses():
  """(hypotheses [B, S, 17, 3], target [B, 17, 3]), the pelvis at the origin."""
  rng = np.random.default_rng(0)
  target = 0.4 * rng.normal(size=(B, 17, 3))
  points = target[:, None] + 0.12 * rng.normal(size=(B, S, 17, 3))
  return (points - points[..., :1, :]).astype(np.float32), (target - target[:, :1]).astype(np.float32)


errors, of_set = jax.jit(lift_scores.errors), jax.jit(lift_scores.of_set)


def test_errors_equal_loops(poses):
  points, target = poses
  found = errors(points, target)
  scored = [i for i, n in enumerate(NAMES) if n not in ("pelvis", "spine", "jaw")]
  for b in range(B):
    for s in range(S):
      off = np.linalg.norm(points[b, s] - target[b], axis=-1)
      after = similarity.distances(points[b, s], target[b])
      np.testing.assert_allclose(found["mpjpe_mm"][b, s], 1000 * off.mean(), rtol=1e-4)
      np.testing.assert_allclose(found["pa_mpjpe_mm"][b, s], 1000 * after.mean(), rtol=1e-3)
      np.testing.assert_allclose(found["pck"][b, s], np.mean(off[scored] < 0.15), atol=1e-6)
      np.testing.assert_allclose(found["worst_mm"][b, s], 1000 * np.delete(after, NAMES.index("spine")).max(), rtol=1e-3)


def test_a_set_is_judged_by_each_errors_own_best_one_and_one_hypothesis_by_itself(poses):
  points, target = poses
  each, many, one = errors(points, target), of_set(points, target), of_set(points[:, :1], target)
  for name in lift_scores.ERRORS:
    np.testing.assert_allclose(many[f"{name}_min"], np.min(each[name], 1))
    np.testing.assert_allclose(many[f"{name}_worst"], np.max(each[name], 1))
    np.testing.assert_allclose(one[f"{name}_min"], each[name][:, 0], rtol=1e-5)
  np.testing.assert_allclose(many["pck"], np.max(each["pck"], 1))
  std = 1000 * points.std(1, ddof=1).mean(1)
  np.testing.assert_allclose(np.stack([many[a] for a in lift_scores.AXES], 1), std, rtol=1e-4)
  assert not set(lift_scores.AXES) & set(one), "one hypothesis has no spread"


def test_a_perfect_pose_and_a_similar_one(poses):
  _, target = poses
  turned = 1.3 * target @ np.asarray(rotations.rotation_about("y", 0.7))
  found = of_set(np.stack([target, turned], 1).astype(np.float32), target)
  np.testing.assert_allclose(found["mpjpe_mm_min"], 0, atol=1e-3)
  np.testing.assert_allclose(found["pa_mpjpe_mm_worst"], 0, atol=1e-2)
  np.testing.assert_allclose(found["cps"], 299)


def test_means_are_those_of_actions_where_every_pose_has_one():
  rows = {"mpjpe_mm_min_5": np.array([10.0, 20.0, 30.0, 100.0]), "action": np.array([0, 0, 0, 4])}
  assert lift_scores.summarise(rows)["mpjpe_mm_min_5"]["value"] == pytest.approx(60.0)
  some = rows | {"action": np.array([0, 0, -1, 4])}
  assert lift_scores.summarise(some)["mpjpe_mm_min_5"]["value"] == pytest.approx(40.0)
  some = rows | {"hard": np.array([1.0, 0, 1, 0])}
  assert lift_scores.summarise(some)["mpjpe_mm_min_5"]["value"] == pytest.approx(60.0)


def test_the_mean_of_ambiguous_poses_alone_is_over_poses():
  rows = {"mpjpe_mm_min_5": np.array([10.0, 20.0, 30.0, 100.0]), "action": np.array([0, 0, 0, 4]), "hard": np.ones(4)}
  assert lift_scores.summarise(rows)["mpjpe_mm_min_5"]["value"] == pytest.approx(40.0)
  assert set(lift_scores.summarise(rows)) == {"mpjpe_mm_min_5"}


def lifter(target, mode_first=False):
  """A system that is off by 10.1 mm times a joint's number in its guess, and by more in its samples."""
  off = 0.0101 * np.arange(17)[:, None] * np.array([1.0, 0, 0])
  guess = jnp.asarray(target + off, jnp.float32)[:, None]

  def predict(state, batch, assets):
    return Lifted(guess[batch["id"]], jnp.zeros((len(batch["id"]), 1)))

  def choose(state, batch, assets, keys, num):
    first = 0 if mode_first else 1
    z = sampling.noise(keys, jnp.arange(first, first + num), 51).reshape(-1, num, 17, 3).at[:, :, 0].set(0)
    return Lifted(guess[batch["id"]] + 0.05 * z, -jnp.sum(z ** 2, (2, 3)))

  return System(None, None, predict, choose=choose)


def batch_of(target, **more):
  return lift_spec.fake_batch(len(target)) | {"pose3d": target} | more


def test_the_guess_stands_beside_the_sets_and_alone_where_there_are_none(poses, capsys):
  _, target = poses
  mapper = parallel.make("pmap", jax.devices()[:1])
  batch = batch_of(target, action=np.array([0, 0, 2, 2, 2, 0], np.int32), has_pose3d=np.float32([1, 1, 1, 1, 1, 0]))
  rows, summaries = {}, {}
  for name, system in (("many", lifter(target)), ("one", lifter(target)._replace(choose=None))):
    score = lift_scores.make_scorer(mapper, system, (1, 5))
    rows[name] = score(mapper.replicate({}), lambda _: iter([mapper.to_devices(batch)]), mapper.replicate({}))
    summaries[name] = lift_scores.summarise(rows[name])
  assert set(summaries["one"]) == {"mpjpe_mm_guess", "pa_mpjpe_mm_guess", "pck_guess", "cps_guess"}
  assert summaries["one"]["mpjpe_mm_guess"]["value"] == pytest.approx(80.8, rel=1e-4)
  assert summaries["many"]["mpjpe_mm_guess"] == summaries["one"]["mpjpe_mm_guess"]
  assert summaries["one"]["pck_guess"]["value"] == pytest.approx(12 / 14), "two joints are 150 mm off"
  assert summaries["many"]["mpjpe_mm_min_1"]["value"] > 82, "a sample is another pose"
  lift_scores.print_tables(summaries, (1, 5))
  both = capsys.readouterr().out
  assert "guess" in both and "n=5" in both and both.count("worst") == 2, "a single pose is no worst one"
  lift_scores.print_tables({"one": summaries["one"]}, (1, 5))
  assert "n=" not in capsys.readouterr().out
  found = {name: lift_scores.of_actions(each, ["walking", "sitting", "eating"]) for name, each in rows.items()}
  assert [*found["many"]] == ["walking", "eating"], "in the order of names, those there are"
  kept = rows["many"]["mpjpe_mm_min_5"]
  assert found["many"]["eating"]["mpjpe_mm_min_5"] == pytest.approx(kept[2:].mean())
  lift_scores.print_actions(found, (1, 5))
  table = capsys.readouterr().out.splitlines()
  assert table[1].split() == ["split", "error", "action", "guess", "n=1", "n=5"] and len(table) == 2 + 8
  lift_scores.print_actions({"many": lift_scores.of_actions(rows["many"], [])}, (1, 5))
  assert not capsys.readouterr().out, "no names, no table"


@pytest.mark.parametrize("mode_first", [True, False])
def test_the_guess_comes_first_and_once(poses, mode_first):
  _, target = poses
  system, batch, keys = lifter(target, mode_first), batch_of(target), sampling.keys_of_ids(3, np.arange(B))
  found = sampling.guess_first(system, (), batch, {}, keys, 5)
  np.testing.assert_array_equal(found.joints[:, :1], system.predict((), batch, {}).joints)
  samples = lifter(target).choose((), batch, {}, keys, 4)
  np.testing.assert_array_equal(found.joints[:, 1:], samples.joints)
  np.testing.assert_array_equal(found.log_prob[:, 1:], samples.log_prob)
  assert sampling.guess_first(system, (), batch, {}, keys, 1).joints.shape == (B, 1, 17, 3)


def test_a_split_without_labels_has_no_score_and_makes_no_checkpoint_the_best(poses, tmp_path, capsys):
  _, target = poses
  config = ml_collections.ConfigDict(dict(task="lifting", system="made_up", splits=["val", "other"], num_steps=2))
  mapper = parallel.make("pmap", jax.devices()[:1])
  score = evaluate.make_scorer(config, mapper, lifter(target))
  assets = mapper.replicate({"lift_stats": {"mean3d": target.mean(0)}})
  labels = lambda known: batch_of(target, has_pose3d=np.full(B, known, np.float32))
  batches = lambda known: lambda _: iter([mapper.to_devices(labels(known))])
  rows = {name: score(mapper.replicate({}), batches(known), assets) for name, known in (("val", 0), ("other", 1))}
  assert all(r["examples"] == 0 and r["mpjpe_mm"] is None for r in rows["val"])
  flat = [{"split": name} | row for name, each in rows.items() for row in each]
  log = report.open_report(str(tmp_path), 0, 2)
  run = type("Run", (), {"config": config, "log": log})
  assert train._tell(run, 1, flat) == checkpoint.NOT_SCORED
  config.splits = ["other", "val"]
  assert train._tell(run, 1, flat) == pytest.approx(rows["other"][1]["pa_mpjpe_mm"])
  report.close(log)
  report.table(flat, evaluate.columns(config))
  said = capsys.readouterr().out
  assert "val: no labels" in said and "nan" not in said and " - " in said
  with pytest.raises(InputError, match="no pose of this split"):
    lift_scores.summarise({"mpjpe_mm_guess": np.zeros(0)})


def test_the_baseline_is_the_mean_pose_of_training(poses):
  _, target = poses
  batch = lift_spec.fake_batch(B) | {"pose3d": target}
  made = lift_scores.predict_mean((), batch, {"lift_stats": {"mean3d": target.mean(0)}})
  assert made.shape == (B, 1, 17, 3)
  np.testing.assert_allclose(errors(made, target)["mpjpe_mm"][:, 0],
                             1000 * np.linalg.norm(target - target.mean(0), axis=-1).mean(1), rtol=1e-4)
