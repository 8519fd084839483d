"""Metrics of many hypotheses for one image: [B, S] for S of them, then one number per example, [B].

Kept apart: measure every hypothesis (`errors`, `reprojection`), reduce over them (`reduced`, `best_of_first`), and what
describes the whole set: `consistency`, diversity, likelihood, calibration. Ratios over a data set come as
(numerator [B], denominator [B]), to be summed before they are divided: images with more joints count more.

Hypothesis 0 is the mode (z = 0), the others are random draws. How many there are is part of every number: the minimum
falls about linearly with log S, so it is only ever compared at equal S.
"""

import jax
import jax.numpy as jnp
from jhmr import metrics
from jhmr.body import procrustes
import numpy as np
from scipy import special

QUANTILES = np.linspace(0, 1, 21)  # of the calibration curves. Source: propose's `calibration.py`, 0, 0.05, ..., 1
CPS_MAX_MM = 300


def errors(joints, target):
  """Errors of every hypothesis.

  Args:
    joints: [B, S, K, 3] metres, centred; target: [B, K, 3] likewise.
  Returns:
    {"mpjpe_mm", "pa_mpjpe_mm", "worst_mm" (largest joint error after the alignment), "pck"}: [B, S].
  Source: `metrics.mpjpe`, `metrics.pa_mpjpe`, `metrics.pck`; worst joint: as `cps` wants it.
  """
  target = jnp.broadcast_to(target[:, None], joints.shape)
  aligned = procrustes.align(joints, target)
  return {"mpjpe_mm": 1000 * metrics.mpjpe(joints, target), "pa_mpjpe_mm": 1000 * metrics.mpjpe(aligned, target),
          "worst_mm": 1000 * jnp.max(metrics.distances(aligned, target), -1), "pck": metrics.pck(joints, target)}


