"""A hilly function of 30 numbers, the same in NumPy-like JAX and PyTorch, for tests of joint_lbfgs."""

import numpy as np

NUM = 30


def problem(seed):
  """(matrix [50, 30], target [50], start [30]) float64."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(50, NUM)) * 10 ** rng.uniform(-1, 1, NUM), rng.normal(size=50), rng.normal(size=NUM)


def loss(xp, x, matrix, target):
  """sum rho(tanh-bent residual) + valley; xp is jax.numpy or torch."""
  gap = matrix @ x - target
  curve = (x[1:] - x[:-1] ** 2) ** 2
  return (4 * gap**2 / (4 + gap**2)).sum() + 3 * curve.sum() + (xp.sin(3 * x) ** 2).sum()
