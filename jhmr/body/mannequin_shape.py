"""The form of the mannequin: an implicit function, negative inside, of a person in a T-pose.

Limbs are lofts: tables of half-widths along one world axis, read off anthropometric proportions for a stature
of 1.70 m (floor y = -1.155, top of the head y = 0.545), and joined by unions with rounded seams. The frame is
the one of body model files: metres, y up, the person faces +z and the person's left is +x. Only the left half
is described; the right half is its mirror image.

Source: segment lengths after Drillis and Contini 1966, as fractions of stature; breadths and depths by eye.
"""

import numpy as np
from scipy.interpolate import CubicSpline

FLOOR = -1.155
FAR = 0.5  # what a primitive reports beyond its reach; larger than any seam

# Rows: coordinate along the axis, two centre coordinates, then four half-widths (+first, -first, +second, -second).
# Axis y: (y; x, z; left, right, front, back). Axis x: (x; y, z; up, down, front, back).
# Axis z: (z; x, y; left, right, up, down). Ends that should not show taper off inside another limb.
TORSO = np.array([
    [-0.400, 0, -0.004, 0.012, 0.012, 0.012, 0.012],
    [-0.375, 0, -0.004, 0.040, 0.040, 0.032, 0.040],
    [-0.345, 0, -0.004, 0.085, 0.085, 0.062, 0.070],
    [-0.310, 0, -0.004, 0.122, 0.122, 0.084, 0.089],
    [-0.270, 0, -0.004, 0.144, 0.144, 0.097, 0.097],
    [-0.220, 0, -0.002, 0.154, 0.154, 0.105, 0.094],
    [-0.160, 0, 0.002, 0.152, 0.152, 0.107, 0.083],
    [-0.100, 0, 0.004, 0.145, 0.145, 0.102, 0.077],
    [-0.040, 0, 0.002, 0.142, 0.142, 0.100, 0.080],
    [0.020, 0, -0.004, 0.148, 0.148, 0.104, 0.088],
    [0.080, 0, -0.012, 0.159, 0.159, 0.109, 0.097],
    [0.130, 0, -0.018, 0.165, 0.165, 0.105, 0.098],
    [0.180, 0, -0.024, 0.158, 0.158, 0.087, 0.089],
    [0.215, 0, -0.027, 0.134, 0.134, 0.066, 0.072],
    [0.250, 0, -0.026, 0.088, 0.088, 0.044, 0.050],
    [0.280, 0, -0.024, 0.045, 0.045, 0.026, 0.030],
    [0.310, 0, -0.022, 0.015, 0.015, 0.012, 0.012],
])
NECK = np.array([
    [0.120, 0, -0.030, 0.040, 0.040, 0.034, 0.034],
    [0.170, 0, -0.028, 0.060, 0.060, 0.044, 0.046],
    [0.210, 0, -0.024, 0.064, 0.064, 0.050, 0.052],
    [0.250, 0, -0.018, 0.061, 0.061, 0.054, 0.053],
    [0.290, 0, -0.009, 0.057, 0.057, 0.056, 0.054],
    [0.325, 0, -0.002, 0.055, 0.055, 0.054, 0.056],
    [0.370, 0, 0.002, 0.053, 0.053, 0.050, 0.058],
    [0.420, 0, 0.004, 0.044, 0.044, 0.040, 0.050],
])
SKULL = np.array([
    [0.345, 0, 0.016, 0.030, 0.030, 0.036, 0.044],
    [0.375, 0, 0.018, 0.054, 0.054, 0.058, 0.070],
    [0.400, 0, 0.019, 0.067, 0.067, 0.072, 0.087],
    [0.432, 0, 0.018, 0.074, 0.074, 0.083, 0.096],
    [0.466, 0, 0.016, 0.077, 0.077, 0.086, 0.099],
])
FACE = np.array([
    [0.310, 0, 0.030, 0.006, 0.006, 0.006, 0.008],
    [0.322, 0, 0.046, 0.016, 0.016, 0.016, 0.020],
    [0.336, 0, 0.058, 0.030, 0.030, 0.029, 0.034],
    [0.354, 0, 0.056, 0.044, 0.044, 0.041, 0.044],
    [0.376, 0, 0.050, 0.053, 0.053, 0.050, 0.050],
    [0.402, 0, 0.044, 0.060, 0.060, 0.058, 0.050],
    [0.430, 0, 0.040, 0.065, 0.065, 0.062, 0.050],
    [0.450, 0, 0.038, 0.062, 0.062, 0.060, 0.046],
])
LEG = np.array([
    [-0.150, 0.084, -0.004, 0.012, 0.012, 0.012, 0.012],
    [-0.190, 0.084, -0.004, 0.040, 0.042, 0.042, 0.042],
    [-0.230, 0.083, -0.004, 0.064, 0.060, 0.064, 0.066],
    [-0.270, 0.083, -0.004, 0.077, 0.067, 0.077, 0.080],
    [-0.320, 0.086, -0.004, 0.083, 0.068, 0.085, 0.087],
    [-0.370, 0.090, -0.002, 0.082, 0.070, 0.088, 0.086],
    [-0.430, 0.094, 0.000, 0.077, 0.071, 0.086, 0.079],
    [-0.500, 0.098, 0.002, 0.070, 0.067, 0.079, 0.071],
    [-0.570, 0.101, 0.003, 0.061, 0.060, 0.069, 0.062],
    [-0.625, 0.103, 0.003, 0.055, 0.055, 0.061, 0.055],
    [-0.665, 0.104, 0.003, 0.052, 0.053, 0.057, 0.051],
    [-0.700, 0.104, 0, 0.050, 0.051, 0.055, 0.050],
    [-0.735, 0.104, -0.004, 0.050, 0.050, 0.051, 0.054],
    [-0.790, 0.104, -0.011, 0.054, 0.054, 0.048, 0.062],
    [-0.840, 0.103, -0.016, 0.053, 0.055, 0.046, 0.061],
    [-0.900, 0.102, -0.018, 0.045, 0.047, 0.043, 0.051],
    [-0.970, 0.101, -0.020, 0.036, 0.037, 0.038, 0.041],
    [-1.040, 0.100, -0.022, 0.030, 0.030, 0.034, 0.035],
    [-1.080, 0.100, -0.023, 0.030, 0.030, 0.034, 0.034],
    [-1.110, 0.100, -0.024, 0.030, 0.030, 0.036, 0.036],
])
FOOT = np.array([
    [-0.062, 0.100, -1.126, 0.026, 0.025, 0.030, 0.036],
    [-0.035, 0.101, -1.120, 0.029, 0.029, 0.042, 0.044],
    [0.010, 0.104, -1.114, 0.031, 0.030, 0.052, 0.048],
    [0.050, 0.110, -1.122, 0.037, 0.034, 0.043, 0.044],
    [0.090, 0.116, -1.130, 0.043, 0.041, 0.033, 0.038],
    [0.120, 0.119, -1.135, 0.046, 0.044, 0.025, 0.034],
    [0.145, 0.120, -1.139, 0.042, 0.042, 0.019, 0.030],
    [0.164, 0.117, -1.141, 0.032, 0.035, 0.015, 0.028],
])
ARM = np.array([
    [0.070, 0.190, -0.028, 0.020, 0.024, 0.028, 0.028],
    [0.110, 0.200, -0.028, 0.040, 0.046, 0.048, 0.048],
    [0.150, 0.212, -0.028, 0.050, 0.058, 0.056, 0.056],
    [0.190, 0.219, -0.028, 0.053, 0.061, 0.058, 0.057],
    [0.235, 0.222, -0.028, 0.049, 0.056, 0.054, 0.052],
    [0.290, 0.222, -0.028, 0.044, 0.048, 0.049, 0.048],
    [0.340, 0.222, -0.029, 0.042, 0.044, 0.047, 0.047],
    [0.390, 0.222, -0.030, 0.038, 0.040, 0.042, 0.043],
    [0.430, 0.222, -0.031, 0.036, 0.038, 0.040, 0.042],
    [0.470, 0.222, -0.030, 0.038, 0.039, 0.045, 0.043],
    [0.510, 0.222, -0.030, 0.038, 0.038, 0.045, 0.042],
    [0.560, 0.221, -0.030, 0.034, 0.034, 0.040, 0.037],
    [0.620, 0.220, -0.030, 0.027, 0.027, 0.032, 0.031],
    [0.670, 0.220, -0.030, 0.021, 0.022, 0.029, 0.028],
    [0.700, 0.219, -0.029, 0.019, 0.020, 0.033, 0.031],
    [0.735, 0.218, -0.028, 0.017, 0.019, 0.041, 0.039],
    [0.770, 0.217, -0.028, 0.015, 0.017, 0.042, 0.042],
])
MITTEN = np.array([
    [0.760, 0.217, -0.028, 0.015, 0.017, 0.041, 0.041],
    [0.790, 0.215, -0.027, 0.013, 0.014, 0.040, 0.041],
    [0.820, 0.213, -0.026, 0.011, 0.012, 0.035, 0.038],
    [0.845, 0.212, -0.026, 0.009, 0.010, 0.027, 0.029],
])
# Capsules with two radii: start, end, radius at both. Fingers point along +x, the palm faces the floor.
FINGERS = (
    ((0.765, 0.217, 0.005), (0.838, 0.211, 0.022), 0.0100, 0.0078),     # index
    ((0.770, 0.218, -0.017), (0.855, 0.212, -0.012), 0.0102, 0.0080),   # middle
    ((0.767, 0.217, -0.039), (0.843, 0.211, -0.045), 0.0100, 0.0076),   # ring
    ((0.758, 0.215, -0.058), (0.815, 0.210, -0.075), 0.0090, 0.0070),   # pinky
)
THUMB = (
    ((0.695, 0.214, -0.015), (0.735, 0.207, 0.024), 0.0150, 0.0125),
    ((0.735, 0.207, 0.024), (0.778, 0.203, 0.048), 0.0120, 0.0085),
)
TRAPEZIUS = ((0.010, 0.280, -0.034), (0.150, 0.238, -0.034), 0.028, 0.028)
GLUTES = ((0.074, -0.300, -0.058), (0.074, 0.080, 0.064))               # ellipsoids: centre, radii, tilt
CHEST = ((0.074, 0.100, 0.052), (0.072, 0.056, 0.040), 0.25)
TIPS = {  # where the finger and toe landmarks sit; nearest vertices are taken
    "nose": (0.000, 0.413, 0.126), "left_eye": (0.032, 0.438, 0.092), "left_ear": (0.084, 0.420, 0.010),
    "left_big_toe": (0.096, -1.140, 0.176), "left_small_toe": (0.152, -1.142, 0.150),
    "left_heel": (0.101, -1.130, -0.086), "left_thumb": (0.785, 0.203, 0.052),
    "left_index": (0.846, 0.211, 0.024), "left_middle": (0.863, 0.212, -0.012),
    "left_ring": (0.851, 0.211, -0.046), "left_pinky": (0.822, 0.210, -0.077), "head_top": (0.000, 0.545, 0.015),
}
JOINTS = {  # left side and middle; metres
    "pelvis": (0.000, -0.215, 0.000), "left_hip": (0.078, -0.300, 0.000), "spine1": (0.000, -0.105, -0.008),
    "left_knee": (0.104, -0.685, 0.000), "spine2": (0.000, 0.025, -0.015), "left_ankle": (0.100, -1.085, -0.024),
    "spine3": (0.000, 0.080, -0.020), "left_foot": (0.116, -1.130, 0.090), "neck": (0.000, 0.275, -0.020),
    "left_collar": (0.078, 0.195, -0.025), "head": (0.000, 0.360, 0.010), "left_shoulder": (0.172, 0.220, -0.028),
    "left_elbow": (0.432, 0.222, -0.031), "left_wrist": (0.682, 0.220, -0.029), "left_hand": (0.765, 0.217, -0.026),
}


