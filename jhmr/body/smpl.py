"""The SMPL body as a pytree of arrays: load, shape, pose, skin, keypoints.

Metres. The body stands in a frame with y up, facing +z, its left side at +x; the root rotates about the pelvis joint.
Vertices are kept component-major ([3, N]) inside, so that the shape and pose correctives of a whole batch are one
matrix product and skinning is another. Betas are [..., L], poses [..., J, 3, 3] with any leading axes that broadcast.

Source: Loper et al. 2015 (SMPL), Eq. 2-9; joints and vertices as smplx's `lbs` returns them.
"""

import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body.body_file import read_body_file, write_body_file  # noqa: F401 (both are part of this module)
from jhmr.errors import InputError
import numpy as np

_EXACT = lax.Precision.HIGHEST  # TF32 or bfloat16 products move vertices by millimetres
BUILT_IN = ("mannequin", "mannequin_small")
_WHOLE_MESH = 500            # vertices from which on a body counts as more than a few landmarks
_REGRESSOR_KEYS = {"extra": ("regressor_extra9", joints.EXTRA9), "h36m": ("regressor_h36m17", joints.H36M17),
                   "j19": ("regressor_j19", joints.names("j19"))}
_SUPPLIED_BY = {"extra": "J_regressor_extra.npy", "h36m": "J_regressor_h36m.npy", "j19": "SMPL_to_J19.pkl",
                "vertex": "the key vertex_joint_ids", "regressed": "J_regressor"}


@struct.dataclass
class Smpl:
  """A body model with L betas, N vertices and J = 24 joints; also a part of one (`sub_body`)."""
  template: jax.Array        # [3, N] rest mesh in metres
  blend_dirs: jax.Array      # [L + 9 (J - 1), 3 N] metres per beta, then per entry of R_j - I; column c N + v
  joint_template: jax.Array  # [J, 3] rest joints in metres, the joint regressor folded in
  joint_dirs: jax.Array      # [L, J, 3] metres per beta
  skin_weights: jax.Array    # [J, N] each column sums to 1
  landmarks: jax.Array       # [K, N] weights of vertices, one row per landmark that is not a joint of the chain
  landmark_names: tuple = struct.field(pytree_node=False)
  landmark_vertices: tuple = struct.field(pytree_node=False)  # the vertex, where a landmark is one vertex, else -1
  parents: tuple = struct.field(pytree_node=False)
  point_joints: tuple = struct.field(pytree_node=False, default=())  # which joint alone moves each vertex; () otherwise


@struct.dataclass
class Posed:
  vertices: jax.Array  # [..., N, 3] metres
  joints: jax.Array    # [..., J, 3] metres, joints of the kinematic chain


def from_arrays(arrays, num_betas=10):
  """Makes an Smpl from the arrays of `read_body_file`.

  Raises:
    InputError: if the model has fewer than num_betas shape coefficients.
  """
  known = arrays["shapedirs"].shape[-1]
  if not 1 <= num_betas <= known:
    raise InputError(f"{num_betas} betas asked for, but the body model has {known}: ask for 1 to {known}")
  shape_dirs = np.asarray(arrays["shapedirs"], np.float64)[..., :num_betas]
  template, regressor = (np.asarray(arrays[k], np.float64) for k in ("v_template", "J_regressor"))
  num_vertices = template.shape[0]
  pose_dirs = np.asarray(arrays["posedirs"]).reshape(-1, num_vertices, 3)
  blend = np.concatenate([shape_dirs.transpose(2, 1, 0), pose_dirs.transpose(0, 2, 1)])
  names, rows = _landmark_rows(arrays)
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  return Smpl(template=f32(template.T), blend_dirs=f32(blend.reshape(len(blend), -1)),
              joint_template=f32(regressor @ template),
              joint_dirs=f32(np.einsum("jn,ncl->ljc", regressor, shape_dirs, optimize=True)),
              skin_weights=f32(np.asarray(arrays["weights"]).T), landmarks=f32(rows), landmark_names=names,
              landmark_vertices=_single_vertices(rows), parents=tuple(int(p) for p in arrays["parents"]))


