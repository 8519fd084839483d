"""Meshes as fixed arrays: faces with their part labels, a pyramid of two resolutions, normals, OBJ files."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jhmr.body import joints, remesh

# Part labels 1..6 of the chain's joints, as in the colour cube released with GraphCMR: left arm, right arm, head, left
# leg, right leg, torso (collars and pelvis included).
PARTS6 = np.array([6, 4, 5, 6, 4, 5, 6, 4, 5, 6, 4, 5, 3, 6, 6, 3, 1, 2, 1, 2, 1, 2, 1, 2], np.int32)


@flax.struct.dataclass
class Surface:
  """What is fixed about a body's surface. Faces wind counter-clockwise seen from outside."""
  faces: jax.Array    # [F, 3] int32
  parts24: jax.Array  # [F] int32, SMPL joint + 1 that moves the face most
  parts6: jax.Array   # [F] int32, 1 left arm, 2 right arm, 3 head, 4 left leg, 5 right leg, 6 torso
  iuv: jax.Array      # [F, 3, 3] per corner: part 1..24 (as parts24, not DensePose's), U and V in [0, 1]


@flax.struct.dataclass
class Pyramid:
  """Sparse maps between N vertices and n < N, rows padded with weight 0."""
  down_ids: jax.Array      # [n, M] int32
  down_weights: jax.Array  # [n, M]
  up_ids: jax.Array        # [N, M'] int32
  up_weights: jax.Array    # [N, M']


def gather(ids, weights, x):
  """Rows of a padded sparse matrix applied to x [..., N, C]."""
  return jnp.einsum("nm,...nmc->...nc", weights, x[..., ids, :], precision=jax.lax.Precision.HIGHEST)


def downsample(pyramid, x):
  """[..., N, C] on the fine mesh -> [..., n, C] on the coarse one."""
  return gather(pyramid.down_ids, pyramid.down_weights, x)


def upsample(pyramid, x):
  """[..., n, C] on the coarse mesh -> [..., N, C] on the fine one, by barycentric weights."""
  return gather(pyramid.up_ids, pyramid.up_weights, x)


def vertex_normals(vertices, faces):
  """Unit normals [..., N, 3] outward, faces weighted by area; vertices [..., N, 3], faces [F, 3]."""
  a, b, c = (vertices[..., faces[:, i], :] for i in range(3))
  cross = jnp.cross(b - a, c - a)
  total = jnp.zeros_like(vertices)
  for i in range(3):
    total = total.at[..., faces[:, i], :].add(cross)
  square = jnp.sum(total * total, -1, keepdims=True)
  return total * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def surface(arrays):
  """Surface of a body file's arrays; what the file lacks is derived from its skinning weights.

  Args:
    arrays: dict with "f" [F, 3], "weights" [N, 24], "v_template" [N, 3], "J_regressor" [24, N], and maybe
      "parts24", "parts6", "iuv".
  """
  faces = np.asarray(arrays["f"], np.int32)
  parts24 = arrays.get("parts24")
  parts24 = face_parts(faces, arrays["weights"]) if parts24 is None else np.asarray(parts24, np.int32)
  parts6 = arrays.get("parts6")
  parts6 = PARTS6[parts24 - 1] if parts6 is None else np.asarray(parts6, np.int32)
  iuv = arrays.get("iuv")
  if iuv is None:
    template = np.asarray(arrays["v_template"], np.float64)
    iuv = cylinder_chart(template, faces, parts24, np.asarray(arrays["J_regressor"]) @ template)
  return Surface(*(jnp.asarray(x) for x in (faces, parts24, parts6, np.asarray(iuv, np.float32))))


def face_parts(faces, weights):
  """[F] int32: 1 + the joint with the largest skinning weight over the face's corners."""
  return (np.argmax(np.asarray(weights)[faces].sum(1), 1) + 1).astype(np.int32)


def cylinder_chart(points, faces, parts24, rest):
  """Chart [F, 3, 3]: part, U the angle about the part's bone, V the way along it.

  The seam is where U jumps from 1 to 0, at the back of the bone; a face across it is cut off at 0 or 1, so that U is
  continuous inside every face. The mirrored point of a symmetric body has the other side's part, 1 - U and V.
  """
  out, flip = np.zeros((len(faces), 3, 3), np.float32), joints.flip("smpl24")
  for j in np.unique(parts24) - 1:
    mine = np.flatnonzero(parts24 == j + 1)
    ids = np.unique(faces[mine])
    children = [c for c in range(1, 24) if joints.PARENTS[c] == j]
    middle = [c for c in children if flip[c] == c]  # of pelvis and chest, or their charts would lean to one side
    start, end = (rest[j], rest[(middle or children)[0]]) if children else (rest[joints.PARENTS[j]], rest[j])
    axis = (end - start) / np.linalg.norm(end - start)
    seam = np.array([0.0, 0.0, -1.0]) if abs(axis[2]) < 0.8 else np.array([0.0, -1.0, 0.0])
    seam -= axis * (seam @ axis)
    seam /= np.linalg.norm(seam)
    offset = points[ids] - points[ids].mean(0)
    u = np.arctan2(offset @ np.cross(axis, seam), offset @ seam) / (2 * np.pi) % 1
    v = offset @ axis
    v = (v - v.min()) / (v.max() - v.min())
    local = np.searchsorted(ids, faces[mine])
    corner_u, corner_v = u[local], v[local]
    # U relative to the face's middle; a face whose middle is on the seam belongs to its low side.
    middle = np.angle(np.exp(2j * np.pi * corner_u).sum(1, keepdims=True)) / (2 * np.pi) % 1
    middle -= middle > 1 - 1e-4
    corner_u = np.clip(middle + (corner_u - middle + 0.5) % 1 - 0.5, 0, 1)
    out[mine] = np.stack([np.full_like(corner_u, j + 1), corner_u, corner_v], 2)
  return out


def build_pyramid(vertices, faces, num=1723):
  """Pyramid from a mesh's N vertices down to num.

  The coarse mesh comes from collapsing the shortest edges, short being relative to the edges around, so that hands and
  faces stay denser; its vertices sit on the fine surface. Down rows are
  barycentric on the fine mesh, up rows on the coarse one; both sum to one.

  Args:
    vertices: [N, 3] template, faces: [F, 3] closed and manifold.
  Returns:
    Pyramid of NumPy arrays, and the coarse faces [2 num - 4, 3].
  """
  vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
  edges, _ = remesh.edge_faces(faces)
  length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
  local = np.bincount(edges.ravel(), np.repeat(length, 2)) / np.bincount(edges.ravel())
  coarse, coarse_faces, done = remesh.collapse(vertices, faces, len(vertices) - num, unit=local)
  if done != len(vertices) - num:
    raise ValueError(f"{len(vertices)} vertices could only be thinned to {len(vertices) - done}, not {num}")
  normals = remesh.unit_normals(coarse, coarse_faces)[1]
  down_ids, down_weights = remesh.closest_on_mesh(coarse, normals, vertices, faces)
  snapped = (down_weights[..., None] * vertices[down_ids]).sum(1)
  normals = remesh.unit_normals(vertices, faces)[1]
  up_ids, up_weights = remesh.closest_on_mesh(vertices, normals, snapped, coarse_faces)
  return Pyramid(down_ids, down_weights, up_ids, up_weights), coarse_faces


def write_obj(path, vertices, faces):
  """Writes vertices [N, 3] and faces [F, 3] (counted from 0 here) as a Wavefront OBJ file."""
  with open(path, "w") as f:
    f.writelines(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in np.asarray(vertices).tolist())
    f.writelines(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in np.asarray(faces).tolist())