def loft(points, axis, table, power=2.0):
  """Signed distance estimate to a loft, points [n, 3] -> [n]; ends are closed by half ellipsoids."""
  u, v = [i for i in range(3) if i != axis]
  t = points[:, axis]
  low, high = table[:, 0].min(), table[:, 0].max()
  order = np.argsort(table[:, 0])
  row = CubicSpline(table[order, 0], table[order, 1:], bc_type="clamped")(np.clip(t, low, high))
  p, q = points[:, u] - row[:, 0], points[:, v] - row[:, 1]
  a, b = np.where(p > 0, row[:, 2], row[:, 3]), np.where(q > 0, row[:, 4], row[:, 5])
  over = np.maximum(np.maximum(low - t, t - high), 0)
  cap = 0.5 * (row[:, 2:4].mean(1) + row[:, 4:].mean(1))
  radii = np.stack([a, b, np.minimum(cap, np.minimum(a, b) * 1.3)], 1)
  return ellipsoid_distance(np.stack([p, q, over], 1), radii, power)


def ellipsoid_distance(offset, radii, power=2.0):
  """First-order distance to the (super)ellipsoid sum |offset / radii|^power = 1."""
  x = np.abs(offset) / radii
  k = np.maximum((x**power).sum(1), 1e-12)**(1 / power)
  slope = np.sqrt(((x**(power - 1) / radii)**2).sum(1)) / k**(power - 1)
  return (k - 1) / np.maximum(slope, 1 / radii.max(1))


