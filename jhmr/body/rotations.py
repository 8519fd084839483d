"""Rotations: axis-angle, quaternion, 6D and matrix, with gradients that are right at zero and at pi.

Axis-angle vectors are in radians, quaternions are (w, x, y, z), matrices act on column vectors. Every function takes
any leading axes. Where a formula is 0/0 a power series takes over, and both sides of the `where` are finite.
"""

import jax
import jax.numpy as jnp

from jhmr.body import svd

LAYOUTS = ("spin", "prohmr")
DETERMINANTS = ("nearest", "negated")
_SERIES_BELOW = 0.25  # angle^2 [rad^2] under which six terms of a series are exact to float32, and beyond


def axis_angle_to_matrix(axis_angle):
  """[..., 3] axis times angle in radians -> [..., 3, 3].

  Source: Rodrigues' formula, R = I + sin(t)/t K + (1 - cos(t))/t^2 K^2, with K the cross-product matrix.
  Differs: SMPL layers add 1e-8 to each component before the norm, which is 0/0 at minus 1e-8; we use the series.
  """
  axis_angle = jnp.asarray(axis_angle)
  x, y, z = (axis_angle[..., i] for i in range(3))
  a, b = _rodrigues_factors(x * x + y * y + z * z)
  return _matrix([[1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y],
                  [b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x],
                  [b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)]])


def _rodrigues_factors(square):
  """sin(t)/t and (1 - cos(t))/t^2 as smooth functions of t^2."""
  small = square < _SERIES_BELOW
  near = jnp.where(small, square, 0.0)
  t = jnp.sqrt(jnp.where(small, 1.0, square))
  half = jnp.sin(0.5 * t) / t  # 1 - cos(t) loses half the digits; 2 sin^2(t/2) none
  a = jnp.where(small, _polynomial(near, (1., -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800)), jnp.sin(t) / t)
  b = jnp.where(small, _polynomial(near, (1 / 2, -1 / 24, 1 / 720, -1 / 40320, 1 / 3628800, -1 / 479001600)),
                2 * half * half)
  return a, b


def jacobian_factors(square):
  """(1 - cos(t))/t^2 and (t - sin(t))/t^3 of t^2: I + b K + c K^2 is the left Jacobian of the exponential map."""
  small = square < _SERIES_BELOW
  near, far = jnp.where(small, square, 0.0), jnp.where(small, 1.0, square)
  a, b = _rodrigues_factors(square)
  c = _polynomial(near, (1 / 6, -1 / 120, 1 / 5040, -1 / 362880, 1 / 39916800, -1 / 6227020800))
  return b, jnp.where(small, c, (1 - a) / far)


def _polynomial(x, coefficients):
  """Horner's rule, constant term first."""
  total = coefficients[-1]
  for c in reversed(coefficients[:-1]):
    total = total * x + c
  return total


def _matrix(rows):
  """Three rows of three arrays [...] -> [..., 3, 3]."""
  return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def matrix_to_quaternion(matrix):
  """[..., 3, 3] rotation -> [..., 4] unit quaternion (w, x, y, z) with w >= 0.

  Source: Shepperd 1978. 4 q q^T is linear in R; its row with the largest diagonal entry, at least 1 because the four
  sum to 4, is a multiple of q that never vanishes.
  """
  m = jnp.asarray(matrix)
  m00, m01, m02, m10, m11, m12, m20, m21, m22 = (m[..., i, j] for i in range(3) for j in range(3))
  wx, wy, wz, xy, xz, yz = m21 - m12, m02 - m20, m10 - m01, m01 + m10, m02 + m20, m12 + m21
  diagonal = [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22]
  rows = jnp.stack([jnp.stack(row, -1) for row in ([diagonal[0], wx, wy, wz], [wx, diagonal[1], xy, xz],
                                                   [wy, xy, diagonal[2], yz], [wz, xz, yz, diagonal[3]])], -2)
  best = jnp.argmax(jnp.stack(diagonal, -1), -1)
  row = jnp.take_along_axis(rows, best[..., None, None], -2)[..., 0, :]
  row = jnp.where(row[..., :1] < 0, -row, row)
  return row / jnp.sqrt(jnp.sum(row * row, -1, keepdims=True))


