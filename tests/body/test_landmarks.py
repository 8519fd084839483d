"""Points that follow one joint each make the landmarks of the mesh, and their gradients."""

from body import random_body
import jax
import jax.numpy as jnp
from jhmr.body import landmarks, rotations, smpl
import numpy as np
import pytest


@pytest.mark.parametrize("negative", [False, True])
def test_keypoints_are_those_of_the_mesh(negative):
  arrays, rng = random_body.arrays(num_vertices=150, num_faces=9), np.random.default_rng(0)
  if negative:  # a regressor of both signs, some of whose joints get as much of one as of the other
    rows = arrays["regressor_j19"]
    rows += np.where(rows > 0, rng.choice([-0.5, 0.5], rows.shape), 0)
  body = smpl.from_arrays(arrays)
  sets = ("prohmr44", "openpose25")
  few = landmarks.rigid_body(body, sets)
  betas = rng.normal(size=(4, 10)).astype(np.float32)
  pose = rotations.axis_angle_to_matrix(jnp.asarray(rng.normal(size=(4, 24, 3)), jnp.float32))
  for name in sets:
    points = jax.jit(lambda b, pose, name=name: smpl.keypoints(b, smpl.forward(b, betas, pose), name))
    np.testing.assert_allclose(points(few, pose), points(body, pose), atol=5e-6)
    slope = lambda b, points=points: jax.grad(lambda pose: jnp.sum(points(b, pose) ** 2))(pose)
    np.testing.assert_allclose(slope(few), slope(body), atol=1e-4)


def test_the_built_in_body_needs_fewer_points_than_vertices():
  body = smpl.load("mannequin_small")
  few, part = landmarks.rigid_body(body, ("spin49",)), smpl.sub_body(body, ("spin49",))
  assert few.template.shape[1] < part.template.shape[1] / 2
  np.testing.assert_array_equal(np.sum(few.skin_weights, 0), 1)


def test_a_set_of_chain_joints_alone_needs_no_points():
  body = smpl.from_arrays(smpl.load_arrays("mannequin_small"))
  few = landmarks.rigid_body(body, ("smpl24",))
  assert few.template.shape[1] == smpl.sub_body(body, ("smpl24",)).template.shape[1] and not len(few.landmarks)