def ellipsoid(points, center, radii, tilt=0.0):
  """Ellipsoid whose y-z axes are turned by tilt about x."""
  offset = points - np.asarray(center)
  c, s = np.cos(tilt), np.sin(tilt)
  offset = np.stack([offset[:, 0], c * offset[:, 1] + s * offset[:, 2], c * offset[:, 2] - s * offset[:, 1]], 1)
  return ellipsoid_distance(offset, np.broadcast_to(np.asarray(radii, float), offset.shape))


def capsule(points, start, end, radius0, radius1):
  """Capsule whose radius changes linearly."""
  start, end = np.asarray(start), np.asarray(end)
  axis = end - start
  t = np.clip((points - start) @ axis / (axis @ axis), 0, 1)
  return np.linalg.norm(points - start - t[:, None] * axis, axis=1) - (radius0 + (radius1 - radius0) * t)


def union(a, b, seam):
  """Union with a fillet; differs from min(a, b) only where the two are within `seam` of each other."""
  h = np.maximum(seam - np.abs(a - b), 0) / seam
  return np.minimum(a, b) - h * h * seam / 4


def carve(a, b, seam):
  """a without b, with a rounded rim."""
  return -union(-a, b, seam)


def bounded(points, low, high, fn):
  """fn on the points inside a box, FAR elsewhere: most primitives are small."""
  inside = ((points > np.asarray(low)) & (points < np.asarray(high))).all(1)
  out = np.full(len(points), FAR)
  if inside.any():
    out[inside] = fn(points[inside])
  return out


