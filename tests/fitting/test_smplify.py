"""SMPLify's laws: people do not touch each other, what is ignored does not matter, what is fixed stays, fits fit."""

import functools

import jax
import jax.numpy as jnp
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import landmarks
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.fitting import objectives
from jhmr.fitting import priors as priors_lib
from jhmr.fitting import smplify
import numpy as np
import pytest

SETS = ("spin49", "openpose25")
GMM = priors_lib.default_gmm()


@functools.cache
def body():
  return landmarks.rigid_body(smpl.load("mannequin_small"), SETS)


def people(num=4, set_name="spin49", noise_px=0.0, seed=0):
  """(parameters, Target) of people who face the camera more or less."""
  rng = np.random.default_rng(seed)
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  root = f32(np.tile([np.pi, 0, 0], (num, 1)) + 0.2 * rng.normal(size=(num, 3)))
  true = smplify.Body(root, f32(GMM.mean_pose() + 0.15 * rng.normal(size=(num, 69))), f32(rng.normal(size=(num, 10))),
                      f32(np.stack([*0.1 * rng.normal(size=(2, num)), rng.uniform(45, 60, num)], -1)))
  return true, seen(true, set_name, noise_px, rng)


def points_of(true, set_name):
  vectors = jnp.concatenate([true.global_orient, true.body_pose], -1)
  return smpl.keypoints(body(), smpl.forward_axis_angle(body(), true.betas, vectors), set_name)


def projected(true, set_name):
  moved = points_of(true, set_name) + true.translation[:, None]
  return camera.perspective(moved, 5000.0, jnp.full(2, 112.0))


def seen(true, set_name, noise_px=0.0, rng=None):
  num = len(true.betas)
  pixels = np.array(projected(true, set_name))
  if noise_px:
    pixels = pixels + noise_px * rng.normal(size=pixels.shape)
  keypoints = jnp.asarray(np.concatenate([pixels, np.ones((*pixels.shape[:2], 1))], -1), jnp.float32)
  side = jnp.full((num, 2), 224.0)
  return objectives.Target(keypoints, jnp.full(num, 5000.0), side / 2, side)


@functools.cache
def program(method="spin", set_name="spin49", steps=100, **options):
  """A compiled fit of (target, start)."""
  return jax.jit(lambda target, start: smplify.fit(body(), target, start, smplify.Priors(GMM), method=method,
                                                   set_name=set_name, steps=steps, **options))


def nearby(true, seed=3, by=0.1):
  rng = np.random.default_rng(seed)
  move = lambda x, scale: x + jnp.asarray(by * scale * rng.normal(size=x.shape), jnp.float32)
  return smplify.Body(*map(move, true, (1, 1, 3, 0.3)))


def test_a_row_of_a_batch_is_the_person_alone():
  true, target = people()
  start = nearby(true)
  whole = program()(target, start)
  swapped = program()(*jax.tree.map(lambda x: x[::-1], (target, start)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[::-1], rtol=1e-4, atol=1e-5), whole, swapped)


def test_joints_that_are_ignored_move_nothing():
  true, target = people()
  ignored = np.array([joints.index("spin49", n) for n in smplify.METHODS["spin"].ignored])
  moved = target.keypoints.at[:, ignored, :2].add(30)
  body_stage = smplify.METHODS["spin"]._replace(stages=smplify.METHODS["spin"].stages[1:])
  a, b = (program(body_stage)(target._replace(keypoints=k), nearby(true)) for k in (target.keypoints, moved))
  np.testing.assert_array_equal(a.pose, b.pose)
  assert a.reprojection[:, joints.index("spin49", "op_neck")].max() == 0 and a.reprojection.max() > 0


def test_missing_joints_may_hold_anything_and_nobody_harms_others():
  true, target = people()
  gone = np.arange(49) % 5 == 0
  keypoints = target.keypoints.at[1, gone, 2].set(0)
  rubbish = keypoints.at[1, gone, :2].set(jnp.nan).at[2].set(jnp.nan).at[3, :, 2].set(0)
  clean = keypoints.at[1, gone, :2].set(0).at[2:, :, 2].set(0)
  a, b = (program()(target._replace(keypoints=k), nearby(true)) for k in (rubbish, clean))
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert np.all(np.isfinite(x))
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_truth_without_priors_stays_where_it_is():
  true, target = people()
  only = smplify.Stage(("global_orient", "body_pose", "betas", "translation"), data=1.0)
  fit = program(smplify.Method((only,), (), "lbfgs"), steps=5)(target, true)
  assert fit.losses[:, 0].max() < 1e-6 and fit.reprojection.max() < 1e-6
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), fit.body, true)


