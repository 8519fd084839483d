"""Intervals cover as often as they say; ratios are ratios of sums; the same seed gives the same interval."""

import numpy as np

from jhmr import intervals

RNG = np.random.default_rng(0)


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
  covered = 0
  for trial in range(200):
    found = intervals.interval(intervals.replicates({"x": RNG.exponential(2.0, 60)}, 300, seed=trial)["x"])
    covered += found["low"] < 2.0 < found["high"]
  assert 0.87 < covered / 200 < 0.99


def test_an_interval_is_as_wide_as_the_standard_error_of_the_mean():
  values = RNG.normal(size=500)
  found = intervals.interval(intervals.replicates({"x": values})["x"])
  np.testing.assert_allclose(found["value"], np.mean(values), rtol=1e-9)
  np.testing.assert_allclose(found["high"] - found["low"], 2 * 1.96 * values.std() / np.sqrt(500), rtol=0.1)


def test_ratios_divide_sums_and_curves_keep_their_shape():
  numerator, denominator = np.float32([3, 5]), np.float32([3, 1])
  curve = RNG.random((2, 7, 3)).astype(np.float32)
  samples = intervals.replicates({"ratio": (numerator, denominator), "curve": curve}, 10)
  assert samples["ratio"].shape == (11,) and samples["curve"].shape == (11, 7, 3)
  assert samples["ratio"][0] == 2.0  # not the mean of ratios, 3
  np.testing.assert_allclose(samples["curve"][0], curve.mean(0), rtol=1e-6)
  assert set(np.round(samples["ratio"], 6)) <= {1.0, 2.0, 5.0}


def test_the_seed_decides_and_nothing_else():
  rows = {"x": RNG.random(30)}
  first, again, other = (intervals.replicates(rows, 120, seed)["x"] for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  np.testing.assert_allclose(intervals.replicates(rows | {"y": RNG.random(30)}, 120, 0)["x"], first, rtol=1e-12)


def test_a_ratio_without_anything_to_count_is_undefined():
  found = intervals.interval(intervals.replicates({"x": (np.zeros(4), np.zeros(4))}, 10)["x"])
  assert all(np.isnan(v) for v in found.values())
