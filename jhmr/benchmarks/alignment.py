"""Alignment row: PA-MPJPE of many hypotheses of 17 joints, beside the same in PyTorch with its batched SVD."""

import os

import jax
import jax.numpy as jnp
from jhmr import metrics
from jhmr.benchmarks import timing
import numpy as np

JOINTS = 17
# Products of the means, sizes, covariance, and of the aligned points and their errors; 12 turns of 6 numbers of each of
# two columns, with their lengths and product.
_FLOPS = 110 * JOINTS + 12 * 66


def errors(batch=32768, seconds=5.0):
  """Hypotheses per second, every one aligned with a target of its own and measured."""
  predicted, target = set_up(batch)
  functions = {"ours": runner(predicted, target)}
  if timing.installed("torch"):
    functions["peer"] = peer(predicted, target)
  times = timing.interleaved(functions, seconds / len(functions))
  return {"name": "PA-MPJPE", "unit": "hypotheses/s", "ours": batch / times["ours"],
          "peer": batch / times["peer"] if "peer" in times else None, "peer_name": "the same in PyTorch",
          "flops_per_item": float(_FLOPS), "bytes_per_item": 4.0 * (2 * 3 * JOINTS + 1)}


def set_up(batch, seed=0):
  """(predicted, target), [N, 17, 3] metres each: people, and guesses 10 cm off that are turned and of another size."""
  rng = np.random.default_rng(seed)
  target = rng.normal(size=(batch, JOINTS, 3)) * [.2, .5, .15]
  turn = np.linalg.qr(rng.normal(size=(batch, 3, 3)))[0]
  predicted = rng.uniform(.8, 1.2, (batch, 1, 1)) * (target + .1 * rng.normal(size=target.shape)) @ turn
  return jnp.asarray(predicted, jnp.float32), jnp.asarray(target, jnp.float32)


def runner(predicted, target):
  """A function of no arguments: errors [N] in metres."""
  run = jax.jit(metrics.pa_mpjpe)
  return lambda: jax.block_until_ready(run(predicted, target))


def peer(predicted, target):
  """The same in PyTorch, with every core."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  predicted, target = (torch.tensor(np.asarray(x)) for x in (predicted, target))

  @torch.no_grad()
  def run():
    mean = target.mean(1, keepdim=True)
    a, b = predicted - predicted.mean(1, keepdim=True), target - mean
    u, s, vt = torch.linalg.svd(b.mT @ a)
    sign = torch.ones_like(s)
    sign[:, 2] = torch.sign(torch.linalg.det(u @ vt))
    scale = (s * sign).sum(-1) / (a ** 2).sum((1, 2))
    aligned = scale[:, None, None] * a @ ((u * sign[:, None]) @ vt).mT + mean
    return torch.linalg.norm(aligned - target, dim=-1).mean(-1)

  return run
