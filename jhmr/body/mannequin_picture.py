"""A sheet of people: the mannequin in ten poses, shapes and sets of clothes. `write` is all there is to call."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from jhmr.body import joints, mesh, render, smpl

SIZE = (330, 256)   # of one picture, pixels
FINER = 3           # drawn this many times larger, then averaged
FOCAL = 2.5         # in picture heights
AIM = (0, 0.94, 0)  # what the camera looks at, metres above the floor,
DISTANCE, RISE = 5.6, 0.5  # from this far in front and this much higher
LIGHT = np.array([0.27, -0.46, -0.45], np.float32)  # camera frame: from above and the right

# Each turn is (axis, degrees) in the frame of the T-pose, the later one applied on top.
# Left arms hang with ("z", -72), swing forward with ("x", -a); elbows bend with ("y", -a), knees with ("x", a).
POSES = (
    {},
    {"left_hip": [("z", 4)], "right_hip": [("z", -4)], "left_shoulder": [("z", -74), ("x", 4)],
     "right_shoulder": [("z", 70)], "left_elbow": [("y", -18)], "right_elbow": [("y", 22)], "head": [("y", 18)],
     "spine2": [("y", 6)]},
    {"pelvis": [("y", 35)], "left_hip": [("x", -26)], "right_hip": [("x", 20)], "left_knee": [("x", 6)],
     "right_knee": [("x", 34)], "right_ankle": [("x", 14)], "left_ankle": [("x", -4)],
     "left_shoulder": [("z", -74), ("x", 26)], "right_shoulder": [("z", 74), ("x", -26)],
     "left_elbow": [("y", -14)], "right_elbow": [("y", 34)], "spine2": [("y", 8)]},
    {"pelvis": [("x", 12), ("y", -50)], "left_hip": [("x", -78)], "right_hip": [("x", 24)],
     "left_knee": [("x", 82)], "right_knee": [("x", 60)], "left_ankle": [("x", -5)], "right_ankle": [("x", 30)],
     "left_shoulder": [("z", -68), ("x", 46)], "right_shoulder": [("z", 68), ("x", -42)],
     "left_elbow": [("y", -88)], "right_elbow": [("y", 92)], "spine2": [("y", -12)], "head": [("x", -10)]},
    {"pelvis": [("y", 62)], "left_hip": [("x", -92)], "right_hip": [("x", -4)], "left_knee": [("x", 8)],
     "right_knee": [("x", 12)], "left_ankle": [("x", 24)], "right_ankle": [("x", -8)], "spine1": [("x", -12)],
     "left_shoulder": [("z", -30), ("x", 30)], "right_shoulder": [("z", 38), ("x", -30)],
     "left_elbow": [("y", -30)], "right_elbow": [("y", 50)]},
    {"pelvis": [("y", -28)], "left_shoulder": [("z", 62)], "right_shoulder": [("z", -52)],
     "left_collar": [("z", 16)], "right_collar": [("z", -16)], "left_elbow": [("y", -14)], "right_elbow": [("y", 10)],
     "left_hip": [("z", 9)], "right_hip": [("z", -9)], "head": [("x", -16)], "spine2": [("x", -6)]},
    {"pelvis": [("x", 28), ("y", 48)], "left_hip": [("x", -122), ("z", 12)], "right_hip": [("x", -122), ("z", -12)],
     "left_knee": [("x", 128)], "right_knee": [("x", 128)], "left_ankle": [("x", -32)], "right_ankle": [("x", -32)],
     "spine2": [("x", 8)], "left_shoulder": [("z", -64), ("x", -58)], "right_shoulder": [("z", 64), ("x", -58)],
     "left_elbow": [("y", -30)], "right_elbow": [("y", 30)], "neck": [("x", -18)], "head": [("x", -14)]},
    {"pelvis": [("x", -14), ("y", -58)], "left_hip": [("x", -72), ("z", 8)], "right_hip": [("x", -104), ("z", -6)],
     "left_knee": [("x", 10)], "right_knee": [("x", 104)], "left_ankle": [("x", -4)], "right_ankle": [("x", 10)],
     "left_shoulder": [("z", -68), ("x", 42)], "right_shoulder": [("z", 66), ("x", -36)],
     "left_elbow": [("y", -10)], "right_elbow": [("y", 62)], "spine2": [("x", 14)], "head": [("x", 4)]},
    {"pelvis": [("y", 10)], "left_hip": [("x", -62), ("z", 34)], "right_hip": [("x", 8), ("z", -34)],
     "left_knee": [("x", 70)], "right_knee": [("x", 4)], "left_ankle": [("x", -8), ("z", -22)],
     "right_ankle": [("z", 26)], "left_shoulder": [("z", 4)], "right_shoulder": [("z", -2)], "head": [("y", 60)],
     "neck": [("y", 16)]},
    {"pelvis": [("y", -20)], "spine1": [("y", 18)], "spine2": [("y", 18)], "spine3": [("y", 12)],
     "left_shoulder": [("z", -34), ("y", -62)], "right_shoulder": [("z", 30), ("y", 26)], "left_elbow": [("y", -112)],
     "right_elbow": [("y", 70)], "left_hip": [("x", -20), ("z", 8)], "right_hip": [("x", 10), ("z", -10)],
     "left_knee": [("x", 24)], "right_knee": [("x", 12)], "neck": [("y", -14)], "head": [("y", -20)]},
)
BETAS = ((0, 0, 0, 0, 0, 0, 0, 0, 0, 0), (1.0, 0.3, 0.5, 1.2, -0.5, 0, 0, 0, 0, 0.8),
         (-0.8, -0.8, 0.5, -0.8, 0.8, 0, -0.5, 0.6, 0, -0.5), (0.8, -1.2, 0.8, 0, -0.3, 0.5, -0.8, 0, 0, 0),
         (-0.2, 0, 0.6, 0.2, 0, 0, -0.3, 0, 0, 0.6), (-0.4, 0.4, 0, -0.3, 1.0, 0, 0, 1.4, 0, 0),
         (0.3, -0.4, 0, 0.6, 0, 0, 0, 0, 0, 0.5), (0.2, 1.6, -0.4, 0.2, 0.2, 0, 1.2, 0.2, 0, 0.2),
         (-0.6, -0.6, 0.6, -0.4, 0.6, 0.4, -0.5, 0.4, 0, 0), (0.8, 0.8, 0, 1.0, 0, 0.3, 0.3, 0.3, 0, 1.0))
SKIN = ((0.87, 0.68, 0.57), (0.55, 0.38, 0.29), (0.93, 0.76, 0.66), (0.40, 0.27, 0.21), (0.80, 0.60, 0.46))
SHIRTS = ((0.30, 0.50, 0.72), (0.85, 0.43, 0.33), (0.93, 0.75, 0.35), (0.36, 0.62, 0.52), (0.60, 0.46, 0.68))
TROUSERS = ((0.25, 0.29, 0.38), (0.50, 0.47, 0.42), (0.22, 0.37, 0.45), (0.35, 0.28, 0.27), (0.62, 0.62, 0.64))
HAIR = ((0.25, 0.17, 0.13), (0.12, 0.10, 0.10), (0.62, 0.45, 0.25), (0.10, 0.08, 0.08), (0.42, 0.25, 0.16))


def rotations(turns):
  """{joint: [(axis, degrees), ...]} -> [24, 3, 3]."""
  pose = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
  for name, steps in turns.items():
    for axis, degrees in steps:
      pose[joints.SMPL24.index(name)] = (Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
                                         @ pose[joints.SMPL24.index(name)])
  return pose


def clothes(place, n):
  """Colour [..., 3] of person n at points [..., 3] of the template: hair, a face, shirt, trousers, shoes, skin."""
  x, y, z = np.moveaxis(place, -1, 0)
  side = np.abs(x)
  disc = lambda cx, cy, rx, ry: (((side - cx) / rx)**2 + ((y - cy) / ry)**2 < 1) & (z > 0.05)
  pick = lambda colors: np.array(colors[(n + n // 5) % 5])
  sleeve, hem = (0.63 if n % 3 == 2 else 0.33), (-0.60 if n % 4 == 3 else -1.05)
  collar = 0.262 - 0.3 * np.maximum(0.09 - side, 0)
  skin = np.array(SKIN[n % 5])
  layers = (
      (disc(0, 0.383, 0.021, 0.006), skin * (0.92, 0.70, 0.70)),
      (disc(0.032, 0.440, 0.012, 0.0055), (0.95, 0.95, 0.95)),
      (disc(0.032, 0.440, 0.0055, 0.0055), (0.15, 0.12, 0.10)), (disc(0.032, 0.459, 0.016, 0.0035), 0.8 * pick(HAIR)),
      ((y - 0.76 * z > 0.437) & (y > 0.36) & (side < 0.081), pick(HAIR)),
      ((side < sleeve) & (y > -0.16) & (0.92 * y + 0.35 * z < collar), pick(SHIRTS)),
      ((y <= -0.16) & (y > hem) & (side < 0.5), pick(TROUSERS)),
      (y < -1.085, (0.25, 0.25, 0.28) if n % 2 else (0.93, 0.93, 0.92)))
  out = np.broadcast_to(skin, place.shape)
  for where, color in layers:
    out = np.where(where[..., None], color, out)
  return out


def to_camera(vertices):
  """Person frame (y up, floor at 0) -> camera frame of a camera that looks down at AIM."""
  tilt = np.arctan2(RISE, DISTANCE)
  points = (vertices - np.array(AIM)) @ Rotation.from_euler("x", tilt).as_matrix().T
  return (points * [1, -1, -1] + [0, 0, np.hypot(RISE, DISTANCE)]).astype(np.float32)


@functools.partial(jax.jit, static_argnames="windows")
def draw(vertices_cam, template, faces, windows):
  """Who is seen, how well lit, and which point of the template, at each pixel; vertices_cam [N, 3]."""
  size = tuple(FINER * s for s in SIZE)
  center = jnp.array([size[1] / 2, size[0] / 2])
  scene = render.render_people(vertices_cam[None], faces, FOCAL * size[0], center, size, windows)
  white = jnp.ones((1, len(faces), 3))
  light = render.shade(scene, vertices_cam[None], faces, white, jnp.asarray(LIGHT), jnp.float32(0.45))
  return scene.person >= 0, light, render.interpolate(scene, template[None], faces)


def person(posed, template, faces, n):
  """uint8 [H, W, 3] of one person [N, 3] on a light floor, with a shadow."""
  low, high = posed.min(0), posed.max(0)
  posed = posed - [0.5 * (low[0] + high[0]), low[1], 0.5 * (low[2] + high[2])]
  flat = posed * [1, 0, 1] + posed[:, 1:2] * [0.08, 0, -0.20]
  windows = render.choose_windows(to_camera(template), faces, FOCAL * FINER * SIZE[0], DISTANCE - 1, stretch=2.0)
  seen, light, place = (np.asarray(x) for x in draw(to_camera(posed), template, faces, windows))
  shadow, _, _ = draw(to_camera(flat), template, faces, windows)
  shadow = cv2.GaussianBlur(np.asarray(shadow, np.float32), (0, 0), 3 * FINER)[..., None]
  back = np.array([0.94, 0.945, 0.95]) * (1 - 0.30 * shadow)
  image = np.where(seen[..., None], light * clothes(place, n), back)
  image = image.reshape(SIZE[0], FINER, SIZE[1], FINER, 3).mean((1, 3))
  return (255 * np.clip(image, 0, 1)**0.85 + 0.5).astype(np.uint8)


def write(path, arrays, columns=5):
  """Draws the sheet from the mannequin's arrays and writes it as an image file."""
  body = smpl.from_arrays(arrays)
  faces = jnp.asarray(mesh.surface(arrays).faces)
  pose = np.stack([rotations(p) for p in POSES])
  posed = np.asarray(jax.jit(smpl.forward)(body, jnp.asarray(BETAS, jnp.float32), jnp.asarray(pose)).vertices)
  tiles = [person(p, arrays["v_template"], faces, n) for n, p in enumerate(posed)]
  rows = [np.concatenate(tiles[i:i + columns], 1) for i in range(0, len(tiles), columns)]
  cv2.imwrite(str(path), np.concatenate(rows, 0)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
