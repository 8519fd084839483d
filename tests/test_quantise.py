"""Weighted K-means against a loop from the same start; representatives are members; nothing but the seed is random."""

import functools

import jax
import jax.numpy as jnp
from jhmr import quantise
import numpy as np
import pytest

S, F, N = 60, 6, 5
RNG = np.random.default_rng(0)
POINTS = (RNG.normal(size=(S, F)) + 2 * RNG.normal(size=(N, F))[RNG.integers(0, N, S)]).astype(np.float32)
WEIGHTS = RNG.normal(size=S).astype(np.float32)
EQUAL = np.zeros(S, np.float32)
KEY = jax.random.key(0)
chosen = jax.jit(quantise.quantise, static_argnames=("num", "keep_first", "steps"))


def brute_force(points, centres, log_weights, steps):
  """Lloyd's iteration as the textbook says it, in float64."""
  points, weights = points.astype(np.float64), np.exp(log_weights.astype(np.float64))
  nearest = lambda centres: np.array([((p - centres) ** 2).sum(-1).argmin() for p in points])
  centres = centres.astype(np.float64)
  for _ in range(steps):
    labels = nearest(centres)
    for k in range(len(centres)):
      mine = (labels == k) & (weights > 0)
      if mine.any():
        centres[k] = np.average(points[mine], axis=0, weights=weights[mine])
  return centres, nearest(centres)


@pytest.mark.parametrize("log_weights", [EQUAL, WEIGHTS, np.where(WEIGHTS > 1, -np.inf, 40 * WEIGHTS)])
def test_lloyd_equals_a_loop_from_the_same_start(log_weights):
  log_weights = log_weights.astype(np.float32)
  first = POINTS[quantise.start(POINTS, N, KEY, log_weights)]
  centres, labels = jax.jit(quantise.lloyd)(POINTS, first, log_weights)
  expected, expected_labels = brute_force(POINTS, first, log_weights, quantise.STEPS)
  np.testing.assert_allclose(centres, expected, atol=1e-4)
  np.testing.assert_array_equal(labels, expected_labels)
  assert len(set(expected_labels)) == N


@pytest.mark.parametrize("keep_first", [False, True])
def test_an_even_start_forgets_the_weights_which_clusters_obey(keep_first):
  """Weights of a density over many joints: by them, the start would be the likeliest ones."""
  log_weights = (40 * WEIGHTS).astype(np.float32)
  log_weights[3] = -np.inf
  even = jax.jit(functools.partial(quantise.quantise, num=N, keep_first=keep_first, even_start=True))
  medoids, centroids = even(POINTS, POINTS, key=KEY, log_weights=log_weights)
  weights = log_weights.copy()
  weights[0] = -np.inf if keep_first else weights[0]
  first = quantise.start(POINTS, N - keep_first, KEY, np.where(weights > -np.inf, 0, -np.inf).astype(np.float32))
  assert not np.array_equal(first, quantise.start(POINTS, N - keep_first, KEY, weights))
  centres, labels = brute_force(POINTS, POINTS[first], weights, quantise.STEPS)
  np.testing.assert_allclose(centroids[int(keep_first):], centres, atol=1e-4)
  for k, medoid in enumerate(medoids[int(keep_first):]):
    members = np.flatnonzero((labels == k) & (weights > -np.inf))
    square = ((POINTS[members] - centres[k]) ** 2).sum(-1)
    assert medoid in members and square[list(members).index(medoid)] <= square.min() * (1 + 1e-3) + 1e-6


def test_medoids_are_the_members_with_the_least_squared_distance_to_all_others():
  first = POINTS[quantise.start(POINTS, N, KEY, EQUAL)]
  centres, labels = quantise.lloyd(POINTS, first, EQUAL)
  for k, medoid in enumerate(quantise.medoids(POINTS, centres, labels, EQUAL)):
    members = np.flatnonzero(np.asarray(labels) == k)
    cost = [((POINTS[i] - POINTS[members]) ** 2).sum() for i in members]
    assert medoid in members and cost[list(members).index(medoid)] <= min(cost) * (1 + 1e-4)


