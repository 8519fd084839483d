"""Both sides of the alignment row measure the same errors."""

from jhmr.benchmarks import alignment, timing
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("torch")


def test_the_peer_measures_what_we_do():
  pair = alignment.set_up(6000)
  ours = np.asarray(alignment.runner(*pair)())
  np.testing.assert_allclose(ours, alignment.peer(*pair)().numpy(), atol=2e-6)
  assert .03 < ours.min() and ours.max() < .3


def test_the_row_has_what_the_table_needs(monkeypatch):
  monkeypatch.setattr(timing, "interleaved", lambda functions, _: dict.fromkeys(functions, 0.5))
  row = alignment.errors(batch=4)
  assert row["ours"] == row["peer"] == pytest.approx(8) and row["flops_per_item"] > 0
