"""Losses that two or more systems use. Each returns one number per example, [B] or [B, S], in no unit but its own.

`masked_mean` makes such numbers a scalar: the mean over the labelled examples of the whole batch, all devices
together. It is meant to be differentiated on each device and the gradients averaged after that:

    def loss_fn(params):
      error = losses.pose(predicted, target)                       # [B]
      return losses.masked_mean(error, batch["has_pose"])
    grads = jax.lax.pmean(jax.grad(loss_fn)(params), AXIS)

The mean of the devices' own masked means would not be that, since devices have different numbers of labels.
"""

import math

import jax
import jax.numpy as jnp
from jhmr.state import AXIS
import numpy as np


def totals(weights, axis_name=AXIS):
  """Sums over the batch of all devices, in one collective: what `masked_mean` divides by.

  A loss that is computed in parts of a batch (`optim.accumulate`) needs them of the whole batch, before the first part.

  Args:
    weights: {name: [B, ...]}, functions of the batch alone.
    axis_name: the mapped axis; None outside of one.
  Returns:
    {name: []} float32.
  Source: the denominators of `masked_mean`.
  """
  sums = {name: jnp.sum(w.astype(jnp.float32)) for name, w in weights.items()}
  return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def masked_mean(values, weight, axis_name=AXIS, total=None):
  """Weighted mean over the batch of all devices, in the form whose averaged gradient is right.

  Each device returns its own sum * devices / the weight of all devices. The mean of that over devices is the weighted
  mean of the whole batch, and so is the mean of its gradients the gradient of it.

  Args:
    values: [B, ...] one number per example (and sample).
    weight: the same shape, or [B]; >= 0. Examples of weight 0 count for nothing, whatever their value.
    axis_name: the mapped axis; None outside of one.
    total: [] the weight of all devices, broadcast to the shape of values, if `totals` has it already.
  Returns:
    [] float32; 0 with zero gradient when nobody has a label.
  Raises:
    ValueError: if weight does not fit values.
  Source: sum w x / sum w; for weights of 0 and 1 the indicator of HMR's Eq. 1, its mean over labelled examples as in
    the authors' `tf.losses`.
  """
  if weight.shape not in (values.shape, values.shape[:1]):
    raise ValueError(f"weight {weight.shape} does not fit values {values.shape}")
  weight = jax.lax.stop_gradient(weight).reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
  weight = jnp.broadcast_to(weight, values.shape).astype(jnp.float32)
  if total is None:
    total = totals({"": weight}, axis_name)[""]
  devices = 1.0 if axis_name is None else jax.lax.psum(1.0, axis_name)
  values = jnp.where(weight > 0, values, 0.0)  # an unlabelled example may have any value, infinity too
  return devices * jnp.sum(values * weight) / jnp.where(total > 0, total, 1.0)


def weigh(weights, terms):
  """The sum of terms times their weights, matched by name.

  Args:
    weights: {name: number}; a weight of 0 needs no term, so that a costly one need not be computed.
    terms: {name: []}.
  Returns:
    [] float32.
  Raises:
    ValueError: when a weight other than 0 has no term, or a term no weight.
  Source: HMR (Kanazawa et al. 2018), Eq. 1, with a weight for every term.
  """
  unused = sorted({n for n, w in weights.items() if w != 0} - set(terms))
  unweighted = sorted(set(terms) - set(weights))
  if unused or unweighted:
    raise ValueError(f"weights without a loss: {unused}; losses without a weight: {unweighted}")
  return sum((jnp.float32(weights[n]) * terms[n] for n in terms if weights[n] != 0), jnp.zeros((), jnp.float32))


def visible_count(confidence):
  """How many keypoints an example has, [B, K] -> [B]: the weight of a mean that counts keypoints, not examples.

  Source: HMR, authors' `ops.keypoint_l1_loss`, whose mean is over all visible keypoints of the batch.
  """
  return jnp.sum(confidence > 0, axis=-1).astype(jnp.float32)


def keypoints2d(predicted, target):
  """Mean absolute reprojection error of an example's visible keypoints, weighted by confidence.

  Its masked mean with weight `visible_count` is the mean over all visible keypoints of the batch.

  Args:
    predicted: [B, K, 2] in crop coordinates, -1 to 1.
    target: [B, K, 3], with confidence last; 0 is invisible.
  Returns:
    [B].
  Source: HMR (Kanazawa et al. 2018), Eq. 3; authors' `ops.keypoint_l1_loss` for the reduction.
  """
  confidence = target[..., 2]
  error = jnp.sum(confidence[..., None] * jnp.abs(predicted - target[..., :2]), axis=(-2, -1))
  return error / (2.0 * jnp.maximum(visible_count(confidence), 1.0))


