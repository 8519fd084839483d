"""The form of the mannequin: an implicit function, negative inside, of a person in a T-pose.

Limbs are lofts: tables of half-widths along one world axis, read off anthropometric proportions for a stature
of 1.70 m (floor y = -1.155, top of the head y = 0.545), and joined by unions with rounded seams. The frame is
the one of body model files: metres, y up, the person faces +z and the person's left is +x. Only the left half
is described; the right half is its mirror image.

Source: segment lengths after Drillis and Contini 1966, as fractions of stature; breadths and depths by eye.
"""

import numpy as np
from scipy.interpolate import PchipInterpolator

FLOOR = -1.155
FAR = 0.5  # what a primitive reports beyond its reach; larger than any seam

# Rows: coordinate along the axis, two centre coordinates, then four half-widths (+first, -first, +second, -second).
# Axis y: (y; x, z; left, right, front, back). Axis x: (x; y, z; up, down, front, back). Axis z: (z; x, y; left, right, up, down).
TORSO = np.array([
    [-0.345, 0, -0.006, 0.120, 0.120, 0.072, 0.080],
    [-0.300, 0, -0.006, 0.160, 0.160, 0.090, 0.096],
    [-0.250, 0, -0.004, 0.166, 0.166, 0.100, 0.098],
    [-0.200, 0, -0.002, 0.160, 0.160, 0.106, 0.088],
    [-0.150, 0, 0.002, 0.148, 0.148, 0.106, 0.080],
    [-0.090, 0, 0.002, 0.137, 0.137, 0.100, 0.078],
    [-0.040, 0, 0.000, 0.136, 0.136, 0.100, 0.082],
    [0.020, 0, -0.004, 0.144, 0.144, 0.104, 0.090],
    [0.080, 0, -0.010, 0.154, 0.154, 0.108, 0.096],
    [0.130, 0, -0.016, 0.160, 0.160, 0.102, 0.098],
    [0.180, 0, -0.022, 0.156, 0.156, 0.082, 0.092],
    [0.215, 0, -0.028, 0.138, 0.138, 0.062, 0.076],
    [0.245, 0, -0.030, 0.098, 0.098, 0.050, 0.056],
])
NECK = np.array([
    [0.200, 0, -0.030, 0.068, 0.068, 0.050, 0.056],
    [0.250, 0, -0.022, 0.060, 0.060, 0.054, 0.056],
    [0.290, 0, -0.010, 0.055, 0.055, 0.056, 0.056],
    [0.330, 0, 0.000, 0.053, 0.053, 0.054, 0.058],
    [0.380, 0, 0.004, 0.052, 0.052, 0.052, 0.060],
])
SKULL = np.array([
    [0.405, 0, 0.020, 0.068, 0.068, 0.070, 0.088],
    [0.440, 0, 0.020, 0.074, 0.074, 0.082, 0.094],
    [0.475, 0, 0.018, 0.074, 0.074, 0.082, 0.094],
])
FACE = np.array([
    [0.338, 0, 0.072, 0.022, 0.022, 0.024, 0.030],
    [0.350, 0, 0.066, 0.034, 0.034, 0.034, 0.045],
    [0.370, 0, 0.056, 0.048, 0.048, 0.046, 0.050],
    [0.400, 0, 0.044, 0.058, 0.058, 0.060, 0.050],
    [0.440, 0, 0.040, 0.063, 0.063, 0.064, 0.050],
    [0.470, 0, 0.040, 0.060, 0.060, 0.060, 0.050],
])
LEG = np.array([
    [-0.270, 0.082, -0.004, 0.088, 0.070, 0.080, 0.086],
    [-0.320, 0.086, -0.004, 0.088, 0.078, 0.086, 0.090],
    [-0.370, 0.090, -0.002, 0.084, 0.080, 0.088, 0.086],
    [-0.430, 0.094, 0.000, 0.078, 0.076, 0.086, 0.078],
    [-0.500, 0.098, 0.002, 0.070, 0.068, 0.078, 0.070],
    [-0.570, 0.101, 0.002, 0.061, 0.060, 0.068, 0.062],
    [-0.625, 0.103, 0.002, 0.054, 0.055, 0.060, 0.055],
    [-0.665, 0.104, 0.002, 0.051, 0.053, 0.058, 0.050],
    [-0.700, 0.104, 0.000, 0.050, 0.051, 0.056, 0.050],
    [-0.735, 0.104, -0.004, 0.050, 0.049, 0.050, 0.055],
    [-0.790, 0.104, -0.012, 0.054, 0.052, 0.048, 0.062],
    [-0.840, 0.103, -0.016, 0.053, 0.052, 0.046, 0.060],
    [-0.900, 0.102, -0.018, 0.045, 0.045, 0.043, 0.050],
    [-0.970, 0.101, -0.020, 0.036, 0.036, 0.038, 0.040],
    [-1.040, 0.100, -0.022, 0.031, 0.031, 0.036, 0.037],
    [-1.085, 0.100, -0.022, 0.033, 0.034, 0.038, 0.038],
    [-1.110, 0.100, -0.022, 0.033, 0.033, 0.040, 0.040],
])
FOOT = np.array([
    [-0.056, 0.101, -1.122, 0.029, 0.029, 0.034, 0.040],
    [-0.030, 0.101, -1.118, 0.032, 0.032, 0.046, 0.044],
    [0.010, 0.104, -1.116, 0.034, 0.033, 0.058, 0.046],
    [0.050, 0.110, -1.122, 0.039, 0.036, 0.046, 0.044],
    [0.090, 0.116, -1.130, 0.045, 0.042, 0.034, 0.038],
    [0.120, 0.120, -1.135, 0.047, 0.045, 0.026, 0.034],
    [0.145, 0.122, -1.139, 0.043, 0.043, 0.020, 0.030],
    [0.162, 0.120, -1.141, 0.036, 0.038, 0.016, 0.028],
])
ARM = np.array([
    [0.130, 0.205, -0.028, 0.046, 0.052, 0.052, 0.054],
    [0.165, 0.215, -0.028, 0.052, 0.062, 0.058, 0.058],
    [0.200, 0.220, -0.028, 0.052, 0.062, 0.058, 0.056],
    [0.240, 0.222, -0.028, 0.047, 0.056, 0.053, 0.051],
    [0.290, 0.222, -0.028, 0.043, 0.048, 0.048, 0.047],
    [0.340, 0.222, -0.029, 0.042, 0.043, 0.046, 0.046],
    [0.390, 0.222, -0.030, 0.038, 0.039, 0.041, 0.042],
    [0.430, 0.222, -0.031, 0.036, 0.037, 0.039, 0.041],
    [0.470, 0.222, -0.030, 0.037, 0.038, 0.043, 0.042],
    [0.510, 0.222, -0.030, 0.037, 0.037, 0.043, 0.041],
    [0.560, 0.221, -0.030, 0.033, 0.033, 0.038, 0.036],
    [0.620, 0.220, -0.030, 0.026, 0.026, 0.031, 0.030],
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
  row = PchipInterpolator(table[order, 0], table[order, 1:])(np.clip(t, low, high))
  p, q = points[:, u] - row[:, 0], points[:, v] - row[:, 1]
  a, b = np.where(p > 0, row[:, 2], row[:, 3]), np.where(q > 0, row[:, 4], row[:, 5])
  over = np.maximum(np.maximum(low - t, t - high), 0)
  cap = 0.5 * (row[:, 2:4].mean(1) + row[:, 4:].mean(1))
  return ellipsoid_distance(np.stack([p, q, over], 1), np.stack([a, b, np.minimum(cap, np.minimum(a, b) * 1.3)], 1), power)


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
  out = union(out, ellipsoid(points, (0.118, -1.082, -0.022), (0.020, 0.018, 0.018)), 0.02)  # malleoli
  out = union(out, ellipsoid(points, (0.080, -1.074, -0.018), (0.018, 0.018, 0.018)), 0.02)
  out = union(out, ellipsoid(points, (0.104, -0.672, 0.036), (0.030, 0.032, 0.026)), 0.03)  # kneecap
  foot = loft(points, 2, FOOT, 2.3)
  foot = np.maximum(foot, FLOOR - points[:, 1])
  return union(out, foot, 0.035)


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
  out = union(loft(points, 1, SKULL), loft(points, 1, FACE, 2.2), 0.03)
  mirrored = points * [-1, 1, 1]
  for p in (points, mirrored):
    out = carve(out, ellipsoid(p, (0.032, 0.437, 0.118), (0.019, 0.013, 0.020)), 0.018)     # eye sockets
    out = union(out, ellipsoid(p, (0.032, 0.437, 0.088), (0.014, 0.011, 0.012)), 0.006)     # eyes
    out = union(out, ellipsoid(p, (0.046, 0.405, 0.076), (0.020, 0.018, 0.018)), 0.03)      # cheeks
    out = union(out, ellipsoid(p, (0.078, 0.420, 0.004), (0.008, 0.030, 0.018), 0.25), 0.008)  # ears
  out = union(out, capsule(points, (0, 0.440, 0.100), (0, 0.412, 0.118), 0.008, 0.0115), 0.018)  # nose
  out = union(out, ellipsoid(points, (0, 0.378, 0.098), (0.022, 0.010, 0.010)), 0.010)           # lips
  return union(out, ellipsoid(points, (0, 0.347, 0.092), (0.020, 0.014, 0.014)), 0.02)           # chin


def field(points, fingers=True):
  """The implicit function, [n, 3] -> [n]: about the signed distance in metres, negative inside; even in x."""
  points = np.abs(points * [1, 0, 0]) + points * [0, 1, 1]
  mirrored = points * [-1, 1, 1]
  out = bounded(points, (-1, -0.55, -1), (0.4, 0.40, 1), lambda p: loft(p, 1, TORSO, 2.25))
  out = union(out, bounded(points, (-1, 0.08, -1), (0.25, 0.50, 1), lambda p: loft(p, 1, NECK)), 0.07)
  out = union(out, bounded(points, (-1, 0.20, -1), (0.25, 1, 1), head), 0.03)
  for p, extent in ((points, 0.32), (mirrored, 0.14)):
    arms = bounded(p, (0.0, 0.05, -1), (1, 0.40, 1), lambda p: loft(p, 0, ARM, 2.1))
    out = union(out, arms, 0.075)
    trapezius = bounded(p, (-0.1, 0.1, -1), (0.3, 0.4, 1),
                        lambda p: capsule(p, (0.01, 0.285, -0.045), (0.150, 0.235, -0.040), 0.030, 0.030))
    out = union(out, trapezius, 0.05)
    out = union(out, bounded(p, (-extent, -2, -1), (0.4, -0.05, 1), leg), 0.055)
    glutes = lambda p: ellipsoid(p, (0.074, -0.305, -0.062), (0.078, 0.082, 0.066))
    out = union(out, bounded(p, (-0.2, -0.6, -1), (0.4, 0.0, 1), glutes), 0.04)
    chest = lambda p: ellipsoid(p, (0.072, 0.090, 0.058), (0.070, 0.058, 0.042), 0.25)
    out = union(out, bounded(p, (-0.2, -0.1, -1), (0.3, 0.3, 1), chest), 0.05)
  return union(out, bounded(points, (0.6, 0.1, -1), (2, 0.4, 1), lambda p: hand(p, fingers)), 0.012)


def project(points, fingers=True, steps=4):
  """Points [n, 3] moved along the gradient onto the surface; the plane x = 0 stays itself, as the field is even."""
  h = 1e-4
  for _ in range(steps):
    value = field(points, fingers)
    shifted = np.concatenate([points + h * e for e in np.eye(3)] + [points - h * e for e in np.eye(3)])
    samples = field(shifted, fingers).reshape(2, 3, -1)
    gradient = ((samples[0] - samples[1]) / (2 * h)).T
    step = value[:, None] * gradient / np.maximum((gradient**2).sum(1, keepdims=True), 0.25)
    points = points - np.clip(step, -0.02, 0.02)
  return points