def test_spin_brings_a_regression_to_its_keypoints():
  true, target = people(noise_px=2.0)
  start = nearby(true, by=0.2)
  fit = program()(target, start)
  assert np.all(fit.losses[:, -1] < fit.losses[:, 100])
  apart = np.linalg.norm(projected(fit.body, "spin49") - projected(true, "spin49"), axis=-1)
  assert np.median(apart) < 2 * 1.177  # below the median length of the noise
  np.testing.assert_allclose(fit.pose[:, 1:], rotations.axis_angle_to_matrix(fit.body.body_pose.reshape(-1, 23, 3)),
                             atol=1e-5)


@jax.jit
def cold(target):
  return smplify.cold_start(body(), target, GMM.mean_pose(), set_name="openpose25")


@pytest.mark.parametrize("turn, away", [(0.0, False), (0.0, True), (2.5, False), (-1.4, True)])
def test_a_cold_start_is_turned_as_the_torso_is(turn, away):
  root = rotations.rotation_about("z", turn) @ rotations.rotation_about("x", np.pi) @ rotations.rotation_about(
      "y", np.pi if away else 0.0)
  true, _ = people(num=1, set_name="openpose25")
  true = true._replace(global_orient=rotations.matrix_to_axis_angle(root)[None])
  start = cold(seen(true, "openpose25"))
  found = rotations.axis_angle_to_matrix(start.global_orient[0])
  assert np.rad2deg(rotations.angle_between_rad(found, root)) < 15
  np.testing.assert_allclose(start.translation[0, 2], true.translation[0, 2], rtol=0.15)
  np.testing.assert_allclose(start.translation[0, :2], true.translation[0, :2], atol=0.1)


@pytest.mark.parametrize("kept", [(), (7,), (3, 4)])
def test_a_cold_start_of_few_keypoints_is_in_front_of_the_camera(kept):
  _, target = people(num=1, set_name="openpose25")
  keypoints = target.keypoints.at[:, np.setdiff1d(np.arange(25), kept), 2].set(0)
  start = cold(target._replace(keypoints=keypoints))
  assert np.all(np.isfinite(jnp.concatenate([x.ravel() for x in start]))) and start.translation[0, 2] > 1


def test_frames_of_a_person_share_its_shape():
  true, target = people(num=6, set_name="openpose25")
  person = jnp.array([0, 1, 0, 1, 1, 0])
  shared = jax.jit(lambda target, start: smplify.fit(
      body(), target, start, smplify.Priors(GMM), set_name="openpose25", steps=20, person=person, num_persons=2))(
          target, nearby(true))
  for p in (0, 1):
    rows = shared.body.betas[person == p]
    assert np.ptp(rows, axis=0).max() == 0
  assert float(jnp.abs(shared.body.betas[0] - shared.body.betas[1]).max()) > 0.01


def test_a_known_camera_stays():
  true, target = people()
  fit = program(fixed=("translation", "betas"))(target, nearby(true))
  np.testing.assert_array_equal(fit.body.translation, nearby(true).translation)
  np.testing.assert_array_equal(fit.body.betas, nearby(true).betas)
  assert float(jnp.abs(fit.body.global_orient - nearby(true).global_orient).max()) > 0.01


def test_a_free_camera_brings_people_closer_whose_torso_is_not_seen():
  true, target = people(set_name="openpose25", noise_px=2.0)
  torso = [joints.index("openpose25", f"op_{name}") for name in ("left_hip", "left_shoulder", "right_hip")]
  target = target._replace(keypoints=target.keypoints.at[:, np.array(torso), 2].set(0))
  start = nearby(true)._replace(translation=true.translation * jnp.array([1, 1, 1.15]))
  method = smplify.METHODS["smplify"]._replace(both_sides=False)
  method = method._replace(stages=method.stages[:1] + method.stages[-1:])
  fixed, free = (program(m, "openpose25", 40)(target, start) for m in (method, smplify.with_free_camera(method)))
  assert np.all(free.objective < 0.95 * fixed.objective)
  off = lambda fit: np.abs(fit.body.translation[:, 2] / true.translation[:, 2] - 1).mean()
  assert off(free) < off(fixed)


