"""A simulated detector is unsure where it should be, and files of heatmaps become fits."""

import jax
import numpy as np
import pytest

from jhmr.data import heatmaps
from jhmr.errors import InputError

POSES = 32  # heatmaps.read fits so many at once


@pytest.fixture(scope="module")
def seen():
  """(keypoints [32, 16, 2], visible [32, 16], maps); the second half of the joints is hidden."""
  keypoints = np.random.default_rng(0).uniform(12, 52, (POSES, 16, 2)).astype(np.float32)
  visible = np.tile((np.arange(16) < 8).astype(np.float32), (POSES, 1))
  return keypoints, visible, np.asarray(jax.jit(heatmaps.simulate)(jax.random.key(0), keypoints, visible))


@pytest.fixture(scope="module")
def fits(seen):
  return [np.asarray(x) for x in heatmaps.fit(seen[2], np.full((POSES, 16, 2), np.nan, np.float32))]


def test_what_is_seen_is_sharp_and_what_is_hidden_is_not(seen, fits):
  keypoints, visible, maps = seen
  params, pose2d, failed = fits
  assert maps.shape == (POSES, 16, 64, 64) and maps.min() >= 0 and maps.max() <= 1 and not failed.any()
  sigma, off = params[..., 3::2].max(-1), np.linalg.norm(params[..., 1:3] - keypoints, axis=-1)
  on = visible > 0
  assert sigma[on].max() < 2.5 < 3 < np.median(sigma[~on])
  assert np.median(off[on]) < 0.7 < 1.5 < np.median(off[~on])
  assert params[on][:, 0].min() > 0.7 and np.median(params[~on][:, 0]) < 0.6
  np.testing.assert_allclose(pose2d[on], params[on][:, 1:3], atol=0.6)


def test_detections_are_hrnets(seen, fits):
  """A loop over maps: the first maximum, moved by a quarter pixel."""
  for i in np.ndindex(2, 16):
    each = seen[2][i]
    y, x = np.unravel_index(each.argmax(), each.shape)
    step = [np.sign(each[y, x + 1] - each[y, x - 1]) if 0 < x < 63 else 0,
            np.sign(each[y + 1, x] - each[y - 1, x]) if 0 < y < 63 else 0]
    np.testing.assert_allclose(fits[1][i], [x, y] + 0.25 * np.array(step))


def test_a_file_is_fitted(tmp_path, seen, fits):
  path = str(tmp_path / "maps.npz")
  np.savez(path, heatmaps=seen[2][:3], split=np.array(["train", "val", "val"]))
  arrays, failed = heatmaps.read(path)
  assert failed == 0 and arrays["split"].tolist() == ["train", "val", "val"]
  np.testing.assert_allclose(arrays["gaussians"], fits[0][:3], atol=1e-3)
  np.testing.assert_array_equal(arrays["pose2d"], fits[1][:3])


def test_a_joint_whose_map_shows_nothing_is_missing(tmp_path, seen, fits):
  path, maps = str(tmp_path / "maps.npz"), seen[2][:2].copy()
  maps[0, 3], maps[1, 5], maps[1, 6], maps[1, 7, 2, 2] = 0, np.nan, -1, np.inf
  np.savez(path, heatmaps=maps)
  arrays, failed = heatmaps.read(path)
  gone = np.zeros((2, 16), bool)
  gone[0, 3] = gone[1, 5] = gone[1, 6] = gone[1, 7] = True
  assert failed == 0 and not arrays["gaussians"][gone].any() and np.isnan(arrays["pose2d"][gone]).all()
  np.testing.assert_allclose(arrays["gaussians"][~gone], fits[0][:2][~gone], atol=1e-3)
  np.testing.assert_array_equal(arrays["pose2d"][~gone], fits[1][:2][~gone])


@pytest.mark.parametrize("arrays, said", [
    ({"other": np.zeros(3)}, "give [N, 16, 64, 64]"), ({"heatmaps": np.zeros((2, 16, 64, 32))}, "(2, 16, 64, 32)"),
    ({"heatmaps": np.zeros((0, 16, 64, 64))}, "(0, 16, 64, 64)"),
    ({"heatmaps": np.ones((1, 16, 64, 64), np.uint8)}, "are uint8 (1, 16, 64, 64)"),
    ({"heatmaps": np.full((2, 16, 64, 64), 200.0)}, "up to 200, but they are of 0..1: divide"),
    ({"heatmaps": np.zeros((1, 16, 64, 64)), "pose2d": np.zeros((1, 17, 2))}, "pose2d is")])
def test_what_is_wrong_is_one_line(tmp_path, arrays, said):
  path = str(tmp_path / "maps.npz")
  np.savez(path, **arrays)
  with pytest.raises(InputError) as error:
    heatmaps.read(path)
  assert said in str(error.value) and path in str(error.value) and "\n" not in str(error.value)
