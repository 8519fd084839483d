"""Gaussians are SciPy's least squares from the same start, and no heatmap breaks them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr.benchmarks import gaussians as peer
from jhmr.fitting import gaussians

NUM = 64
NOWHERE = np.full((NUM, 2), np.nan, np.float32)  # of a start: the maximum
_fit = jax.jit(gaussians.fit)


def fit(maps, start=NOWHERE):
  return jax.tree.map(np.asarray, _fit(maps, start))


@pytest.fixture(scope="module")
def maps():
  """Narrow and wide peaks, some of them at the border, some with a second peak, with noise."""
  return peer.heatmaps(NUM)


def test_they_are_scipys(maps):
  found = fit(maps)
  assert not found.failed.any()
  wanted = np.stack([peer.of_scipy(m) for m in maps[:40]])
  np.testing.assert_allclose(found.params[:40], wanted, atol=1e-3)


def test_the_model_is_the_equation():
  rng = np.random.default_rng(1)
  params = np.stack([rng.uniform(0.1, 1, 5), *rng.uniform(0, 63, (2, 5)), rng.uniform(1, 9, 5),
                     rng.uniform(-4, 4, 5), rng.uniform(1, 9, 5)], -1).astype(np.float32)
  np.testing.assert_allclose(gaussians.draw(params), peer.drawn(params), atol=1e-5)


def test_what_is_drawn_is_found(maps):
  drawn = jnp.clip(gaussians.draw(fit(maps).params), 0, 1)
  again = fit(drawn)
  np.testing.assert_allclose(again.params, fit(maps).params, atol=2e-3)
  np.testing.assert_allclose(gaussians.draw(again.params), drawn, atol=1e-3)


def test_maps_without_a_peak_are_no_nan(maps):
  odd = np.zeros((NUM, 64, 64), np.float32)
  odd[1] = 0.3                                              # flat
  odd[2, 10, 20] = 0.8                                      # one pixel
  odd[3] = np.nan
  odd[4] = maps[4]
  odd[4, 0, 0] = np.inf
  odd[5] = np.linspace(0, 1, 64)                            # a slope
  odd[6] = np.random.default_rng(0).uniform(size=(64, 64))
  odd[7] = -1.0
  odd[8, ::8, ::8] = 1.0                                    # many peaks
  odd[9, 0, 0] = 1e-30
  found = fit(odd)
  assert all(np.isfinite(x).all() for x in found)
  assert (found.params[:, 3::2] > 0).all()
  np.testing.assert_array_equal(found.failed[[0, 3, 4, 7]], True)
  np.testing.assert_allclose(found.params[3], [0, 0, 0, 2, 0, 2])
  assert found.params[1, 3] > 30 and found.params[5, 3::2].max() > 10


def test_a_start_is_kept_when_nothing_fits_and_chooses_between_peaks(maps):
  tall = np.array([0.9, 15, 15, 2, 0, 2], np.float32)
  low = np.array([0.5, 45, 40, 2.2, 0, 2], np.float32)
  two = np.zeros((NUM, 64, 64), np.float32)
  two[:2] = gaussians.draw(tall) + gaussians.draw(low)
  start = np.full((NUM, 2), [44, 41], np.float32)
  start[1] = np.nan
  found = fit(two, start)
  np.testing.assert_allclose(found.params[0], low, atol=0.01)
  np.testing.assert_allclose(found.params[1], tall, atol=0.01)
  np.testing.assert_allclose(found.params[2], [0, 44, 41, 2, 0, 2])


def test_shapes_are_checked():
  with pytest.raises(ValueError, match="64, 32"):
    gaussians.fit(np.zeros((2, 64, 32)))
  with pytest.raises(ValueError, match="start"):
    gaussians.fit(np.zeros((2, 64, 64)), np.zeros((3, 2)))
  shaped = jax.eval_shape(gaussians.fit, jnp.zeros((2, 3, 64, 64)))
  assert shaped.params.shape == (2, 3, 6) and shaped.failed.shape == (2, 3)