def test_a_stage_with_nothing_free_is_passed_over():
  true, target = people(set_name="openpose25")
  method = smplify.METHODS["smplify"]._replace(both_sides=False)
  method = method._replace(stages=method.stages[:1] + method.stages[-1:])
  fit = program(method, "openpose25", 5, fixed=("translation", "global_orient"))(target, nearby(true))
  assert fit.losses.shape == (4, 5) and np.all(fit.objective <= fit.losses[:, 0])
  np.testing.assert_array_equal(fit.body.global_orient, nearby(true).global_orient)


def test_the_torso_is_the_detected_one_of_people_who_have_it():
  true, target = people()
  start, hip = nearby(true), joints.index("spin49", "op_right_hip")
  annotated = joints.index("spin49", "right_hip")
  camera_only = smplify.METHODS["spin"]._replace(stages=smplify.METHODS["spin"].stages[:1])
  end = lambda torso, keypoints: program(camera_only, torso=torso)(target._replace(keypoints=keypoints), start).body
  moved = lambda joint: target.keypoints.at[:, joint, 0].add(20)
  same = lambda a, b: np.array_equal(a.translation, b.translation)
  plain = end("detected", target.keypoints)
  assert same(plain, end("detected", moved(annotated))) and not same(plain, end("detected", moved(hip)))
  assert same(end("annotated", target.keypoints), end("annotated", moved(hip)))
  without = moved(hip).at[0, hip, 2].set(0)  # the first person's detection is missing: annotated instead
  mixed = end("detected", without)
  np.testing.assert_allclose(mixed.translation[0], end("annotated", target.keypoints).translation[0], atol=1e-5)
  np.testing.assert_allclose(mixed.translation[1:], end("detected", moved(hip)).translation[1:], atol=1e-5)


def test_who_is_seen_from_the_side_is_tried_both_ways():
  true, _ = people(set_name="openpose25")
  root = rotations.rotation_about("x", np.pi) @ rotations.rotation_about("y", np.pi / 2)
  true = true._replace(global_orient=jnp.broadcast_to(rotations.matrix_to_axis_angle(root), (4, 3)))
  target = seen(true, "openpose25")
  start = nearby(true)  # and for half of the people the wrong way round
  turned = rotations.matrix_to_axis_angle(root @ rotations.rotation_about("y", np.pi))
  start = start._replace(global_orient=start.global_orient.at[:2].set(turned))
  method = smplify.METHODS["smplify"]
  method = method._replace(stages=method.stages[:2] + method.stages[-1:])
  fitter = program(method, "openpose25", 30)
  right, wrong = fitter(target, nearby(true)), fitter(target, start)
  assert np.all(wrong.objective < 1.2 * right.objective)
  facing = rotations.angle_between_rad(right.pose[:, 0], wrong.pose[:, 0])
  assert np.all(np.rad2deg(facing) < 45)


def test_a_vae_moves_in_its_latent_space():
  true, target = people(set_name="openpose25")
  directions = jnp.asarray(np.random.default_rng(0).normal(size=(4, 69)) * 0.2, jnp.float32)

  def decode(z):
    return rotations.axis_angle_to_matrix((GMM.mean_pose() + z @ directions).reshape(-1, 23, 3))

  priors = smplify.Priors(decode=decode, latent=jnp.zeros((4, 4)))
  fit = jax.jit(lambda: smplify.fit(body(), target, nearby(true), priors, method="smplify_x", set_name="openpose25",
                                    steps=20))()
  assert fit.latent.shape == (4, 4) and float(jnp.abs(fit.latent).max()) > 0.05
  np.testing.assert_allclose(fit.pose[:, 1:], decode(fit.latent), atol=1e-5)
  assert np.all(fit.objective <= fit.losses[:, -20])


def test_names_that_do_not_exist_are_refused():
  true, target = people()
  with pytest.raises(ValueError, match="no field"):
    smplify.fit(body(), target, true, smplify.Priors(GMM), fixed=("pose",))
  with pytest.raises(ValueError, match="no annotated hips"):
    smplify.fit(body(), target, true, smplify.Priors(GMM), set_name="openpose25", torso="annotated")
  with pytest.raises(ValueError, match="Adam"):
    smplify.fit(body(), target, true, smplify.Priors(GMM), method="smplify", person=jnp.zeros(4, int), num_persons=1)