def _landmark_rows(arrays):
  """(names, [K, N] weights) of every landmark the arrays can supply."""
  num_vertices = arrays["v_template"].shape[0]
  ids = arrays.get("vertex_joint_ids")
  if ids is None and num_vertices == joints.NUM_VERTICES:
    ids = [joints.VERTEX_IDS[n] for n in joints.VERTEX21]
  names, rows = [], []
  if ids is not None:
    names += [f"vertex:{n}" for n in joints.VERTEX21]
    rows.append(np.eye(num_vertices, dtype=np.float32)[np.asarray(ids)])
  for prefix, (key, row_names) in _REGRESSOR_KEYS.items():
    if key in arrays:
      names += [f"{prefix}:{n}" for n in row_names]
      rows.append(arrays[key])
  names += [f"regressed:{n}" for n in joints.SMPL24]
  rows.append(arrays["J_regressor"])
  return tuple(names), np.concatenate(rows)


def _single_vertices(rows):
  """Per row of weights [K, N], the vertex it picks when it is one vertex with weight 1, else -1."""
  single = ((rows != 0).sum(1) == 1) & (rows.max(1, initial=0) == 1)
  return tuple(int(row.argmax()) if one else -1 for one, row in zip(single, rows))


def load(path, gender="neutral", num_betas=10):
  """Reads a body model.

  Args:
    path: a .pkl or .npz file, a directory holding SMPL_NEUTRAL.pkl and the like, or "mannequin" / "mannequin_small",
      our own licence-free body.
    gender: "neutral", "female" or "male"; which file of a directory.
  Raises:
    InputError: when the file is missing, damaged, not a body model, or has fewer betas.
  """
  return from_arrays(load_arrays(path, gender), num_betas)


def load_arrays(path, gender="neutral"):
  """The arrays behind `load`, in the format of `read_body_file`."""
  if str(path) in BUILT_IN:
    from jhmr.body import mannequin  # makes meshes: costs half a second nobody else should pay
    return mannequin.arrays("small" if str(path).endswith("small") else "full")
  return read_body_file(path, gender)


def forward(body, betas, pose, transl=None):
  """Shapes and poses a body by linear blend skinning.

  Args:
    betas: [..., L] shape coefficients.
    pose: [..., J, 3, 3] rotation of each joint relative to its parent; the first turns the whole body.
    transl: [..., 3] metres, added to vertices and joints.
  Returns:
    Posed, its leading axes those of betas, pose and transl broadcast.
  Raises:
    ValueError: on trailing shapes that do not fit the body.
  Source: Loper et al. 2015, Eq. 2-9. Joints are the chain's, not regressed from posed vertices.
  Differs: the joint regressor acts on betas (`joint_dirs`), not on the shaped mesh: the same by linearity.
  """
  betas, pose, lead = _broadcast(body, betas, pose)
  rest = body.joint_template[None] + jnp.einsum("...l,ljc->...jc", betas, body.joint_dirs, precision=_EXACT)
  rotation, position = _chain(body.parents, pose, rest)
  vertices = _skin(body, _correctives(body, betas, pose), rotation, position, rest)
  posed = Posed(*(x.reshape(*lead, *x.shape[1:]) for x in (vertices, position)))
  return posed if transl is None else _translate(posed, transl)


def as_posed(body, vertices):
  """A mesh [..., N, 3] that is no posed body, to regress points from; its chain's joints are zeros."""
  return Posed(vertices, jnp.zeros((*vertices.shape[:-2], len(body.parents), 3), vertices.dtype))


