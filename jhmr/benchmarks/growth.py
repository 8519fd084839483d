"""How the rate of hypotheses grows with their number and with the images: python -m jhmr.benchmark growth"""

import time

from jhmr import plots, report
from jhmr.benchmarks import hypotheses, timing
import numpy as np

COUNTS = tuple(4 ** i for i in range(9))  # 1 to 65,536 hypotheses of an image
IMAGES = (1, 8, 64)
MOST = 65536 * 8                          # hypotheses in one call: 0.9 kB of results each
COLUMNS = ("images", "n", "hypotheses/s", "ms per image", "peer", "ratio")


def measure(seconds, counts=COUNTS, images=IMAGES):
  """Rows of COLUMNS; rates in hypotheses/s, None where a call would take longer than `seconds`."""
  rows = []
  for num_images in images:
    setting, rates = hypotheses.set_up(hypotheses.NET, num_images), {}
    for n in counts:
      if num_images * n <= MOST:
        rows.append({"images": num_images, "n": n} | _one(setting, n, seconds, rates))
  return rows


def _one(setting, n, seconds, rates):
  """One row; `rates` holds each side's last rate, from which it is told whether a call ends in time."""
  total, makers = n * len(setting.context), {"ours": hypotheses.runner}
  if timing.installed("torch", "smplx"):
    makers["peer"] = hypotheses.peer
  functions = {name: make(hypotheses.NET, setting, n) for name, make in makers.items()
               if total <= seconds * rates.get(name, float("inf"))}
  times = _timed(functions, total, rates)
  rates |= {name: total / t for name, t in times.items()}
  ours, peer = (total / times[name] if name in times else None for name in ("ours", "peer"))
  return {"hypotheses/s": ours, "ms per image": 1000 * n / ours if ours else None, "peer": peer,
          "ratio": ours / peer if ours and peer else None}


def _timed(functions, total, rates):
  """Seconds of a call of each function; long ones once, after a call that compiles."""
  if all(total < rates.get(name, float("inf")) / 2 for name in functions):
    return timing.interleaved(functions, seconds=0.6)
  times = {}
  for name, function in functions.items():
    if name == "ours":
      function()
    start = time.perf_counter()
    function()
    times[name] = time.perf_counter() - start
  return times


def show(rows):
  """Prints the table."""
  report.table([r | {"ratio": r["ratio"] and f"{r['ratio']:.1f} x"} for r in rows], COLUMNS)


def picture(rows):
  """The curves as uint8 RGB: thousands of hypotheses per second over n, one curve for each number of images."""
  curves = []
  for key, label in (("hypotheses/s", "ours"), ("peer", "peer")):
    for num_images in sorted({r["images"] for r in rows}):
      points = [(r["n"], r[key] / 1000) for r in rows if r["images"] == num_images and r[key]]
      if points and (key != "peer" or num_images == 1):
        x, y = np.array(points, float).T
        curves.append(plots.Curve(f"{label}, images at once: {num_images}", x, y))
  return plots.plot(curves, "hypotheses per second", "hypotheses of each image", "1000/s", log_x=True)
