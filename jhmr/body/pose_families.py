"""The eight families of poses behind `poses.sample`: joint angles in degrees, before limits and noise.

A family is a function of a few standard normals `z` [Z] and uniforms `u` [U] (its low-dimensional,
correlated variation: stride phase, stride length, depth of a crouch, lean, ...) and returns
`Angles`. What the arms do instead of the family's own movement comes from `ARM_HABITS`.

Signs are anatomical and the same on both sides (flexion, abduction, external hip rotation,
internal shoulder rotation, dorsiflexion are positive); `poses.angles_to_pose` turns them into SMPL's frames.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NUM_NORMALS, NUM_UNIFORMS = 16, 8

TRUNK = ("pitch", "spin", "roll", "spine_flexion", "spine_lateral", "spine_twist",
         "neck_flexion", "neck_lateral", "neck_twist")
LEG = ("hip_flexion", "hip_abduction", "hip_rotation", "knee_flexion", "knee_twist",
       "ankle_dorsiflexion", "ankle_inversion", "toes_up")
ARM = ("collar_up", "collar_forward", "shoulder_flexion", "shoulder_abduction", "shoulder_twist",
       "elbow_flexion", "pronation", "wrist_flexion", "wrist_deviation")


class Angles(NamedTuple):
  """Joint angles of one person in degrees; side 0 is left."""
  trunk: jax.Array  # [9] TRUNK
  legs: jax.Array   # [2, 8] LEG
  arms: jax.Array   # [2, 9] ARM


FAMILIES = ("standing", "walking", "running", "reaching", "sitting", "crouching", "bending", "lying")
PROBABILITIES = (0.20, 0.18, 0.10, 0.14, 0.14, 0.08, 0.08, 0.08)

# What an arm can do whatever the legs do: mean and spread of ARM in degrees. Row 0 is replaced by
# the family's own arms. The shoulder's swing is measured from hanging, in the frame of the chest.
ARM_HABITS = ("own", "hang", "carry", "akimbo", "raise", "forward", "side", "face", "fold", "back", "lap")
ARM_MEAN = np.array([
    [0, 0, 0, 0, 0, 0, 0, 0, 0],
    [-2, 0, 3, 14, 8, 18, 10, 5, 0],
    [0, 2, 22, 16, 18, 85, 10, 0, 0],
    [2, -4, -18, 44, 42, 98, 0, 20, 5],
    [14, 2, 130, 28, 10, 35, 0, 0, 0],
    [3, 8, 78, 8, 5, 25, 20, -5, 0],
    [5, 0, 18, 82, 0, 28, 10, 0, 0],
    [3, 5, 52, 22, 30, 132, 0, 0, 0],
    [0, 8, 36, 6, 52, 96, 0, 0, 0],
    [0, -8, -30, 16, 30, 45, 0, 10, 0],
    [0, 2, 34, 12, 20, 58, 25, 5, 0],
], np.float32)
ARM_STD = np.array([
    [2, 2, 6, 3, 8, 6, 12, 6, 4],
    [3, 3, 8, 4, 10, 10, 20, 8, 5],
    [3, 3, 16, 6, 12, 18, 25, 10, 6],
    [2, 2, 7, 6, 8, 8, 12, 12, 6],
    [6, 4, 26, 22, 22, 28, 30, 12, 8],
    [4, 4, 20, 16, 18, 18, 30, 12, 8],
    [5, 3, 18, 16, 22, 22, 30, 12, 8],
    [3, 3, 12, 10, 10, 8, 20, 14, 8],
    [2, 3, 8, 5, 7, 9, 15, 10, 6],
    [2, 3, 8, 5, 10, 18, 15, 8, 5],
    [3, 3, 9, 6, 9, 12, 20, 10, 6],
], np.float32)
#               own hang carry akimbo raise forward side face fold back lap
ARM_WEIGHTS = np.array([
    [0.00, 0.44, 0.14, 0.10, 0.04, 0.05, 0.05, 0.07, 0.06, 0.05, 0.00],  # standing
    [0.76, 0.04, 0.09, 0.01, 0.02, 0.01, 0.02, 0.04, 0.01, 0.00, 0.00],  # walking
    [0.94, 0.00, 0.02, 0.00, 0.02, 0.01, 0.01, 0.00, 0.00, 0.00, 0.00],  # running
    [1.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00],  # reaching
    [0.00, 0.08, 0.18, 0.02, 0.03, 0.10, 0.04, 0.12, 0.08, 0.00, 0.35],  # sitting
    [0.45, 0.00, 0.20, 0.00, 0.05, 0.15, 0.03, 0.07, 0.00, 0.00, 0.05],  # crouching
    [0.80, 0.00, 0.08, 0.02, 0.02, 0.05, 0.02, 0.01, 0.00, 0.00, 0.00],  # bending
    [0.00, 0.42, 0.10, 0.02, 0.24, 0.03, 0.10, 0.06, 0.03, 0.00, 0.00],  # lying
], np.float32)


def _trunk(**angles):
  return jnp.stack([jnp.asarray(angles.get(name, 0.0), jnp.float32) for name in TRUNK])


def _limb(names, left, right):
  """Both sides of a limb from {name: angle}, missing angles zero."""
  return jnp.stack([jnp.stack([jnp.asarray(side.get(name, 0.0), jnp.float32) for name in names])
                    for side in (left, right)])


def _leg(hip, knee, pitch=0.0, abduction=4.0, rotation=6.0, lift=0.0, toes=0.0):
  """A leg whose foot is flat on the floor when `lift` is 0: the ankle undoes the tilt of the shank."""
  ankle = jnp.clip(knee - hip + pitch - lift, -35.0, 25.0)
  return dict(hip_flexion=hip, hip_abduction=abduction, hip_rotation=rotation, knee_flexion=knee,
              ankle_dorsiflexion=ankle, toes_up=toes)


def _head(flexion, z):
  """The neck keeps part of the gaze level when the trunk bends, and looks around."""
  return dict(neck_flexion=-0.45 * flexion + 9.0 * z[0], neck_lateral=5.0 * z[1], neck_twist=20.0 * z[2])


def _arm(flexion, abduction, elbow, twist=8.0, pronation=10.0):
  """An arm whose collar rises with it. Source: scapulohumeral rhythm, one part in three above 40 degrees."""
  rise = jnp.clip(jnp.hypot(flexion, abduction) - 40.0, 0.0, 90.0)
  return dict(collar_up=0.2 * rise, collar_forward=0.08 * jnp.clip(flexion, 0.0, 90.0), shoulder_flexion=flexion,
              shoulder_abduction=abduction, shoulder_twist=twist, elbow_flexion=elbow, pronation=pronation)


def _hanging():
  return _arm(3.0, 14.0, 18.0)


def standing(z, u):
  """Weight on both legs or more on one; z: knees, stance width, lean."""
  left, right = jnp.abs(7.0 * z[0]), jnp.abs(7.0 * z[1]) + jnp.maximum(0.0, 14.0 * z[2])
  width, turn, lean, step = 5.0 + 4.0 * jnp.abs(z[3]), 8.0 + 6.0 * z[4], 3.0 * z[5], 6.0 * z[6]
  legs = _limb(LEG, _leg(0.5 * left + lean + step, left, lean, width, turn),
               _leg(0.5 * right + lean - step, right, lean, width, turn + 6.0 * z[7]))
  spine = 3.0 + 6.0 * z[8]
  trunk = _trunk(pitch=lean, roll=2.5 * z[9], spine_flexion=spine, spine_lateral=-4.0 * z[9] + 3.0 * z[10],
                 spine_twist=8.0 * z[11], **_head(spine, z[12:15]))
  return Angles(trunk, legs, _limb(ARM, _hanging(), _hanging()))


def walking(z, u):
  """A gait cycle: u[0] is its phase (0: left heel strike); z: stride, lean, arm swing."""
  phase, stride, lean = 2 * jnp.pi * u[0], jnp.clip(24.0 + 5.0 * z[0], 12.0, 34.0), 3.0 + 2.5 * z[1]

  def leg(phase):
    swing, push = jnp.maximum(0.0, -jnp.sin(phase + 0.3)), jnp.maximum(0.0, jnp.cos(phase - 3.6)) ** 4
    hip = 5.0 + lean + stride * jnp.cos(phase)
    knee = 6.0 + 2.0 * stride * swing ** 1.5 + 8.0 * jnp.maximum(0.0, jnp.sin(phase))
    return dict(hip_flexion=hip, hip_abduction=2.0 + 2.0 * z[2], hip_rotation=5.0 + 4.0 * z[3], knee_flexion=knee,
                ankle_dorsiflexion=4.0 - 20.0 * push, toes_up=28.0 * push)

  def arm(phase):
    swing = (0.7 + 0.25 * z[4]) * stride * jnp.cos(phase + jnp.pi)
    return _arm(2.0 + swing, 12.0, 20.0 + 0.5 * jnp.maximum(0.0, swing) + 8.0 * jnp.abs(z[5]))

  turn = 0.3 * stride * jnp.cos(phase)
  trunk = _trunk(pitch=lean, roll=1.5 * jnp.sin(phase), spine_flexion=3.0 + 4.0 * z[6], spine_twist=turn + 3.0 * z[7],
                 spine_lateral=2.5 * z[8], **_head(3.0 + lean, z[9:12]))
  return Angles(trunk, _limb(LEG, leg(phase), leg(phase + jnp.pi)), _limb(ARM, arm(phase), arm(phase + jnp.pi)))


def running(z, u):
  """As walking, with more of everything and bent elbows."""
  phase, stride, lean = 2 * jnp.pi * u[0], jnp.clip(40.0 + 8.0 * z[0], 25.0, 58.0), 8.0 + 3.0 * z[1]

  def leg(phase):
    swing, push = jnp.maximum(0.0, -jnp.sin(phase + 0.2)), jnp.maximum(0.0, jnp.cos(phase - 3.5)) ** 4
    hip = 14.0 + lean + stride * jnp.cos(phase)
    knee = 18.0 + 2.0 * stride * swing ** 1.3 + 14.0 * jnp.maximum(0.0, jnp.sin(phase))
    return dict(hip_flexion=hip, hip_abduction=2.0 + 2.0 * z[2], hip_rotation=3.0 + 4.0 * z[3], knee_flexion=knee,
                ankle_dorsiflexion=8.0 - 32.0 * push, toes_up=22.0 * push)

  def arm(phase):
    swing = (0.9 + 0.2 * z[4]) * stride * jnp.cos(phase + jnp.pi)
    return _arm(-8.0 + swing, 16.0, 85.0 + 10.0 * z[5] + 0.35 * swing, twist=14.0 + 0.25 * swing, pronation=0.0)

  trunk = _trunk(pitch=lean, roll=2.0 * jnp.sin(phase), spine_flexion=5.0 + 4.0 * z[6],
                 spine_twist=0.35 * stride * jnp.cos(phase), spine_lateral=2.5 * z[7], **_head(8.0 + lean, z[8:11]))
  return Angles(trunk, _limb(LEG, leg(phase), leg(phase + jnp.pi)), _limb(ARM, arm(phase), arm(phase + jnp.pi)))


def reaching(z, u):
  """The left arm, and half the time the right one, reaches up, forward, sideways or down; the trunk follows."""
  height, across = 20.0 + 135.0 * u[0], jnp.clip(22.0 + 26.0 * z[0], -12.0, 85.0)
  side = across * (1.0 - 0.5 * u[0])
  reach = _arm(height, side, jnp.abs(25.0 * z[1]) + 5.0, 6.0 * z[2])
  other = _arm(height + 12.0 * z[3], jnp.clip(side + 12.0 * z[4], -8.0, 90.0), jnp.abs(25.0 * z[5]) + 5.0)
  both = (u[1] < 0.45).astype(jnp.float32)
  rest = _arm(6.0 + 10.0 * z[3], 16.0, 24.0 + 14.0 * jnp.abs(z[5]))
  second = {name: both * other[name] + (1 - both) * rest[name] for name in other}
  spine, lunge = 14.0 - 24.0 * u[0] + 6.0 * z[6], 16.0 * z[7] * (u[2] < 0.5)
  pitch = 4.0 + 10.0 * (1.0 - u[0]) * jnp.abs(z[8])
  front, back = 6.0 + jnp.abs(8.0 * z[9]) + jnp.abs(lunge), 4.0 + jnp.abs(6.0 * z[10])
  legs = _limb(LEG, _leg(0.5 * front + pitch + lunge, front, pitch, 6.0, 8.0),
               _leg(0.5 * back + pitch - lunge, back, pitch, 6.0, 10.0, lift=jnp.abs(lunge)))
  alone = 1.0 - both
  trunk = _trunk(pitch=pitch, roll=2.0 * z[11], spine_flexion=spine, spine_lateral=alone * (4.0 - 12.0 * u[0]),
                 spine_twist=alone * 10.0 * (1 - across / 45.0) + 5.0 * z[12], **_head(1.4 * spine, z[13:16]))
  return Angles(trunk, legs, _limb(ARM, reach, second))


def sitting(z, u):
  """On a chair or, for u[0] < 0.2, on the floor with the legs forward."""
  floor = (u[0] < 0.2).astype(jnp.float32)
  lean, spread = -4.0 + 9.0 * z[0], 9.0 + 6.0 * jnp.abs(z[1])

  def leg(flex, shin, turn):
    hip = 86.0 + lean + 6.0 * z[2] + flex
    knee = jnp.clip((1 - floor) * (86.0 + 9.0 * z[2] + shin) + floor * (28.0 + 1.5 * shin), 4.0, 130.0)
    return _leg(hip - 6.0 * floor, knee, lean, spread, turn, lift=-10.0 * floor)

  legs = _limb(LEG, leg(5.0 * z[3], 14.0 * z[4], 3.0 + 6.0 * z[5]), leg(5.0 * z[6], 14.0 * z[7], 3.0 + 6.0 * z[8]))
  spine = 12.0 + 10.0 * z[9]
  trunk = _trunk(pitch=lean, roll=1.5 * z[10], spine_flexion=spine, spine_lateral=5.0 * z[11],
                 spine_twist=8.0 * z[12], **_head(spine, z[13:16]))
  return Angles(trunk, legs, _limb(ARM, _hanging(), _hanging()))


def crouching(z, u):
  """A squat of depth u[0], or for u[1] < 0.35 a kneel on the right knee."""
  kneel = (u[1] < 0.35).astype(jnp.float32)
  depth = 0.45 + 0.55 * u[0]
  pitch = (1 - kneel) * (12.0 + 16.0 * u[0] + 5.0 * z[0]) + kneel * (4.0 + 6.0 * z[0])
  spread, turn = 12.0 + 6.0 * jnp.abs(z[1]), 14.0 + 6.0 * z[2]
  hip, knee = 112.0 * depth + 6.0 * z[3], 122.0 * depth + 5.0 * z[4]
  left = _leg((1 - kneel) * hip + kneel * (86.0 + pitch + 8.0 * z[3]),
              (1 - kneel) * knee + kneel * (88.0 + 10.0 * z[4]), pitch,
              (1 - kneel) * spread + kneel * 8.0, (1 - kneel) * turn + kneel * 4.0)
  right = _leg((1 - kneel) * (hip + 4.0 * z[5]) + kneel * (pitch + 4.0 + 6.0 * z[5]),
               (1 - kneel) * (knee + 4.0 * z[6]) + kneel * (92.0 + 8.0 * z[6]), pitch,
               (1 - kneel) * spread + kneel * 4.0, (1 - kneel) * turn, lift=kneel * 70.0, toes=kneel * 20.0)
  spine = 16.0 + 12.0 * depth + 6.0 * z[7]
  trunk = _trunk(pitch=pitch, spine_flexion=spine, spine_lateral=5.0 * z[8], spine_twist=8.0 * z[9],
                 **_head(spine + pitch, z[10:13]))
  arm = [_arm(62.0 + 16.0 * z[13 + i], 14.0, 42.0 + 16.0 * jnp.abs(z[15 - i]), twist=12.0) for i in range(2)]
  return Angles(trunk, _limb(LEG, left, right), _limb(ARM, *arm))


def bending(z, u):
  """From the hips and the back towards the floor, arms hanging or working there."""
  depth = 0.25 + 0.75 * u[0]
  pitch, spine, knee = 58.0 * depth + 6.0 * z[0], 48.0 * depth + 6.0 * z[1], 6.0 + 22.0 * jnp.abs(z[2])
  hip, step = pitch + 0.5 * knee - 3.0, 8.0 * z[3]
  legs = _limb(LEG, _leg(hip + step, knee, pitch, 5.0 + 3.0 * jnp.abs(z[4])),
               _leg(hip - step, knee + jnp.abs(step), pitch, 5.0 + 3.0 * jnp.abs(z[4]), lift=jnp.abs(step)))
  trunk = _trunk(pitch=pitch, roll=2.0 * z[5], spine_flexion=spine, spine_lateral=6.0 * z[6],
                 spine_twist=10.0 * z[7], **_head(0.6 * (spine + pitch), z[8:11]))
  arm = [_arm(0.85 * (pitch + spine) + 12.0 * z[11] + 10.0 * z[12 + i], 12.0, 16.0 + 18.0 * jnp.abs(z[14 + i]))
         for i in range(2)]
  return Angles(trunk, legs, _limb(ARM, *arm))


def lying(z, u):
  """Supine (40 %), prone (25 %) or on one side (35 %)."""
  supine, side = (u[0] < 0.40).astype(jnp.float32), (u[0] > 0.65).astype(jnp.float32)
  prone = 1.0 - supine - side
  curl = side * jnp.clip(32.0 + 20.0 * z[0], 2.0, 80.0)
  bend = supine * jnp.maximum(0.0, 45.0 * z[1])

  def leg(a, b, turn):
    knee = 8.0 + 6.0 * jnp.abs(b) + 1.5 * bend + 1.4 * curl + prone * 14.0 * jnp.maximum(0.0, b)
    hip = 4.0 * jnp.abs(a) + 0.85 * bend + curl + side * 8.0 * a - prone * 4.0
    return dict(hip_flexion=hip, hip_abduction=6.0 + 3.0 * jnp.abs(a) - 4.0 * side, hip_rotation=8.0 + turn,
                knee_flexion=knee, ankle_dorsiflexion=-22.0 + 0.2 * bend)

  legs = _limb(LEG, leg(z[2], z[3], 6.0 * z[4]), leg(z[5], z[6], 6.0 * z[7]))
  trunk = _trunk(pitch=-90.0 + 180.0 * prone + 4.0 * z[8], spin=side * (90.0 + 8.0 * z[9]), roll=3.0 * z[10],
                 spine_flexion=2.0 + 0.4 * curl, spine_lateral=6.0 * z[11], spine_twist=7.0 * z[12],
                 neck_flexion=side * 10.0 + 7.0 * z[13], neck_lateral=5.0 * z[14],
                 neck_twist=(25.0 + 30.0 * prone) * z[15])
  return Angles(trunk, legs, _limb(ARM, _hanging(), _hanging()))


BRANCHES = (standing, walking, running, reaching, sitting, crouching, bending, lying)
