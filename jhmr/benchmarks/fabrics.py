"""Published speeds of the links between accelerators, and how long an all-reduce takes over them.

A fabric is a few levels from the inside out: the GPUs of a node, then the nodes; the chips of a pod, then the pods.
Each level reduces what the level inside has scattered, so the outer and slower links carry a share only.
"""

import math
from typing import NamedTuple

from jhmr.pace import PEAK_FLOPS


class Level(NamedTuple):
  """Devices (or groups of the level inside) joined by one kind of link."""
  size: int                # how many at most; the outermost joins any number
  bytes_per_s: float       # of each device, one direction
  hop_s: float             # latency of one message
  torus: int = 0           # dimensions of a torus; 0: a switch, any pair one hop apart
  ring_from: int = 1       # a torus of fewer devices lacks its wrap-around links, and half its speed


class Fabric(NamedTuple):
  name: str
  levels: tuple
  peak: dict               # published dense FLOP/s by the network's dtype


ANY = 1 << 30
# Latencies of GPU links. Source: NVIDIA/nccl, src/graph/tuning.cc, hwLat: 3.4 us (ring) and 4.0 us (tree) over NVLink,
# 14 us over the network, each for the "Simple" protocol of large messages; the larger of ring and tree is kept.
NVLINK_HOP_S, NETWORK_HOP_S = 4.0e-6, 14e-6
# Source: Austin et al. 2025, "How to Scale Your Model", sharded matrices: about 1 us per ICI hop.
ICI_HOP_S = 1e-6
# Source: NVIDIA H100 Tensor Core GPU datasheet, SXM: 900 GB/s of NVLink, both directions; dense peaks (half of the
# printed "with sparsity") 989.4 TFLOP/s bfloat16 and 494.7 TF32, which is what JAX's float32 products use by default.
NVLINK = Level(8, 450e9, NVLINK_HOP_S)
H100 = {"bfloat16": 989.4e12, "float32": 494.7e12}


def _network(gbit_per_s):
  """Links between nodes, given what each GPU has of them."""
  return Level(ANY, gbit_per_s * 1e9 / 8, NETWORK_HOP_S)


def _pod(size, bytes_per_s, torus, ring_from):
  return Level(size, bytes_per_s, ICI_HOP_S, torus, ring_from)


def _tpu(name):
  """Default precision multiplies in bfloat16 whatever the arrays are. Source: JAX, jax.lax.Precision.DEFAULT."""
  return dict.fromkeys(("bfloat16", "float32"), PEAK_FLOPS[name])


# Source of TPU numbers: Google Cloud documentation, pages "TPU v4", "v5e", "v5p", "v6e": peak bf16 per chip; ICI per
# chip, both directions: 400 GB/s (v5e), 1200 (v5p), 800 (v6e), half of it each way, which over 256 chips is also their
# "all-reduce bandwidth per Pod" (51.2 and 102.4 TB/s); v4's page prints only that: 1.1 PB/s over 4096 chips. Pods have
# 4096, 256, 8960 and 256 chips; wrap-around links exist on whole pods (v5e, v6e: 16 x 16) or on slices of whole
# 4 x 4 x 4 cubes (v4, v5p). Between pods, "data center network bandwidth per Pod" over 256 chips: 6.4 and 25.6 Tb/s.
# One JAX device is one chip on all four.
FABRICS = (
    # Source: NVIDIA DGX H100 datasheet: eight ConnectX-7 of 400 Gb/s (InfiniBand NDR), one for each GPU.
    Fabric("H100, NVLink, InfiniBand NDR 400 Gb/s per GPU", (NVLINK, _network(400)), H100),
    # Source: the line rates of IEEE 802.3bs (200 Gb/s) and 802.3ba (100 Gb/s); one port shared by a node's eight GPUs.
    Fabric("H100, NVLink, Ethernet 200 Gb/s per node", (NVLINK, _network(200 / 8)), H100),
    Fabric("H100, NVLink, Ethernet 100 Gb/s per node", (NVLINK, _network(100 / 8)), H100),
    Fabric("TPU v4, ICI", (_pod(4096, 1.1e15 / 4096, 3, 64),), _tpu("TPU v4")),
    Fabric("TPU v5e, ICI, pods of 256", (_pod(256, 200e9, 2, 256), _network(6400 / 256)), _tpu("TPU v5e")),
    Fabric("TPU v5p, ICI", (_pod(8960, 600e9, 3, 64),), _tpu("TPU v5p")),
    Fabric("TPU v6e, ICI, pods of 256", (_pod(256, 400e9, 2, 256), _network(25600 / 256)), _tpu("TPU v6e")),
)


def ring_seconds(n, size, bytes_per_s, hop_s):
  """A ring all-reduce: 2 (n - 1) messages of size / n bytes one after the other. Source: Patarasu and Yuan 2009."""
  return 2 * (n - 1) * (size / n / bytes_per_s + hop_s)


def tree_seconds(n, size, bytes_per_s, hop_s):
  """A double binary tree, up and down: every link carries each byte once in each. Source: Sanders et al. 2009."""
  return 2 * math.ceil(math.log2(n)) * hop_s + 2 * size / bytes_per_s


def level_seconds(level, n, size):
  """One level's all-reduce of size bytes among n: the faster of ring and tree on a switch (NCCL too chooses by size);
  on a torus a ring along each dimension, all links at work at once."""
  if n == 1:
    return 0.0
  if not level.torus:
    return min(f(n, size, level.bytes_per_s, level.hop_s) for f in (ring_seconds, tree_seconds))
  speed = level.bytes_per_s * (1 if n >= level.ring_from else 0.5)
  hops = level.torus * (math.ceil(n ** (1 / level.torus) - 1e-9) - 1)
  return 2 * (n - 1) / n * size / speed + 2 * hops * level.hop_s


def all_reduce_seconds(fabric, num_devices, size, link_share=1.0):
  """Seconds to all-reduce `size` bytes over num_devices of a fabric whose links reach link_share of their speed.

  Level by level: n of a level leave each with 1 / n of the sum to take outside, and get the rest back at the end.
  """
  seconds, left = 0.0, num_devices
  for level in fabric.levels:
    n = min(left, level.size)
    if left % n:
      raise ValueError(f"{num_devices} devices do not fill the groups of {level.size} of {fabric.name}")
    seconds += level_seconds(level._replace(bytes_per_s=level.bytes_per_s * link_share), n, size)
    left, size = left // n, size / n
  if left > 1:
    raise ValueError(f"{fabric.name} has no {num_devices} devices")
  return seconds
