"""Fits to keypoints in a latent space: what is recovered, and that people do not touch each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting import fake_latent
from jhmr.body import camera
from jhmr.fitting import latent, objectives

SET = "openpose25"
BODY = fake_latent.body(SET)


@functools.partial(jax.jit, static_argnames=("mode", "num_steps", "use_hips"))
def fit(encoded, targets, start, mode="vmap", num_steps=None, weights=latent.Weights(), use_hips=True):
  return latent.fit_keypoints(fake_latent.decode, encoded, BODY, targets, start, dim=fake_latent.DIM, set_name=SET,
                              weights=weights, mode=mode, num_steps=num_steps, use_hips=use_hips)


@functools.cache
def seen_people(num, seed=0, move=0.5):
  """(encoded, targets, start, pixels, pose) of people seen at a z that is not the mode, with exact keypoints."""
  rng, encoded = np.random.default_rng(seed), fake_latent.encoded(num, seed)
  z = jnp.asarray(move * rng.normal(size=(num, 1, fake_latent.DIM)), jnp.float32)
  pose = fake_latent.decode(z, encoded)[:, 0]
  weak = encoded.camera + jnp.asarray(0.03 * rng.normal(size=(num, 3)), jnp.float32)
  points = objectives.body_points(BODY, encoded.betas, pose, SET)
  px = (camera.project_crop(points, weak) + 1) * 112
  keypoints = jnp.concatenate([px, jnp.ones_like(px[..., :1])], -1)
  place = jnp.full((num, 2), 112.0), jnp.full(num, 224.0)
  return encoded, *objectives.crop_camera(keypoints, encoded.camera, *place)


def rows(tree, keep):
  return jax.tree.map(lambda x: x[np.array(keep)], tree)


def test_exact_keypoints_are_met_and_the_objective_never_rises():
  encoded, targets, start = seen_people(8)
  weak_prior = latent.Weights(latent=1e-2, betas=1e-2)
  result = fit(encoded, targets, start, weights=weak_prior)
  assert np.all(result.pixels[:, 0] > 2) and np.all(result.pixels[:, 1] < 0.5), result.pixels
  total = jax.jit(jax.vmap(latent.energy(fake_latent.decode, BODY, SET, weak_prior)))
  end = total({"z": result.z, "betas": result.betas, "translation": result.translation}, encoded, targets)
  np.testing.assert_allclose(end, result.losses.min(1), rtol=1e-3, atol=0.05)
  np.testing.assert_allclose(np.linalg.det(result.pose), 1, atol=1e-4)


def test_with_the_authors_weights_the_objective_falls_for_everybody():
  encoded, targets, start = seen_people(8)
  result = fit(encoded, targets, start)
  assert np.all(result.losses.min(1) < 0.5 * result.losses[:, 0])


def test_who_else_is_in_the_batch_does_not_matter():
  encoded, targets, start = seen_people(8)
  all_of_them = fit(encoded, targets, start)
  order = [5, 2, 7, 0, 1, 3, 4, 6]
  others = fit(*rows((encoded, targets, start), order))
  # Not to the bit: sums of a matrix product depend on the row's place, and fits magnify that along flat directions.
  np.testing.assert_allclose(others.losses.min(1), all_of_them.losses.min(1)[np.array(order)], rtol=5e-3)
  np.testing.assert_allclose(others.pose, all_of_them.pose[np.array(order)], atol=0.03)


def test_padding_changes_nobody_and_stays_finite():
  encoded, targets, start = seen_people(8)
  alone = fit(encoded, targets, start)
  empty = targets._replace(keypoints=targets.keypoints.at[4:].set(jnp.nan))
  padded = fit(encoded, empty, start)
  np.testing.assert_allclose(padded.losses[:4].min(1), alone.losses[:4].min(1), rtol=5e-3)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(padded))
  np.testing.assert_allclose(padded.z[4:], 0, atol=1e-3)            # only the priors pull
  np.testing.assert_allclose(padded.translation[4:], start[4:], atol=1e-4)
  np.testing.assert_array_equal(padded.pixels[4:], 0)


def test_left_out_hips_and_missing_keypoints_do_nothing():
  encoded, targets, start = seen_people(8)
  out = objectives.hips_left_out(SET) == 0
  moved = targets._replace(keypoints=targets.keypoints.at[:, out, :2].add(500.0))
  a, b = fit(encoded, targets, start, use_hips=False), fit(encoded, moved, start, use_hips=False)
  np.testing.assert_array_equal(a.z, b.z)
  missing = targets._replace(keypoints=targets.keypoints.at[:, out, 2].set(0.0))
  np.testing.assert_array_equal(fit(encoded, missing, start, use_hips=True).z, a.z)


def test_the_joint_mode_falls_for_everybody_and_fits_alone_end_no_higher():
  encoded, targets, start = seen_people(8)
  joint, alone = fit(encoded, targets, start, mode="joint", num_steps=15), fit(encoded, targets, start)
  assert joint.losses.shape == (8, 2)
  assert np.all(joint.losses[:, 1] < 0.1 * joint.losses[:, 0])
  assert np.all(alone.losses.min(1) < 1.01 * joint.losses[:, 1])  # its metres of depth slow the joint one down


def test_an_unknown_mode_is_refused():
  with pytest.raises(ValueError, match="joined"):
    fit(*seen_people(8), mode="joined")


def test_weights_for_noise_are_in_proportion_to_its_likelihood():
  authors, five = latent.Weights(), latent.weights_for(5.0)
  assert latent.weights_for(0.0) == authors
  # An error of one standard deviation costs as much of the objective as 1/2 does of a log-likelihood.
  assert five.latent / 0.5 == pytest.approx((1000 / 224) ** 2 * 5.0**2 / 0.5)
  assert five.betas / five.latent == pytest.approx(authors.betas / authors.latent)
  assert latent.weights_for(0.9).latent == pytest.approx(authors.latent, rel=0.02)
