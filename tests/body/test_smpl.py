"""Laws of the body layer, its gradients, keypoints and sub-bodies, against slow loops written from the equations."""

import functools

from body import random_body
import jax
import jax.numpy as jnp
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.errors import InputError
import numpy as np
import pytest

NUM_VERTICES = 150
BODIES = ("random", "mannequin_small")

forward = jax.jit(smpl.forward)
forward_axis_angle = jax.jit(smpl.forward_axis_angle)


@functools.cache
def arrays(name):
  return smpl.load_arrays(name) if name != "random" else random_body.arrays(num_vertices=NUM_VERTICES, num_faces=9)


@functools.cache
def model(name="random"):
  return smpl.from_arrays(arrays(name))


def inputs(*lead, seed=0, size=.5):
  rng = np.random.default_rng(seed)
  return tuple(x.astype(np.float32) for x in (rng.normal(size=(*lead, 10)), size * rng.normal(size=(*lead, 72)),
                                              rng.normal(size=(*lead, 3))))


def matrices(pose_axis_angle):
  return rotations.axis_angle_to_matrix(pose_axis_angle.reshape(*pose_axis_angle.shape[:-1], 24, 3))


def slow_lbs(a, betas, pose):
  """SMPL's equations one joint at a time, in float64. a: arrays; betas [10]; pose [24, 3, 3]."""
  shaped = a["v_template"] + a["shapedirs"] @ betas
  rest = a["J_regressor"] @ shaped
  feature = (pose[1:] - np.eye(3)).ravel()
  corrected = shaped + (feature @ a["posedirs"]).reshape(-1, 3)
  world = []
  for j, parent in enumerate(a["parents"]):
    local = np.eye(4)
    local[:3, :3], local[:3, 3] = pose[j], rest[j] - (rest[parent] if parent >= 0 else 0)
    world.append(local if parent < 0 else world[parent] @ local)
  vertices = np.zeros_like(corrected)
  for j, g in enumerate(world):
    a_j = g.copy()
    a_j[:3, 3] -= g[:3, :3] @ rest[j]
    vertices += a["weights"][:, j:j + 1] * (corrected @ a_j[:3, :3].T + a_j[:3, 3])
  return vertices, np.stack([g[:3, 3] for g in world])


@pytest.mark.parametrize("name", BODIES)
def test_forward_is_the_equations(name):
  betas, pose, transl = inputs(3)
  posed = forward_axis_angle(model(name), betas, pose, transl)
  a = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays(name).items()}
  for b in range(3):
    vertices, chain = slow_lbs(a, betas[b], np.asarray(matrices(pose[b]), np.float64))
    np.testing.assert_allclose(posed.vertices[b], vertices + transl[b], atol=5e-6)
    np.testing.assert_allclose(posed.joints[b], chain + transl[b], atol=5e-6)


@pytest.mark.parametrize("name", BODIES)
def test_rest_pose_is_the_template(name):
  a, eye = arrays(name), np.broadcast_to(np.eye(3, dtype=np.float32), (24, 3, 3))
  posed = forward(model(name), np.zeros(10, np.float32), eye)
  np.testing.assert_allclose(posed.vertices, a["v_template"], atol=1e-6)
  np.testing.assert_allclose(posed.joints, a["J_regressor"] @ a["v_template"], atol=1e-6)


@pytest.mark.parametrize("name", BODIES)
def test_rest_pose_of_any_shape_has_no_pose_correctives(name):
  a, betas = arrays(name), inputs()[0]
  posed = forward(model(name), betas, np.broadcast_to(np.eye(3, dtype=np.float32), (24, 3, 3)))
  np.testing.assert_allclose(posed.vertices, a["v_template"] + a["shapedirs"] @ betas, atol=2e-6)


