"""Plausible human poses: a procedural sampler with a stated distribution, and mocap tables.

The distribution of `sample`:

1. A family from `FAMILIES` with `pose_families.PROBABILITIES`; its angles follow from 16 normals and
   8 uniforms (gait phase, stride, depth of a crouch, ...): low-dimensional, correlated variation.
2. Each arm keeps the family's movement or takes one of `ARM_HABITS` (hanging, carrying, akimbo, ...),
   with the family's weights; with probability 1/2 the right arm does what the left one does.
3. Every angle gets independent normal noise (`NOISE`) and is reflected into its limits (`LIMITS`).
4. With probability 1/2 the person is mirrored.
5. Of `NUM_CANDIDATES` such draws the one whose limbs overlap least is kept (spheres along a standard skeleton).

Joint limits in degrees. The two sides have the same limits; 0 is SMPL's T-pose except that the shoulder's swing
is measured from the hanging arm. Wrists carry half of the forearm's pronation, hands (22, 23) are rigid.

| joints | angles |
|---|---|
| hip | flexion -25..125, abduction -12..50, external rotation -30..45 |
| knee | flexion 0..140, twist -8..8 |
| ankle, toes | dorsiflexion -45..30, inversion -14..14; toes up -15..35 |
| collar | up -8..24, forward -14..20 |
| shoulder | flexion -50..160, abduction -15..150 (swing at most 165), internal twist -55..75 |
| elbow | flexion 1..145, pronation -75..80 shared with the wrist |
| wrist | flexion -50..55, deviation -18..22 |
| spine1-3 together | flexion -25..75, lateral -32..32, twist -42..42, in shares 0.35, 0.35, 0.3 |
| neck and head together | flexion -45..45, lateral -30..30, twist -70..70, in equal shares |
| root | pitch -105..105 (lying: about 90), spin about the long axis -110..110 (lying only), roll -15..15 |

The frame is y up with the person facing +z before pitch, spin and roll; x is the person's left.
"""

import functools
import pathlib
import zipfile

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from jhmr import errors
from jhmr import files
from jhmr.body import joints
from jhmr.body import pose_families
from jhmr.body import pose_overlap
from jhmr.body import rotations
from jhmr.body.pose_families import FAMILIES, Angles  # noqa: F401 (FAMILIES is part of this file's interface)

NUM_CANDIDATES = 4
NUM_JOINTS = 24

LIMITS = Angles(
    trunk=np.array([(-105, 105), (-110, 110), (-15, 15), (-25, 75), (-32, 32), (-42, 42), (-45, 45), (-30, 30),
                    (-70, 70)], np.float32),
    legs=np.array([(-25, 125), (-12, 50), (-30, 45), (0, 140), (-8, 8), (-45, 30), (-14, 14), (-15, 35)], np.float32),
    arms=np.array([(-8, 24), (-14, 20), (-50, 160), (-15, 150), (-55, 75), (1, 145), (-75, 80), (-50, 55), (-18, 22)],
                  np.float32))
NOISE = Angles(trunk=np.array([1.5, 0, 1, 2.5, 2, 2.5, 3, 3, 4], np.float32),
               legs=np.array([3, 2, 3, 3, 2, 4, 3, 3], np.float32),
               arms=np.array([1, 1, 3, 2.5, 4, 4, 6, 4, 3], np.float32))
MAX_SWING = 165.0
SPINE_SHARES = (0.35, 0.35, 0.30)


@struct.dataclass
class MocapTable:
  """Poses that were captured, in the same frame as `sample` gives."""
  pose: jax.Array   # [M, 24, 3, 3]
  betas: jax.Array  # [M, 10]


@jax.jit  # traced once: it is a part of every program that renders, and half of the time to trace one
def sample(key):
  """One plausible pose, drawn from the distribution at the top of this file.

  Args:
    key: a PRNG key; the pose is a function of it alone.
  Returns:
    [24, 3, 3] rotation matrices. The root is in a y-up frame, person facing +z; yaw is not drawn.
  """
  u = _uniforms(key)
  return _best(u, _choose(u[-1, -1], jnp.array(pose_families.PROBABILITIES)))