def keypoints2d_squared(predicted, target):
  """Squared reprojection error times confidence, mean over all K keypoints, the invisible ones as zeros.

  Args and returns: as `keypoints2d`.
  Source: SPIN, authors' `train/trainer.py:keypoint_loss`.
  """
  return jnp.mean(target[..., 2:] * (predicted - target[..., :2]) ** 2, axis=(-2, -1))


def keypoints3d(predicted, target, hips):
  """Squared error of 3D joints times confidence, each side centred between its hips; mean over all K joints.

  Args:
    predicted: [B, K, 3] in metres, camera frame.
    target: [B, K, 4], with confidence last.
    hips: positions of the two hips among the K joints.
  Returns:
    [B] squared metres, per coordinate.
  Source: HMR, Eq. 5 and authors' `ops.align_by_pelvis`; SPIN, authors' `train/trainer.py:keypoint_3d_loss`.
  Differs: HMR halves it and has no confidences.
  """
  off = centred(predicted, hips) - centred(target[..., :3], hips)
  return jnp.mean(target[..., 3:] * off ** 2, axis=(-2, -1))


def centred(points, hips):
  """Joints [..., K, 3] with the middle of the two at positions `hips` at the origin.

  Source: SPIN, authors' `train/trainer.py:keypoint_3d_loss`; 3D Multi-bodies, authors' code, likewise.
  """
  return points - jnp.mean(points[..., np.array(hips), :], axis=-2, keepdims=True)


def pose(predicted, target):
  """Squared difference of rotation matrices, mean over joints and entries.

  Args:
    predicted, target: [B, J, 3, 3].
  Returns:
    [B].
  Source: HMR, Eq. 6 on matrices, as in the authors' code; SPIN, authors' `train/trainer.py:smpl_losses`.
  Differs: HMR takes half the mean over the 216 entries and the 10 betas together, so its weight is 108/226 here and
    5/226 in `betas`.
  """
  return jnp.mean((predicted - target) ** 2, axis=(-3, -2, -1))


def betas(predicted, target):
  """Squared difference of shape coefficients [B, L], mean over them -> [B].

  Source: HMR, Eq. 6; SPIN, authors' `train/trainer.py:smpl_losses`. Differs: see `pose`.
  """
  return jnp.mean((predicted - target) ** 2, axis=-1)


def vertices(predicted, target):
  """Absolute difference of vertices [B, N, 3] in metres, mean over them and their coordinates -> [B].

  Source: SPIN, authors' `train/trainer.py:shape_loss`.
  """
  return jnp.mean(jnp.abs(predicted - target), axis=(-2, -1))


def camera(predicted):
  """Keeps the scale of weak-perspective cameras [B, 3] (s, tx, ty) positive: exp(-10 s)^2 -> [B].

  Source: SPIN, authors' `train/trainer.py`, the last term of the loss.
  """
  return jnp.exp(-10.0 * predicted[..., 0]) ** 2


def mixture_log_likelihoods(target, means, log_weights, log_variance):
  """log(w_k N(target; mean_k, variance_k)) of every component of a mixture of Gaussians.

  Args:
    target: [B, D].  means: [B, K, D].  log_weights, log_variance: [B, K]; one variance for all D.
  Returns:
    [B, K] nats; their logsumexp over K is the log-density.
  Source: Li and Lee 2019, authors' `mean_log_Gaussian_like`; 3D Multi-bodies (Biggs et al. 2020), Eq. 9.
  """
  square = jnp.sum((target[:, None] - means) ** 2, -1)
  size = target.shape[-1]
  return log_weights - 0.5 * (square * jnp.exp(-log_variance) + size * (log_variance + math.log(2 * math.pi)))


def adversarial(fake_scores):
  """What the generator pays for scores [..., D] other than 1, summed over the D outputs -> [...].

  Source: HMR, Eq. 7 (least squares); summed over the outputs as there, to be averaged over fakes.
  """
  return jnp.sum((fake_scores - 1.0) ** 2, axis=-1)


def critic_fake(fake_scores):
  """What the critic pays for scores [..., D] of made-up poses other than 0 -> [...]. Source: HMR, Eq. 8."""
  return jnp.sum(fake_scores ** 2, axis=-1)


def critic_real(real_scores):
  """What the critic pays for scores [..., D] of real poses other than 1 -> [...]. Source: HMR, Eq. 8."""
  return jnp.sum((real_scores - 1.0) ** 2, axis=-1)


def kl_divergence(mean, std):
  """KL(N(mean, std^2) || N(0, 1)), summed over latents: [..., L] -> [...].

  Source: SMPL-X, L_KL; authors' `train/vposer_trainer.py`.
  """
  log_std = jnp.log(jnp.maximum(std, jnp.finfo(std.dtype).tiny))  # softplus underflows to 0
  return 0.5 * jnp.sum(mean ** 2 + std ** 2 - 1 - 2 * log_std, axis=-1)