@pytest.mark.parametrize("name", BODIES)
def test_the_root_turns_everything_about_the_pelvis(name):
  betas, pose, _ = inputs()
  rest = forward(model(name), betas, np.broadcast_to(np.eye(3, dtype=np.float32), (24, 3, 3)))
  turn = np.asarray(matrices(pose))[0]
  posed = forward(model(name), betas, np.concatenate([turn[None], np.tile(np.eye(3, dtype=np.float32), (23, 1, 1))]))
  pelvis = np.asarray(rest.joints)[0]
  np.testing.assert_allclose(posed.vertices, (np.asarray(rest.vertices) - pelvis) @ turn.T + pelvis, atol=5e-6)
  np.testing.assert_allclose(posed.joints, (np.asarray(rest.joints) - pelvis) @ turn.T + pelvis, atol=5e-6)


def test_the_pelvis_stays_where_the_shape_puts_it():
  betas, pose, _ = inputs(4)
  posed = forward_axis_angle(model(), np.broadcast_to(betas[:1], betas.shape), pose)
  np.testing.assert_allclose(posed.joints[:, 0], np.broadcast_to(posed.joints[:1, 0], (4, 3)), atol=1e-6)


def test_matrices_and_axis_angles_agree():
  betas, pose, transl = inputs(2)
  one, other = forward_axis_angle(model(), betas, pose, transl), forward(model(), betas, matrices(pose), transl)
  np.testing.assert_allclose(one.vertices, other.vertices, atol=1e-6)


@pytest.mark.parametrize("lead", [(), (1,), (2, 3)])
def test_any_leading_axes_and_broadcasting_of_betas(lead):
  betas, pose, transl = inputs(*lead)
  posed = jax.eval_shape(smpl.forward_axis_angle, model(), betas, pose, transl)
  assert posed.vertices.shape == (*lead, NUM_VERTICES, 3) and posed.joints.shape == (*lead, 24, 3)
  shared = forward_axis_angle(model(), betas.reshape(-1, 10)[0], pose)
  one = forward_axis_angle(model(), betas.reshape(-1, 10)[0], pose.reshape(-1, 72)[-1])
  np.testing.assert_allclose(shared.vertices.reshape(-1, NUM_VERTICES, 3)[-1], one.vertices, atol=1e-6)


def test_vmap_equals_a_batch():
  betas, pose, transl = inputs(3)
  mapped = jax.jit(jax.vmap(smpl.forward_axis_angle, in_axes=(None, 0, 0, 0)))(model(), betas, pose, transl)
  np.testing.assert_allclose(mapped.vertices, forward_axis_angle(model(), betas, pose, transl).vertices, atol=1e-6)


def test_one_body_at_many_places():
  betas, pose, _ = inputs()
  places = inputs(2, 4)[2]
  got, one = forward_axis_angle(model(), betas, pose, places), forward_axis_angle(model(), betas, pose)
  np.testing.assert_allclose(got.vertices, one.vertices + places[..., None, :], atol=1e-6)
  assert got.joints.shape == (2, 4, 24, 3)


def test_batches_need_no_rank_promotion():
  with jax.numpy_rank_promotion("raise"):
    jax.eval_shape(lambda *x: smpl.keypoints(model(), smpl.forward_axis_angle(model(), *x), "spin54"), *inputs(2))


def test_wrong_shapes_are_named():
  with pytest.raises(ValueError, match=r"betas \[\.\.\., 10\].*\(9,\)"):
    smpl.forward(model(), np.zeros(9), np.zeros((24, 3, 3)))
  with pytest.raises(ValueError, match=r"\(23, 3, 3\)"):
    smpl.forward(model(), np.zeros(10), np.zeros((23, 3, 3)))
  with pytest.raises(ValueError, match=r"\[\.\.\., 72\].*\(69,\)"):
    smpl.forward_axis_angle(model(), np.zeros(10), np.zeros(69))


