"""Losses of lifting systems that find many 3D poses for one 2D pose.

Most return one number per example, [B] or [B, S], for `losses.masked_mean`; `mmd` compares batches, and is a mean over
pairs of examples of all devices together, in the form whose averaged gradient is right.
"""

import jax
import jax.numpy as jnp
from jhmr.state import AXIS

BANDWIDTHS = (0.05, 0.2, 0.9)
ESTIMATORS = ("paper", "code")


def absolute(predicted, target):
  """Mean absolute difference over the last axis, [..., D] -> [...].

  Source: Wehrbein et al. 2021, Eq. 5 (2D poses, on the way forward) and Eq. 7 (3D poses, on the way back from the z
    found there); means over entries as in the authors' `train.py`.
  """
  return jnp.mean(jnp.abs(predicted - target), -1)


def kernel(x, y):
  """Sums of inverse multiquadratics of all pairs of x [M, D] and y [N, D] -> [M, N]; 3 where they are equal.

  Source: Wehrbein et al. 2021, Eq. 10, with squares of BANDWIDTHS.
  """
  # Not by products of x and y: where points are near, their difference would be rounding errors.
  squared = jnp.sum((x[:, None] - y[None]) ** 2, -1)
  return sum(a ** 2 / (a ** 2 + squared) for a in BANDWIDTHS)


def mmd(found, wanted, weight, estimator="paper", axis_name=AXIS):
  """How far apart two sets of points are: the squared maximum mean discrepancy.

  Each device returns the share of its own points of `found` times the number of devices, and so that the mean of its
  gradients over devices is the gradient of the whole: what other devices found is gathered and held constant, and where
  a pair is of two points of `found`, it counts twice in the gradient, once for each of them.

  Args:
    found: [B, D], which learns.  wanted: [B, D], constants.
    weight: [B] in {0, 1}, examples that count.
    estimator: "paper": without pairs of a point with itself, unbiased, and negative now and then; "code": with them.
    axis_name: the mapped axis; None outside of one.
  Returns:
    [] float32; 0 with zero gradient where too few examples count.
  Source: Wehrbein et al. 2021, Eq. 6; authors' `mmd_multiscale` ("code").
  Differs: distances are sums of squared differences; the authors' |x|^2 + |y|^2 - 2 x y is them with rounding errors.
  """
  if estimator not in ESTIMATORS:
    raise ValueError(f"estimator is {estimator!r}, not one of {ESTIMATORS}")
  weight, wanted = jax.lax.stop_gradient((weight.astype(jnp.float32), wanted))
  found, wanted = (jnp.where(weight[:, None] > 0, x, 0.0) for x in (found, wanted))
  other = jax.lax.stop_gradient(found)
  first, devices, others = 0, 1.0, (other, wanted, weight)
  if axis_name is not None:
    first, devices = jax.lax.axis_index(axis_name) * len(found), jax.lax.psum(1.0, axis_name)
    others = jax.lax.all_gather(others, axis_name, tiled=True)
  all_found, all_wanted, all_weight = others
  count = jnp.sum(all_weight)
  pairs = weight[:, None] * all_weight
  among, num_among = pairs, count ** 2
  if estimator == "paper":
    among = pairs * (jnp.arange(len(all_weight)) != first + jnp.arange(len(found))[:, None])
    num_among = count * (count - 1)
  mean = lambda values, weights, num: jnp.sum(values * weights) / jnp.where(num > 0, num, 1.0)
  own = mean(kernel(found, all_found), among, num_among)
  own = 2 * own - jax.lax.stop_gradient(own)
  theirs = mean(kernel(wanted, all_wanted), among, num_among)
  enough = num_among > 0
  return devices * enough * (own + theirs - 2 * mean(kernel(found, all_wanted), pairs, count ** 2))


def spread(points):
  """How S hypotheses vary: [B, S, J, 2] x and y, each centred at its pelvis -> [B, J, 3] xx, xy and yy, unbiased.

  Source: Wehrbein et al. 2021, section 3.2, the covariance of hypotheses; authors' `covariance_loss`.
  """
  x, y = jnp.moveaxis(points - jnp.mean(points, 1, keepdims=True), -1, 0)   # [B, S, J]
  return jnp.stack([jnp.sum(a * b, 1) for a, b in ((x, x), (x, y), (y, y))], -1) / (points.shape[1] - 1)


def covariance(found, target, mask):
  """By how much hypotheses vary less than a detector's heatmaps say they should, or along other axes.

  Args:
    found: [B, J, 3] xx, xy and yy of hypotheses, of `spread`, square metres.
    target: [B, J, 3] the same of heatmaps.
    mask: [B, J], 1 where the detector is unsure.
  Returns:
    [B] square metres, the mean over joints, with zeros where the mask is 0.
  Source: Wehrbein et al. 2021, Eq. 3; authors' `covariance_loss`.
  Differs: where both are equal the gradient is zero; there it is that of the square root of 1e-30.
  """
  off = target - found
  squared = jax.nn.relu(off[..., 0]) ** 2 + off[..., 1] ** 2 + jax.nn.relu(off[..., 2]) ** 2
  counts = (mask > 0) & (squared > 0)
  return jnp.mean(jnp.where(counts, mask * jnp.sqrt(jnp.where(counts, squared, 1.0)), 0.0), -1)


def best_of(points, target, num):
  """Absolute difference of the label and the mean of the `num` hypotheses that are nearest to it.

  Args:
    points: [B, S, K, 3], target: [B, K, 3], both centred alike, metres.
    num: k, at most S.
  Returns:
    [B] metres, the mean over joints and coordinates.
  Source: Wehrbein et al. 2021, Eq. 8; nearest in MPJPE.
  """
  off = jax.lax.stop_gradient(points - target[:, None])
  _, nearest = jax.lax.top_k(-jnp.mean(jnp.linalg.norm(off, axis=-1), -1), num)                 # [B, k]
  # A mean with weights of 0 and 1: gathered hypotheses would have their gradients scattered.
  chosen = jnp.any(nearest[:, :, None] == jnp.arange(points.shape[1]), 1).astype(points.dtype)  # [B, S]
  mean = jnp.einsum("bs,bskc->bkc", chosen, points, precision=jax.lax.Precision.HIGHEST) / num
  return jnp.mean(jnp.abs(mean - target), (-2, -1))


def slope_penalty(score, real, fake, share):
  """How far a critic's slope is from 1, between a pose that is real and one that is not.

  Args:
    score: poses [B, D] -> [B].
    real, fake: [B, D], constants.
    share: [B, 1] in 0..1, uniform: how much of the real pose is in the one that is looked at.
  Returns:
    [B] before the penalty's weight.
  Source: WGAN-GP (Gulrajani et al. 2017); Wehrbein et al. 2021, authors' `calc_gradient_penalty`.
  """
  slope = jax.vmap(jax.grad(lambda x: score(x[None])[0]))(share * real + (1 - share) * fake)
  squared = jnp.sum(slope ** 2, -1)
  norm = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
  return (norm - 1) ** 2
