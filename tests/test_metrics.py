"""Metrics against loops; invariances; the best of several hypotheses."""

import jax
import jax.numpy as jnp
from jhmr import metrics
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.state import Prediction
import numpy as np
import pytest

from body import random_body
import similarity

B, S, K = 3, 4, 14
RNG = np.random.default_rng(0)
NORMAL = lambda *shape: RNG.normal(size=shape).astype(np.float32)
TARGET = 0.3 * NORMAL(B, 1, K, 3)
PREDICTED = TARGET + 0.05 * NORMAL(B, S, K, 3)
MASK = (RNG.random((B, 1, K)) < 0.7).astype(np.float32)
ROTATION = rotations.axis_angle_to_matrix(NORMAL(B, S, 3))


def loops(f, mask=None):
  """[B, S] of f(list of joint errors in metres, unmasked joints only)."""
  errors = lambda b, s: [np.linalg.norm(PREDICTED[b, s, k] - TARGET[b, 0, k]) for k in range(K)
                         if mask is None or mask[b, 0, k]]
  return [[f(errors(b, s)) for s in range(S)] for b in range(B)]


@pytest.mark.parametrize("mask", [None, MASK])
def test_metrics_equal_loops(mask):
  mean = np.mean
  np.testing.assert_allclose(metrics.mpjpe(PREDICTED, TARGET, mask), loops(mean, mask), rtol=1e-5)
  share = lambda threshold: lambda errors: mean([e < threshold for e in errors])
  np.testing.assert_allclose(metrics.pck(PREDICTED, TARGET, 0.08, mask), loops(share(0.08), mask), rtol=1e-5)
  area = lambda errors: mean([share(mm / 1000)(errors) for mm in range(0, 151, 5)])
  np.testing.assert_allclose(metrics.auc(PREDICTED, TARGET, mask), loops(area, mask), rtol=1e-5)
  assert mask is None or 0 < mask.mean() < 1


def test_pve_is_the_mean_vertex_distance():
  np.testing.assert_allclose(metrics.pve(PREDICTED, TARGET), loops(np.mean), rtol=1e-5)


def test_a_perfect_prediction_scores_perfectly():
  exact = np.broadcast_to(TARGET, PREDICTED.shape)
  assert (metrics.mpjpe(exact, TARGET) == 0).all() and (metrics.pck(exact, TARGET) == 1).all()
  np.testing.assert_allclose(metrics.auc(exact, TARGET), 30 / 31, rtol=1e-6)  # nothing is nearer than 0
  assert metrics.pa_mpjpe(exact, TARGET).max() < 1e-5


def test_pa_mpjpe_is_the_distance_after_the_best_similarity():
  rotated = np.einsum("bsxy,bsky->bskx", ROTATION, PREDICTED) * 1.7 + NORMAL(B, S, 1, 3)
  expected = similarity.distances(PREDICTED, TARGET).mean(-1)
  np.testing.assert_allclose(metrics.pa_mpjpe(PREDICTED, TARGET), expected, rtol=1e-4)
  np.testing.assert_allclose(metrics.pa_mpjpe(rotated, TARGET), expected, rtol=1e-3)


def test_pa_mpjpe_fits_only_the_joints_it_averages():
  junk = np.where(MASK[..., None] > 0, PREDICTED, 100).astype(np.float32)
  np.testing.assert_allclose(metrics.pa_mpjpe(junk, TARGET, MASK), metrics.pa_mpjpe(PREDICTED, TARGET, MASK), rtol=1e-3)
  keep = MASK[0, 0] > 0
  np.testing.assert_allclose(metrics.pa_mpjpe(PREDICTED, TARGET, MASK)[0, 0],
                             similarity.distances(PREDICTED[0, 0][keep], TARGET[0, 0][keep]).mean(), rtol=1e-4)


