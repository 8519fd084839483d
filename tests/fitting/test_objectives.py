"""The keypoint objective against its equation in slow NumPy, by hand, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting import fake_latent
from jhmr.body import camera, joints
from jhmr.fitting import latent, objectives


def scene(num=3, set_name="openpose25", seed=0):
  """(body, encoded, targets, start) of people whose keypoints are noise around their mode's."""
  body, encoded = fake_latent.body(set_name), fake_latent.encoded(num, seed)
  rng = np.random.default_rng(seed)
  pose = fake_latent.decode(jnp.zeros((num, 1, fake_latent.DIM)), encoded)[:, 0]
  points = objectives.body_points(body, encoded.betas, pose, set_name)
  px = (np.asarray(camera.project_crop(points, encoded.camera)) + 1) * 112 + rng.normal(size=(num, points.shape[1], 2))
  confidence = rng.uniform(0, 1, px.shape[:2] + (1,)) * (rng.random(px.shape[:2] + (1,)) > 0.2)
  keypoints = jnp.asarray(np.concatenate([px, confidence], -1), jnp.float32)
  place = np.full((num, 2), 112.0, np.float32), np.full(num, 224.0, np.float32)
  return body, encoded, *objectives.crop_camera(keypoints, encoded.camera, *place)


def first(tree):
  return jax.tree.map(lambda x: x[0], tree)


@pytest.mark.parametrize("error, value", [(0, 0), (10, 99.0099), (100, 5000), (1e6, 1e4)])
def test_the_robust_error_by_hand(error, value):
  assert float(objectives.geman_mcclure(jnp.float32(error))) == pytest.approx(value, rel=1e-5)


def test_one_keypoint_ten_pixels_off_by_hand():
  target = objectives.Target(jnp.array([[122.0, 112.0, 0.5]]), jnp.float32(5000), jnp.full(2, 112.0),
                             jnp.full(2, 224.0))
  value = objectives.keypoints2d(jnp.zeros((1, 3)), jnp.array([0.0, 0.0, 50.0]), target)
  assert float(value) == pytest.approx((1000 / 224) ** 2 * 0.25 * 99.0099, rel=1e-5)
  assert (1000 / 224) ** 2 == pytest.approx(19.93, abs=0.01)


def test_the_objective_is_its_equation():
  body, encoded, targets, start = scene()
  rng = np.random.default_rng(1)
  x = {"z": rng.normal(size=fake_latent.DIM).astype(np.float32), "betas": np.asarray(encoded.betas[0]),
       "translation": np.asarray(start[0]) + 0.1}
  pose = fake_latent.decode(jnp.asarray(x["z"])[None, None], jax.tree.map(lambda e: e[:1], encoded))[0, 0]
  points = np.asarray(objectives.body_points(body, x["betas"], pose, "openpose25"), np.float64)
  total = 16 * np.sum(x["z"].astype(np.float64) ** 2) + 36 * np.sum(x["betas"].astype(np.float64) ** 2)
  for j, (u, v, c) in enumerate(np.asarray(targets.keypoints[0], np.float64)):
    X, Y, Z = points[j] + x["translation"]
    for e in (5000 * X / Z + 112 - u, 5000 * Y / Z + 112 - v):
      total += (1000 / 224) ** 2 * c**2 * 100**2 * e**2 / (100**2 + e**2)
  value = latent.energy(lambda z, e: fake_latent.decode(z, e), body, "openpose25", latent.Weights())(
      x, first(encoded), first(targets))
  assert float(value) == pytest.approx(total, rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
  body, encoded, targets, start = scene()
  total = latent.energy(fake_latent.decode, body, "openpose25", latent.Weights())
  x = {"z": jnp.asarray(np.random.default_rng(2).normal(size=fake_latent.DIM), jnp.float32), "betas": encoded.betas[0],
       "translation": start[0]}
  f = jax.jit(lambda x: total(x, first(encoded), first(targets)))
  grad = jax.jit(jax.grad(f))(x)
  for name, step in (("z", 1e-2), ("betas", 1e-2), ("translation", 2e-3)):
    way = jnp.asarray(np.random.default_rng(3).normal(size=x[name].shape), jnp.float32)
    at = lambda t: float(f(x | {name: x[name] + t * step * way}))
    slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)  # fourth order: float32 allows no small steps
    assert float(jnp.vdot(grad[name], way)) == pytest.approx(slope, rel=2e-2), name


