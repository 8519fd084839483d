"""Round trips, equalities with float64 references, and Jacobians at zero, near zero, near pi and at pi."""

import functools

import jax
import jax.numpy as jnp
from jhmr.body import rotations
import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.transform import Rotation

ANGLES = {"zero": 0.0, "1e-7": 1e-7, "1e-4": 1e-4, "series": 0.49999, "closed": 0.50001, "middle": 1.7,
          "near pi": np.pi - 1e-3, "at pi": np.pi}
AXES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, -0.8], [-2 / 3, 1 / 3, 2 / 3], [0.01, -1, 0.02]])
AXES = AXES / np.linalg.norm(AXES, axis=1, keepdims=True)
LAYOUTS = ("spin", "prohmr")

to_matrix = jax.jit(rotations.axis_angle_to_matrix)
to_axis_angle = jax.jit(rotations.matrix_to_axis_angle)
from_six_d = jax.jit(rotations.six_d_to_matrix, static_argnums=1)


def hat(v):
  return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


GENERATORS = np.stack([hat(e) for e in np.eye(3)], -1)  # [3, 3, 3], last axis the component


def exp64(v):
  """The float64 reference: a matrix exponential, no Rodrigues."""
  return scipy.linalg.expm(hat(np.asarray(v, np.float64)))


def central_difference(f, x, step=1e-6):
  x = np.asarray(x, np.float64)
  return np.stack([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(x.size)], -1)


def vectors(angle):
  return (angle * AXES).astype(np.float32)


def random_vectors(n=200, seed=0):
  rng = np.random.default_rng(seed)
  axis = rng.normal(size=(n, 3))
  return (axis / np.linalg.norm(axis, axis=1, keepdims=True) * rng.uniform(0, 3.1, (n, 1))).astype(np.float32)


def random_matrices(n=200, seed=0):
  return np.asarray(Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix(), np.float32)


@pytest.mark.parametrize("angle", ANGLES.values(), ids=ANGLES.keys())
def test_axis_angle_to_matrix_is_the_matrix_exponential(angle):
  want = np.stack([exp64(v) for v in vectors(angle)])
  np.testing.assert_allclose(to_matrix(vectors(angle)), want, atol=5e-7)


def test_known_matrix():
  want = [[.859534, -.497992, -.114917], [.439868, .835316, -.329794], [.260227, .232921, .937032]]
  np.testing.assert_allclose(to_matrix(np.float32([.3, -.2, .5])), want, atol=1e-6)


def test_zero_is_exactly_the_identity():
  np.testing.assert_array_equal(to_matrix(np.zeros(3, np.float32)), np.eye(3))
  np.testing.assert_array_equal(to_axis_angle(np.eye(3, dtype=np.float32)), np.zeros(3))


@functools.cache
def jacobians(mode):
  return jax.jit(jax.vmap((jax.jacfwd if mode == "forward" else jax.jacrev)(rotations.axis_angle_to_matrix)))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("angle", ANGLES.values(), ids=ANGLES.keys())
def test_jacobian_of_axis_angle_to_matrix(angle, mode):
  got = jacobians(mode)(vectors(angle))
  want = np.stack([central_difference(exp64, v) for v in vectors(angle)])
  np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobian_at_zero_is_the_generators(mode):
  np.testing.assert_array_equal(jacobians(mode)(np.zeros((1, 3), np.float32))[0], GENERATORS)


def test_second_derivative_at_zero_is_right():
  """R = I + K + K^2 / 2 + ..., so the Hessian of R_00 is -diag(0, 1, 1)."""
  hessian = jax.hessian(lambda v: rotations.axis_angle_to_matrix(v)[0, 0])(jnp.zeros(3))
  np.testing.assert_allclose(hessian, -np.diag([0, 1, 1]), atol=1e-6)


@pytest.mark.parametrize("lead", [(), (1,), (3, 1, 2)])
def test_any_leading_axes(lead):
  v = jnp.broadcast_to(jnp.array([.3, -.2, .5]), (*lead, 3))
  m = to_matrix(v)
  assert m.shape == (*lead, 3, 3) and to_axis_angle(m).shape == (*lead, 3)
  np.testing.assert_allclose(to_axis_angle(m), v, atol=1e-6)
  for layout in LAYOUTS:
    np.testing.assert_allclose(from_six_d(rotations.matrix_to_six_d(m, layout), layout), m, atol=1e-6)