def leg(points):
  """One whole left leg with its foot."""
  out = loft(points, 1, LEG, 2.1)
  out = union(out, ellipsoid(points, (0.118, -1.080, -0.022), (0.016, 0.017, 0.017)), 0.016)  # ankle bones
  out = union(out, ellipsoid(points, (0.083, -1.073, -0.018), (0.016, 0.017, 0.017)), 0.016)
  out = union(out, ellipsoid(points, (0.104, -0.676, 0.032), (0.027, 0.034, 0.024)), 0.045)    # kneecap
  foot = np.maximum(loft(points, 2, FOOT, 2.3), FLOOR - points[:, 1])
  return union(out, foot, 0.03)


def hand(points, fingers):
  out = np.full(len(points), FAR)
  if fingers:
    for finger in FINGERS:
      out = union(out, capsule(points, *finger), 0.004)
  else:
    out = loft(points, 0, MITTEN)
  thumb = union(capsule(points, *THUMB[0]), capsule(points, *THUMB[1]), 0.006)
  return union(out, thumb, 0.006)


def head(points):
  jaw = points + (points[:, 2:] - 0.08) * [0, 0.35, 0]  # sheared, for its lower line rises backward
  out = union(loft(points, 1, SKULL), loft(jaw, 1, FACE, 2.2), 0.04)
  for p in (points, points * [-1, 1, 1]):
    out = union(out, ellipsoid(p, (0.026, 0.462, 0.090), (0.030, 0.010, 0.016)), 0.02)         # brows
    out = carve(out, ellipsoid(p, (0.033, 0.440, 0.116), (0.017, 0.011, 0.020)), 0.020)        # eye sockets
    out = union(out, ellipsoid(p, (0.032, 0.440, 0.088), (0.014, 0.010, 0.011)), 0.006)        # eyes
    out = union(out, ellipsoid(p, (0.046, 0.412, 0.070), (0.018, 0.016, 0.018)), 0.03)         # cheeks
    out = union(out, ellipsoid(p, (0.077, 0.424, 0.000), (0.012, 0.030, 0.020), 0.25), 0.012)  # ears
    out = union(out, ellipsoid(p, (0.011, 0.414, 0.104), (0.008, 0.007, 0.010)), 0.010)        # nostrils
  out = union(out, capsule(points, (0, 0.446, 0.098), (0, 0.416, 0.114), 0.007, 0.0095), 0.018)  # nose
  out = union(out, ellipsoid(points, (0, 0.383, 0.095), (0.024, 0.010, 0.011)), 0.014)           # lips
  return union(out, ellipsoid(points, (0, 0.345, 0.084), (0.022, 0.015, 0.016)), 0.025)          # chin