def test_what_has_no_confidence_adds_nothing_whatever_its_coordinates():
  body, encoded, targets, start = scene()
  total = latent.energy(fake_latent.decode, body, "openpose25", latent.Weights())
  x = {"z": jnp.ones(fake_latent.DIM), "betas": encoded.betas[0], "translation": start[0]}
  one = first(targets)
  nothing = one.keypoints[:, 2:] <= 0
  assert nothing.any()
  bad = one._replace(keypoints=jnp.where(nothing & (jnp.arange(3) < 2), jnp.nan, one.keypoints))
  f = jax.jit(jax.value_and_grad(lambda x, target: total(x, first(encoded), target)))
  for a, b in zip(jax.tree.leaves(f(x, one)), jax.tree.leaves(f(x, bad))):
    np.testing.assert_array_equal(a, b)
  none = one._replace(keypoints=jnp.full_like(one.keypoints, jnp.nan))
  value, grad = f(x, none)
  assert float(value) == pytest.approx(16 * fake_latent.DIM + 36 * float(jnp.sum(x["betas"] ** 2)), rel=1e-5)
  assert not np.any(grad["translation"]) and np.all(np.isfinite(grad["z"]))


def test_a_body_behind_the_camera_costs_but_stays_finite():
  target = objectives.Target(jnp.array([[122.0, 112.0, 1.0]]), jnp.float32(5000), jnp.full(2, 112.0),
                             jnp.full(2, 224.0))
  for depth in (0.0, -5.0, 1e-9):
    value, grad = jax.value_and_grad(lambda t: objectives.keypoints2d(jnp.ones((1, 3)), t, target))(
        jnp.array([0.0, 0.0, depth - 1]))
    assert np.isfinite(value) and np.all(np.isfinite(grad)) and value > 19 * 1e4


def test_hips_are_the_six_the_authors_leave_out():
  left_out = [n for n, keep in zip(joints.names("prohmr44"), objectives.hips_left_out("prohmr44")) if not keep]
  assert left_out == ["op_mid_hip", "op_right_hip", "op_left_hip", "right_hip", "left_hip", "pelvis"]
  assert [i for i, keep in enumerate(objectives.hips_left_out("prohmr44")) if not keep] == [8, 9, 12, 27, 28, 39]


def test_crop_and_full_cameras_start_where_the_network_sees_the_person():
  keypoints = np.array([[[300.0, 200.0, 1.0], [360.0, 240.0, 0.5]]], np.float32)
  weak, center, side = np.array([[0.8, 0.1, -0.05]], np.float32), np.array([[320.0, 210.0]]), np.array([180.0])
  crop, t = objectives.crop_camera(keypoints, weak, center, side)
  np.testing.assert_allclose(crop.keypoints[0, 0], [(300 - 320) * 224 / 180 + 112, (200 - 210) * 224 / 180 + 112, 1],
                             rtol=1e-6)
  np.testing.assert_allclose(t[0], [0.1, -0.05, 10000 / (224 * 0.8)], rtol=1e-6)
  full, t = objectives.full_camera(keypoints, weak, center, side, np.array([[640.0, 480.0]]), 5000.0)
  d = 2 * 5000 / (180 * 0.8)
  np.testing.assert_allclose(t[0], [0.1, -0.05 + (210 - 240) * d / 5000, d], rtol=1e-5)
  np.testing.assert_array_equal(full.center_px, [[320, 240]])
  moved, t2 = objectives.full_camera(keypoints, weak, center, side, np.array([[640.0, 480.0]]), 5000.0,
                                     np.array([[300.0, 240.0]]))
  np.testing.assert_array_equal(moved.center_px, [[300, 240]])
  np.testing.assert_allclose(t2[0] - t[0], [20 * d / 5000, 0, 0], atol=1e-5)