@pytest.mark.parametrize("angle", [a for n, a in ANGLES.items() if n != "at pi"],
                         ids=[n for n in ANGLES if n != "at pi"])
def test_axis_angle_round_trip(angle):
  np.testing.assert_allclose(to_axis_angle(to_matrix(vectors(angle))), vectors(angle), atol=2e-6)


def test_axis_angle_round_trip_at_random():
  np.testing.assert_allclose(to_axis_angle(to_matrix(random_vectors())), random_vectors(), atol=5e-6)


def test_at_pi_the_vector_is_right_up_to_sign_and_the_matrix_exactly():
  exact = (2 * AXES[:, :, None] * AXES[:, None] - np.eye(3)).astype(np.float32)  # half turns
  got = np.asarray(to_axis_angle(exact))
  np.testing.assert_allclose(np.abs(got), np.pi * np.abs(AXES), atol=2e-6)
  np.testing.assert_allclose(to_matrix(got), exact, atol=2e-6)


def test_angle_never_exceeds_pi():
  assert np.linalg.norm(to_axis_angle(random_matrices(2000)), axis=-1).max() <= np.pi + 1e-6


@functools.cache
def log_jacobians(mode):
  """d log(R exp(w)) / dw at w = 0 for each R."""
  def log(w, r):
    return rotations.matrix_to_axis_angle(jnp.matmul(r, rotations.axis_angle_to_matrix(w), precision="highest"))
  jacobian = (jax.jacfwd if mode == "forward" else jax.jacrev)(log)
  return jax.jit(lambda r: jax.vmap(lambda m: jacobian(jnp.zeros(3), m))(r))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("angle", [a for n, a in ANGLES.items() if n != "at pi"],
                         ids=[n for n in ANGLES if n != "at pi"])
def test_jacobian_of_matrix_to_axis_angle(angle, mode):
  got = log_jacobians(mode)(to_matrix(vectors(angle)))
  for v, jacobian in zip(vectors(angle), got):
    base = Rotation.from_rotvec(np.asarray(v, np.float64))
    want = central_difference(lambda w: (base * Rotation.from_rotvec(w)).as_rotvec(), np.zeros(3))
    np.testing.assert_allclose(jacobian, want, atol=5e-6)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobian_of_log_at_identity_is_the_identity(mode):
  np.testing.assert_allclose(log_jacobians(mode)(np.eye(3, dtype=np.float32)[None])[0], np.eye(3), atol=1e-7)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobian_of_the_round_trip_at_pi(mode):
  """Either sign of the axis may come back at pi, but going back must move with R: d exp(log(R exp(w))) = R G."""
  exact = (2 * AXES[:, :, None] * AXES[:, None] - np.eye(3)).astype(np.float32)
  def trip(w, r):
    turned = jnp.matmul(r, rotations.axis_angle_to_matrix(w), precision="highest")
    return rotations.axis_angle_to_matrix(rotations.matrix_to_axis_angle(turned))
  jacobian = (jax.jacfwd if mode == "forward" else jax.jacrev)(trip)
  got = jax.jit(jax.vmap(lambda r: jacobian(jnp.zeros(3), r)))(exact)
  np.testing.assert_allclose(got, np.einsum("bij,jkc->bikc", exact, GENERATORS), atol=5e-6)


def test_quaternions():
  m = random_matrices()
  q = rotations.matrix_to_quaternion(m)
  want = Rotation.from_matrix(m).as_quat(scalar_first=True)
  want *= np.sign(want[:, :1])
  np.testing.assert_allclose(q, want, atol=1e-6)
  np.testing.assert_allclose(rotations.quaternion_to_matrix(-2.5 * q), m, atol=1e-6)


# 6D.

def test_six_d_layouts_are_the_authors():
  spin = np.float32([.859534, -.497992, .439868, .835316, .260227, .232921])
  prohmr = np.float32([.859534, .439868, .260227, -.497992, .835316, .232921])
  m = to_matrix(np.float32([.3, -.2, .5]))
  np.testing.assert_allclose(rotations.matrix_to_six_d(m, "spin"), spin, atol=1e-6)
  np.testing.assert_allclose(rotations.matrix_to_six_d(m, "prohmr"), prohmr, atol=1e-6)
  np.testing.assert_array_equal(prohmr, spin[[0, 2, 4, 1, 3, 5]])
  np.testing.assert_array_equal(from_six_d(np.float32([1, 0, 0, 1, 0, 0]), "spin"), np.eye(3))
  np.testing.assert_array_equal(from_six_d(np.float32([1, 0, 0, 0, 1, 0]), "prohmr"), np.eye(3))