def family_pose(key, family):
  """One pose [24, 3, 3] of a family: an index into `FAMILIES` (traced or not) or its name."""
  return _best(_uniforms(key), FAMILIES.index(family) if isinstance(family, str) else family)


# Normal numbers: of the family, of the arms' habits, of the noise on trunk, legs and arms.
_NORMALS = (pose_families.NUM_NORMALS, 18, 9, 16, 18)


def _uniforms(key):
  """All random numbers of a pose [candidates, n] in one call: every call costs a tenth of a second of compilation."""
  return jax.random.uniform(key, (NUM_CANDIDATES, sum(_NORMALS) + pose_families.NUM_UNIFORMS + 5))


def _best(u, family):
  """The pose that overlaps least among those drawn from the rows of u.

  A loop rather than a second vmap: it compiles one draw, and its inputs are not computed again wherever they are used.
  """
  def better(best, z_u):
    pose = _draw(*z_u, family)
    overlap = pose_overlap.overlap(pose)
    return jax.tree.map(lambda new, old: jnp.where(overlap < best[1], new, old), (pose, overlap), best), None

  z, u = u[:, :sum(_NORMALS)], u[:, sum(_NORMALS):]
  z = jax.scipy.special.ndtri(jnp.clip(z, 1e-6, 1 - 1e-6))
  start = (jnp.zeros((NUM_JOINTS, 3, 3)), jnp.full((), jnp.inf, jnp.float32))
  return jax.lax.scan(better, start, (z, u))[0][0]


def _choose(u, weights):
  """The index that a uniform number u falls into: weights [..., n] -> [...] int32."""
  total = jnp.cumsum(weights, -1)
  return jnp.sum(jnp.asarray(u)[..., None] * total[..., -1:] > total[..., :-1], -1)


def _draw(z, u, family):
  """One candidate from normal and uniform numbers."""
  z, habits, *noise = jnp.split(z, np.cumsum(_NORMALS)[:-1])
  # Under vmap a switch runs every branch anyway; choosing by a product keeps XLA from fusing them into what follows.
  every = jnp.stack([_flat(branch(z, u[:-5])) for branch in pose_families.BRANCHES])
  angles = _angles(jnp.matmul(jax.nn.one_hot(family, len(FAMILIES)), every, precision=jax.lax.Precision.HIGHEST))
  angles = angles._replace(arms=_arms(u[-5:-2], habits.reshape(2, 9), family, angles.arms))
  angles = Angles(*(a + s * n.reshape(a.shape) for a, s, n in zip(angles, NOISE, noise)))
  return angles_to_pose(_mirror(_limit(angles), u[-2] < 0.5))


def _flat(angles):
  return jnp.concatenate([jnp.ravel(a) for a in angles])


def _angles(flat):
  """The inverse of `_flat`, for NumPy arrays too."""
  trunk, legs, arms = flat[:9], flat[9:25], flat[25:]
  return Angles(trunk, legs.reshape(2, 8), arms.reshape(2, 9))


def _arms(u, z, family, own):
  """[2, 9] angles of the arms: habits drawn with the family's weights, habit 0 being the family's own arms."""
  habit = _choose(u[:2], jnp.asarray(pose_families.ARM_WEIGHTS)[family])
  habit = habit.at[1].set(jnp.where(u[2] < 0.5, habit[0], habit[1]))
  mean = jnp.where((habit == 0)[:, None], own, jnp.asarray(pose_families.ARM_MEAN)[habit])
  return mean + jnp.asarray(pose_families.ARM_STD)[habit] * z


def _limit(angles):
  """Reflects every angle at its limits (clipping would pile people up there), then bounds the shoulder's swing."""
  def reflect(x, bounds):
    low, high = bounds[:, 0], bounds[:, 1]
    return jnp.clip(high - jnp.abs(high - (low + jnp.abs(x - low))), low, high)

  trunk, legs, arms = (reflect(x, b) for x, b in zip(angles, LIMITS))
  swing = jnp.hypot(arms[:, 2:3], arms[:, 3:4])
  return Angles(trunk, legs, arms.at[:, 2:4].multiply(jnp.minimum(1.0, MAX_SWING / jnp.maximum(swing, 1.0))))


