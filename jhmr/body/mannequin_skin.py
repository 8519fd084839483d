"""How the mannequin moves: skinning weights and pose correctives.

A weight is a product of steps down the tree: step j is the share of a vertex that lies beyond joint j, a smooth
ramp across a plane through the joint, confined to the joint's own limb; the weight of j is its share minus those of
its children. A little diffusion along the surface (never through space) smooths what is left of edges.

Blending rotations linearly loses volume where weights are mixed. The correctives are what is missing towards
blending them on the sphere of rotations, fitted per joint over a sample of its poses by a function linear in R - I.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial.transform import Rotation

from jhmr.body import joints
from jhmr.body.mannequin_mesh import smoothstep

# Largest angle of each joint in the fit, radians, and its main axis on the left side.
RANGES = {"hip": (1.9, (1, 0, 0)), "knee": (2.3, (1, 0, 0)), "ankle": (0.9, (1, 0, 0)), "shoulder": (1.8, (0, 0, 1)),
          "elbow": (2.4, (0, 1, 0)), "wrist": (1.3, (0, 0, 1)), "collar": (0.6, (0, 0, 1)), "neck": (0.9, (1, 0, 0)),
          "head": (0.8, (1, 0, 0)), "spine1": (0.7, (1, 0, 0)), "spine2": (0.6, (1, 0, 0)),
          "spine3": (0.6, (1, 0, 0)), "foot": (0.7, (1, 0, 0)), "hand": (0.9, (0, 0, 1))}
NUM_SAMPLES = 48
# Rotating by a share of the angle keeps distances from the joint, which is too much where flesh folds and too little at
# an elbow: the part of it that keeps the volume of the whole body at 100 to 120 degrees.
STRENGTH = {"hip": 0.85, "knee": 0.85, "shoulder": 0.7, "elbow": 1.2}


def steps(points):
  """{joint: share beyond it} of points [n, 3], middle and left side, before the limb above is multiplied in."""
  x, y, z = points.T
  side, front = np.abs(x), smoothstep(z, -0.05, 0.05)
  ramp = lambda value, width: smoothstep(value, -width, width)
  hip_front = (0.9 * x - y - 0.385) / 1.345
  hip_back = -(y + 0.325) + 0.25 * (x - 0.08)
  inner = 1 - smoothstep(side, 0.0, 0.05)             # the crotch stays with the pelvis
  hip = (1 - inner) * (front * hip_front + (1 - front) * hip_back) + inner * -(y + 0.430)
  crotch = 0.002 + 0.03 * smoothstep(y, -0.47, -0.40)
  neck = ramp(0.92 * (y - 0.280) + 0.35 * (z + 0.02) - 0.45 * np.maximum(side - 0.055, 0), 0.034)
  return {
      "spine1": ramp(y + 0.105, 0.065), "spine2": ramp(y - 0.025, 0.055), "spine3": ramp(y - 0.090, 0.055),
      "neck": neck,
      "head": ramp(0.85 * (y - 0.352) + 0.5 * (z - 0.005), 0.030),
      "left_collar": smoothstep(x, 0.030, 0.130) * smoothstep(y, 0.06, 0.18) * (1 - neck),
      "left_shoulder": ramp(x - 0.172 + 0.8 * np.minimum(y - 0.16, 0), 0.048) * smoothstep(y, 0.05, 0.11),
      "left_elbow": ramp(x - 0.432, 0.048), "left_wrist": ramp(x - 0.684, 0.028), "left_hand": ramp(x - 0.768, 0.018),
      "left_hip": ramp(hip, 0.070) * ramp(x, crotch) * smoothstep(y, -0.06, -0.14),
      "left_knee": ramp(-(y + 0.685), 0.052), "left_ankle": ramp(-(y + 1.085) + 0.4 * (z + 0.024), 0.032),
      "left_foot": ramp(z - 0.092, 0.024) * smoothstep(y, -1.06, -1.09)}


def shares(points):
  """[24, n] share of each vertex beyond each joint, limb above included; 1 for the root."""
  flipped = steps(points * [-1, 1, 1])
  step = steps(points)
  out = np.ones((24, len(points)))
  for j, name in enumerate(joints.SMPL24[1:], 1):
    own = flipped[name.replace("right", "left")] if name.startswith("right") else step[name]
    out[j] = out[joints.PARENTS[j]] * own
  return out


def laplacian(points, faces):
  """Cotangent Laplacian [n, n] (positive semi-definite) and lumped areas [n]."""
  rows, values, area = [], [], np.zeros(len(points))
  for i in range(3):
    o, a, b = faces[:, i], faces[:, (i + 1) % 3], faces[:, (i + 2) % 3]
    u, v = points[a] - points[o], points[b] - points[o]
    size = np.linalg.norm(np.cross(u, v), axis=1)
    rows.append(np.stack([a, b], 1))
    values.append(np.maximum((u * v).sum(1) / (2 * size), 1e-3))
    np.add.at(area, o, size / 6)
  (a, b), w = np.concatenate(rows).T, np.concatenate(values)
  graph = sparse.coo_matrix((np.tile(w, 2), (np.r_[a, b], np.r_[b, a])), shape=(len(points),) * 2).tocsc()
  return sparse.diags(np.asarray(graph.sum(1)).ravel()) - graph, area


def diffuse(points, faces, values, radius):
  """Heat spread along the surface for a time radius^2 / 4; values [n, c]."""
  operator, area = laplacian(points, faces)
  solve = splu((sparse.diags(area) + radius**2 / 4 * operator).tocsc())
  return solve.solve(area[:, None] * values)


def skinning_weights(points, faces):
  """[n, 24], at most four per row, rows sum to one."""
  share = shares(points)
  weights = share.copy()
  for j in range(1, 24):
    weights[joints.PARENTS[j]] -= share[j]
  weights = np.maximum(diffuse(points, faces, np.maximum(weights, 0).T, 0.020), 0)
  fifth = np.sort(weights, 1)[:, -5]
  weights = np.maximum(weights - np.maximum(fifth, 0.004)[:, None], 0)  # subtracting keeps the rows smooth
  return weights / weights.sum(1, keepdims=True)


def descendants(j):
  """Joint j and everything below it."""
  below = {j}
  for k in range(j + 1, 24):
    if joints.PARENTS[k] in below:
      below.add(k)
  return sorted(below)


def sample_rotations(name):
  """[S, 3] rotation vectors of one joint: half about its main axis, half anywhere; mirror images on the right."""
  angle, axis = RANGES[name.split("_")[-1]]
  rng = np.random.default_rng(joints.SMPL24.index(name.replace("right", "left")))
  vectors = rng.normal(size=(NUM_SAMPLES, 3))
  vectors *= angle * rng.uniform(0.1, 0.8, size=(NUM_SAMPLES, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
  half = NUM_SAMPLES // 2
  vectors[:half] = np.linspace(-angle, angle, half)[:, None] * axis + 0.1 * vectors[:half]
  mirrored = vectors * [1, -1, -1]
  if name.startswith("right"):
    return mirrored
  return vectors if name.startswith("left") else np.concatenate([vectors, mirrored])


def correctives(points, weights, rest):
  """Pose correctives [207, 3 n], columns vertex-major, for skinning weights [n, 24] and rest joints [24, 3].

  With share u beyond a joint, linear blending applies A = (1 - u) I + u R about it; the target is the rotation by
  the same share of the angle. The offset o is added before blending, so A o + A x = target is solved for o = f(R - I),
  least squares over the sampled rotations, with a ridge against the wildest poses.
  Differs: the authors of SMPL learn theirs from scans (Loper et al. 2015).
  """
  out = np.zeros((23, 9, len(points), 3))
  for j in range(1, 24):
    share = weights[:, descendants(j)].sum(1)
    near = np.flatnonzero(share * (1 - share) > 1e-3)
    fitted = fit_joint(points[near] - rest[j], share[near], sample_rotations(joints.SMPL24[j]))
    kind = joints.SMPL24[j].split("_")[-1]
    # Between the legs nothing is added: a raised thigh would draw out a web.
    where = smoothstep(np.abs(points[near, :1]), 0.02, 0.09) if kind == "hip" else 1.0
    out[j - 1][:, near] = STRENGTH.get(kind, 1.0) * where * fitted
  return out.reshape(207, -1)


def fit_joint(offsets, share, vectors):
  """[9, n, 3]: offsets [n, 3] from the joint, share [n] beyond it, vectors [S, 3] sampled rotations."""
  turn = Rotation.from_rotvec(vectors).as_matrix()                                      # [S, 3, 3]
  features = (turn - np.eye(3)).reshape(-1, 9)
  partial = Rotation.from_rotvec((share[:, None, None] * vectors).reshape(-1, 3)).as_matrix()
  partial = partial.reshape(-1, len(vectors), 3, 3)
  blend = np.eye(3) + share[:, None, None, None] * (turn - np.eye(3))                   # [n, S, 3, 3]
  missing = np.einsum("nsij,nj->nsi", partial - blend, offsets)
  gram = np.einsum("nski,nskj->nsij", blend, blend)
  pull = np.einsum("nski,nsk->nsi", blend, missing)
  normal = np.einsum("sa,nsij,sb->naibj", features, gram, features, optimize=True).reshape(-1, 27, 27)
  right = np.einsum("sa,nsi->nai", features, pull).reshape(-1, 27, 1)
  ridge = 0.02 * len(vectors) * np.eye(27)
  return np.linalg.solve(normal + ridge, right).reshape(-1, 9, 3).transpose(1, 0, 2)
