"""Heatmaps of 2D joint detectors: those of a detector that is simulated, and files of real ones.

A file is an .npz, without pickles, of

    heatmaps   [N, 16, 64, 64] float, of the joints of "lift16"; clipped to 0..1
    pose2d     [N, 16, 2] float, optional: x, y the detector says, in pixels of the heatmap; default its maximum
    split, actions, action, pose3d   optional, as `data.lift_poses`
"""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from jhmr.data import lift_spec
from jhmr.errors import InputError
from jhmr.fitting import gaussians

SIZE = lift_spec.HEATMAP
SIGMA_PX = gaussians.SIGMA_PX
_ERROR_PX = 0.35              # of a joint that is seen, each way
_WIDE_PX, _LONG = (3.0, 7.5), (1.0, 1.8)  # sigma of a joint that is not, and how much longer one axis is
_DISPLACED = 0.7              # its error, in its own sigmas
_SEEN_PEAK, _HIDDEN_PEAK = (0.75, 1.0), (0.15, 0.6)
_SHARE_SECOND = 0.25          # of hidden joints that show a second peak,
_SECOND_PX, _SECOND_PEAK = (6.0, 18.0), (0.3, 0.8)  # so far away, so high relative to the first
_GRAIN = 0.006                # of every pixel


def simulate(key, keypoints_px, visible):
  """Heatmaps of a detector that is as unsure as it should be.

  A joint that is seen has a peak of the detector's training, sigma 2 px, a third of a pixel off. One that is not has a
  low, wide, elongated peak, as far off as it is wide, and sometimes a second one. Peaks outside of the map show as
  far as they reach into it.

  Args:
    key: PRNG key; keypoints_px: [..., K, 2] pixels of the heatmap; visible: [..., K] in {0, 1}.
  Returns:
    [..., K, 64, 64] in 0..1.
  """
  shape = visible.shape
  normal_key, uniform_key, grain_key = jax.random.split(key, 3)
  n = jax.random.normal(normal_key, (4, *shape))
  u = jax.random.uniform(uniform_key, (9, *shape))
  between = lambda u, low_high: low_high[0] + (low_high[1] - low_high[0]) * u
  seen = visible > 0
  sigma = jnp.where(seen, SIGMA_PX * between(u[0], (0.95, 1.05)), between(u[0], _WIDE_PX))
  long = jnp.where(seen, between(u[1], (1.0, 1.05)), between(u[1], _LONG))
  theta = np.pi * (u[2] - 0.5)
  height = jnp.where(seen, between(u[3], _SEEN_PEAK), between(u[3], _HIDDEN_PEAK))
  # Off along the axes of the peak, which turn clockwise with theta: y points down.
  along = jnp.where(seen, _ERROR_PX, _DISPLACED * sigma * long) * n[0]
  across = jnp.where(seen, _ERROR_PX, _DISPLACED * sigma) * n[1]
  cos, sin = jnp.cos(theta), jnp.sin(theta)
  mean = keypoints_px + jnp.stack([cos * along + sin * across, cos * across - sin * along], -1)
  first = jnp.stack([height, *jnp.moveaxis(mean, -1, 0), sigma * long, theta, sigma], -1)
  angle, far = 2 * np.pi * u[4], between(u[5], _SECOND_PX)
  there = ~seen & (u[6] < _SHARE_SECOND)
  second = jnp.stack([there * height * between(u[7], _SECOND_PEAK), mean[..., 0] + far * jnp.cos(angle),
                      mean[..., 1] + far * jnp.sin(angle), 0.8 * sigma, theta, 0.8 * sigma], -1)
  grain = _GRAIN * jnp.abs(jax.random.normal(grain_key, (*shape, SIZE, SIZE)))
  return jnp.clip(gaussians.draw(first, SIZE) + gaussians.draw(second, SIZE) + grain, 0.0, 1.0)


_CHUNK = 64  # poses fitted at once, when they come from a file
_fit = jax.jit(gaussians.fit)


def fit(heatmaps, pose2d=None):
  """Fits of heatmaps of any number of poses, some at a time.

  Args:
    heatmaps: [N, 16, 64, 64] array, maybe on disk; pose2d: [N, 16, 2] pixels of the heatmap, or None.
  Returns:
    (gaussians [N, 16, 6] float32, pose2d [N, 16, 2] float32: where none was given the maximum of the map,
    how many maps had no fit).
  """
  made, where, failed = [], [], 0
  for first in range(0, len(heatmaps), _CHUNK):
    maps = np.asarray(heatmaps[first:first + _CHUNK], np.float32)
    count = len(maps)
    maps = np.concatenate([maps, np.zeros((_CHUNK - count, *maps.shape[1:]), np.float32)])
    start = _maxima(maps)
    if pose2d is not None:
      start[:count] = pose2d[first:first + count]
    found = _fit(maps, start)
    made.append(np.asarray(found.params[:count]))
    where.append(start[:count])
    failed += int(np.sum(found.failed[:count]))
  return np.concatenate(made), np.concatenate(where), failed


def _maxima(maps):
  best = np.argmax(maps.reshape(*maps.shape[:2], -1), -1)
  return np.stack([best % SIZE, best // SIZE], -1).astype(np.float32)


def read(path):
  """Poses of a file of heatmaps, fitted: what `lift_poses.write` takes.

  Raises:
    InputError: when it is no such file, or its shapes or numbers are not these.
  """
  found = read_npz(path, "--heatmaps")
  maps = found.pop("heatmaps", np.zeros(0))
  want = (lift_spec.NUM_2D, SIZE, SIZE)
  if maps.shape[1:] != want or not len(maps) or maps.dtype.kind not in "fiu":
    raise InputError(f"--heatmaps {path!r}: heatmaps are {maps.dtype} {maps.shape}: give [N, {want[0]}, {SIZE}, {SIZE}]")
  pose2d = found.pop("pose2d", None)
  if pose2d is not None and (pose2d.shape != (len(maps), want[0], 2) or not np.isfinite(pose2d).all()):
    raise InputError(f"--heatmaps {path!r}: pose2d is {pose2d.shape}: give finite pixels [{len(maps)}, {want[0]}, 2]")
  params, pose2d, failed = fit(maps, pose2d)
  return {**found, "gaussians": params, "pose2d": pose2d}, failed


def read_npz(path, option):
  """{name: array} of an .npz. Raises InputError, naming the option, when it cannot be read."""
  try:
    with np.load(path, allow_pickle=False) as stored:
      if not hasattr(stored, "files"):
        raise ValueError("one array")
      return dict(stored)
  except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
    said = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:120]
    raise InputError(f"{option} {path!r} cannot be read ({said}): give an .npz without pickles") from error