def test_mirrored_bodies_are_not_aligned_by_reflection():
  points = np.float32([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
  mirrored = points * np.float32([-1, 1, 1])
  np.testing.assert_allclose(metrics.pa_mpjpe(mirrored, points), 0.550938, atol=1e-5)


def test_nothing_labelled_scores_zero_not_nan():
  none = 0 * MASK
  for f in (metrics.mpjpe, metrics.pa_mpjpe, metrics.auc, lambda p, t, m: metrics.pck(p, t, mask=m)):
    np.testing.assert_array_equal(f(PREDICTED, TARGET, none), np.zeros((B, S)))


def test_best_of_takes_the_best_of_the_first_hypotheses():
  values = np.float32([[3, 1, 2, 0], [5, 6, 4, 7]])
  np.testing.assert_array_equal(metrics.best_of(values), [0, 4])
  np.testing.assert_array_equal(metrics.best_of(values, 1), [3, 5])
  np.testing.assert_array_equal(metrics.best_of(values, 3), [1, 4])
  np.testing.assert_array_equal(metrics.best_of(values, 3, higher_is_better=True), [3, 6])


@pytest.fixture(scope="module")
def scored():
  """per_example of S hypotheses of a body of noise, the third of which is the truth of example 1."""
  body = smpl.from_arrays(random_body.arrays(80, num_faces=10))
  pose = rotations.axis_angle_to_matrix(0.5 * NORMAL(B, S + 1, 24, 3))
  betas = NORMAL(B, S + 1, 10)
  batch = {"global_orient": pose[:, -1, :1], "body_pose": pose[:, -1, 1:], "betas": betas[:, -1]}
  pose, betas = pose[:, :S].at[1, 2].set(pose[1, -1]), jnp.asarray(betas[:, :S]).at[1, 2].set(betas[1, -1])
  prediction = Prediction(pose[:, :, :1], pose[:, :, 1:], betas, jnp.zeros((B, S, 3)), jnp.zeros((B, S)))
  values = jax.jit(metrics.per_example)(prediction, batch, {"body": body})
  return body, pose, betas, batch, values


def test_per_example_scores_lsp_joints_centred_at_the_pelvis(scored):
  body, pose, betas, batch, values = scored
  regress = lambda p, b: np.asarray(smpl.keypoints(body, smpl.forward(body, b, p), "h36m17"))
  lsp = [joints.names("h36m17").index(n) for n in joints.names("lsp14")]
  predicted = regress(pose[:, 0], betas[:, 0])
  target = regress(jnp.concatenate([batch["global_orient"], batch["body_pose"]], 1), batch["betas"])
  error = np.linalg.norm((predicted - predicted[:, :1] - target + target[:, :1])[:, lsp], axis=-1)
  np.testing.assert_allclose(values["mpjpe_mm"], 1000 * error.mean(-1), rtol=1e-4)
  np.testing.assert_allclose(values["pck"], (error < 0.15).mean(-1), rtol=1e-5)
  aligned = [1000 * similarity.distances(p[lsp], t[lsp]).mean() for p, t in zip(predicted, target)]
  np.testing.assert_allclose(values["pa_mpjpe_mm"], aligned, rtol=1e-3)


def test_a_mesh_that_is_the_posed_body_scores_as_it_does_wherever_it_stands(scored):
  body, pose, betas, batch, values = scored
  vertices = smpl.forward(body, betas, pose).vertices + jnp.array([0.3, -0.2, 5.0])
  prediction = Prediction(pose[:, :, :1], pose[:, :, 1:], betas, jnp.zeros((B, S, 3)), jnp.zeros((B, S)), vertices)
  for name, value in jax.jit(metrics.of_mesh)(prediction, batch, {"body": body}).items():
    np.testing.assert_allclose(value, values[name], rtol=1e-3)


def test_per_example_finds_the_best_hypothesis_for_each_metric(scored):
  values = scored[-1]
  for name in ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm"):
    assert values[f"best_{name}"].shape == (B,)
    assert (values[f"best_{name}"] <= values[name]).all()
    assert values[f"best_{name}"][1] < 1e-1 < values[f"best_{name}"][0]  # the truth is among example 1's
  assert (values["best_pck"] >= values["pck"]).all() and values["best_pck"][1] == 1


def test_one_hypothesis_has_no_best(scored):
  body, pose, betas, batch, values = scored
  one = Prediction(pose[:, :1, :1], pose[:, :1, 1:], betas[:, :1], jnp.zeros((B, 1, 3)), jnp.zeros((B, 1)))
  alone = jax.jit(metrics.per_example)(one, batch, {"body": body})
  assert set(alone) == {"mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "pck", "auc"}
  for name, value in alone.items():
    np.testing.assert_allclose(value, values[name], rtol=1e-4)
