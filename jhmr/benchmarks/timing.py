"""Times functions against each other, taking turns, so that a busy machine slows them alike."""

import importlib.util
import statistics
import time

import jax

_TURN_S = 0.2    # long enough that what a turn costs to start does not count
_LONG_S = 1.0    # a call in which what happens at its start does not count
_SETTLE_S = 0.1  # the other library's idle threads spin for a while after its turn


def installed(*names):
  """Whether all packages are there that a peer needs."""
  return all(importlib.util.find_spec(name) for name in names)


def interleaved(functions, seconds):
  """Median seconds per call of each function.

  Args:
    functions: {name: function of no arguments that returns when its work is done}.
    seconds: time to spend measuring each, after two untimed calls (compilation, caches).
  Returns:
    {name: median seconds per call}; every function is called at least three times.
  """
  settle = {}
  for name, function in functions.items():
    function()
    settle[name] = _SETTLE_S if _calls(function, 0)[0] < _LONG_S else 0
  times = {name: [] for name in functions}
  for _ in range(max(3, round(seconds / _TURN_S))):
    for name, function in functions.items():
      if settle[name]:
        _calls(function, settle[name])
      times[name] += _calls(function, _TURN_S)
  return {name: statistics.median(values) for name, values in times.items()}


def _calls(function, seconds):
  """Seconds of each call, for as many calls as fit in `seconds`, one at least."""
  times, end = [], time.perf_counter() + seconds
  while not times or time.perf_counter() < end:
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return times


def best_rate(function, x, seconds):
  """Best calls per second of function(x) over at least `seconds`: for a ceiling, which is a best case."""
  jax.block_until_ready(function(x))
  best, since = 0.0, time.perf_counter()
  while time.perf_counter() - since < seconds:
    start = time.perf_counter()
    jax.block_until_ready(function(x))
    best = max(best, 1 / (time.perf_counter() - start))
  return best