def test_of_a_pair_the_first_is_the_medoid():
  points = np.random.default_rng(1).normal(size=(20, F)).astype(np.float32)
  for i in range(0, 20, 2):
    centre = points[i:i + 2].mean(0, keepdims=True)
    assert quantise.medoids(points[i:i + 2], centre, jnp.zeros(2, jnp.int32), jnp.zeros(2))[0] == 0


@pytest.mark.parametrize("num", [2, 5, 25, S])
def test_the_mode_is_one_of_the_hypotheses(num):
  medoids, centroids = chosen(POINTS, POINTS, num=num, key=KEY)
  assert medoids[0] == 0 and medoids.shape == (num,) and (medoids[1:] > 0).all()
  np.testing.assert_array_equal(centroids[0], POINTS[0])
  assert len(set(np.asarray(medoids).tolist())) == num  # distinct points: as many different hypotheses


def test_one_hypothesis_is_the_mode_whether_it_is_kept_or_not():
  for keep_first in (True, False):
    medoids, centroids = quantise.quantise(POINTS, POINTS, 1, KEY, keep_first=keep_first)
    np.testing.assert_array_equal(medoids, [0])
    np.testing.assert_array_equal(centroids, POINTS[:1])


def test_every_point_is_clustered_when_the_mode_is_not_kept_apart():
  medoids, centroids = chosen(POINTS, POINTS, num=N, key=KEY, keep_first=False)
  centres, labels = quantise.lloyd(POINTS, POINTS[quantise.start(POINTS, N, KEY, EQUAL)], EQUAL)
  np.testing.assert_allclose(centroids, centres, atol=1e-5)
  np.testing.assert_array_equal(medoids, quantise.medoids(POINTS, centres, labels, EQUAL))


def test_hypotheses_without_weight_are_never_chosen():
  none = np.where(np.arange(S) % 3 == 1, 0, -np.inf).astype(np.float32)
  medoids, centroids = chosen(POINTS, POINTS, num=N, key=KEY, log_weights=none)
  assert (np.asarray(medoids[1:]) % 3 == 1).all()
  junk = np.where(np.isfinite(none)[:, None], POINTS, 5 * POINTS).astype(np.float32)
  junk[0] = POINTS[0]
  again = chosen(junk, junk, num=N, key=KEY, log_weights=none)
  np.testing.assert_array_equal(again[0], medoids)
  np.testing.assert_allclose(again[1], centroids, atol=1e-5)


def test_identical_hypotheses_and_empty_clusters_stay_valid():
  same = np.ones((S, F), np.float32)
  medoids, centroids = chosen(same, same, num=N, key=KEY)
  np.testing.assert_array_equal(centroids, np.ones((N, F)))
  assert ((0 <= medoids) & (medoids < S)).all()
  two = np.repeat(np.float32([[0] * F, [1] * F]), S // 2, 0)  # fewer places than clusters
  medoids, centroids = chosen(two, two, num=N, key=KEY, keep_first=False)
  assert {tuple(c) for c in np.round(np.asarray(centroids), 5)} == {(0,) * F, (1,) * F}
  assert set(two[medoids][:, 0]) == {0, 1}


def test_the_seed_decides_and_images_do_not_disturb_each_other():
  both = jax.vmap(functools.partial(quantise.quantise, num=N))
  keys = jax.random.split(KEY, 2)
  points = jnp.stack([POINTS, POINTS[::-1]])
  together = both(points, points, key=keys)
  for i in range(2):
    alone = chosen(points[i], points[i], num=N, key=keys[i])
    np.testing.assert_array_equal(together[0][i], alone[0])
  assert (chosen(POINTS, POINTS, num=N, key=keys[0])[0] != chosen(POINTS, POINTS, num=N, key=KEY)[0]).any()


def test_asking_for_more_than_there_are_says_so():
  with pytest.raises(ValueError, match="61 of 60"):
    quantise.quantise(POINTS, POINTS, S + 1, KEY)
