"""The row of Gaussian fits has what the table needs, and both sides agree."""

from jhmr.benchmarks import gaussians, timing
import pytest


@pytest.mark.slow
def test_the_row_has_what_the_table_needs(monkeypatch):
  monkeypatch.setattr(timing, "interleaved", lambda functions, _: dict.fromkeys(functions, 0.5))
  row = gaussians.fits(maps=48)
  assert row["ours"] == pytest.approx(96) and row["peer"] == pytest.approx(32)
  assert row["note"].startswith("of 48 maps 48 are within") and row["flops_per_item"] > 0
