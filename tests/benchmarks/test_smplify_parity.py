"""Both sides of SMPLify's row end at the same objective, or their ratio would mean nothing."""

from jhmr.benchmarks import smplify
from jhmr.benchmarks import timing
from jhmr.body import smpl
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
pytest.importorskip("smplx")


def test_both_sides_end_at_the_same_objective():
  arrays = smpl.load_arrays("mannequin")
  body, scene = smplify.set_up(arrays, 3)
  ours = smplify.runner(body, scene, steps=15)()
  per_stage, objective = smplify.run_peer(arrays, scene, steps=15)
  assert float(ours.objective.mean()) == pytest.approx(objective, rel=1e-4) and min(per_stage) > 0
  assert objective < 0.9 * float(ours.losses[:, 15].mean())


def test_rows_of_many_people_say_how_the_peer_was_timed(monkeypatch):
  monkeypatch.setattr(timing, "interleaved", lambda functions, seconds: {"ours": 0.5})
  monkeypatch.setattr(smplify, "_PEER_WHOLE", 1)
  row = smplify.row(2, seconds=1)
  assert row["ours"] == 4 and row["peer"] > 0 and "from 5 steps" in row["note"]
