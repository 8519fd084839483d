"""Metrics of many hypotheses against closed forms and loops."""

import jax.numpy as jnp
from jhmr import hypotheses
from jhmr.body import rotations
import numpy as np
import pytest
from scipy import stats

B, S, K = 3, 40, 14
RNG = np.random.default_rng(0)
NORMAL = lambda *shape: RNG.normal(size=shape).astype(np.float32)
TARGET = 0.3 * NORMAL(B, K, 3)
JOINTS = TARGET[:, None] + 0.05 * NORMAL(B, S, K, 3)
ERRORS = np.abs(NORMAL(B, S))


def test_reducers_equal_numpy_and_take_the_lower_of_two_middle_values():
  values = hypotheses.reduced(ERRORS)
  np.testing.assert_allclose(values["mean"], ERRORS.mean(1), rtol=1e-6)
  for name, expected in (("mode", ERRORS[:, 0]), ("min", ERRORS.min(1)), ("worst", ERRORS.max(1)),
                         ("median", np.sort(ERRORS, 1)[:, 19])):
    np.testing.assert_array_equal(values[name], expected)
  np.testing.assert_array_equal(hypotheses.reduced(np.float32([[4, 1, 2, 3]]))["median"], [2])
  assert (values["min"] <= values["median"]).all() and (values["mean"] <= values["worst"]).all()


def test_more_hypotheses_never_increase_the_minimum_and_one_is_the_mode():
  curve = np.asarray(hypotheses.best_of_first(ERRORS, (1, 2, 5, 40)))
  np.testing.assert_array_equal(curve, np.stack([ERRORS[:, :n].min(1) for n in (1, 2, 5, 40)], 1))
  assert (np.diff(curve, axis=1) <= 0).all()
  np.testing.assert_array_equal(curve[:, 0], ERRORS[:, 0])


def test_a_set_with_the_truth_in_it_has_a_perfect_best_only():
  found = hypotheses.errors(jnp.asarray(JOINTS).at[:, 7].set(TARGET), TARGET)
  for name in ("mpjpe_mm", "pa_mpjpe_mm", "worst_mm"):
    assert found[name].min(1).max() < 1e-3 < found[name].mean()
  np.testing.assert_array_equal(found["pck"].max(1), 1)
  np.testing.assert_array_equal(hypotheses.cps(found["worst_mm"].min(1)), 299)


def test_identical_hypotheses_have_equal_reductions_and_no_diversity():
  same = np.repeat(JOINTS[:, :1], S, 1)
  values = hypotheses.reduced(hypotheses.errors(same, TARGET)["mpjpe_mm"])
  for value in values.values():
    np.testing.assert_allclose(value, values["mode"], rtol=1e-6)
  assert hypotheses.spread(same).max() < 1e-6 and hypotheses.std_per_axis(same).max() < 1e-6
  exact = np.zeros((B, S, K, 3), np.float32)  # strictly nearer: no label is, not even one in the same place
  np.testing.assert_array_equal(hypotheses.calibration(exact, exact[:, 0]), 0)


def test_a_moved_body_has_no_error_after_the_alignment():
  turned = np.einsum("xy,bky->bkx", rotations.axis_angle_to_matrix(np.float32([0.3, 1, -0.5])), TARGET) * 1.4 + 0.2
  found = hypotheses.errors(turned[:, None].astype(np.float32), TARGET)
  assert found["pa_mpjpe_mm"].max() < 1e-2 < 10 < found["mpjpe_mm"].min()


@pytest.mark.parametrize("worst, score", [(0, 299), (0.7, 299), (50, 249.5), (40, 259.5), (299.5, 0.5), (300, 0)])
def test_cps_of_a_worst_joint(worst, score):
  assert float(hypotheses.cps(np.float32(worst))) == score


def test_cps_is_the_area_under_the_curve_of_the_best_hypothesis_at_each_threshold():
  distance = 300 * RNG.random((B, S, K)) ** 0.2
  curve = np.float32([(distance < t).all(-1).any(1) for t in range(1, 301)])
  np.testing.assert_allclose(hypotheses.cps(distance.max(-1).min(1).astype(np.float32)), np.trapezoid(curve, axis=0))