def forward_axis_angle(body, betas, pose_axis_angle, transl=None):
  """`forward` for poses [..., 3 J] of axis-angle triplets in radians, root first."""
  pose_axis_angle = jnp.asarray(pose_axis_angle)
  if pose_axis_angle.shape[-1] != 3 * len(body.parents):
    raise ValueError(f"pose_axis_angle must be [..., {3 * len(body.parents)}], got {pose_axis_angle.shape}")
  triplets = pose_axis_angle.reshape(*pose_axis_angle.shape[:-1], -1, 3)
  return forward(body, betas, rotations.axis_angle_to_matrix(triplets), transl)


def _broadcast(body, betas, pose):
  """(betas [B, L], pose [B, J, 3, 3], leading axes): one batch axis inside, whatever comes in."""
  betas, pose = jnp.asarray(betas), jnp.asarray(pose)
  num_betas, num_joints = body.joint_dirs.shape[0], len(body.parents)
  if betas.shape[-1:] != (num_betas,) or pose.shape[-3:] != (num_joints, 3, 3):
    raise ValueError(f"this body takes betas [..., {num_betas}] and pose [..., {num_joints}, 3, 3], "
                     f"got {betas.shape} and {pose.shape}")
  lead = np.broadcast_shapes(betas.shape[:-1], pose.shape[:-3])
  betas = jnp.broadcast_to(betas, (*lead, num_betas)).reshape(-1, num_betas)
  return betas, jnp.broadcast_to(pose, (*lead, num_joints, 3, 3)).reshape(-1, num_joints, 3, 3), lead


def _translate(posed, transl):
  lead = np.broadcast_shapes(posed.joints.shape[:-2], jnp.shape(transl)[:-1])
  transl = jnp.broadcast_to(transl, (*lead, 3))[..., None, :]
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape[-2:])) + transl, posed)


def _correctives(body, betas, pose):
  """Shaped and pose-corrected rest vertices [B, 3, N]. The root's rotation corrects nothing."""
  feature = (pose[:, 1:] - jnp.eye(3, dtype=pose.dtype)[None, None]).reshape(pose.shape[0], -1)
  offsets = jnp.matmul(jnp.concatenate([betas, feature], -1), body.blend_dirs, precision=_EXACT)
  return body.template[None] + offsets.reshape(betas.shape[0], *body.template.shape)


def _chain(parents, pose, rest):
  """World rotations [B, J, 3, 3] and positions [B, J, 3] of the joints, level by level of the tree."""
  bones = rest - jnp.where(np.array(parents)[None, :, None] < 0, 0.0, pick(rest, [max(p, 0) for p in parents]))
  local = jnp.concatenate([pose, bones[..., None]], -1)  # [B, J, 3, 4]
  tree = levels(parents)
  world = [pick(local, tree[0])]
  for above, level in zip(tree, tree[1:]):
    parent = pick(world[-1], [above.index(parents[j]) for j in level])
    turned = _dot(parent[..., :3], pick(local, level))
    world.append(jnp.concatenate([turned[..., :3], turned[..., 3:] + parent[..., 3:]], -1))
  order = [j for level in tree for j in level]
  world = pick(jnp.concatenate(world, 1), [order.index(j) for j in range(len(order))])
  return world[..., :3], world[..., 3]


@functools.lru_cache(maxsize=None)
def levels(parents):
  """Joints grouped by depth in the tree: 9 groups for SMPL, instead of 24 products in a row."""
  depth = []
  for parent in parents:
    depth.append(0 if parent < 0 else depth[parent] + 1)
  return tuple(tuple(j for j, d in enumerate(depth) if d == level) for level in range(max(depth) + 1))


def pick(x, ids, axis=1):
  """x[:, ids], or x[ids] with axis 0, by slices: the gradient of a gather is a scatter, slow and long to compile."""
  runs, start = [], 0
  for i in range(1, len(ids) + 1):
    if i == len(ids) or ids[i] != ids[i - 1] + 1:
      runs.append(jax.lax.slice_in_dim(x, ids[start], ids[i - 1] + 1, axis=axis))
      start = i
  return jnp.concatenate(runs, axis) if len(runs) > 1 else runs[0]


