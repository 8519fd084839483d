"""The clock of the benchmarks: turns alternate, medians ignore a slow call, every function is called."""

import itertools

from jhmr.benchmarks import timing
import pytest


@pytest.fixture
def clock(monkeypatch):
  """A fake perf_counter that only the timed functions move."""
  now = [0.0]
  monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
  return now


def test_functions_take_turns_and_medians_ignore_a_slow_call(clock):
  calls, durations = [], itertools.chain([9.0, 9.0], itertools.cycle([*[0.05] * 12, 5.0]))

  def a():
    calls.append("a")
    clock[0] += next(durations)

  def b():
    calls.append("b")
    clock[0] += 0.02

  times = timing.interleaved({"a": a, "b": b}, seconds=2.0)
  assert times["a"] == pytest.approx(0.05) and times["b"] == pytest.approx(0.02)
  turns = [name for name, _ in itertools.groupby(calls)]
  assert len(turns) >= 2 * 10  # two seconds of turns of a fifth each


def test_a_function_slower_than_its_time_is_still_called_thrice(clock):
  calls = []

  def slow():
    calls.append(1)
    clock[0] += 60

  assert timing.interleaved({"slow": slow}, seconds=0.1) == {"slow": 60}
  assert len(calls) >= 2 + 3