def reduced(values):
  """Errors [B, S] -> {"mode", "min", "mean", "median", "worst"}: [B], over all S; of two middle values the lower one.

  Source: ProHMR (Kolotouros et al. 2021), mode and minimum; Wehrbein et al. 2021, mean, median and worst.
  """
  ordered = jnp.sort(values, -1)
  return {"mode": values[..., 0], "min": ordered[..., 0], "mean": jnp.mean(values, -1),
          "median": ordered[..., (values.shape[-1] - 1) // 2], "worst": ordered[..., -1]}


def best_of_first(values, counts):
  """The least error of the first n hypotheses, for each n of `counts` (static): [B, S] -> [B, len(counts)].

  The mode comes first, so that n = 1 is the mode. It needs the answer to choose (an oracle).
  Source: ProHMR (Kolotouros et al. 2021), table 2, "min".
  """
  return jax.lax.cummin(values, axis=values.ndim - 1)[..., np.asarray(counts) - 1]


def cps(worst_mm):
  """Correct pose score of poses whose worst joint is worst_mm off [...] -> [...] in 0..299.

  The area under [all joints nearer than t], t = 1, 2, ..., 300 mm, by the trapezoid rule. The best hypothesis at every
  threshold is the one with the smallest worst joint, so the score of a set is the score of min over S of worst_mm.
  Source: Wehrbein et al. 2021, section 4.1, and authors' code: after the alignment, t from 1, not divided by 300.
  Differs: on the joints of `metrics` instead of 16 of Human3.6M's.
  """
  first = jnp.floor(worst_mm) + 1  # the least whole threshold that is larger
  inside = jnp.where(first == 1, CPS_MAX_MM - 1.0, CPS_MAX_MM - first + 0.5)
  return jnp.where(first > CPS_MAX_MM, 0.0, inside)


def reprojection(projected, target, weight):
  """Distance to 2D labels, summed over joints: [B, S, K, 2], [B, K, 2], weight [B, K] -> [B, S], same unit.

  Source: HuManiFlow (Sengupta et al. 2023), joints2Dsamples-L2E, before its mean.
  """
  distance = metrics.distances(projected, target[:, None])
  return jnp.sum(jnp.where(weight[:, None] > 0, distance, 0.0) * weight[:, None], -1)


def consistency(sums, weight):
  """How far hypotheses are from what is seen: (numerator [B], denominator [B]) of a joint-weighted mean.

  Args:
    sums: [B, S] of `reprojection`.  weight: [B, K], 1 for visible joints.
  Source: HuManiFlow, joints2Dsamples-L2E: sum of v d over images, samples and joints by S times the sum of v.
  """
  return jnp.sum(sums, -1), sums.shape[-1] * jnp.sum(weight, -1)


def spread(points):
  """Mean distance to the mean over hypotheses, joint by joint: [B, S, K, 3] -> [B, K].

  Source: HuManiFlow, joints3D_sample_diversity, before its mean over joints.
  """
  return jnp.mean(metrics.distances(points, jnp.mean(points, 1, keepdims=True)), 1)


def diversity(spread_of_joints, weight):
  """(numerator [B], denominator [B]) of the mean spread of the joints that weight [B, K] keeps.

  Args:
    spread_of_joints: [B, K] of `spread`, which is high for hidden joints and low for visible ones in a good model.
  Source: HuManiFlow, joints3D_{vis,invis}_sample_diversity: over the data set, sums before the division.
  """
  return jnp.sum(spread_of_joints * weight, -1), jnp.sum(jnp.broadcast_to(weight, spread_of_joints.shape), -1)


def std_per_axis(points):
  """Unbiased standard deviation over S along x, y and z, mean over joints: [B, S, K, 3] -> [B, 3].

  Source: Wehrbein et al. 2021, section 4.5.
  """
  return jnp.mean(jnp.std(points, axis=1, ddof=1), axis=-2)


def bits_per_dim(log_prob, dim):
  """-log p / (D log 2) of log-densities in nats; comparable only between densities over the same thing.

  Source: the definition of bits per dimension, without a correction for quantised data.
  """
  return -log_prob / (dim * np.log(2.0))


def latent_energy(z):
  """|z|^2 / D of the labels' latents [..., D] -> [...]; 1 on average for a calibrated flow, more if overconfident.

  Source: |z|^2 of a standard normal follows the chi-square distribution with D degrees of freedom.
  """
  return jnp.mean(z * z, -1)


def latent_coverage(z, quantiles=QUANTILES):
  """Whether |z|^2 of z [..., D] is below each quantile of its chi-square distribution -> [..., Q] in {0, 1}.

  Its mean over images is the quantile itself for a calibrated flow.
  Source: chi-square with D degrees of freedom; its quantile is twice that of Gamma(D / 2).
  """
  limits = 2 * special.gammaincinv(z.shape[-1] / 2, np.asarray(quantiles))  # on the host: D is static
  return (jnp.sum(z * z, -1)[..., None] < jnp.asarray(limits, jnp.float32)).astype(jnp.float32)


def calibration(joints, target, quantiles=QUANTILES):
  """How often labels lie nearer to the middle of the hypotheses than a share q of them does.

  Args:
    joints: [B, S, K, 3] random draws, target: [B, K, 3], in the same frame and unit.
  Returns:
    [B, Q] share of joints, for each q; its mean over images is q for a calibrated model. Strictly nearer: of equal
    hypotheses it is 0 for every q.
  Source: Pierzchlewicz et al. 2022, quantile calibration; sinzlab's `propose/evaluation/calibration.py`: the middle is
    the median of each coordinate (of two middle values the lower one), quantiles interpolate linearly.
  """
  middle = jnp.sort(joints, 1)[:, (joints.shape[1] - 1) // 2]                                # [B, K, 3]
  limits = jnp.quantile(metrics.distances(joints, middle[:, None]), jnp.asarray(quantiles, joints.dtype), axis=1)
  inside = metrics.distances(target, middle) < limits                                        # [Q, B, K]
  return jnp.mean(inside.astype(jnp.float32), -1).T


def calibration_error(frequencies, quantiles=QUANTILES):
  """Mean distance of frequencies [..., Q], averaged over a data set before, from the quantiles -> [...]; NumPy too.

  Source: Pierzchlewicz et al. 2022, expected calibration error.
  """
  return abs(frequencies - np.asarray(quantiles)).mean(-1)
