"""Both sides of the body rows compute the same thing from the same inputs, or their ratio would mean nothing."""

from jhmr.benchmarks import body
from jhmr.benchmarks import timing
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
pytest.importorskip("smplx")


@pytest.fixture
def outputs(monkeypatch):
  """Replaces the clock: each function runs once, its output is kept, and it 'took' a known time."""
  kept = {}

  def once(functions, seconds):
    del seconds
    kept.update({name: function() for name, function in functions.items()})
    return {"ours": 0.01, "peer": 0.04}

  monkeypatch.setattr(timing, "interleaved", once)
  return kept


def check_row(row):
  assert row["ours"] == pytest.approx(300) and row["peer"] == pytest.approx(75)  # batch 3 over the clock's times
  assert set(row) == {"name", "unit", "ours", "peer", "peer_name", "flops_per_item", "bytes_per_item"}
  assert row["flops_per_item"] > 0 and row["bytes_per_item"] > 0 and row["peer_name"]


def test_forward_row(outputs):
  check_row(body.body_forward(batch=3))
  vertices, keypoints = outputs["ours"]
  # 40 m from the camera float32 resolves 4 micrometres.
  np.testing.assert_allclose(vertices, outputs["peer"].vertices, atol=2e-5)
  np.testing.assert_allclose(keypoints, outputs["peer"].joints, atol=2e-5)


def test_gradient_row(outputs):
  check_row(body.keypoints_grad(batch=3))
  (value, gradients), (peer_value, peer_gradients) = outputs["ours"], outputs["peer"]
  assert value == pytest.approx(peer_value, rel=1e-4)
  for got, want in zip(gradients, peer_gradients):
    np.testing.assert_allclose(np.moveaxis(got, -1, 0), want.numpy(), atol=1e-4 * np.abs(want.numpy()).max())


def test_without_the_peer_the_row_has_ours_alone(outputs, monkeypatch):
  monkeypatch.setattr(timing, "installed", lambda *names: False)
  monkeypatch.setattr(timing, "interleaved", lambda functions, seconds: {name: 0.01 for name in functions})
  row = body.keypoints_grad(batch=3)
  assert row["peer"] is None and row["ours"] == pytest.approx(300)
