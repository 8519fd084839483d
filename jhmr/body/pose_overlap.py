"""How much the limbs of a pose run into each other, on a standard skeleton padded with spheres.

It only ranks candidate poses, so it knows one body: an adult of 1.75 m. Distances are metres.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jhmr.body import joints

# Rest joints in SMPL's order, pelvis at the origin, y up, x the person's left. Ours, measured on no model.
REST_JOINTS = np.array([
    [0, 0, 0], [.08, -.08, 0], [-.08, -.08, 0], [0, .11, -.01], [.10, -.48, .01], [-.10, -.48, .01], [0, .24, -.01],
    [.09, -.90, -.03], [-.09, -.90, -.03], [0, .30, 0], [.11, -.96, .10], [-.11, -.96, .10], [0, .52, -.02],
    [.07, .43, -.01], [-.07, .43, -.01], [0, .60, .02], [.18, .45, -.02], [-.18, .45, -.02], [.45, .44, -.03],
    [-.45, .44, -.03], [.71, .44, -.02], [-.71, .44, -.02], [.80, .43, -.02], [-.80, .43, -.02]], np.float32)

# Limbs: kind, joint that carries it, from, to, where along it the spheres sit (1 is the far joint), radius.
LIMBS = (("trunk", "pelvis", "hip", "collar", (0.1, 0.35), 0.085),
         ("trunk", "spine3", "hip", "collar", (0.6, 0.85), 0.085),
         ("thigh", "hip", "hip", "knee", (0.35, 0.65, 1.0), 0.065),
         ("shin", "knee", "knee", "ankle", (0.35, 0.7, 1.0), 0.05),
         ("shin", "ankle", "ankle", "foot", (1.2,), 0.045),
         ("upper", "shoulder", "shoulder", "elbow", (0.6, 1.0), 0.045),
         ("fore", "elbow", "elbow", "wrist", (0.5, 1.0), 0.04),
         ("fore", "wrist", "wrist", "hand", (1.0, 1.8), 0.035),
         ("head", "neck", "neck", "head", (1.5, 2.2), 0.09))
# Which kinds may not touch: on any sides, or on opposite sides only.
ANY_SIDE = {("fore", "trunk"), ("trunk", "upper"), ("fore", "head"), ("head", "upper"), ("head", "thigh"),
            ("fore", "thigh"), ("fore", "shin"), ("shin", "trunk")}
OPPOSITE = {("thigh", "thigh"), ("shin", "shin"), ("fore", "fore"), ("upper", "upper"), ("fore", "upper"),
            ("shin", "thigh")}


def _index(name, side):
  names = joints.names("smpl24")
  return names.index(name if name in names else f"{side}_{name}")


def _table():
  """Spheres (joint [S], offset from it [S, 3], radius [S]) and which of them should not touch, [S, S] in {0, 1}."""
  rows = []
  for side in ("left", "right"):
    for kind, carrier, start, end, places, radius in LIMBS:
      for place in places:
        a, b, joint = (_index(name, side) for name in (start, end, carrier))
        point = (1 - place) * REST_JOINTS[a] + place * REST_JOINTS[b]
        rows.append((kind, side, joint, point - REST_JOINTS[joint], radius))
  kinds = lambda p, q: tuple(sorted((p[0], q[0])))
  apart = [[kinds(p, q) in ANY_SIDE or (kinds(p, q) in OPPOSITE and p[1] != q[1]) for q in rows] for p in rows]
  joint, offset, radius = zip(*[row[2:] for row in rows])
  return np.array(joint), np.array(offset, np.float32), np.array(radius, np.float32), np.array(apart, np.float32)


def skeleton(pose):
  """Joints [24, 3] and global rotations [24, 3, 3] of the standard skeleton in a pose [24, 3, 3].

  One joint after the other in a loop: on a CPU that is 30 times faster under `vmap` than batches of tiny matrix
  products level by level, and the products are exact float32 anywhere.
  """
  parents = np.array(joints.PARENTS[1:])
  bones = jnp.asarray(REST_JOINTS[1:] - REST_JOINTS[parents])

  def attach(carry, joint_parent_bone_turn):
    places, turns = carry
    joint, parent, bone, turn = joint_parent_bone_turn
    above = jax.lax.dynamic_index_in_dim(turns, parent, keepdims=False)
    place = jax.lax.dynamic_index_in_dim(places, parent, keepdims=False) + jnp.sum(above * bone, axis=-1)
    turn = jnp.sum(above[:, :, None] * turn[None], axis=1)
    return (jax.lax.dynamic_update_index_in_dim(places, place, joint, 0),
            jax.lax.dynamic_update_index_in_dim(turns, turn, joint, 0)), None

  start = (jnp.zeros((24, 3)), jnp.zeros((24, 3, 3)).at[0].set(pose[0]))
  return jax.lax.scan(attach, start, (jnp.arange(1, 24), jnp.asarray(parents), bones, pose[1:]))[0]


def overlap(pose):
  """Sum of squared overlaps of spheres that should not touch, in square metres; 0 for a T-pose.

  Args:
    pose: [24, 3, 3] rotation matrices; the root does not matter.
  Returns:
    [] float32.
  """
  joint, offset, radius, apart = _table()
  places, turns = skeleton(pose)
  centers = places[joint] + jnp.sum(turns[joint] * offset[:, None, :], axis=-1)
  square = jnp.sum(centers**2, axis=-1)
  inner = jnp.matmul(centers, centers.T, precision=jax.lax.Precision.HIGHEST)
  distance = jnp.sqrt(jnp.maximum(square[:, None] + square - 2 * inner, 1e-9))
  return 0.5 * jnp.sum(apart * jnp.maximum(0.0, radius[:, None] + radius - distance) ** 2)
