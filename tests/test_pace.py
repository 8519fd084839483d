"""What steps took: averages without pauses, and shares of a published peak."""

import time

import jax
import pytest

from jhmr import pace
from jhmr.data import source


def test_evaluation_and_checkpoints_are_no_part_of_a_step():
  old, new = pace.Mark(10, 100.0, 1.0, 5.0), pace.Mark(30, 190.0, 3.0, 45.0)
  found = pace.since(old, new, batch_size=64)
  assert (found["step_s"], found["data_wait_s"], found["examples_per_s"]) == (2.5, 0.1, 25.6)
  assert "mfu" not in found, "nobody publishes the peak of this CPU"
  assert pace.text(found, 100) == "0.40 steps/s, 26 examples/s, data wait 4%, 0:04:10 left"


def test_mfu_is_the_share_of_the_devices_peak(monkeypatch):
  monkeypatch.setattr(pace, "peak_flops", lambda kind: 1e12)
  found = pace.since(pace.Mark(0, 0.0, 0, 0), pace.Mark(1, 2.0, 0, 0), batch_size=1, step_flops=5e11)
  assert found["mfu"] == 0.25 and "mfu 25%" in pace.text(found, 0)


@pytest.mark.parametrize("kind, peak", [
    ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-40GB", 312e12), ("TPU v4", 275e12), ("TPU v5 lite", 197e12),
    ("TPU v5p", 459e12), ("TPU v6 lite", 918e12), ("cpu", None), ("NVIDIA GeForce GTX 680", None)])
def test_devices_are_known_by_the_names_jax_gives_them(kind, peak):
  assert pace.peak_flops(kind) == peak


def test_batches_are_prepared_ahead_in_order_and_errors_arrive():
  asked = []

  def batch(i):
    asked.append(i)
    if i == 5:
      raise KeyError("five")
    return i * 10
  feed = source.ahead(batch, 2, 9, depth=2)
  assert next(feed) == 20
  end = time.monotonic() + 5
  while len(asked) < 3 and time.monotonic() < end:
    time.sleep(0.01)
  assert asked == [2, 3, 4], "two ahead, no more"
  assert [next(feed), next(feed)] == [30, 40]
  with pytest.raises(KeyError):
    next(feed)
  assert list(source.ahead(lambda i: i, 3, 3)) == []
  assert jax.local_device_count() == 8
