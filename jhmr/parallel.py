"""The step on every device: pmap by default, shard_map over the same per-device step as the alternative.

The state stays an ordinary, unstacked pytree, replicated on every device: that one format is logged, saved,
restored and converted. The two mappers differ only in how a host batch is laid out, and that is hidden here:

    mapper = parallel.make("pmap")
    step = mapper.train(system.step)
    state, assets = mapper.replicate(state), mapper.replicate(assets)
    state, metrics = step(state, mapper.to_devices(batch), assets)

Inside a step, gradients are `pmean`ed after `grad` and never the loss before it: with these mappers (no
varying-axes types) differentiating through a collective gives wrong gradients without a word.
"""

from typing import Callable, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jhmr.errors import InputError
from jhmr.state import AXIS
import numpy as np


class Mapper(NamedTuple):
  """How one program runs on all devices; every field is a function except `num_devices`."""
  num_devices: int
  train: Callable       # step -> step on global batches; the state is donated
  rows: Callable        # f(state, batch, assets) -> tree of rows; theirs stay on the devices, laid out as batches are
  join: Callable        # such a tree -> NumPy, the rows of all devices together, [B, ...]
  replicated: object    # the sharding of state and assets
  replicate: Callable   # tree -> the same tree on every device
  to_devices: Callable  # {name: [B, ...]} host batch -> laid out over the devices


def make(kind, devices=None):
  """A Mapper over `devices` (default: all).

  Args:
    kind: "pmap" or "shard_map"; the results agree to rounding.
  Raises:
    InputError: for another kind.
  """
  devices = np.array(jax.devices() if devices is None else devices)
  mesh = Mesh(devices, (AXIS,))
  everywhere = NamedSharding(mesh, P())
  makers = {"pmap": _pmap, "shard_map": _shard_map}
  if kind not in makers:
    raise InputError(f"config.parallel is {kind!r}: use 'pmap' or 'shard_map'")
  train, rows, join, split = makers[kind](devices, mesh)

  def to_devices(batch):
    odd = {k: v.shape[0] for k, v in batch.items() if v.shape[0] % devices.size}
    if odd:
      raise InputError(f"batch of {next(iter(odd.values()))} does not divide over {devices.size} devices: "
                       f"set config.batch_size to a multiple of {devices.size}")
    return {k: split(v) for k, v in batch.items()}

  return Mapper(num_devices=devices.size, train=train, rows=rows, join=lambda tree: jax.tree.map(join, tree),
                replicated=everywhere, replicate=lambda tree: jax.device_put(tree, everywhere), to_devices=to_devices)


def _pmap(devices, mesh):
  del mesh
  axes = dict(axis_name=AXIS, in_axes=(None, 0, None), devices=list(devices))
  train = lambda step: jax.pmap(step, out_axes=None, donate_argnums=(0,), **axes)
  rows = lambda f: jax.pmap(f, out_axes=0, **axes)
  join = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])
  return train, rows, join, lambda x: np.asarray(x).reshape(devices.size, -1, *x.shape[1:])


def _shard_map(devices, mesh):
  del devices
  split = NamedSharding(mesh, P(AXIS))
  mapped = lambda f, out: jax.shard_map(f, mesh=mesh, in_specs=(P(), P(AXIS), P()), out_specs=out, check_vma=False)
  train = lambda step: jax.jit(mapped(step, P()), donate_argnums=(0,))
  rows = lambda f: jax.jit(mapped(f, P(AXIS)))
  return train, rows, np.asarray, lambda x: jax.make_array_from_process_local_data(split, np.asarray(x))
