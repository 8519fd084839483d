"""Heatmaps of 2D joint detectors: those of a detector that is simulated, and files of real ones.

A file is an .npz, without pickles, of

    heatmaps   [N, 16, 64, 64] float, of the joints of "lift16"; clipped to 0..1. A joint whose map has nothing above
               zero, or a number that is not finite, is missing
    pose2d     [N, 16, 2] float, optional: x, y the detector says, in pixels of the heatmap; default as `detect`
    split, actions, action, pose3d, has_pose3d   optional, as `data.lift_poses`
"""

import jax
import jax.numpy as jnp
import numpy as np

from jhmr.data import lift_spec
from jhmr.errors import InputError
from jhmr.fitting import gaussians
from jhmr.fitting import npz_files

SIZE = lift_spec.HEATMAP
SIGMA_PX = gaussians.SIGMA_PX
_ERROR_PX = 0.35              # of a joint that is seen, each way
_WIDE_PX, _LONG = (2.4, 7.5), (1.0, 1.8)  # sigma of a joint that is not, seldom large; how much longer one axis is
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
  sigma = jnp.where(seen, SIGMA_PX * between(u[0], (0.95, 1.05)), between(u[0] ** 2, _WIDE_PX))
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


def detect(heatmaps):
  """Where a detector says the joints are: [..., 64, 64] -> [..., 2] x, y in pixels of the heatmap.

  The maximum, a quarter of a pixel towards the higher one of its neighbours along each axis.
  Source: HRNet (Sun et al. 2019), authors' `get_final_preds`.
  """
  maps = heatmaps.reshape(-1, SIZE, SIZE)
  best = jnp.argmax(jnp.max(maps, -1), -1), jnp.argmax(jnp.max(maps, -2), -1)  # y, x: of a single maximum
  row, column = maps[jnp.arange(len(maps)), best[0]], maps[jnp.arange(len(maps)), :, best[1]]
  found = jnp.stack([_refined(row, best[1]), _refined(column, best[0])], -1)
  return found.reshape(*heatmaps.shape[:-2], 2)


def _refined(line, best):
  value = lambda i: jnp.take_along_axis(line, i[:, None], 1)[:, 0]
  inside = (best > 0) & (best < SIZE - 1)
  return best + 0.25 * inside * jnp.sign(value(jnp.minimum(best + 1, SIZE - 1)) - value(jnp.maximum(best - 1, 0)))


@jax.jit
def fit(heatmaps, pose2d):
  """(gaussians [..., 6], pose2d [..., 2], whether there was no fit [...]) of heatmaps [..., 64, 64].

  pose2d [..., 2] is where the detector found the joint; where it is not finite, `detect` says where. Of a map with
  nothing above zero, or a number that is not finite, the Gaussian is zeros and pose2d NaN: the joint is missing.
  """
  seen = jnp.all(jnp.isfinite(heatmaps), (-2, -1)) & jnp.any(heatmaps > 0, (-2, -1))
  maps = jnp.clip(heatmaps.astype(jnp.float32), 0.0, 1.0)
  pose2d = jnp.where(jnp.isfinite(pose2d), pose2d, detect(maps)).astype(jnp.float32)
  found = gaussians.fit(maps, pose2d)
  return jnp.where(seen[..., None], found.params, 0.0), jnp.where(seen[..., None], pose2d, jnp.nan), found.failed & seen


_CHUNK = 32  # poses fitted at once, when they come from a file
_MOST = 2.0  # of a heatmap: larger values are not of 0..1
_KEYS = ("heatmaps", "pose2d", "pose3d", "has_pose3d", "action", "actions", "split")


def read(path):
  """The poses of a file of heatmaps, fitted: ({name: array} for `lift_poses.write`, how many maps had no fit).

  Raises:
    InputError: when it is no such file, or its shapes or numbers are not these.
  """
  found = npz_files.read(path, _KEYS, "heatmaps")
  maps, want = found.pop("heatmaps", np.zeros(0)), (lift_spec.NUM_2D, SIZE, SIZE)
  if maps.shape[1:] != want or not len(maps) or maps.dtype.kind != "f":
    raise InputError(f"heatmaps {path!r} are {maps.dtype} {maps.shape}: give [N, {want[0]}, {SIZE}, {SIZE}] floats in "
                     "0..1")
  if (top := max(np.max(each, initial=0, where=np.isfinite(each)) for each in maps)) > _MOST:
    raise InputError(f"heatmaps {path!r} have values up to {top:g}, but they are of 0..1: divide by their largest, 255 "
                     "of bytes")
  pose2d = found.pop("pose2d", np.full((len(maps), want[0], 2), np.nan))
  if pose2d.shape != (len(maps), want[0], 2) or pose2d.dtype.kind not in "fiu":
    raise InputError(f"heatmaps {path!r}: pose2d is {pose2d.dtype} {pose2d.shape}: give [{len(maps)}, {want[0]}, 2]")
  index = np.minimum(np.arange(-(-len(maps) // _CHUNK) * _CHUNK), len(maps) - 1).reshape(-1, _CHUNK)
  parts = [fit(maps[i], pose2d[i]) for i in index]
  params, pose2d, failed = (np.concatenate(x)[:len(maps)] for x in zip(*parts))
  return found | {"gaussians": params, "pose2d": pose2d}, int(np.sum(failed))