def field(points, fingers=True):
  """The implicit function, [n, 3] -> [n]: about the signed distance in metres, negative inside; even in x."""
  points = np.abs(points * [1, 0, 0]) + points * [0, 1, 1]
  mirrored = points * [-1, 1, 1]
  # What lies near the middle is added from both sides, so that the seam at x = 0 is rounded too.
  both = lambda low, high, fn, seam: union(bounded(points, low, high, fn), bounded(mirrored, low, high, fn), seam)
  out = bounded(points, (-1, -0.60, -1), (0.45, 0.45, 1), lambda p: loft(p, 1, TORSO, 2.25))
  out = union(out, bounded(points, (-1, -0.1, -1), (0.30, 0.60, 1), lambda p: loft(p, 1, NECK)), 0.07)
  out = union(out, bounded(points, (-1, 0.18, -1), (0.30, 1, 1), head), 0.03)
  out = union(out, both((-0.10, 0, -1), (1, 0.45, 1), lambda p: loft(p, 0, ARM, 2.1), 0.075), 0.075)
  out = union(out, both((-0.15, 0, -1), (0.40, 0.45, 1), lambda p: capsule(p, *TRAPEZIUS), 0.05), 0.05)
  out = union(out, both((-0.20, -2, -1), (0.40, 0.05, 1), leg, 0.012), 0.055)
  out = union(out, both((-0.20, -0.6, -1), (0.40, 0.0, 1), lambda p: ellipsoid(p, *GLUTES), 0.03), 0.045)
  out = union(out, both((-0.20, -0.1, -1), (0.35, 0.3, 1), lambda p: ellipsoid(p, *CHEST), 0.05), 0.05)
  return union(out, bounded(points, (0.6, 0.1, -1), (2, 0.4, 1), lambda p: hand(p, fingers)), 0.012)


def project(points, fingers=True, steps=4):
  """Points [n, 3] moved along the gradient onto the surface; the plane x = 0 stays itself, as the field is even."""
  h = 1e-6
  for _ in range(steps):
    samples = field(np.concatenate([points, points + [h, 0, 0], points + [0, h, 0], points + [0, 0, h]]), fingers)
    value, ahead = np.split(samples, [len(points)])
    gradient = (ahead.reshape(3, -1) - value).T / h
    step = value[:, None] * gradient / np.maximum((gradient**2).sum(1, keepdims=True), 0.25)
    points = points - np.clip(step, -0.02, 0.02)
  return points
