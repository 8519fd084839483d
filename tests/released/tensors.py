"""Tensors of every kind, in torch and as NumPy; files of torch.save with them, and files as torch 0.1 wrote them.

The goldens: cd tests && python -c "from released import tensors; tensors.write('released/goldens')"   (torch 2.13)
"""

import collections
import os
import pickle
import struct
import sys
import types

import numpy as np


def values():
  """{name: array}: what a file of `write` holds."""
  base = np.arange(12, dtype=np.float32)
  found = {"base": base, "offset": base[2:8].reshape(2, 3), "transposed": base.reshape(3, 4).T,
           "every_other": base[::2], "scalar": base[3].reshape(()), "empty": np.zeros((0, 3), np.float32),
           "expanded": np.full((3, 2), base[5]), "parameter": base + 0.5, "bfloat16": base / 3}
  found |= {name: (base - 4).astype(name) for name in ("float16", "float64", "int64", "int32", "int16", "int8")}
  return found | {"uint8": base.astype(np.uint8), "bool": base > 4}


def tensors():
  """The same in torch; several share the storage of "base"."""
  import torch
  base = torch.arange(12, dtype=torch.float32)
  found = {"base": base, "offset": base[2:8].view(2, 3), "transposed": base.view(3, 4).T, "every_other": base[::2],
           "scalar": base[3], "empty": torch.zeros(0, 3), "expanded": base[5].expand(3, 2),
           "parameter": torch.nn.Parameter(base + 0.5), "bfloat16": (base / 3).bfloat16()}
  found |= {n: (base - 4).to(getattr(torch, n)) for n in ("float16", "float64", "int64", "int32", "int16", "int8")}
  return collections.OrderedDict(found | {"uint8": base.to(torch.uint8), "bool": base > 4})


def lightning(state_dict):
  """A checkpoint as PyTorch-Lightning 1.3 makes one: callbacks under their classes, the optimiser's state."""
  import torch
  name = "pytorch_lightning.callbacks.model_checkpoint"
  module = types.ModuleType(name)
  module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
  sys.modules |= {"pytorch_lightning": types.ModuleType("pytorch_lightning"),
                  "pytorch_lightning.callbacks": types.ModuleType("pytorch_lightning.callbacks"), name: module}
  weight = torch.nn.Parameter(torch.ones(3))
  optimizer = torch.optim.AdamW([weight])
  weight.sum().backward()
  optimizer.step()
  return {"epoch": 3, "global_step": 100, "pytorch-lightning_version": "1.3.6", "state_dict": state_dict,
          "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "dirpath": "logs"}},
          "optimizer_states": [optimizer.state_dict()], "lr_schedulers": []}


def write(folder):
  """zip.pt, legacy.pt and lightning.pt."""
  import torch
  torch.save(tensors(), os.path.join(folder, "zip.pt"))
  torch.save(tensors(), os.path.join(folder, "legacy.pt"), _use_new_zipfile_serialization=False)
  torch.save(lightning(tensors()), os.path.join(folder, "lightning.pt"))


# --- torch 0.1: parameters around tensors, storages that are parts of others, dicts as pairs, no metadata


class Storage:
  """Numbers; persistent in pickles, as (key, start, count) of others where it is a part of them."""

  def __init__(self, key, total, part=None):
    self.key, self.total, self.part = key, total, part


class Call:
  """Pickled as a call of module.name."""

  def __init__(self, module, name, *args, state=None):
    self.module, self.name, self.args, self.state = module, name, args, state


class _Pickler(pickle._Pickler):

  def persistent_id(self, value):
    if isinstance(value, Storage):
      return ("storage", Call("torch", "FloatStorage"), value.key, "cpu", value.total, value.part)
    return None

  def save(self, value, *args, **kwargs):
    if not isinstance(value, Call):
      return super().save(value, *args, **kwargs)
    self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
    if value.args:
      self.save(value.args)
      self.write(pickle.REDUCE)
    if value.state is not None:
      self.save(value.state)
      self.write(pickle.BUILD)


def write_old(path):
  """Two parameters, the second one a part of the first one's storage; returns what they hold."""
  numbers = np.arange(6, dtype=np.float32)
  tensor = lambda storage, shape, stride: Call("torch._utils", "_rebuild_tensor", storage, 0, shape, stride)
  hooks = Call("collections", "OrderedDict", [])
  parameter = lambda t: Call("torch.nn.parameter", "Parameter", t, state=(True, False, hooks))
  whole, part = Storage("7", 6), Storage("7", 6, ("8", 2, 3))
  pairs = [["whole", parameter(tensor(whole, (2, 3), (3, 1)))], ["part", parameter(tensor(part, (3,), (1,)))]]
  with open(path, "wb") as f:
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001},
                  Call("collections", "OrderedDict", pairs), ["7"]):
      _Pickler(f, 2).dump(value)
    f.write(struct.pack("<q", 6) + numbers.tobytes())
  return {"whole": numbers.reshape(2, 3), "part": numbers[2:5]}
