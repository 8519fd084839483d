"""Bodies of a few points, each moved by one joint, that make the landmarks of joint sets exactly."""

import jax.numpy as jnp
from jhmr.body import smpl
import numpy as np


def rigid_body(body, set_names):
  """A body that makes the same joints and keypoints as `smpl.sub_body`, from fewer points.

  A landmark is a weighted sum of skinned vertices, sum_n w_n sum_j s_jn (R_j v_n + t_j), and v_n is linear in betas and
  pose correctives. Summing over the vertices first leaves one point for each landmark and each joint that moves it: the
  mean of v_n under the weights w_n s_jn, moved by joint j alone. With the built-in body those are 59 points in place of
  the 520 vertices of "prohmr44", 37 in place of the 312 of "spin49".

  Works on concrete arrays, at set-up time. The "vertices" that `smpl.forward` returns are those points, not the mesh's.
  Source: ours; exact, since linear blend skinning is linear in the vertices.
  """
  part = smpl.sub_body(body, set_names)
  rows, skin, template, blend = (np.asarray(x, np.float64)
                                 for x in (part.landmarks, part.skin_weights, part.template, part.blend_dirs))
  if not len(rows):
    return part
  means, joint, landmark, weight = _points(rows, skin)
  blend = blend.reshape(len(blend), 3, -1) @ means.T
  count = np.arange(len(weight))
  one_joint, points_of = np.zeros((len(skin), len(weight))), np.zeros((len(rows), len(weight)))
  one_joint[joint, count], points_of[landmark, count] = 1, weight
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  return part.replace(template=f32(template @ means.T), blend_dirs=f32(blend.reshape(len(blend), -1)),
                      skin_weights=f32(one_joint), landmarks=f32(points_of), landmark_vertices=(-1,) * len(rows),
                      point_joints=tuple(map(int, joint)))


def _points(rows, skin):
  """(weights of vertices [P, N] that sum to 1, joint [P], landmark [P], weight in that landmark [P]).

  Weights of a regressor may be negative; they get points of their own, or a sum near zero would be divided by.
  """
  means, found = [], []
  for sign in (1, -1):
    shares = np.maximum(sign * rows, 0)
    total = shares @ skin.T                                               # [K, J]
    for landmark, joint in zip(*np.nonzero(total)):
      means.append(shares[landmark] * skin[joint] / total[landmark, joint])
      found.append((joint, landmark, sign * total[landmark, joint]))
  joint, landmark, weight = map(np.array, zip(*found))
  return np.stack(means), joint, landmark, weight
