"""A made-up mixture over poses, poses near and far, and the slow equation."""

import numpy as np


def mixture(num=8, size=69, seed=0):
  """{"weights", "means", "covars"} float64, as in gmm_08.pkl."""
  rng = np.random.RandomState(seed)
  weights = rng.uniform(0.5, 2, num)
  mix = rng.normal(size=(num, size, size)) * rng.uniform(0.05, 0.6, (num, 1, size))
  covars = mix @ mix.swapaxes(1, 2) / size + 0.01 * np.eye(size)
  return {"weights": weights / weights.sum(), "means": 0.4 * rng.normal(size=(num, size)), "covars": covars}


def poses(num=12, seed=1):
  """[num, 69] float32: near the Gaussians, zero, and far away."""
  made, rng = mixture(), np.random.RandomState(seed)
  near = made["means"][rng.randint(8, size=num)] + 0.2 * rng.normal(size=(num, 69))
  near[0], near[1] = 0, 3 * rng.normal(size=69)
  return near.astype(np.float32)


def energy(weights, means, covars, pose):
  """min_k 1/2 (p - mu)^T C^-1 (p - mu) - ln n_k of one pose, a loop in float64."""
  dets = [np.sqrt(np.linalg.det(c)) for c in covars]
  values = []
  for w, mean, covar, d in zip(weights, means, covars, dets):
    gap = pose.astype(np.float64) - mean
    n = w / ((2 * np.pi) ** (len(mean) / 2) * d / min(dets))
    values.append(0.5 * gap @ np.linalg.inv(covar) @ gap - np.log(n))
  return min(values)
