"""Scores of sets of n hypotheses, against loops, and what is asked for wrongly."""

import jax
import jax.numpy as jnp
from jhmr import best_of, parallel
from jhmr.body import joints, procrustes, rotations, smpl
from jhmr.data import spec
from jhmr.errors import InputError
from jhmr.state import Prediction, System
import numpy as np
import pytest

B, S = 3, 4
HALF = 112.0  # pixels of half a crop


@pytest.fixture(scope="module")
def scene():
  """(body, labels, Prediction of S bodies near the labels, the second of example 0 being the label)."""
  rng = np.random.default_rng(0)
  body = best_of.body_of({"body": smpl.load("mannequin_small")})
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  labels = spec.fake_batch(16, B) | {"visible": (rng.random((B, 49)) < 0.7).astype(np.float32)}
  axis_angle = 0.4 * normal(B, 1, 24, 3) + np.concatenate([0.3 * normal(B, S, 24, 3)], 1)
  axis_angle[0, 1] = rotations.matrix_to_axis_angle(
      np.concatenate([labels["global_orient"], labels["body_pose"]], 1))[0]
  pose, betas = rotations.axis_angle_to_matrix(axis_angle), normal(B, S, 10)
  betas[0, 1] = labels["betas"][0]
  camera = np.array([0.9, 0.0, 0.0], np.float32) + 0.1 * normal(B, S, 3)
  return body, labels, Prediction(pose[:, :, :1], pose[:, :, 1:], jnp.asarray(betas), jnp.asarray(camera),
                                  jnp.zeros((B, S)))


@pytest.fixture(scope="module")
def scored(scene):
  body, labels, prediction = scene
  return jax.device_get(jax.jit(best_of.of_set)(prediction, labels, body))


def points(body, labels, prediction, names):
  """(of hypotheses [B, S, K, 3], of labels [B, K, 3])."""
  of = lambda orient, pose, betas: np.asarray(
      smpl.keypoints(body, smpl.forward(body, betas, jnp.concatenate([orient, pose], -3)), names), np.float64)
  return (of(prediction.global_orient, prediction.body_pose, prediction.betas),
          of(labels["global_orient"], labels["body_pose"], labels["betas"]))


def test_both_rules_equal_loops(scene, scored):
  found, truth = points(*scene, "h36m17")
  lsp = list(joints.mapping("h36m17", "lsp14"))
  found, truth = (x[..., lsp, :] - x[..., :1, :] for x in (found, truth))
  found24, truth24 = points(*scene, "gt24")
  hips = [joints.names("gt24").index(f"{side}_hip") for side in ("left", "right")]
  found24, truth24 = (x - x[..., hips, :].mean(-2, keepdims=True) for x in (found24, truth24))
  for b in range(B):
    aligned = np.asarray(procrustes.align(found[b].astype(np.float32), truth[b].astype(np.float32)))
    error = {"mpjpe_mm": [1000 * np.linalg.norm(found[b, s] - truth[b], axis=-1).mean() for s in range(S)],
             "pa_mpjpe_mm": [1000 * np.linalg.norm(aligned[s] - truth[b], axis=-1).mean() for s in range(S)]}
    nearest = min(range(S), key=lambda s: np.mean((found24[b, s] - truth24[b]) ** 2))  # pylint: disable=cell-var-from-loop
    for name, values in error.items():
      np.testing.assert_allclose(scored[f"{name}_min"][b], min(values), rtol=2e-3, atol=1e-2)
      np.testing.assert_allclose(scored[f"{name}_mse"][b], values[nearest], rtol=2e-3, atol=1e-2)
  assert scored["mpjpe_mm_min"][0] < 1e-1 < scored["mpjpe_mm_min"][1], "the truth is among example 0's"


def test_consistency_and_diversity_count_what_is_seen_and_what_is_not(scene, scored):
  body, labels, prediction = scene
  coco = list(joints.mapping("spin49", "coco17"))
  seen, px = labels["visible"][:, coco], HALF * labels["keypoints2d"][:, coco, :2]
  found = points(*scene, "coco17")[0]
  s, tx, ty = np.moveaxis(np.asarray(prediction.camera, np.float64), -1, 0)
  depth = found[..., 2] + (2 * 5000 / (224 * s + 1e-9))[..., None]
  projected = 5000 * (found[..., :2] + np.stack([tx, ty], -1)[:, :, None]) / depth[..., None]
  off = np.linalg.norm(projected - px[:, None], axis=-1)
  above, below = scored["consistency2d_px"]
  np.testing.assert_allclose(above / below, [(off[b] * seen[b]).sum() / (S * seen[b].sum()) for b in range(B)], rtol=1e-3)
  spread = 1000 * np.linalg.norm(found - found.mean(1, keepdims=True), axis=-1).mean(1)
  for name, weight in (("visible", seen), ("hidden", 1 - seen)):
    above, below = scored[f"diversity_{name}_mm"]
    np.testing.assert_allclose(above, (spread * weight).sum(-1), rtol=1e-3)
    np.testing.assert_allclose(below, weight.sum(-1))


def test_a_set_is_asked_for_once_a_count_and_unlabelled_images_are_left_out(scene):
  body, labels, prediction = scene
  first = lambda n: jax.tree.map(lambda x: x[:, :n], prediction)
  system = System(None, None, predict=lambda *_: prediction, choose=lambda state, batch, assets, keys, n: first(n))
  mapper = parallel.make("pmap", jax.devices()[:1])
  labels = labels | {"has_pose": np.array([1, 0, 1], np.float32)}
  score = best_of.make_scorer(mapper, system, (1, 2))
  rows = score(mapper.replicate({}), lambda _: iter([mapper.to_devices(labels)]), mapper.replicate({"best_of_body": body}))
  assert rows["mpjpe_mm_min_1"].shape == (2,) and rows["mpjpe_mm_min_2"][0] < 1e-1 < rows["mpjpe_mm_min_1"][0]
  assert (rows["mpjpe_mm_min_all"] <= rows["mpjpe_mm_min_2"]).all()
  summary = best_of.summarise(rows)
  np.testing.assert_allclose(summary["pa_mpjpe_mm_mse_all"]["value"], rows["pa_mpjpe_mm_mse_all"].mean(), rtol=1e-6)
  with pytest.raises(InputError, match="no image of this split"):
    best_of.summarise(jax.tree.map(lambda x: x[:0], rows))


@pytest.mark.parametrize("text", ["", "5,1", "0,1", "1,1", "a", "1,"])
def test_counts_that_do_not_rise_are_refused(text):
  with pytest.raises(InputError, match="give rising numbers"):
    best_of.parse(text)
  assert best_of.parse("1,5,25") == (1, 5, 25)


def test_a_system_that_makes_no_sets_is_refused():
  with pytest.raises(InputError, match="makes sets of hypotheses"):
    best_of.make_scorer(None, System(None, None, None))