def test_mirrored_pose_is_the_mirrored_body():
  """The mannequin is symmetric, so mirroring pose and permuting sides mirrors joints and mesh."""
  body, pose = model("mannequin_small"), inputs()[1]
  flip = np.array(joints.flip("smpl24"))
  betas = np.zeros(10, np.float32)
  posed = forward(body, betas, matrices(pose))
  mirrored = forward(body, betas, rotations.mirror(matrices(pose))[flip])
  np.testing.assert_allclose(mirrored.joints, posed.joints[flip] * np.float32([-1, 1, 1]), atol=2e-3)


# Gradients.

@functools.cache
def jacobian(mode):
  def loss(x, weight, weight_j):
    posed = smpl.forward_axis_angle(model(), x[:10], x[10:82], x[82:])
    return jnp.sum(posed.vertices * weight) + jnp.sum(posed.joints * weight_j)

  return jax.jit((jax.jacfwd if mode == "forward" else jax.jacrev)(loss))


@pytest.mark.parametrize("size", [0., 1e-7, 1e-4, .5])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_gradients_are_right_at_and_near_rest(mode, size):
  """Against central differences of the slow float64 equations."""
  a = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays("random").items()}
  rng = np.random.default_rng(1)
  weight, weight_j = rng.normal(size=(NUM_VERTICES, 3)), rng.normal(size=(24, 3))

  def slow(x):
    from scipy.spatial.transform import Rotation
    vertices, chain = slow_lbs(a, x[:10], Rotation.from_rotvec(x[10:82].reshape(24, 3)).as_matrix())
    return ((vertices + x[82:]) * weight).sum() + ((chain + x[82:]) * weight_j).sum()

  x = np.concatenate(inputs(size=size)).astype(np.float64)
  want = np.array([(slow(x + 1e-6 * e) - slow(x - 1e-6 * e)) / 2e-6 for e in np.eye(85)])
  got = jacobian(mode)(*map(np.float32, (x, weight, weight_j)))
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


# Keypoints.

def slow_keypoints(a, vertices, chain, set_name):
  """One joint at a time from what its landmark says."""
  ids = dict(zip(joints.VERTEX21, a["vertex_joint_ids"]))
  rows = {"extra": (a["regressor_extra9"], joints.EXTRA9), "h36m": (a["regressor_h36m17"], joints.H36M17),
          "j19": (a["regressor_j19"], joints.names("j19")), "regressed": (a["J_regressor"], joints.SMPL24)}
  points = []
  for landmark in joints.landmarks(set_name):
    prefix, _, name = landmark.rpartition(":")
    if not prefix:
      points.append(chain[joints.index("smpl24", name)])
    elif prefix == "vertex":
      points.append(vertices[ids[name]])
    else:
      regressor, names = rows[prefix]
      points.append(regressor[names.index(name)] @ vertices)
  return np.stack(points)


@pytest.mark.parametrize("set_name", joints.SETS)
def test_keypoints_of_every_set(set_name):
  betas, pose, transl = inputs(2)
  posed = forward_axis_angle(model(), betas, pose, transl)
  got = smpl.keypoints(model(), posed, set_name)
  assert got.shape == (2, len(joints.names(set_name)), 3)
  for b in range(2):
    want = slow_keypoints(arrays("random"), np.asarray(posed.vertices[b]), np.asarray(posed.joints[b]), set_name)
    np.testing.assert_allclose(got[b], want, atol=1e-6)


@pytest.mark.parametrize("src, dst", [("spin54", "spin49"), ("spin54", "gt24"), ("smplx45", "openpose25"),
                                      ("smplx45", "smpl24"), ("h36m17", "lsp14"), ("prohmr44", "mpi17")])
def test_mapped_keypoints_are_the_keypoints_of_the_mapped_set(src, dst):
  posed = forward_axis_angle(model(), *inputs(2))
  got = smpl.keypoints(model(), posed, src)[:, np.array(joints.mapping(src, dst))]
  np.testing.assert_allclose(got, smpl.keypoints(model(), posed, dst), atol=1e-6)


