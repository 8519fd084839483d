"""Row of Gaussian fits: heatmaps per second, beside SciPy's curve_fit, one map after the other as Wehrbein et al. do.

Eight of ten maps have one peak of a sure detector, the others a wide one, and one of ten has a second peak. Both sides
start from the maximum and get the same answer: the row says how far apart they are.
"""

import jax
from jhmr.benchmarks import timing
from jhmr.fitting import gaussians
import numpy as np

_PEER_MAPS = 16
_CHECKED = 1000


def fits(maps=1024, seconds=5.0):
  """Maps per second; the peer gets some of ours."""
  given = heatmaps(maps)
  run = jax.jit(gaussians.fit)
  functions = {"ours": lambda: jax.block_until_ready(run(given))}
  if timing.installed("scipy"):
    functions["peer"] = lambda: [of_scipy(m) for m in given[:_PEER_MAPS]]
  times = timing.interleaved(functions, seconds / 2)
  window, steps = gaussians.WINDOW**2, 6
  return {"name": "Gaussian fits", "unit": "maps/s", "ours": maps / times["ours"],
          "peer": _PEER_MAPS / times["peer"] if "peer" in times else None, "peer_name": "scipy curve_fit",
          # Each step an exponential, a residual and moments of each pixel.
          "flops_per_item": steps * window * 40.0, "bytes_per_item": 4.0 * (64 * 64 + steps * window),
          "note": _agreement(given[:_CHECKED], run) if "peer" in functions else ""}


def _agreement(maps, run):
  """How far our fits are from SciPy's."""
  apart = np.abs(np.asarray(run(maps).params) - np.stack([of_scipy(m) for m in maps]))[:, [1, 2, 3, 5]].max(1)
  return (f"of {len(maps):,} maps {np.sum(apart <= 1e-3):,} are within 0.001 px of SciPy's least squares, the median "
          f"{np.median(apart):.1e} px")


def heatmaps(num, seed=0):
  """Noisy heatmaps [num, 64, 64] of detectors that are sure of most joints."""
  rng = np.random.default_rng(seed)
  low, high = np.where(rng.uniform(size=(num, 1)) < 0.2, [[2.5, 9.0]], [[1.7, 2.6]]).T
  params = np.stack([rng.uniform(0.2, 1, num), *rng.uniform(0, 63, (2, num)), rng.uniform(low, high),
                     rng.uniform(-1.5, 1.5, num), rng.uniform(low, high)], -1)
  second = params * [0.6, 1, 1, 0, 0, 0] + [0, 0, 0, 2.5, 0, 2.5]
  second[:, 1:3] = rng.uniform(0, 63, (num, 2))
  second[:, 0] *= rng.uniform(size=num) < 0.1
  made = drawn(params) + drawn(second) + 0.01 * rng.normal(size=(num, 64, 64))
  return np.clip(made, 0, 1).astype(np.float32)


def drawn(params):
  """Maps of [N, 6], as the model is printed: [N, 64, 64]. Source: Wehrbein et al. 2021, authors' `gauss2d_angle`."""
  y, x = np.mgrid[:64, :64].astype(float)
  return np.stack([_model((x, y), *p).reshape(64, 64) for p in np.asarray(params, float)])


def _model(grid, amplitude, mean_x, mean_y, sigma_x, theta, sigma_y):
  dx, dy = grid[0] - mean_x, grid[1] - mean_y
  one, two = 1 / (2 * sigma_x**2), 1 / (2 * sigma_y**2)
  cos2, sin2 = np.cos(theta)**2, np.sin(theta)**2
  b = 0.5 * np.sin(2 * theta) * (two - one)
  return (amplitude * np.exp(-((cos2 * one + sin2 * two) * dx**2 + 2 * b * dx * dy +
                               (sin2 * one + cos2 * two) * dy**2))).ravel()


def of_scipy(heatmap):
  """The six parameters that SciPy's least squares has for a map [64, 64], under the name that ours have."""
  from scipy import optimize
  y, x = np.mgrid[:64, :64].astype(float)
  row, column = np.unravel_index(np.argmax(heatmap), heatmap.shape)
  start = (heatmap.max(), column, row, gaussians.SIGMA_PX, 0, gaussians.SIGMA_PX)
  try:
    found = optimize.curve_fit(_model, (x, y), heatmap.ravel().astype(float), p0=start)[0]
  except RuntimeError:
    return np.array(start)
  return _renamed(found)


def _renamed(params):
  """Positive sigmas, theta in (-pi/4, pi/4]."""
  quarters = np.ceil(params[4] / (np.pi / 2) - 0.5)
  sigmas = np.abs(params[3::2])[::-1 if quarters % 2 else 1]
  return np.array([*params[:3], sigmas[0], params[4] - quarters * np.pi / 2, sigmas[1]])