def _mirror(angles, flip):
  """The mirrored person: sides change places; spin, roll, lateral bends and twists change sign."""
  signs = jnp.array([1, -1, -1, 1, -1, -1, 1, -1, -1], jnp.float32)
  mirrored = Angles(angles.trunk * signs, angles.legs[::-1], angles.arms[::-1])
  return jax.tree.map(lambda a, b: jnp.where(flip, a, b), mirrored, angles)


def angles_to_pose(angles):
  """Rotation matrices of anatomical angles.

  Args:
    angles: Angles in degrees, leaves [9], [2, 8], [2, 9].
  Returns:
    [24, 3, 3] in SMPL's joint order and T-pose frames.
  """
  matrix, offset = _vector_map()
  vectors = (jnp.matmul(matrix, _flat(angles), precision=jax.lax.Precision.HIGHEST) + offset).reshape(NUM_JOINTS, 3, 3)
  first, second, third = jnp.moveaxis(rotations.axis_angle_to_matrix(jnp.deg2rad(vectors)), 1, 0)
  product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
  return product(product(first, second), third)


@functools.cache
def _vector_map():
  """`_vectors` is affine; as one matrix it compiles in a tenth of the time: (matrix [216, 43], offset [216])."""
  at = lambda flat: _vectors(_angles(flat)).ravel()
  offset = at(np.zeros(43))
  return np.stack([at(row) - offset for row in np.eye(43)], 1).astype(np.float32), offset.astype(np.float32)


def _vectors(angles):
  """[24, 3, 3] degrees: each joint is the product of up to three rotations, given as rotation vectors (NumPy)."""
  seq = lambda *vecs: np.array([*vecs, *[(0.0,) * 3] * (3 - len(vecs))])
  pitch, spin, roll, *rest = angles.trunk
  spine, neck = np.array([rest[0], rest[2], rest[1]]), np.array([rest[3], rest[5], rest[4]])
  rows = {"pelvis": seq((pitch, 0, 0), (0, spin, 0), (0, 0, roll)),
          **{f"spine{i + 1}": seq(share * spine) for i, share in enumerate(SPINE_SHARES)},
          "neck": seq(0.5 * neck), "head": seq(0.5 * neck), "left_hand": seq(), "right_hand": seq()}
  mirror = np.array([1.0, -1.0, -1.0])
  for side, name in enumerate(("left", "right")):
    limb = {**_leg_vectors(seq, *angles.legs[side]), **_arm_vectors(seq, *angles.arms[side])}
    rows.update({f"{name}_{joint}": value * (mirror if side else 1.0) for joint, value in limb.items()})
  return np.stack([rows[name] for name in joints.names("smpl24")])


def _leg_vectors(seq, flexion, abduction, rotation, knee, twist, dorsi, inversion, toes):
  """Left leg: in SMPL's frames the thigh points down, so flexion is -x, abduction +z, external rotation +y."""
  return {"hip": seq((-flexion, 0, abduction), (0, rotation, 0)), "knee": seq((knee, twist, 0)),
          "ankle": seq((-dorsi, 0, inversion)), "foot": seq((-toes, 0, 0))}


def _arm_vectors(seq, up, forward, flexion, abduction, twist, elbow, pronation, wrist, deviation):
  """Left arm: along +x in the T-pose. Hanging is -90 about z; the swing from there is about a horizontal axis."""
  return {"collar": seq((0, -forward, up)), "shoulder": seq((-flexion, 0, abduction), (0, 0, -90), (twist, 0, 0)),
          "elbow": seq((0, -elbow, 0), (pronation / 2, 0, 0)),
          "wrist": seq((pronation / 2, 0, 0), (0, deviation, -wrist))}


