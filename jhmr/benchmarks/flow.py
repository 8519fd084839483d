"""Flow rows: samples and log-probabilities of one image's density, at ProHMR's size, beside the same in PyTorch.

The peer is our parameters in the order of work of the authors' package: the context is repeated for every sample and
concatenated in front of every network, LU is solved against every sample, and each layer is a call of its own.
"""

import functools
import math
import os

import jax
import jax.numpy as jnp
from jhmr.benchmarks import precision, timing
from jhmr.body import landmarks, rotations, smpl
from jhmr.nn.flow import ConditionalGlow
import numpy as np

_NET = ConditionalGlow()  # ProHMR's size
_SET = "prohmr44"         # joints whose displacement says what rounding costs


def samples(batch=4096, seconds=3.0):
  """Samples per second, each with its log-probability, from latents and the features of one image."""
  return _row("flow samples", "samples/s", "sample", batch, seconds)


def log_prob(batch=4096, seconds=3.0):
  """Log-probabilities per second, each with its latent, from poses and the features of one image."""
  return _row("flow log-prob", "poses/s", "log_prob", batch, seconds)


def _row(name, unit, method, batch, seconds):
  net = _NET
  variables, x, context = set_up(net, batch)
  make = lambda dtype: _program(net.clone(dtype=dtype), method)
  programs = {n: precision.variant(n, make) for n in precision.VARIANTS}
  results = {n: program(variables, x, context) for n, program in programs.items()}
  functions = {n: functools.partial(programs[n], variables, x, context) for n in precision.timed()}
  functions["ours"] = functools.partial(programs["float32"], variables, x, context)
  if timing.installed("torch"):
    functions["peer"] = peer(net, method, variables, x, context)
  times = timing.interleaved(functions, seconds / 8)  # a call takes as long as many turns
  rates = {"float32" if n == "ours" else n: batch / t for n, t in times.items() if n != "peer"}
  size, flops = sum(x.size for x in jax.tree.leaves(variables)), flops_per_sample(net)
  return {"name": name, "unit": unit, "ours": batch / times["ours"],
          "peer": batch / times["peer"] if "peer" in times else None,
          "peer_name": "the same in PyTorch, context repeated", "flops_per_item": flops,
          "bytes_per_item": 4.0 * (2 * net.dim + 1 + size / batch),
          "note": _spread(unit, rates, results) if method == "log_prob" else
                  precision.note(unit, rates, flops, _moved(results))}


def flops_per_sample(net):
  """What a sample needs at least: the last two matrices of each network can be one (2 hidden x half in its place)."""
  half, hidden = net.dim // 2, net.hidden
  coupling = half * hidden + (2 * net.depth - 1) * hidden ** 2 + 2 * hidden * half
  return 2.0 * net.blocks * (coupling + net.dim ** 2)


def _moved(results, count=256):
  """{variant: `precision.moved_mm`} of the joints of a few samples."""
  six_d = {n: x[0, :count] for n, (x, _) in results.items()}
  body = landmarks.rigid_body(smpl.load("mannequin"), (_SET,))

  @jax.jit
  def points(body, x):
    pose = rotations.six_d_to_matrix(x.reshape(-1, 24, 6), "prohmr")
    return smpl.keypoints(body, smpl.forward(body, jnp.zeros(10), pose), _SET)

  reference = points(body, six_d.pop(precision.REFERENCE))
  return {n: precision.moved_mm(points(body, x), reference) for n, x in six_d.items()}


def _spread(unit, rates, results):
  """Latents are no joints: how far they move, beside how far they are apart."""
  z = {n: np.asarray(z) for n, (_, z) in results.items()}
  full = z.pop(precision.REFERENCE)
  return "\n".join(f"{n}: {rates[n]:,.0f} {unit}; latents move by {np.std(x - full) / np.std(full):.1e} of their spread"
                   for n, x in z.items())


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
  x, context = torch.tensor(np.asarray(x[0])), torch.tensor(np.asarray(context))
  towards_z, way = method == "log_prob", torch_way(net, *torch_variables(variables), method == "log_prob")

  @torch.no_grad()
  def run():
    y, log_det = way(x, context.expand(len(x), -1).contiguous())
    return y, torch_log_normal(y if towards_z else x) + (log_det if towards_z else -log_det)

  return run


def torch_log_normal(z):
  """log N(z; 0, 1) of the last axis of a tensor."""
  return -0.5 * (z ** 2).sum(-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]


def torch_variables(variables):
  """(parameters, running statistics) as tensors in torch's layout."""
  import torch
  turned = jax.tree.map(lambda a: np.array(a.T if a.ndim == 2 else a, order="C"), variables)
  return tuple(jax.tree.map(torch.from_numpy, turned[k]) for k in ("params", "batch_stats"))


def torch_way(net, params, stats, towards_z, training=False):
  """The peer's way towards z or x: (vectors [M, D], their contexts [M, C]) -> (vectors [M, D], log|det| [M]).

  Without dropout; in training batch norm takes the statistics of these vectors.
  """
  import torch
  steps = []
  for i in range(net.blocks):
    couple = functools.partial(_couple, stats=stats[f"coupling_{i}"], depth=net.depth, odd=i % 2, training=training)
    steps += [(_actnorm, params[f"actnorm_{i}"]), (_lu, params[f"lu_{i}"]), (couple, params[f"coupling_{i}"])]

  def way(x, repeated):
    log_det = torch.zeros(len(x))
    for step, step_params in steps if towards_z else steps[::-1]:
      x, change = step(x, step_params, repeated, towards_z)
      log_det = log_det + change
    return x, log_det

  return way


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


def _couple(x, params, context, towards_z, stats, depth, odd, training):
  import torch
  from torch.nn import functional as F
  dense = lambda h, name: F.linear(h, params[name]["kernel"], params[name]["bias"])
  norm = lambda h, name: F.batch_norm(h, stats[name]["mean"], stats[name]["var"], params[name]["scale"],
                                      params[name]["bias"], training)
  same, changed = torch.arange(odd, x.shape[1], 2), torch.arange(1 - odd, x.shape[1], 2)
  h = dense(torch.cat([x[:, same], context], 1), "initial_layer")
  for i in range(depth):
    t = dense(F.relu(norm(h, f"block_{i}_bn_0")), f"block_{i}_linear_0")
    h = h + dense(F.relu(norm(t, f"block_{i}_bn_1")), f"block_{i}_linear_1")
  y, shift = torch.empty_like(x), dense(h, "final_layer")
  y[:, same], y[:, changed] = x[:, same], x[:, changed] + (shift if towards_z else -shift)
  return y, 0.0