def test_diversity_of_two_points():
  points = np.zeros((1, 2, 1, 3), np.float32)
  points[0, :, 0, 0] = [-10, 10]
  np.testing.assert_allclose(hypotheses.spread(points), [[10]])
  np.testing.assert_allclose(hypotheses.std_per_axis(points), [[14.142136, 0, 0]], rtol=1e-6)


def test_visible_and_hidden_joints_share_the_diversity():
  weight = (RNG.random((B, K)) < 0.6).astype(np.float32)
  spread = np.asarray(hypotheses.spread(JOINTS))
  np.testing.assert_allclose(
      spread, np.linalg.norm(JOINTS - JOINTS.mean(1, keepdims=True), axis=-1).mean(1), rtol=1e-5)
  seen, hidden = hypotheses.diversity(spread, weight), hypotheses.diversity(spread, 1 - weight)
  np.testing.assert_allclose(seen[0] + hidden[0], spread.sum(1), rtol=1e-5)
  np.testing.assert_allclose(seen[1] + hidden[1], K)
  np.testing.assert_allclose(seen[0][0], sum(spread[0, k] for k in range(K) if weight[0, k]), rtol=1e-5)


def test_consistency_weighs_joints_not_images():
  weight = np.float32([[1, 1, 1, 0], [0, 0, 1, 0]])
  offset = np.float32([1, 5])[:, None, None, None] * np.float32([0.6, 0.8])
  target = NORMAL(2, 4, 2)
  projected = np.broadcast_to(target[:, None] + offset, (2, 7, 4, 2))
  numerator, denominator = hypotheses.consistency(hypotheses.reprojection(projected, target, weight), weight)
  np.testing.assert_allclose(numerator.sum() / denominator.sum(), 2.0, rtol=1e-5)
  junk = np.where(weight[:, None, :, None] > 0, projected, np.nan)  # what is not seen is not read
  np.testing.assert_array_equal(hypotheses.reprojection(junk, target, weight),
                                hypotheses.reprojection(projected, target, weight))


def test_labels_drawn_like_the_hypotheses_are_calibrated():
  cloud = NORMAL(400, 100, 4, 3)
  chosen = RNG.integers(0, 100, 400)
  frequency = np.asarray(hypotheses.calibration(cloud, cloud[np.arange(400), chosen])).mean(0)
  np.testing.assert_allclose(frequency, hypotheses.QUANTILES, atol=0.04)
  assert float(hypotheses.calibration_error(frequency)) < 0.02
  narrow = np.asarray(hypotheses.calibration(cloud / 3, cloud[np.arange(400), chosen])).mean(0)
  assert float(hypotheses.calibration_error(narrow)) > 0.3


def test_calibration_equals_a_loop():
  middle = np.sort(JOINTS, 1)[:, (S - 1) // 2]
  expected = np.zeros((B, len(hypotheses.QUANTILES)))
  for b in range(B):
    for k in range(K):
      distance = np.linalg.norm(JOINTS[b, :, k] - middle[b, k], axis=-1)
      limit = np.quantile(distance, hypotheses.QUANTILES)
      expected[b] += (np.linalg.norm(TARGET[b, k] - middle[b, k]) < limit) / K
  np.testing.assert_allclose(hypotheses.calibration(JOINTS, TARGET), expected, atol=1e-6)


def test_latents_of_a_calibrated_flow_follow_the_chi_square_distribution():
  z = NORMAL(4000, 144)
  np.testing.assert_allclose(144 * hypotheses.latent_energy(z).mean(), 144, rtol=0.01)
  np.testing.assert_allclose(144 * hypotheses.latent_energy(z).std(), 16.97, rtol=0.05)
  covered = np.asarray(hypotheses.latent_coverage(z))
  np.testing.assert_allclose(covered.mean(0), hypotheses.QUANTILES, atol=0.03)
  limits = stats.chi2.ppf(hypotheses.QUANTILES, 144)
  np.testing.assert_array_equal(covered, (z.astype(np.float64) ** 2).sum(1)[:, None] < limits)
  assert hypotheses.calibration_error(np.asarray(hypotheses.latent_coverage(1.3 * z)).mean(0)) > 0.3


def test_bits_per_dim_of_a_standard_normal():
  entropy = 0.5 * 144 * np.log(2 * np.pi * np.e)
  np.testing.assert_allclose(hypotheses.bits_per_dim(-entropy, 144), 0.5 * np.log2(2 * np.pi * np.e), rtol=1e-6)
