"""Procrustes: known answers, invariances, optimality, degenerate input."""

import jax
import jax.numpy as jnp
from jhmr.body import procrustes
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
import similarity

RNG = np.random.default_rng(0)
align = jax.jit(procrustes.align)
fit = jax.jit(procrustes.procrustes)


def cloud(*lead):
  return RNG.normal(size=(*lead, 14, 3)).astype(np.float32)


def mean_error(a, b):
  return np.linalg.norm(np.asarray(a) - b, axis=-1).mean(-1)


def test_recovers_a_similarity():
  source = cloud()
  turn = np.float32([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
  target = 2.5 * source @ turn.T + np.float32([1, -2, 3])
  scale, rotation, t = fit(source, target)
  assert scale == pytest.approx(2.5, rel=1e-6)
  np.testing.assert_allclose(rotation, turn, atol=1e-6)
  np.testing.assert_allclose(t, [1, -2, 3], atol=1e-5)
  np.testing.assert_allclose(align(source, target), target, atol=1e-5)


def test_a_reflection_is_never_used():
  source = np.float32([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
  target = source * np.float32([-1, 1, 1])
  scale, rotation, _ = fit(source, target)
  assert scale == pytest.approx(.914162, abs=1e-6)
  assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)
  assert mean_error(align(source, target), target) == pytest.approx(.550938, abs=1e-6)


def test_error_does_not_change_when_the_source_is_moved_turned_and_scaled():
  source, target = cloud(), cloud()
  turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix().astype(np.float32)
  moved = .3 * source @ turn.T + np.float32([5, 1, -2])
  np.testing.assert_allclose(align(moved, target), align(source, target), atol=1e-5)


def test_moving_the_target_moves_the_result():
  source, target = cloud(), cloud()
  turn = Rotation.random(rng=np.random.default_rng(2)).as_matrix().astype(np.float32)
  np.testing.assert_allclose(align(source, 2 * target @ turn.T + 1), 2 * align(source, target) @ turn.T + 1, atol=1e-5)


def test_no_other_similarity_is_nearer():
  source, target = cloud(), cloud()
  scale, rotation, t = map(np.asarray, fit(source, target))
  best = ((scale * source @ rotation.T + t - target) ** 2).sum()
  for vector, s, shift in zip(RNG.normal(size=(300, 3)), RNG.normal(size=300), RNG.normal(size=(300, 3))):
    for size in (1e-3, 1e-1):
      other = rotation @ Rotation.from_rotvec(size * vector).as_matrix()
      assert best <= (((scale + size * s) * source @ other.T + t + size * shift - target) ** 2).sum() + 1e-4


def test_batches_vmap_and_any_leading_axes_agree_with_one_by_one():
  source, target = cloud(2, 3), cloud(2, 3)
  got = align(source, target)
  for i in range(2):
    for j in range(3):
      np.testing.assert_allclose(got[i, j], align(source[i, j], target[i, j]), atol=1e-5)
  np.testing.assert_allclose(jax.vmap(align)(source, target), got, atol=1e-5)


def test_weights_of_zero_leave_points_out_and_integers_repeat_them():
  source, target = cloud(), cloud()
  for got, want in zip(fit(source, target, np.float32(np.arange(14) < 9)), fit(source[:9], target[:9])):
    np.testing.assert_allclose(got, want, atol=1e-5)
  twice = np.r_[0, 0, 1:14]
  weights = np.ones(14, np.float32)
  weights[0] = 2
  for got, want in zip(fit(source, target, weights), fit(source[twice], target[twice])):
    np.testing.assert_allclose(got, want, atol=1e-5)


DEGENERATE = {
    "source is one point": (np.ones((14, 3)), None), "target is one point": (None, np.ones((14, 3))),
    "both are zero": (np.zeros((14, 3)), np.zeros((14, 3))),
    "collinear": (np.outer(np.arange(14), [1, 2, 3]), np.outer(np.arange(14), [-3, 1, 0])),
    "planar": (cloud() * [1, 1, 0], cloud() * [0, 1, 1]), "tiny": (cloud() * 1e-12, None),
    "huge": (cloud() * 1e12, None)}


@pytest.mark.parametrize("source, target", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_degenerate_input_gives_numbers_and_a_rotation(source, target):
  source, target = (np.float32(cloud() if x is None else x) for x in (source, target))
  scale, rotation, t = fit(source, target)
  assert np.isfinite(scale) and np.isfinite(t).all() and scale >= 0
  assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
  aligned = np.asarray(align(source, target))
  assert np.isfinite(aligned).all()
  around_mean = ((target - target.mean(0)) ** 2).sum()
  assert ((aligned - target) ** 2).sum() <= around_mean * (1 + 1e-5) + 1e-6  # scale 0 would do as well


def test_collinear_points_align_exactly():
  line = np.outer(np.arange(14), [1, 2, 3]).astype(np.float32)
  target = np.outer(np.arange(14), [-3, 1, 0]).astype(np.float32) + 2
  np.testing.assert_allclose(align(line, target), target, atol=2e-5)


def test_without_any_weight_the_result_is_finite():
  assert np.isfinite(align(cloud(), cloud(), np.zeros(14, np.float32))).all()


def test_millimetre_sized_points_align_as_well_as_metres():
  source, target = cloud(), cloud()
  small = align(1e-3 * source, 1e-3 * target)
  np.testing.assert_allclose(1e3 * small, align(source, target), atol=1e-5)


def test_many_at_once_agree_with_numpy():
  source, target = cloud(5000), cloud(5000)
  np.testing.assert_allclose(align(source, target), similarity.aligned(source, target), atol=1e-5)


def test_the_gradient_is_that_of_finite_differences_and_zero_where_nothing_is_left_to_align():
  cube = np.float32(np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3))  # three singular values alike
  turn = Rotation.random(rng=np.random.default_rng(3)).as_matrix().astype(np.float32)
  error = lambda source, target: jnp.sum((procrustes.align(source, target) - target) ** 2)
  gradient = jax.jit(jax.grad(error))
  np.testing.assert_allclose(gradient(cube, 2 * cube @ turn.T + 1), 0, atol=1e-5)
  for source in (cube, cloud()[:8]):
    target, way = cloud()[:8], cloud()[:8]
    step = 1e-2 * way
    slope = (error(source + step, target) - error(source - step, target)) / 2e-2
    assert np.sum(gradient(source, target) * way) == pytest.approx(float(slope), rel=1e-2, abs=1e-2)


def test_several_alignments_side_by_side_give_nothing_to_lapack():
  """Whose kernel waits for workers of which it is one: as many as there are workers never end."""
  program = jax.jit(lambda *pairs: [procrustes.align(*pair) for pair in pairs])
  assert "lapack" not in program.lower(*[(cloud(), cloud())] * 3).as_text()
