"""Joints of the mannequin as weights on its vertices, and its shape directions."""

import numpy as np
from scipy.optimize import nnls

from jhmr.body import joints
from jhmr.body.mannequin_mesh import smoothstep
from jhmr.body.mannequin_shape import TIPS
from jhmr.body.mannequin_skin import diffuse

BETAS = ("height", "weight", "leg length", "shoulder width", "hip width", "arm length", "belly", "chest", "head size",
         "limb thickness")
_HIP, _SHOULDER = (0.098, -0.285, 0.004), (0.168, 0.216, -0.026)
_PELVIS, _SPINE, _JAW, _HEAD = (0, -0.262, 0.004), (0, -0.010, -0.006), (0, 0.372, 0.055), (0, 0.490, 0.025)
EXTRA9 = {"left_hip_lsp": _HIP, "neck_lsp": (0, 0.268, -0.012), "head_top_lsp": None, "pelvis_mpii": _PELVIS,
          "thorax_mpii": (0, 0.232, -0.016), "spine_h36m": _SPINE, "jaw_h36m": _JAW, "head_h36m": (0, 0.478, 0.022)}
H36M17 = {"pelvis": _PELVIS, "left_hip": _HIP, "left_knee": (0.104, -0.680, 0.004),
          "left_ankle": (0.100, -1.078, -0.022), "spine": _SPINE, "neck": (0, 0.262, -0.012), "jaw": _JAW,
          "head": _HEAD, "left_shoulder": _SHOULDER, "left_elbow": (0.430, 0.222, -0.030),
          "left_wrist": (0.676, 0.220, -0.029)}
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
      rows[name] = (np.arange(len(points)) == top).astype(float)
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


def regions(points):
  """{region: [n] in 0..1}, smooth; trunk, arm, leg and head share the body between them."""
  x, y, _ = points.T
  side = np.abs(x)
  arm = smoothstep(side, 0.16, 0.24) * smoothstep(y, 0.05, 0.12)
  leg = smoothstep(-y, 0.34, 0.46) * (1 - arm)
  head = smoothstep(y - 0.3 * np.maximum(side - 0.05, 0), 0.29, 0.37)
  return {
      "arm": arm, "leg": leg, "head": head, "trunk": (1 - arm) * (1 - leg) * (1 - head),
      "hand": smoothstep(side, 0.64, 0.70), "foot": smoothstep(-y, 1.02, 1.08),
      "down": np.clip((-y - 0.30) / 0.75, 0, 1) * (1 - arm),      # the way along a leg, hip to ankle
      "along": np.clip((side - 0.175) / 0.50, 0, 1) * arm,        # the way along an arm, shoulder to wrist
      "free": np.minimum(smoothstep(side, 0.0, 0.06) + 1 - leg, 1)}  # inner thighs have nowhere to grow


def bump(points, center, radii):
  """[n] a bell over the front of the body, mirrored in x; radii of x and y."""
  x, y, z = points.T
  shape = np.exp(-((y - center[1]) / radii[1])**2 - ((np.abs(x) - center[0]) / radii[0])**2)
  return shape * smoothstep(z, -0.02, 0.075)


def shape_directions(points, faces, normals):
  """[n, 3, 10] displacement per unit of each coefficient; one unit is about one standard deviation of adults.

  0 height 6.5 cm at equal build; 1 weight 9 kg, all over but head, hands and feet; 2 leg length 2.5 cm against a
  fixed trunk; 3 shoulder width 1.6 cm; 4 hip width 1.8 cm; 5 arm length 2 cm; 6 belly 2.5 cm forward; 7 chest 1.4 cm
  deeper; 8 head size 3 %; 9 limb thickness 3.5 mm of radius.
  """
  r = regions(points)
  x, y, _ = points.T
  sideways, up, forward = np.sign(x)[:, None] * [1, 0, 0], np.array([0, 1, 0]), np.array([0, 0, 1])
  outward = diffuse(points, faces, normals, 0.03)
  column = lambda values: np.asarray(values)[:, None]
  girth = lambda height, width: column(np.exp(-((y - height) / width)**2) * r["trunk"]) * outward
  belly, bust = column(bump(points, (0, -0.10), (0.12, 0.10))), column(bump(points, (0.065, 0.085), (0.075, 0.075)))
  soft = (0.0105 * r["trunk"] + (0.009 - 0.0055 * r["down"]) * r["leg"] * r["free"]
          + (0.0045 - 0.002 * r["along"]) * r["arm"]) * (1 - r["foot"]) * (1 - r["hand"]) + 0.0025 * r["head"]
  shoulders = smoothstep(np.abs(x), 0.02, 0.17) * smoothstep(y, -0.05, 0.16) * (1 - r["head"])
  hips = np.exp(-((y + 0.29) / 0.13)**2) * (1 - r["arm"]) * smoothstep(np.abs(x), 0.02, 0.13)
  thighs = np.where(y < -0.29, np.maximum(1 + (y + 0.29) / 0.60, 0), 0) * smoothstep(np.abs(x), 0.0, 0.06)
  limbs = r["leg"] * (1 - r["foot"]) * r["free"] + r["arm"] * (1 - r["hand"])
  directions = {
      "height": column(0.038 * (1 - 0.35 * r["head"])) * (points - [0, -0.215, 0]) + column(0.0028 * r["head"]) * up,
      "weight": column(soft) * outward + 0.007 * belly * forward,
      "leg length": -0.025 * column(r["down"]) * up,
      "shoulder width": 0.008 * column(shoulders) * sideways,
      "hip width": 0.009 * column(np.maximum(hips, 0.6 * thighs * (1 - r["arm"]))) * sideways,
      "arm length": 0.020 * column(r["along"]) * sideways,
      "belly": 0.025 * belly * forward + 0.004 * girth(-0.10, 0.11),
      "chest": 0.009 * bust * forward + 0.005 * girth(0.08, 0.11),
      "head size": 0.030 * column(r["head"]) * (points - [0, 0.335, 0]),
      "limb thickness": 0.0035 * column(limbs) * outward}
  return np.stack([directions[name] for name in BETAS], 2)