def test_the_mean_root_decodes_to_a_turn_about_x():
  """smpl_mean_params starts with (1, 0, 0, -1, 0, 0): upright in a camera that looks along +z with y down."""
  np.testing.assert_array_equal(from_six_d(np.float32([1, 0, 0, -1, 0, 0]), "spin"), np.diag([1, -1, -1]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_six_d_round_trip_and_gram_schmidt(layout):
  m = random_matrices()
  np.testing.assert_allclose(from_six_d(rotations.matrix_to_six_d(m, layout), layout), m, atol=1e-6)
  noisy = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
  got = from_six_d(noisy, layout)
  for x, r in zip(noisy.astype(np.float64), got):
    a1, a2 = (x[0::2], x[1::2]) if layout == "spin" else (x[:3], x[3:])
    b1 = a1 / np.linalg.norm(a1)
    b2 = a2 - (b1 @ a2) * b1
    b2 /= np.linalg.norm(b2)
    np.testing.assert_allclose(r, np.stack([b1, b2, np.cross(b1, b2)], -1), atol=1e-5)


def test_six_d_of_three_rows_is_that_of_each_row():
  """Decoders that leave out the cross product's axis are wrong for exactly three rows."""
  x = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
  np.testing.assert_allclose(from_six_d(x, "spin"), [from_six_d(row, "spin") for row in x], atol=1e-6)


DEGENERATE = {"zero": [0, 0, 0, 0, 0, 0], "first zero": [0, 1, 0, 2, 0, 3], "second zero": [1, 0, 1, 0, 1, 0],
              "collinear": [1, 2, 2, 4, 3, 6], "opposite": [.1, -.3, .2, -.6, .7, -2.1], "tiny": [1e-20] * 6,
              "nearly": [1, 1, 2, 2 + 1e-6, 3, 3], "huge": [1e15, 0, 0, 1e15, 0, 0]}


@pytest.mark.parametrize("x", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_six_d_of_degenerate_input_is_a_rotation_with_finite_gradient(x):
  x = np.float32(x)
  m = from_six_d(x, "spin")
  np.testing.assert_allclose(m @ m.T, np.eye(3), atol=1e-5)
  assert np.linalg.det(m) == pytest.approx(1, abs=1e-5)
  assert np.isfinite(jax.jacrev(lambda v: from_six_d(v, "spin"))(x)).all()
  assert np.isfinite(jax.jacfwd(lambda v: from_six_d(v, "spin"))(x)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_jacobian_of_six_d(layout):
  x = np.random.default_rng(2).normal(size=6).astype(np.float32)
  with jax.enable_x64(True):
    want = central_difference(lambda v: np.asarray(rotations.six_d_to_matrix(jnp.asarray(v), layout)), x)
  for jacobian in (jax.jacfwd, jax.jacrev):
    np.testing.assert_allclose(jacobian(lambda v: from_six_d(v, layout))(x), want, atol=1e-5)


def test_unknown_layout_and_wrong_shape_are_named():
  with pytest.raises(ValueError, match="pytorch3d"):
    rotations.six_d_to_matrix(np.zeros(6), "pytorch3d")
  with pytest.raises(ValueError, match="six_d must be"):
    rotations.six_d_to_matrix(np.zeros(5), "spin")


# The rest.

@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_rotation_about_an_axis(axis):
  angle = np.linspace(-3, 3, 7).astype(np.float32)
  vector = angle[:, None] * np.float32([axis == a for a in "xyz"])
  np.testing.assert_allclose(rotations.rotation_about(axis, angle), to_matrix(vector), atol=1e-6)


def test_angle_between():
  m = random_matrices(100)
  vector = random_vectors(100)
  turned = np.matmul(m, to_matrix(vector))
  np.testing.assert_allclose(rotations.angle_between_rad(m, turned), np.linalg.norm(vector, axis=1), atol=5e-6)
  np.testing.assert_allclose(rotations.angle_between_rad(m, m), 0, atol=1e-6)
  gradient = jax.grad(lambda a: rotations.angle_between_rad(a, jnp.eye(3)))(jnp.eye(3))
  np.testing.assert_array_equal(gradient, 0)


def test_mirror_negates_y_and_z_of_the_axis_angle():
  v = random_vectors(20)
  np.testing.assert_allclose(rotations.mirror(to_matrix(v)), to_matrix(v * np.float32([1, -1, -1])), atol=1e-6)
  np.testing.assert_array_equal(rotations.mirror(rotations.mirror(to_matrix(v))), to_matrix(v))


nearest = jax.jit(rotations.to_rotation)


def test_to_rotation_is_the_nearest_of_many_and_proper():
  m = np.random.default_rng(3).normal(size=(3, 3)).astype(np.float32)
  for source in (m, m * np.float32([-1, 1, 1])):
    r = nearest(source)
    assert np.linalg.det(r) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(source - r) <= np.linalg.norm(source - random_matrices(5000), axis=(1, 2)).min() + 1e-6


def test_to_rotation_leaves_rotations_alone():
  np.testing.assert_allclose(nearest(random_matrices()), random_matrices(), atol=2e-6)


@pytest.mark.parametrize("kind", ["rotation", "general", "reflected"])
def test_jacobian_of_to_rotation(kind):
  m = np.random.default_rng(4).normal(size=(3, 3))
  m = {"rotation": exp64([.3, -.2, .5]), "general": m * np.sign(np.linalg.det(m)),
       "reflected": -m * np.sign(np.linalg.det(m))}[kind]

  def polar(x):
    u, _, vt = np.linalg.svd(x.reshape(3, 3))
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt

  want = central_difference(polar, m.ravel()).reshape(3, 3, 3, 3)
  for jacobian in (jax.jacfwd, jax.jacrev):
    np.testing.assert_allclose(jacobian(nearest)(m.astype(np.float32)), want, atol=2e-5)


@pytest.mark.parametrize("m", [np.zeros((3, 3)), np.ones((3, 3)), -np.eye(3), np.diag([1., 0, 0])])
def test_to_rotation_of_degenerate_input_is_finite(m):
  m = m.astype(np.float32)
  assert np.linalg.det(nearest(m)) == pytest.approx(1, abs=1e-5)
  assert np.isfinite(jax.jacrev(nearest)(m)).all()


def test_garbage_matrices_give_finite_values_and_gradients():
  for m in (np.zeros((3, 3)), -np.eye(3), np.ones((3, 3)), 2 * np.eye(3)):
    m = m.astype(np.float32)
    assert np.isfinite(to_axis_angle(m)).all() and np.isfinite(jax.jacrev(to_axis_angle)(m)).all()


def test_projection_by_hand():
  """Where the determinant is negative, the authors negate everything, and the nearest rotation is another one."""
  m = np.diag([1.0, 0.5, -0.2]).astype(np.float32)
  np.testing.assert_allclose(rotations.project(m, "negated"), np.diag([-1, -1, 1]), atol=1e-6)
  np.testing.assert_allclose(rotations.project(m, "nearest"), np.eye(3), atol=1e-6)
  for rule in rotations.DETERMINANTS:
    np.testing.assert_allclose(rotations.project(2 * random_matrices(), rule), random_matrices(), atol=4e-6)
  with pytest.raises(ValueError, match="flipped"):
    rotations.project(m, "flipped")


@pytest.mark.parametrize("m", [2 * np.eye(3), -np.eye(3), np.diag([1., 1, -1]), exp64([.3, -.2, .5]) * [1, 1, .5]],
                         ids=["equal", "negative", "reflection", "two equal"])
def test_jacobian_of_the_authors_projection_at_equal_singular_values(m):
  def polar(x):
    u, _, vt = np.linalg.svd(x.reshape(3, 3))
    return u @ vt * np.linalg.det(u @ vt)

  want = central_difference(polar, m.ravel()).reshape(3, 3, 3, 3)
  found = jax.jit(jax.jacrev(lambda m: rotations.project(m, "negated")))(m.astype(np.float32))
  np.testing.assert_allclose(found, want, atol=2e-5)
