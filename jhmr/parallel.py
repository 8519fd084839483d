"""The step on every device of every process: pmap by default, shard_map over the same per-device step instead.

The state stays an ordinary, unstacked pytree, replicated on every device: that one format is logged, saved,
restored and converted. The two mappers differ only in how a host batch is laid out, and that is hidden here:

    mapper = parallel.make("pmap")
    step = mapper.train(system.step)
    state, assets = mapper.replicate(state), mapper.replicate(assets)
    state, metrics = step(state, mapper.to_devices(batch), assets)

With several processes each gives its own rows of the batch, in the order of the processes. Arrays of a pmap belong to
the process's own devices, those of a shard_map to all of them; `globally` and `locally` pass between the two, without
a copy, since checkpoints are written of the second kind.

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
  """How one program runs on all devices."""
  num_devices: int      # of all processes
  process_index: int
  process_count: int
  train: Callable       # step -> step on global batches; the state is donated
  rows: Callable        # f(state, batch, assets) -> tree of rows; theirs stay on the devices, laid out as batches are
  join: Callable        # such a tree -> NumPy, the rows of all devices of all processes together, [B, ...]
  local: Callable       # such a tree -> NumPy, the rows of this process's devices, [local B, ...]
  replicated: object    # the sharding of arrays that are the same on all devices of all processes
  replicate: Callable   # tree, the same on every process -> on every device, as `train` and `rows` want it
  globally: Callable    # replicated tree -> the same arrays under `replicated`
  locally: Callable     # the way back
  to_devices: Callable  # {name: [local B, ...]} this process's rows -> laid out over its devices


def make(kind, devices=None):
  """A Mapper over `devices` (default: all of all processes).

  Args:
    kind: "pmap" or "shard_map"; the results agree to rounding.
  Raises:
    InputError: for another kind.
  """
  devices = np.array(jax.devices() if devices is None else devices)
  ours = [d for d in devices if d.process_index == jax.process_index()]
  many = len(ours) < devices.size
  mesh = Mesh(devices, (AXIS,))
  everywhere = NamedSharding(mesh, P())
  makers = {"pmap": _pmap, "shard_map": _shard_map}
  if kind not in makers:
    raise InputError(f"config.parallel is {kind!r}: use 'pmap' or 'shard_map'")
  train, rows, local, split, mine = makers[kind](devices, ours, mesh, many)
  join = (lambda x: _gathered(local(x))) if many else local

  def to_devices(batch):
    odd = {k: v.shape[0] for k, v in batch.items() if v.shape[0] % len(ours)}
    if odd:
      raise InputError(f"batch of {next(iter(odd.values()))} does not divide over {len(ours)} devices: "
                       f"set config.batch_size to a multiple of {devices.size}")
    return {k: split(np.asarray(v)) for k, v in batch.items()}

  def laid(sharding):
    pieces = lambda x: [s.data for s in x.addressable_shards]
    one = lambda x: jax.make_array_from_single_device_arrays(x.shape, sharding, pieces(x))
    return (lambda tree: jax.tree.map(one, tree)) if many and mine != everywhere else lambda tree: tree

  def replicate(tree):
    # From the host when there are others: under shard_map, jax then checks that all bring the same numbers.
    return jax.device_put(jax.tree.map(np.asarray, tree) if many else tree, mine)

  return Mapper(num_devices=devices.size, process_index=jax.process_index(), process_count=jax.process_count(),
                train=train, rows=rows, join=lambda tree: jax.tree.map(join, tree),
                local=lambda tree: jax.tree.map(local, tree), replicated=everywhere, replicate=replicate,
                globally=laid(everywhere), locally=laid(mine), to_devices=to_devices)


def _gathered(x):
  """Each process's rows [B, ...] -> those of all, on every process."""
  from jax.experimental import multihost_utils
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def _pmap(devices, ours, mesh, many):
  local = Mesh(np.array(ours), (AXIS,)) if many else mesh
  split, mine = NamedSharding(local, P(AXIS)), NamedSharding(local, P())
  axes = dict(axis_name=AXIS, in_axes=(None, 0, None), devices=list(devices))
  train = lambda step: jax.pmap(step, out_axes=None, donate_argnums=(0,), **axes)
  rows = lambda f: jax.pmap(f, out_axes=0, **axes)
  host = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])
  return train, rows, host, lambda x: jax.device_put(x.reshape(len(ours), -1, *x.shape[1:]), split), mine


def _shard_map(devices, ours, mesh, many):
  del devices, ours
  split, everywhere = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
  mapped = lambda f, out: jax.shard_map(f, mesh=mesh, in_specs=(P(), P(AXIS), P()), out_specs=out, check_vma=False)
  train = lambda step: jax.jit(mapped(step, P()), donate_argnums=(0,))
  rows = lambda f: jax.jit(mapped(f, P(AXIS)))
  host = lambda x: np.concatenate([s.data for s in sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)])
  return train, rows, host, lambda x: jax.make_array_from_process_local_data(split, x), everywhere
