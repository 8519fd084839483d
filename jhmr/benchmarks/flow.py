"""Flow rows: samples and log-probabilities of one image's density, at ProHMR's size, beside the same in PyTorch.

The peer is our parameters in the order of work of the authors' package: the context is repeated for every sample and
concatenated in front of every network, LU is solved against every sample, and each layer is a call of its own.
"""

import functools
import importlib.util
import math
import os

import jax
import jax.numpy as jnp
from jhmr.benchmarks import timing
from jhmr.nn.flow import ConditionalGlow
import numpy as np

_NET = ConditionalGlow()  # ProHMR's size


def samples(batch=4096, seconds=3.0):
  """Samples per second, each with its log-probability, from latents and the features of one image."""
  return _row("flow samples", "samples/s", "sample", batch, seconds)


def log_prob(batch=4096, seconds=3.0):
  """Log-probabilities per second, each with its latent, from poses and the features of one image."""
  return _row("flow log-prob", "poses/s", "log_prob", batch, seconds)


def _row(name, unit, method, batch, seconds):
  net = _NET
  variables, x, context = set_up(net, batch)
  programs = {"ours": _program(net, method), "bfloat16": _program(net.clone(dtype=jnp.bfloat16), method)}
  functions = {k: functools.partial(f, variables, x, context) for k, f in programs.items()}
  full, rounded = (np.asarray(f()[method == "log_prob"]) for f in functions.values())
  if importlib.util.find_spec("torch"):
    functions["peer"] = peer(net, method, variables, x, context)
  times = timing.interleaved(functions, seconds / 8)  # a call takes as long as many turns
  half, hidden = net.dim // 2, net.hidden
  # What a sample needs at least: the last two matrices of each network can be one (2 hidden x half in its place).
  coupling = half * hidden + (2 * net.depth - 1) * hidden ** 2 + 2 * hidden * half
  size = sum(x.size for x in jax.tree.leaves(variables))
  return {"name": name, "unit": unit, "ours": batch / times["ours"],
          "peer": batch / times["peer"] if "peer" in times else None,
          "peer_name": "the same in PyTorch, context repeated",
          "flops_per_item": 2.0 * net.blocks * (coupling + net.dim ** 2),
          "bytes_per_item": 4.0 * (2 * net.dim + 1 + size / batch),
          "note": f"with dtype bfloat16 {batch / times['bfloat16']:,.0f} {unit}; results move by "
                  f"{np.std(rounded - full) / np.std(full):.1e} of their spread"}


def _program(net, method):
  program = jax.jit(lambda *args: net.apply(*args, method=method))
  return lambda *args: jax.block_until_ready(program(*args))


def set_up(net, batch, seed=0):
  """(variables, vectors [1, S, D], context [1, C]); the values of a trained net's size, so that nothing is zero."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(1, batch, net.dim)).astype(np.float32)
  context = rng.normal(size=(1, net.context)).astype(np.float32)
  fresh = jax.eval_shape(net.init, jax.random.key(0), x[:, :1], context)

  def value(path, leaf):
    name, normal = path[-1].key, rng.standard_normal(leaf.shape, np.float32)
    if name in ("var", "scale"):
      return 1 + 0.2 * np.tanh(normal)
    return normal * np.float32(leaf.shape[0] ** -0.5 if name == "kernel" else 0.02)

  variables = jax.tree_util.tree_map_with_path(value, fresh)
  return jax.tree.map(jnp.asarray, (variables, x, context))


# The peer.

def peer(net, method, variables, x, context):
  """A function that makes the same samples or log-probabilities in PyTorch with every core: (x or z, log_prob)."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  turned = jax.tree.map(lambda a: np.array(a.T if a.ndim == 2 else a, order="C"), variables)
  params, stats = (jax.tree.map(torch.from_numpy, turned[k]) for k in ("params", "batch_stats"))
  x, context = torch.tensor(np.asarray(x[0])), torch.tensor(np.asarray(context))
  towards_z, steps = method == "log_prob", []
  for i in range(net.blocks):
    couple = functools.partial(_couple, stats=stats[f"coupling_{i}"], depth=net.depth, odd=i % 2)
    steps += [(_actnorm, params[f"actnorm_{i}"]), (_lu, params[f"lu_{i}"]), (couple, params[f"coupling_{i}"])]

  @torch.no_grad()
  def run():
    repeated, y, log_det = context.expand(len(x), -1).contiguous(), x, torch.zeros(len(x))
    for step, step_params in steps if towards_z else steps[::-1]:
      y, change = step(y, step_params, repeated, towards_z)
      log_det = log_det + change
    z = y if towards_z else x
    normal = -0.5 * (z ** 2).sum(1) - 0.5 * math.log(2 * math.pi) * net.dim
    return y, normal + (log_det if towards_z else -log_det)

  return run


def _actnorm(x, params, context, towards_z):
  del context
  log_det = params["log_scale"].sum() * x.new_ones(len(x))
  if towards_z:
    return params["log_scale"].exp() * x + params["shift"], log_det
  return (x - params["shift"]) / params["log_scale"].exp(), -log_det


def _lu(x, params, context, towards_z):
  import torch
  from torch.nn import functional as F
  del context
  diagonal = F.softplus(params["unconstrained_upper_diag"]) + 1e-3
  lower, upper = torch.eye(len(diagonal)), torch.diag(diagonal)
  lower[np.tril_indices(len(diagonal), -1)] = params["lower_entries"]
  upper[np.triu_indices(len(diagonal), 1)] = params["upper_entries"]
  log_det = diagonal.log().sum() * x.new_ones(len(x))
  if towards_z:
    return F.linear(F.linear(x, upper), lower, params["bias"]), log_det
  x = torch.linalg.solve_triangular(lower, (x - params["bias"]).t(), upper=False, unitriangular=True)
  return torch.linalg.solve_triangular(upper, x, upper=True).t(), -log_det


def _couple(x, params, context, towards_z, stats, depth, odd):
  import torch
  from torch.nn import functional as F
  dense = lambda h, name: F.linear(h, params[name]["kernel"], params[name]["bias"])
  norm = lambda h, name: F.batch_norm(h, stats[name]["mean"], stats[name]["var"], params[name]["scale"],
                                      params[name]["bias"])
  same, changed = torch.arange(odd, x.shape[1], 2), torch.arange(1 - odd, x.shape[1], 2)
  h = dense(torch.cat([x[:, same], context], 1), "initial_layer")
  for i in range(depth):
    t = dense(F.relu(norm(h, f"block_{i}_bn_0")), f"block_{i}_linear_0")
    h = h + dense(F.relu(norm(t, f"block_{i}_bn_1")), f"block_{i}_linear_1")
  y, shift = torch.empty_like(x), dense(h, "final_layer")
  y[:, same], y[:, changed] = x[:, same], x[:, changed] + (shift if towards_z else -shift)
  return y, 0.0