def quaternion_to_matrix(quaternion):
  """[..., 4] quaternion (w, x, y, z), any non-zero length -> [..., 3, 3]."""
  q = jnp.asarray(quaternion)
  w, x, y, z = (q[..., i] for i in range(4))
  s = 2 / (w * w + x * x + y * y + z * z)
  return _matrix([[1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
                  [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
                  [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)]])


def matrix_to_axis_angle(matrix):
  """[..., 3, 3] rotation -> [..., 3] axis times angle, 0 <= angle <= pi.

  At exactly pi both signs of the axis are the same rotation; one is returned.
  Source: angle = 2 atan2(|v|, w) of the unit quaternion (w, v).
  Differs: torchgeometry's version yields NaN at the identity, which its users replace by 0, gradient and all.
  """
  q = matrix_to_quaternion(matrix)
  w, v = q[..., 0], q[..., 1:]
  square = jnp.sum(v * v, -1)
  small = square < 0.01  # of the squared half angle
  ratio = jnp.where(small, square, 0.0) / jnp.where(small, w * w, 1.0)
  near = _polynomial(ratio, (1., -1 / 3, 1 / 5, -1 / 7, 1 / 9, -1 / 11)) / jnp.where(small, w, 1.0)
  norm = jnp.sqrt(jnp.where(small, 1.0, square))
  far = jnp.arctan2(norm, jnp.where(small, 1.0, w)) / norm
  return 2 * jnp.where(small, near, far)[..., None] * v


def six_d_to_matrix(six_d, layout):
  """[..., 6] first two columns of a rotation, not orthonormal -> [..., 3, 3], always a rotation.

  Args:
    layout: "spin" packs the 3x2 block row by row (HMR, SPIN, EFT, smpl_mean_params); "prohmr" column by column.
  Source: Zhou et al. 2019, Eq. 14-16, Gram-Schmidt.
  Differs: where a column vanishes or the two are collinear the authors' code clamps the norm and returns a singular
    matrix or noise; we complete the rotation with a coordinate axis and let no gradient through that choice.
  """
  a1, a2 = _six_d_columns(jnp.asarray(six_d), layout)
  b1 = _unit(a1, 1e-8, jnp.zeros_like(a1).at[..., 0].set(1.0))
  # Twice: after one pass nearly collinear columns keep a large share of rounding along b1.
  rejected = _reject(_reject(a2, b1), b1)
  limit = 1e-6 * jnp.sqrt(jnp.sum(jax.lax.stop_gradient(a2) ** 2, -1, keepdims=True))
  axis = jax.nn.one_hot(jnp.argmin(jnp.abs(b1), -1), 3, dtype=b1.dtype)
  spare = _reject(axis, b1)
  spare = spare / jnp.sqrt(jnp.sum(spare * spare, -1, keepdims=True))  # at least sqrt(2/3) long
  b2 = _unit(rejected, jnp.maximum(limit, 1e-8), spare)
  return jnp.stack([b1, b2, jnp.cross(b1, b2)], -1)


def matrix_to_six_d(matrix, layout):
  """[..., 3, 3] -> [..., 6], its first two columns packed as `six_d_to_matrix` reads them."""
  columns = jnp.asarray(matrix)[..., :, :2]
  if _check_layout(layout) == "prohmr":
    columns = jnp.swapaxes(columns, -1, -2)
  return columns.reshape(*columns.shape[:-2], 6)


def _six_d_columns(x, layout):
  if x.shape[-1:] != (6,):
    raise ValueError(f"six_d must be [..., 6], got {x.shape}")
  return (x[..., 0::2], x[..., 1::2]) if _check_layout(layout) == "spin" else (x[..., :3], x[..., 3:])


def _check_layout(layout):
  if layout not in LAYOUTS:
    raise ValueError(f"6D layout {layout!r} is not one of {LAYOUTS}")
  return layout


def _reject(a, unit):
  return a - jnp.sum(a * unit, -1, keepdims=True) * unit


def _unit(a, limit, spare):
  """a / |a|, or `spare` where |a| is within `limit`."""
  square = jnp.sum(a * a, -1, keepdims=True)
  usable = square > limit * limit
  return jnp.where(usable, a / jnp.sqrt(jnp.where(usable, square, 1.0)), spare)


def rotation_about(axis, angle_rad):
  """Rotation by angle_rad [...] about the "x", "y" or "z" axis -> [..., 3, 3]; counter-clockwise seen from its tip."""
  if axis not in ("x", "y", "z"):
    raise ValueError(f"axis {axis!r} is not 'x', 'y' or 'z'")
  c, s = jnp.cos(angle_rad), jnp.sin(angle_rad)
  one, zero = jnp.ones_like(c), jnp.zeros_like(c)
  return _matrix({"x": [[one, zero, zero], [zero, c, -s], [zero, s, c]],
                  "y": [[c, zero, s], [zero, one, zero], [-s, zero, c]],
                  "z": [[c, -s, zero], [s, c, zero], [zero, zero, one]]}[axis])


def angle_between_rad(a, b):
  """Geodesic distance of rotations [..., 3, 3] -> [...] in 0..pi; its gradient is taken as 0 where they are equal."""
  q = matrix_to_quaternion(jnp.einsum("...ji,...jk->...ik", a, b, precision=jax.lax.Precision.HIGHEST))
  square = jnp.sum(q[..., 1:] ** 2, -1)
  norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
  return 2 * jnp.arctan2(norm, q[..., 0])


def mirror(matrix):
  """The rotation seen in a mirror that negates x: M R M with M = diag(-1, 1, 1), [..., 3, 3] -> [..., 3, 3].

  On axis-angle vectors this is (x, -y, -z). Joints must be permuted too: `joints.flip`.
  """
  matrix = jnp.asarray(matrix)
  sign = jnp.asarray([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], matrix.dtype)
  return matrix * jnp.broadcast_to(sign, matrix.shape)


@jax.custom_jvp
def to_rotation(matrix):
  """The rotation nearest to a matrix in the Frobenius norm, determinant +1: [..., 3, 3] -> [..., 3, 3].

  Its gradient is right at rotations too, where that of an SVD is NaN because singular values coincide.
  Source: Kabsch 1976; R = U diag(1, 1, det(U V^T)) V^T.
  """
  return _nearest(matrix)[0]


def project(matrix, determinant="nearest"):
  """A rotation from any matrix [..., 3, 3], by its singular vectors; gradients are finite at equal singular values.

  Only sums of singular values ever divide, never the differences that the gradient of an SVD has.

  Args:
    determinant: what makes it +1. "nearest": the sign of the smallest singular value, which gives the rotation nearest
      to the matrix (`to_rotation`). "negated": that of the whole matrix, det(U V^T) U V^T.
  Source: "negated": GraphCMR, authors' `models/smpl_param_regressor.py`, whose determinant is a constant too.
  """
  if determinant not in DETERMINANTS:
    raise ValueError(f"determinant {determinant!r} is not one of {DETERMINANTS}")
  if determinant == "nearest":
    return to_rotation(matrix)
  sign = jnp.sign(jax.lax.stop_gradient(jnp.linalg.det(matrix)))
  # -M has the polar factor -U V^T, of determinant +1 where M's is -1: the nearest rotation again.
  return to_rotation(jnp.where(sign < 0, -1.0, 1.0)[..., None, None].astype(matrix.dtype) * matrix)


def _nearest(matrix):
  """(rotation, U, V, both rotations too, singular values, the last one with the sign of the determinant)."""
  u, s, v = svd.signed(matrix)
  return _product(u, jnp.swapaxes(v, -1, -2)), u, v, s


@to_rotation.defjvp
def _to_rotation_jvp(primals, tangents):
  """dR = U W V^T with W_ij = (P_ij - P_ji) / (s_i + s_j), P = U^T dM V; W is the rotation's angular velocity."""
  rotation, u, v, s = _nearest(primals[0])
  p = _product(jnp.swapaxes(u, -1, -2), _product(tangents[0], v))
  total = s[..., :, None] + s[..., None, :]
  defined = total > 1e-6  # else the nearest rotation is not unique
  w = jnp.where(defined, (p - jnp.swapaxes(p, -1, -2)) / jnp.where(defined, total, 1.0), 0.0)
  return rotation, _product(u, _product(w, jnp.swapaxes(v, -1, -2)))


def _product(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
