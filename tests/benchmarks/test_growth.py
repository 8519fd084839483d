"""The growth table leaves out what would take too long, and draws what it has."""

from jhmr import benchmark
from jhmr.benchmarks import growth, hypotheses, smplify, timing
from jhmr.errors import InputError
from jhmr.nn.flow import ConditionalGlow
import numpy as np
import pytest


@pytest.fixture
def rows(monkeypatch):
  """Of a small net; each call of ours 'takes' a second, without a peer."""
  monkeypatch.setattr(hypotheses, "NET", ConditionalGlow(context=20, hidden=32))
  monkeypatch.setattr(timing, "installed", lambda *names: False)
  monkeypatch.setattr(timing, "interleaved", lambda functions, seconds: {name: 0.1 for name in functions})
  monkeypatch.setattr(growth, "MOST", 32)
  return growth.measure(seconds=0.2, counts=(1, 2, 16), images=(1, 8))


def test_rows_are_rates_and_long_calls_are_left_out(rows):
  assert [(r["images"], r["n"]) for r in rows] == [(1, 1), (1, 2), (1, 16), (8, 1), (8, 2)]
  rates = [r["hypotheses/s"] for r in rows]
  assert rates[:2] == pytest.approx([10, 20]) and rates[2] is None and rates[3] == pytest.approx(80)
  assert rows[1]["ms per image"] == pytest.approx(100) and rows[3]["ms per image"] == pytest.approx(100 / 8)
  assert all(r["peer"] is None and r["ratio"] is None for r in rows)


def test_the_picture_and_the_table_take_missing_rates(rows, capsys):
  growth.show(rows)
  assert "ms per image" in capsys.readouterr().out
  assert np.unique(growth.picture(rows)).size > 2


def test_growth_is_not_mixed_with_rows():
  with pytest.raises(InputError, match="growth is a table of its own"):
    benchmark.main(["benchmark", "growth", "body"])


def test_fits_of_more_people_are_rows_of_a_table(monkeypatch):
  monkeypatch.setattr(timing, "interleaved", lambda functions, seconds: {"ours": 0.5})
  rows = smplify.measure_growth(1, people=(2, 4), steps=(3,))
  assert [(r["people"], r["steps"], r["people/s"]) for r in rows] == [(2, "3 + 3", 4.0), (4, "3 + 3", 8.0)]
  assert set(rows[0]) == set(smplify.COLUMNS)
