"""Both sides of the quantisation row choose the same hypotheses from the same start."""

from jhmr.benchmarks import quantise, timing
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("torch")


def test_the_peer_chooses_as_we_do():
  points, log_weights = quantise.set_up(6)
  chosen = quantise.runner(points, log_weights, 10)()
  first = quantise.first_centres(points, log_weights, 10)
  theirs = quantise.peer(points, log_weights, first)().numpy()
  # Of two hypotheses in a cluster, both equally far from their mean, we take the first.
  assert np.mean(np.asarray(chosen) == theirs) > 0.9
  pairs = np.asarray(points)
  spread = lambda ids: np.sort(np.linalg.norm(pairs[np.arange(6)[:, None], ids], axis=-1))
  np.testing.assert_allclose(spread(chosen).mean(), spread(theirs).mean(), rtol=0.05)


def test_the_row_has_what_the_table_needs(monkeypatch):
  monkeypatch.setattr(timing, "interleaved", lambda functions, _: dict.fromkeys(functions, 0.5))
  monkeypatch.setattr(quantise, "NUMS", (3, 5))
  row = quantise.sets(batch=2)
  assert row["ours"] == row["peer"] == pytest.approx(4)
  assert "n = 5: 4 against 4 images/s" in row["note"] and row["flops_per_item"] > 0
