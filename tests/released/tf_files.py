"""Checkpoints as TensorFlow 1 saves them, said again here, with made-up numbers."""

import struct

import numpy as np

_DTYPES = {np.dtype("<f4"): 1, np.dtype("<i4"): 3}


def varint(value):
  """Seven bits a byte, the lowest first."""
  found = b""
  while value > 127:
    found, value = found + bytes([value & 127 | 128]), value >> 7
  return found + bytes([value])


def field(number, value):
  """A field of a message: a number, or bytes."""
  if isinstance(value, bytes):
    return varint(number << 3 | 2) + varint(len(value)) + value
  return varint(number << 3) + varint(value)


def block(entries, every=4):
  """Entries [(key, value)] whose keys are cut where they are as the one before, but for one in `every`."""
  found, before, restarts = b"", b"", []
  for i, (key, value) in enumerate(entries):
    shared = 0
    if i % every:
      shared = next((n for n, (a, b) in enumerate(zip(before, key)) if a != b), min(len(before), len(key)))
    else:
      restarts.append(len(found))
    found += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
    before = key
  return found + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries, size=7):
  """A whole table, in blocks of `size` entries."""
  found, handles = b"", []

  def add(entries, kind=b"\x00"):
    nonlocal found
    data = block(entries)
    handle = varint(len(found)) + varint(len(data))
    found += data + kind + b"\x11\x22\x33\x44"  # a checksum
    return handle

  for i in range(0, len(entries), size):
    part = entries[i:i + size]
    handles.append((part[-1][0] + b"~", add(part)))
  footer = add([]) + add(handles)
  return found + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write(prefix, arrays, parts=1):
  """Writes PREFIX.index and PREFIX.data-00000-of-00001."""
  data, entries = b"", [(b"", field(1, parts) + field(3, field(1, 1)))]
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    shape = b"".join(field(2, field(1, n)) for n in np.shape(arrays[name]))
    entry = field(1, _DTYPES[array.dtype]) + field(2, shape) + (field(4, len(data)) if data else b"")
    entry += field(5, array.nbytes) + varint(6 << 3 | 5) + b"\x99\x88\x77\x66"
    entries.append((name.encode(), entry))
    data += array.tobytes()
  with open(f"{prefix}.index", "wb") as f:
    f.write(table(entries))
  with open(f"{prefix}.data-00000-of-00001", "wb") as f:
    f.write(data)


def lifter_shapes(hidden=8, blocks=2, components=0):
  """{name: shape} of Martinez et al.'s variables, or with components of Li and Lee's, without Adam's."""
  norm = lambda name: {f"{name}/{leaf}": (hidden,) for leaf in ("beta", "gamma", "moving_mean", "moving_variance")}
  found = {"linear_model/w1": (32, hidden), "linear_model/b1": (hidden,)} | norm("linear_model/batch_normalization")
  for i in range(blocks):
    scope = f"linear_model/two_linear_{i}"
    for j in (2, 3):
      found |= {f"{scope}/w{j}_{i}": (hidden, hidden), f"{scope}/b{j}_{i}": (hidden,)}
      found |= norm(f"{scope}/batch_normalization{j - 1}{i}")
  heads = {"4": 48 * components, "5": components, "6": components} if components else {"4": 48}
  for number, outputs in heads.items():
    found |= {f"linear_model/w{number}": (hidden, outputs), f"linear_model/b{number}": (outputs,)}
  return found


def lifter(hidden=8, blocks=2, components=0, seed=0):
  """{name: array} of a whole checkpoint; some kernels have a norm above 1, some below."""
  rng, found = np.random.RandomState(seed), {}
  for name, shape in lifter_shapes(hidden, blocks, components).items():
    size = 0.1 if name.endswith(("w3_1", "w5")) else 1.0
    value = rng.normal(size=shape) * size
    found[name] = (1 + value ** 2 if name.endswith("variance") else value).astype(np.float32)
    if "moving" not in name:
      found |= {f"{name}/{slot}": np.zeros(shape, np.float32) for slot in ("Adam", "Adam_1")}
  scalars = {"beta1_power": 0.1, "beta2_power": 0.2, "learning_rate": 1e-3}
  return found | {k: np.array(v, np.float32) for k, v in scalars.items()} | {"global_step": np.array(7, np.int32)}
