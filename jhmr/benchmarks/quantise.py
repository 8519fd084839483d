"""Quantisation row: few hypotheses that stand for many, for a batch of images, beside the same K-means in PyTorch.

A hypothesis is 24 joints, 72 numbers, with a log-weight; of each image's 100 the first is kept and n - 1 clusters of
the others give their medoids, for n = 5, 10 and 25. The peer computes distances of all images in one batched product
and stops as soon as no label of any image changes; the authors' code does both.
"""

import os

import jax
import jax.numpy as jnp
from jhmr import quantise
from jhmr.benchmarks import timing
import numpy as np

HYPOTHESES, DIM, NUMS = 100, 72, (5, 10, 25)


def sets(batch=64, seconds=5.0):
  """Sets of n hypotheses made per second, for images of 100 hypotheses, n = 5, 10 and 25 each once."""
  points, log_weights = set_up(batch)
  functions = {n: runner(points, log_weights, n) for n in NUMS}
  if timing.installed("torch"):
    functions |= {f"peer {n}": peer(points, log_weights, first_centres(points, log_weights, n)) for n in NUMS}
  times = timing.interleaved(functions, seconds / len(functions))
  theirs = [times.get(f"peer {n}", np.nan) for n in NUMS]
  made, ours = batch * len(NUMS), sum(times[n] for n in NUMS)
  rates = ", ".join(f"n = {n}: {batch / times[n]:,.0f} against {batch / t:,.0f} images/s" for n, t in zip(NUMS, theirs))
  # Distances and means of every step are one product each.
  flops = quantise.STEPS * 4 * HYPOTHESES * DIM * np.mean(np.array(NUMS) - 1)
  return {"name": "quantised sets", "unit": "sets/s", "ours": made / ours,
          "peer": made / sum(theirs) if np.isfinite(theirs).all() else None, "peer_name": "the same in PyTorch",
          "flops_per_item": float(flops), "bytes_per_item": 4.0 * HYPOTHESES * (DIM + 1), "note": rates}


def set_up(batch, seed=0):
  """(points [B, S, 72] in heaps, as hypotheses of ambiguous images are, log-weights [B, S])."""
  rng = np.random.default_rng(seed)
  heaps = rng.normal(size=(batch, 8, DIM))[np.arange(batch)[:, None], rng.integers(0, 8, (batch, HYPOTHESES))]
  points = 0.2 * (heaps + 0.5 * rng.normal(size=heaps.shape))
  return jnp.asarray(points, jnp.float32), jnp.asarray(3 * rng.normal(size=(batch, HYPOTHESES)), jnp.float32)


def runner(points, log_weights, num):
  """A function of no arguments: chosen [B, num]."""
  run = jax.jit(jax.vmap(lambda p, w, key: quantise.quantise(p, p, num, key, w)[0]))
  keys = jax.random.split(jax.random.key(0), len(points))
  return lambda: jax.block_until_ready(run(points, log_weights, keys))


def first_centres(points, log_weights, num):
  """The first centres of `runner`, as ids of hypotheses: [B, num - 1]."""
  keys = jax.random.split(jax.random.key(0), len(points))
  return jax.jit(jax.vmap(lambda p, w, key: quantise.start(p, num - 1, key, w.at[0].set(-jnp.inf))))(
      points, log_weights, keys)


def peer(points, log_weights, first):
  """A function of no arguments: chosen [B, num] from the same first centres. Uses every core."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  points, log_weights, first = (torch.tensor(np.asarray(x)) for x in (points, log_weights, first))
  others, weights, index = points[:, 1:], log_weights[:, 1:], first.long() - 1
  clusters = torch.arange(index.shape[1])

  def distances(centres):
    product = torch.bmm(others, centres.mT)
    return (others ** 2).sum(-1, keepdim=True) - 2 * product + (centres ** 2).sum(-1)[:, None]

  @torch.no_grad()
  def run():
    centres, before = torch.gather(others, 1, index[..., None].expand(-1, -1, DIM)), None
    for _ in range(quantise.STEPS):
      labels = distances(centres).argmin(-1)
      if before is not None and torch.equal(labels, before):
        break
      before, member = labels, labels[..., None] == clusters
      share = torch.where(member, weights[..., None], -torch.inf).softmax(1).nan_to_num(0.0)  # [B, S, n]
      empty = ~member.any(1)
      centres = torch.where(empty[..., None], centres, torch.bmm(share.mT, others))
    square = torch.where(before[..., None] == clusters, distances(centres), torch.inf)
    return torch.cat([torch.zeros(len(points), 1, dtype=torch.long), square.argmin(1) + 1], 1)

  return run
