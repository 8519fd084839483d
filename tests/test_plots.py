"""Plots show their curves where the axes say, and survive numbers that are not there."""

import numpy as np
import pytest

from jhmr import plots


def colored(image, color):
  return np.argwhere((np.abs(image.astype(int) - np.array(color)) < 12).all(-1))


def test_a_falling_curve_falls_on_the_picture():
  x = np.array([1, 2, 4, 8, 16])
  image = plots.plot([plots.Curve("error", x, 10.0 / x)], "title", "n", "mm", log_x=True)
  assert image.shape == (*plots.SIZE, 3) and image.dtype == np.uint8
  place = colored(image, plots.COLORS[0])
  place = place[place[:, 0] > plots.MARGINS[0] + 40]  # below the legend
  left, right = place[place[:, 1].argmin()], place[place[:, 1].argmax()]
  assert left[0] < right[0]
  assert abs(right[1] - (plots.SIZE[1] - plots.MARGINS[1])) < 4


def test_the_diagonal_runs_from_corner_to_corner_and_a_calibrated_curve_on_it():
  q = np.linspace(0, 1, 21)
  image = plots.plot([plots.Curve("", q, q)], "", "", "", diagonal=True)
  top, right, bottom, left = plots.MARGINS
  rows, columns = colored(image, plots.COLORS[0]).T
  inside = columns < plots.SIZE[1] - right - 60  # left of the legend
  share = (columns[inside] - left) / (plots.SIZE[1] - left - right)
  expected = plots.SIZE[0] - bottom - share * (plots.SIZE[0] - top - bottom)
  assert np.abs(rows[inside] - expected).max() < 3


def test_numbers_that_are_missing_leave_a_plot():
  nothing = np.full(3, np.nan)
  image = plots.plot([plots.Curve("a", np.arange(1, 4), nothing, nothing, nothing),
                      plots.Curve("b", np.arange(1, 4), np.ones(3), np.zeros(3), np.full(3, 2.0))], "t", "x", "y")
  assert len(colored(image, plots.COLORS[1])) > 50


@pytest.mark.parametrize("values, marks", [((1, 2, 5, 10, 25, 50, 100, 200), [1, 2, 5, 10, 25, 50, 100, 200]),
                                           ((1, 5, 10, 25), [1, 5, 10, 25]), ([2**i for i in range(13)],
                                                                              [4**i for i in range(7)])])
def test_a_logarithmic_axis_is_marked_at_its_values_that_are_apart(values, marks):
  assert plots.log_marks(values) == marks


def test_ticks_are_round_and_inside():
  np.testing.assert_allclose(plots.ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1])
  np.testing.assert_allclose(plots.ticks(38.2, 71.9), [40, 50, 60, 70])
  assert len(plots.ticks(3.0, 3.0 + 1e-9)) >= 1