def mean_pose(num=4096, seed=0):
  """Chordal mean [24, 3, 3] of `num` sampled poses: where an iterative regressor starts. Made once, see
  `files.cached`.

  Its root is close to upright in the y-up frame; turn it by pi about x for the camera's frame.
  Source: HMR starts from the mean of its mocap; here it is the mean of the stated distribution.
  """
  def make():
    draws = jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(seed), num))
    return {"pose": np.asarray(rotations.to_rotation(jnp.mean(draws, axis=0)))}

  here = pathlib.Path(__file__).parent
  sources = [here / f"{name}.py" for name in ("joints", "pose_families", "pose_overlap", "poses", "rotations")]
  return jnp.asarray(files.cached(f"mean_pose_{num}_{seed}", sources, make)["pose"])


def read_mocap(path):
  """Poses and shapes from a mocap file.

  Args:
    path: .npz with `poses` or `body_pose` [M, 72], or [M, 156] / [M, 165] as AMASS has them (the first 66
      numbers are the root and 21 joints; hands become zero), and `betas` [M, L] or [L], L >= 10. A pose of 69
      numbers gets a zero root.
  Returns:
    (pose_axis_angle [M, 72] float32, betas [M, 10] float32).
  Raises:
    InputError: missing or unreadable file, absent keys, odd shapes, numbers that are not finite.
  """
  try:
    with np.load(path, allow_pickle=False) as stored:
      arrays = {name: stored[name] for name in stored.files if name in ("poses", "body_pose", "betas")}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
    raise errors.InputError(f"{path}: cannot read it as a mocap .npz ({e or type(e).__name__}); "
                            "give a file with arrays poses (or body_pose) and betas") from e
  pose = arrays.get("poses", arrays.get("body_pose"))
  if pose is None or "betas" not in arrays:
    raise errors.InputError(f"{path}: a mocap file needs arrays poses (or body_pose) and betas, "
                            f"found {sorted(arrays) or 'neither'}")
  betas = arrays["betas"]
  if pose.ndim != 2 or pose.dtype.kind not in "fiu" or (pose.shape[1] not in (69, 72) and pose.shape[1] < 150):
    raise errors.InputError(f"{path}: poses are {pose.dtype} {pose.shape}; expected [M, 72], [M, 69] "
                            "or AMASS's [M, 156]")
  betas = np.broadcast_to(betas, (len(pose), betas.shape[-1])) if betas.ndim == 1 else betas
  if betas.ndim != 2 or len(betas) != len(pose) or betas.shape[1] < 10 or betas.dtype.kind not in "fiu":
    raise errors.InputError(f"{path}: betas are {betas.dtype} {betas.shape}; expected [{len(pose)}, 10 or more]")
  pose = {69: lambda: np.pad(pose, ((0, 0), (3, 0))), 72: lambda: pose}.get(
      pose.shape[1], lambda: np.pad(pose[:, :66], ((0, 0), (0, 6))))().astype(np.float32)
  betas = betas[:, :10].astype(np.float32)
  if not len(pose) or not (np.isfinite(pose).all() and np.isfinite(betas).all()):
    raise errors.InputError(f"{path}: mocap is empty or has numbers that are not finite")
  return pose, betas


def mocap_table(path, max_poses=200_000):
  """A MocapTable of a file, evenly thinned to at most `max_poses`, for `sample_any`."""
  pose, betas = read_mocap(path)
  keep = np.unique(np.linspace(0, len(pose) - 1, min(max_poses, len(pose))).astype(int))
  matrices = rotations.axis_angle_to_matrix(pose[keep].reshape(-1, NUM_JOINTS, 3))
  return MocapTable(pose=matrices, betas=jnp.asarray(betas[keep]))


def sample_any(table, key):
  """A pose [24, 3, 3] and betas [10]: a random row of the table, or without one `sample` and normal betas.

  A table's roots carry the yaw, and often the z-up frame, of the capture, so they are replaced by the sampler's.
  """
  pose_key, betas_key = jax.random.split(key)
  if table is None:
    return sample(pose_key), jax.random.normal(betas_key, (10,))
  row = jax.random.randint(betas_key, (), 0, table.pose.shape[0])
  return table.pose[row].at[0].set(sample(pose_key)[0]), table.betas[row]