def test_joints_with_the_same_source_are_bit_equal():
  k = np.asarray(smpl.keypoints(model(), forward_axis_angle(model(), *inputs(3)), "spin49"))
  for a, b in ((0, 44), (25, 11), (26, 10), (31, 4), (33, 2), (45, 16)):
    np.testing.assert_array_equal(k[:, a], k[:, b])
  assert (np.abs(k[:, 27] - k[:, 9]).max(-1) > 0).all()


def all_keypoints(body, sets, *x):
  posed = smpl.forward_axis_angle(body, *x)
  return jnp.concatenate([smpl.keypoints(body, posed, s) for s in sets], -2)


@pytest.mark.parametrize("name, sets", [
    ("random", ("spin49",)), ("random", ("prohmr44", "lsp14")), ("random", ("graphcmr24",)), ("random", ("smpl24",)),
    ("mannequin_small", joints.SETS)], ids=lambda x: "+".join(x)[:20] if isinstance(x, tuple) else x)
def test_sub_bodies_have_the_same_keypoints(name, sets):
  body = model(name)
  part = smpl.sub_body(body, sets)
  assert part.template.shape[1] < body.template.shape[1]
  keypoints = jax.jit(all_keypoints, static_argnums=1)
  np.testing.assert_allclose(keypoints(part, sets, *inputs(2)), keypoints(body, sets, *inputs(2)), atol=1e-6)


def test_sub_bodies_have_the_same_gradients():
  body = model("mannequin_small")
  part = smpl.sub_body(body, ("spin49",))
  gradient = jax.jit(jax.grad(lambda x, b: jnp.sum(jnp.sin(3 * all_keypoints(b, ("spin49",), *x)))))
  for got, want in zip(gradient(inputs(2), part), gradient(inputs(2), body)):
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_sub_bodies_of_sub_bodies_and_what_they_lack():
  part = smpl.sub_body(smpl.sub_body(model(), ("spin49", "lsp14")), ("lsp14",))
  posed = forward_axis_angle(part, *inputs(2))
  want = smpl.keypoints(model(), forward_axis_angle(model(), *inputs(2)), "lsp14")
  np.testing.assert_allclose(smpl.keypoints(part, posed, "lsp14"), want, atol=1e-6)
  with pytest.raises(InputError, match="SMPL_to_J19"):
    smpl.keypoints(part, posed, "prohmr44")


@pytest.mark.parametrize("key, set_name, file", [
    ("regressor_extra9", "spin49", "J_regressor_extra.npy"), ("regressor_h36m17", "lsp14", "J_regressor_h36m.npy"),
    ("regressor_j19", "prohmr44", "SMPL_to_J19.pkl"), ("vertex_joint_ids", "smplx45", "vertex_joint_ids")])
def test_a_missing_regressor_is_named(key, set_name, file):
  body = smpl.from_arrays({k: v for k, v in arrays("random").items() if k != key})
  posed = forward_axis_angle(body, *inputs(1))
  smpl.keypoints(body, posed, "smpl24")
  with pytest.raises(InputError, match=file):
    smpl.keypoints(body, posed, set_name)
  with pytest.raises(InputError, match=file):
    smpl.sub_body(body, (set_name,))


def test_fewer_betas_are_the_first_ones():
  few, betas = smpl.from_arrays(arrays("random"), num_betas=4), inputs(2)[0]
  pose = inputs(2)[1]
  padded = np.concatenate([betas[:, :4], np.zeros((2, 6), np.float32)], -1)
  np.testing.assert_allclose(forward_axis_angle(few, betas[:, :4], pose).vertices,
                             forward_axis_angle(model(), padded, pose).vertices, atol=1e-6)


def test_the_body_is_a_pytree_of_float32_arrays():
  leaves = jax.tree.leaves(model())
  assert len(leaves) == 6 and all(x.dtype == np.float32 for x in leaves)
  assert hash(jax.tree.structure(model())) is not None  # static fields are hashable, so jit can key on them
