"""Joints of the mannequin as weights on its vertices, and its shape directions."""

import numpy as np
from scipy.optimize import nnls

from jhmr.body import joints
from jhmr.body.mannequin_mesh import smoothstep
from jhmr.body.mannequin_shape import JOINTS, TIPS
from jhmr.body.mannequin_skin import diffuse

BETAS = ("height", "weight", "leg length", "shoulder width", "hip width", "arm length", "belly", "chest", "head size",
         "limb thickness")
_HIP, _SHOULDER = (0.098, -0.285, 0.004), (0.168, 0.216, -0.026)
_PELVIS, _SPINE, _JAW, _HEAD = (0, -0.262, 0.004), (0, -0.010, -0.006), (0, 0.372, 0.055), (0, 0.490, 0.025)
EXTRA9 = {"left_hip_lsp": _HIP, "neck_lsp": (0, 0.268, -0.012), "head_top_lsp": None, "pelvis_mpii": _PELVIS,
          "thorax_mpii": (0, 0.232, -0.016), "spine_h36m": _SPINE, "jaw_h36m": _JAW, "head_h36m": (0, 0.478, 0.022)}
H36M17 = {"pelvis": _PELVIS, "left_hip": _HIP, "left_knee": (0.104, -0.680, 0.004), "left_ankle": (0.100, -1.078, -0.022),
          "spine": _SPINE, "neck": (0, 0.262, -0.012), "jaw": _JAW, "head": _HEAD, "left_shoulder": _SHOULDER,
          "left_elbow": (0.430, 0.222, -0.030), "left_wrist": (0.676, 0.220, -0.029)}
J19 = {**H36M17, "neck": EXTRA9["neck_lsp"], "head_top": None, "thorax": EXTRA9["thorax_mpii"],
       "head": EXTRA9["head_h36m"]}


def hull_weights(points, target, order, smallest):
  """Sparse, non-negative weights [n] summing to one, with weights @ points = target; as even as possible.

  Candidates are the first vertices of `order` that have the target well inside their hull, at least `smallest`.
  """
  scale = 1e4  # of the exact part against the wish for evenness
  size = smallest
  while size <= len(order):
    near = order[:size]
    system = np.concatenate([scale * points[near].T, np.full((1, size), scale), np.eye(size)])
    wish = np.concatenate([scale * target, [scale], np.full(size, 1 / size)])
    weights, _ = nnls(system, wish)
    spread = 1 / (weights**2).sum() if weights.any() else 0
    if np.abs(weights @ points[near] - target).max() < 1e-5 and spread > 0.35 * smallest:
      out = np.zeros(len(points))
      out[near] = np.where(weights > 1e-4, weights, 0)
      return out / out.sum()
    size = int(1.3 * size) + 1
  raise ValueError(f"no vertices around {target}")


def regressor(names, places, points, twin, top):
  """[len(names), n] rows for points of the left side and the middle; right rows are their mirror images."""
  rows = {}
  smallest = 12 if len(points) < 3000 else 24
  for name, place in places.items():
    if place is None:
      rows[name] = np.eye(len(points))[top]
      continue
    place = np.asarray(place, float)
    order = np.argsort(np.linalg.norm(points - place, axis=1).round(9), kind="stable")
    row = hull_weights(points, place, order, smallest)
    rows[name] = row if name.startswith("left") else 0.5 * (row + row[twin])
  return np.stack([rows[n] if n in rows else rows[n.replace("right", "left")][twin] for n in names])


def landmark_vertices(points, twin):
  """{landmark: vertex}: distinct vertices nearest to where the face, finger and toe landmarks belong."""
  out, taken = {}, set()
  for name, place in TIPS.items():
    distance = np.linalg.norm(points - place, axis=1)
    distance[list(taken)] = np.inf
    if not name.startswith("left"):
      distance[twin != np.arange(len(points))] = np.inf
    out[name] = int(np.argmin(distance))
    taken |= {out[name], int(twin[out[name]])}
  return {n: out[n] if n in out else int(twin[out[n.replace("right", "left")]]) for n in joints.VERTEX_IDS}


