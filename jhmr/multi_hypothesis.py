"""What systems with several hypotheses for each image share: joints of all of them, labels, quantised sets.

Source: 3D Multi-bodies (Biggs et al. 2020), section 4.1.
"""

import jax
from jhmr import joint_prior
from jhmr import losses
from jhmr import quantise
from jhmr import regression
from jhmr.body import joints
from jhmr.body import people_last
from jhmr.errors import InputError
from jhmr.state import labelled_pose
import jax.numpy as jnp
import numpy as np

GT24 = np.array(joints.mapping("spin49", "gt24"))


def joints_of(body, pose, betas):
  """The 49 joints of many bodies.

  Args:
    body: assets["keypoint_body"].  pose: [..., 24, 3, 3] rotations.  betas: [..., L].
  Returns:
    [..., 49, 3] metres; their gradient is that of poses that stay rotations, see `people_last`.
  """
  lead = betas.shape[:-1]
  points = people_last.keypoints(body, betas.reshape(-1, betas.shape[-1]).T,
                                 jnp.moveaxis(pose.reshape(-1, 24, 3, 3), 0, -1), "spin49")
  return jnp.moveaxis(points, -1, 0).reshape(*lead, -1, 3)


def with_joints(batch, assets):
  """The batch with 3D joints of the SMPL label where it has that but no joints.

  Source: 3D Multi-bodies, authors' code: joints of the label's body where nothing was measured.
  """
  known = batch["has_pose"] * batch["has_betas"]
  pose = labelled_pose(batch)
  made = joints_of(assets["keypoint_body"], pose, batch["betas"])
  made = jnp.concatenate([made, jnp.ones_like(made[..., :1])], -1)
  measured = batch["has_keypoints3d"]
  labels = jnp.where(measured[:, None, None] > 0, batch["keypoints3d"], made)
  return batch | {"keypoints3d": labels, "has_keypoints3d": jnp.maximum(measured, known)}


def rows(tree, index):
  """x[b, index[b]] of every [B, S, ...] -> [B, ...]."""
  return jax.tree.map(lambda x: x[:, 0], chosen(tree, index[:, None]))


def chosen(tree, index):
  """The hypotheses index [B, n] of a Prediction, or of any tree of [B, S, ...] -> [B, n, ...]."""
  take = lambda x: jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), axis=1)
  return jax.tree.map(take, tree)


def weighed(prediction, assets):
  """The Prediction with the log-densities of assets["joint_prior"], where there is one."""
  if "joint_prior" not in assets:
    return prediction
  points = joint_prior.upright(assets["keypoint_body"], prediction.body_pose, prediction.betas)
  return prediction.replace(log_prob=joint_prior.log_prob(assets["joint_prior"], points))


def clustered(prediction, assets):
  """What distances between hypotheses are measured in: [B, S, 24, 3] metres, the middle of the hips at the origin."""
  points = joints_of(assets["keypoint_body"], prediction.pose, prediction.betas)
  return losses.centred(points[..., GT24, :], regression.HIPS)


def best_first(prediction, points):
  """The Prediction and its points [B, S, 24, 3] with that hypothesis in front that stands for all: n = 1.

  Source: 3D Multi-bodies, Eq. 3 with one cluster: the hypothesis nearest to the mean under p(X | I).
  """
  def middle(points, log_weights):
    flat, labels = points.reshape(len(points), -1), jnp.zeros(len(points), jnp.int32)
    centre = quantise.averages(flat, labels, flat[:1], log_weights)
    return quantise.medoids(flat, centre, labels, log_weights)[0]

  first = jax.vmap(middle)(points, prediction.log_prob)
  place = jnp.arange(points.shape[1])[None]
  order = jnp.argsort(jnp.where(place == first[:, None], -1, place), axis=1)
  return chosen(prediction, order), chosen(points, order)


def quantised(prediction, points, keys, num, keep_first):
  """num hypotheses that stand for all S: the n-quantised set.

  Args:
    prediction: of S hypotheses, weighed; the best guess first.  points: [B, S, 24, 3] of them.
    keys: [B], of the start of K-means.  num: static; 1 is the best guess, S all of them.
    keep_first: whether the first is one of them and the clusters are of the others, as in the authors' code.
  Returns:
    Prediction of num hypotheses.
  Raises:
    InputError: when there are fewer than num.
  Source: 3D Multi-bodies, Eq. 2 and 3.
  """
  count = points.shape[1]
  if not 1 <= num <= count:
    raise InputError(f"{num} hypotheses asked for, but there are {count}: ask for 1 to {count}")
  if num in (1, count):
    return jax.tree.map(lambda x: x[:, :num], prediction)
  one = lambda points, log_weights, key: quantise.quantise(
      points, points, num, key, log_weights, keep_first, even_start=True)[0]
  return chosen(prediction, jax.vmap(one)(points, prediction.log_prob, keys))


def selected(points, projected, batch, supervision):
  """Which hypothesis is nearest to the labels: [B] int32, without a gradient.

  Args:
    points: [B, S, 49, 3].  projected: [B, S, 49, 2].
    batch: of `with_joints`; an example without any 3D label takes the nearest in 2D.
  Source: 3D Multi-bodies, Eq. 1, m*.
  """
  three, two = regression.JOINTS_3D[supervision], regression.JOINTS_2D[supervision]
  centred = lambda x: losses.centred(x, regression.HIPS)
  target, labels2d = batch["keypoints3d"][:, three], batch["keypoints2d"][:, two]
  off3d = (centred(points[:, :, three]) - centred(target[..., :3])[:, None]) ** 2
  off2d = (projected[:, :, two] - labels2d[:, None, :, :2]) ** 2
  mean = lambda off, label: jnp.mean(off * label[:, None, :, -1:], axis=(-2, -1))
  distance = jnp.where(batch["has_keypoints3d"][:, None] > 0, mean(off3d, target), mean(off2d, labels2d))
  return jnp.argmin(jax.lax.stop_gradient(distance), axis=1).astype(jnp.int32)