def _dot(a, b):
  """Product of small matrices [..., n, k] [..., k, m], written out so that it fuses; as a batched matmul or a
  reduction the whole gradient of keypoints takes a third longer on CPU."""
  return sum(a[..., :, k, None] * b[..., k, None, :] for k in range(a.shape[-1]))


def _skin(body, vertices, rotation, position, rest):
  """Blends each joint's motion of the rest vertices [B, 3, N] -> [B, N, 3]."""
  shift = position - _dot(rotation, rest[..., None])[..., 0]
  motion = jnp.concatenate([rotation, shift[..., None]], -1)  # [B, J, 3, 4], relative to the rest pose
  batch, num_joints = motion.shape[:2]
  rows = motion.reshape(batch, num_joints, 12).swapaxes(1, 2)
  t = jnp.matmul(rows, body.skin_weights, precision=_EXACT).reshape(batch, 3, 4, vertices.shape[-1])
  x, y, z = (vertices[:, c] for c in range(3))
  # Written out: a reduction over the axis of four does not fuse, and takes five times longer on CPU; stacking last is
  # faster than swapping axes later, which makes XLA compute the vertices once for each reader.
  return jnp.stack([t[:, c, 0] * x + t[:, c, 1] * y + t[:, c, 2] * z + t[:, c, 3] for c in range(3)], -1)


def keypoints(body, posed, set_name):
  """Joints of a named set, [..., K, 3] metres.

  Args:
    posed: what `forward` returned for the same body (or part of a body).
  Raises:
    InputError: when the body lacks a landmark of the set, naming the file that would supply it.
  """
  wanted = joints.landmarks(set_name)
  others = sorted(set(wanted) - set(joints.SMPL24))
  rows = landmark_ids(body, others, set_name)
  vertices = np.array(body.landmark_vertices, np.int32)[rows]
  # On a whole mesh picking saves an eighth of the time of `forward`; on a sub-body the gradient of the product is
  # faster than that of picking.
  pick = (vertices >= 0) & (body.template.shape[1] > _WHOLE_MESH)
  picked, averaged = rows[pick], rows[~pick]
  points = [posed.joints]
  if picked.size:
    points.append(posed.vertices[..., vertices[pick], :])
  if averaged.size:
    points.append(jnp.einsum("kn,...nc->...kc", body.landmarks[averaged], posed.vertices, precision=_EXACT))
  order = [*joints.SMPL24, *(body.landmark_names[i] for i in (*picked, *averaged))]
  return jnp.concatenate(points, -2)[..., np.array([order.index(name) for name in wanted]), :]


def landmark_ids(body, names, set_name):
  """Positions of landmarks in a body; InputError names the set and the file that would supply what is missing."""
  missing = [name for name in names if name not in body.landmark_names]
  if missing:
    source = _SUPPLIED_BY[missing[0].split(":")[0]]
    raise InputError(f"the body model cannot make joint set {set_name!r}: {len(missing)} of its points, such as "
                     f"{missing[0]}, are missing; put {source} beside the model file")
  return np.array([body.landmark_names.index(name) for name in names], np.int32)


def sub_body(body, set_names):
  """The part of a body that the given joint sets need: the same joints and keypoints from a few dozen vertices.

  Works on concrete arrays, at set-up time. `forward` then returns only the vertices kept.
  """
  wanted = sorted(set().union(*(joints.landmarks(name) for name in set_names)) - set(joints.SMPL24))
  rows = np.asarray(body.landmarks)[landmark_ids(body, wanted, "+".join(set_names))]
  keep = np.flatnonzero((rows != 0).any(0))
  blend = np.asarray(body.blend_dirs)
  blend = blend.reshape(len(blend), 3, -1)[..., keep].reshape(len(blend), -1)
  return body.replace(template=body.template[:, keep], blend_dirs=jnp.asarray(blend),
                      skin_weights=body.skin_weights[:, keep], landmarks=jnp.asarray(rows[:, keep]),
                      landmark_names=tuple(wanted), landmark_vertices=_single_vertices(rows[:, keep]))