def shape_directions(points, faces, normals):
  """[n, 3, 10] displacement per unit of each coefficient; one unit is about one standard deviation of adults.

  0 height 6.5 cm at equal build; 1 weight 9 kg, all over but head, hands and feet; 2 leg length 2.5 cm against a
  fixed trunk; 3 shoulder width 1.6 cm; 4 hip width 1.8 cm; 5 arm length 2 cm; 6 belly 2.5 cm forward; 7 chest 1.4 cm
  deeper; 8 head size 3 %; 9 limb thickness 3.5 mm of radius.
  """
  x, y, z = points.T
  side, sign = np.abs(x), np.sign(x)
  zero = np.zeros_like(x)
  arm = smoothstep(side, 0.16, 0.24) * smoothstep(y, 0.05, 0.12)
  hand = smoothstep(side, 0.64, 0.70)
  leg = smoothstep(-y, 0.34, 0.46) * (1 - arm)
  foot = smoothstep(-y, 1.02, 1.08)
  head = smoothstep(y - 0.3 * np.maximum(side - 0.05, 0), 0.29, 0.37)
  trunk = (1 - arm) * (1 - leg) * (1 - head)
  down = np.clip((-y - 0.30) / 0.75, 0, 1) * (1 - arm)          # along the leg, hip to ankle
  along = np.clip((side - 0.175) / 0.50, 0, 1) * arm            # along the arm, shoulder to wrist
  inner = smoothstep(x * sign, 0.0, 0.06) + (1 - leg)           # inner thighs have nowhere to grow
  outward = diffuse(points, faces, normals, 0.03)
  belly = np.exp(-((y + 0.10) / 0.10)**2 - (x / 0.12)**2) * smoothstep(z, -0.02, 0.08)
  bust = np.exp(-((y - 0.085) / 0.075)**2 - ((side - 0.065) / 0.075)**2) * smoothstep(z, -0.02, 0.07)
  hips = np.exp(-((y + 0.29) / 0.13)**2) * (1 - arm) * smoothstep(side, 0.02, 0.13)
  grow = lambda center, amount: (points - center) * np.asarray(amount)[..., None]

  height = grow([0, -0.215, 0], np.full(len(points), 0.038) * (1 - 0.35 * head)) + [0, 0.0028, 0] * head[:, None]
  soft = (0.0105 * trunk + (0.009 - 0.0055 * down) * leg * np.minimum(inner, 1) + (0.0045 - 0.002 * along) * arm) * (1 - foot) * (1 - hand) + 0.0025 * head
  weight = soft[:, None] * outward + 0.007 * belly[:, None] * [0, 0, 1]
  legs = np.stack([zero, -0.025 * down, zero], 1)
  wide = smoothstep(side, 0.02, 0.17) * smoothstep(y, -0.05, 0.16) * (1 - head)
  shoulders = np.stack([0.008 * sign * wide, zero, zero], 1)
  below = np.where(y < -0.29, np.maximum(1 - (-0.29 - y) / 0.60, 0), 0) * smoothstep(side, 0.0, 0.06) * (1 - arm)
  hip_width = np.stack([0.009 * sign * np.maximum(hips, 0.6 * below), zero, zero], 1)
  arms = np.stack([0.020 * sign * along, zero, zero], 1)
  bellies = np.stack([0.003 * sign * (belly > 0) * hips, zero, 0.025 * belly], 1) + 0.004 * (
      np.exp(-((y + 0.10) / 0.11)**2) * trunk)[:, None] * outward
  chest = np.stack([zero, -0.001 * bust, 0.009 * bust], 1) + 0.005 * (
      np.exp(-((y - 0.08) / 0.11)**2) * trunk)[:, None] * outward
  heads = grow([0, 0.335, 0], 0.030 * head)
  limbs = (0.0035 * (leg * (1 - foot) * np.minimum(inner, 1) + arm * (1 - hand)))[:, None] * outward
  return np.stack([height, weight, legs, shoulders, hip_width, arms, bellies, chest, heads, limbs], 2)


def joint_places():
  return {n: JOINTS[n] for n in joints.SMPL24 if n in JOINTS}
