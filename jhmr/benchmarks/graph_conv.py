"""Graph convolution row: one layer's output and gradients, in every form of the adjacency, beside PyTorch's.

GraphCMR's middle layer on the built-in body's mesh of 1,723 vertices: features [16, 1723, 128] times a kernel, then
the adjacency, plus a bias; and from a gradient of the output those of features, kernel and bias. Vertices already stand
in the order that a form wants, since a network reorders them once, not in each layer. The note has the time of every
form: those of `nn.graph_conv`; and, with "flat" in front, others whose features are [1723, 16, 128], so that the
adjacency multiplies one matrix of all images: what a network in that layout would gain. The peers are flat, too.
"""

import os
import warnings
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jhmr import sparse
from jhmr.benchmarks import timing
from jhmr.body import pyramid, smpl
from jhmr.nn import graph_conv
import numpy as np

_PEERS = ("torch dense", "torch sparse")


class Form(NamedTuple):
  """One way to multiply features by the adjacency."""
  arrays: Any         # the adjacency
  multiply: Callable  # (arrays, features) -> features
  place: Callable     # features [B, n, C] in the mesh's order -> as this form wants them
  back: Callable      # the other way


def layer(batch=16, channels=128, seconds=3.0):
  """Images per second of output and gradients."""
  table = adjacency_of("mannequin")
  made, numbers = forms(table), inputs(len(table.ids), batch, channels)
  functions = {name: ours(form, *numbers) for name, form in made.items()}
  if timing.installed("torch"):
    functions |= peers(table, *numbers)
  times = timing.interleaved(functions, seconds / 4)
  best = min((name for name in _PEERS if name in times), key=times.get, default=None)
  num, entries = len(table.ids), int((np.asarray(table.weights) != 0).sum())
  lines = [f"{name}: {1000 * times[name]:.1f} ms" + f", {times['dense'] / times[name]:.2f} x dense" * (name != "dense")
           for name in sorted(times, key=times.get)]
  return {"name": "graph convolution", "unit": "images/s", "ours": batch / times[chosen(table)],
          "peer": batch / times[best] if best else None, "peer_name": best or "PyTorch, dense or sparse",
          # Twice the entries that are not zero, and three products with kernels.
          "flops_per_item": 2.0 * (2 * entries * channels + 3 * num * channels ** 2),
          "bytes_per_item": 4.0 * 4 * num * channels,  # features and a gradient are read, an output and one written
          "note": "\n".join([f"chosen: {chosen(table)}", *lines])}


def chosen(table):
  """The form that `graph_conv.prepare` chooses."""
  made = graph_conv.prepare(table)
  fields = {"gather": "table"} | {name: name for name in ("dense", "blocks", "sparse")}
  return next(name for name, field in fields.items() if getattr(made, field) is not None)


def adjacency_of(body):
  """The sparse.Table of a body file's coarse mesh."""
  arrays = smpl.load_arrays(body)
  levels, edges = pyramid.load("", arrays)
  return pyramid.adjacency(pyramid.graph(levels, edges, arrays["v_template"]))


def inputs(num, batch, channels, seed=0):
  """(kernel [C, C], bias [C], features [B, n, C], gradient [B, n, C]), NumPy."""
  rng = np.random.default_rng(seed)
  shapes = ((channels, channels), (channels,), (batch, num, channels), (batch, num, channels))
  return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def forms(table):
  """{name: Form} of a sparse.Table [n, n]."""
  flat = lambda x: jnp.swapaxes(x, 0, 1)
  made = {}
  for name in graph_conv.FORMS:
    if name != "auto":
      adjacency = jax.tree.map(jnp.asarray, graph_conv.prepare(table, name))
      made[name] = Form(adjacency, graph_conv.multiply, lambda x, a=adjacency: graph_conv.inside(a, x),
                        lambda x, a=adjacency: graph_conv.outside(a, x))
  ordered, unordered = (lambda x: flat(made["blocks"].place(x))), (lambda x: made["blocks"].back(flat(x)))
  blocks = made["blocks"].arrays.blocks
  return made | {"flat dense": Form(made["dense"].arrays.dense, _flat_dense, flat, flat),
                 "flat gather": Form(made["gather"].arrays.table, _flat_gather, flat, flat),
                 "flat blocks": Form(blocks, _flat_blocks, ordered, unordered),
                 "flat blocks apart": Form(blocks, _flat_blocks_apart, ordered, unordered)}


def _flat_dense(matrix, x):
  return (matrix @ x.reshape(len(x), -1)).reshape(x.shape)


def _flat_gather(table, x):
  return sparse.multiply(table, x.reshape(len(x), -1)).reshape(x.shape)


def _parts(blocks, x):
  """Rows in blocks of a block's height, an empty one before and after: [k + 2, h, B C]."""
  count, height, _ = blocks.shape
  x = x.reshape(len(x), -1)
  return jnp.pad(x, ((height, (count + 1) * height - len(x)), (0, 0))).reshape(count + 2, height, -1)


def _flat_blocks(blocks, x):
  parts = _parts(blocks, x)
  y = jnp.matmul(blocks, jnp.concatenate([parts[:-2], parts[1:-1], parts[2:]], 1))
  return y.reshape(-1, y.shape[-1])[:len(x)].reshape(x.shape)


def _flat_blocks_apart(blocks, x):
  """Without copying every row three times."""
  parts, height = _parts(blocks, x), blocks.shape[1]
  y = sum(jnp.matmul(blocks[..., i * height:(i + 1) * height], parts[i:i + len(blocks)]) for i in range(3))
  return y.reshape(-1, y.shape[-1])[:len(x)].reshape(x.shape)


def ours(form, kernel, bias, x, gradient):
  """A function of no arguments: (output, gradients of (kernel, bias, features)), laid out as the form wants them."""
  @jax.jit
  def run(arrays, kernel, bias, x, gradient):
    convolve = lambda kernel, bias, x: form.multiply(arrays, x @ kernel) + bias
    y, back = jax.vjp(convolve, kernel, bias, x)
    return y, back(gradient)

  arguments = form.arrays, *map(jnp.asarray, (kernel, bias)), *map(form.place, map(jnp.asarray, (x, gradient)))
  return lambda: jax.block_until_ready(run(*arguments))


# The peers.

def peers(table, kernel, bias, x, gradient):
  """{name of _PEERS: the same function in PyTorch, with every core}; gradients written out, as autograd has them."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  kernel, bias = torch.tensor(kernel), torch.tensor(bias)
  x, gradient = (torch.tensor(np.ascontiguousarray(a.swapaxes(0, 1))) for a in (x, gradient))
  dense = torch.tensor(sparse.dense(table))
  both = dense, dense.T.contiguous()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that sparse rows are in beta state
    pairs = {"torch dense": both, "torch sparse": tuple(matrix.to_sparse_csr() for matrix in both)}

  @torch.no_grad()
  def run(matrix, transposed):
    rows = lambda x: x.reshape(len(x), -1)
    y = (matrix @ rows(x @ kernel)).reshape(gradient.shape) + bias
    inner = (transposed @ rows(gradient)).reshape(gradient.shape)
    of_kernel = x.reshape(-1, x.shape[-1]).T @ inner.reshape(-1, inner.shape[-1])
    return y, (of_kernel, gradient.sum((0, 1)), inner @ kernel.T)

  return {name: lambda pair=pair: run(*pair) for name, pair in pairs.items()}
