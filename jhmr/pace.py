"""What a run's steps take: time, waiting for data, examples per second, share of the hardware's peak, memory."""

import re
import resource
import sys
import time
from typing import NamedTuple

import jax
from jhmr import report

# Dense bfloat16 FLOP/s of one device, by the name jax gives it. Source: the vendors' data sheets (NVIDIA without
# sparsity; Google Cloud's "TPU system architecture" pages, per chip).
PEAK_FLOPS = {
    "V100": 125e12, "T4": 65e12, "A100": 312e12, "L4": 121e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12,
    "TPU v3": 61.5e12, "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12,
    "TPU v6 lite": 918e12, "TPU v6e": 918e12,
}


class Mark(NamedTuple):
  """Where the clock stood after some step."""
  step: int
  time: float     # monotonic seconds
  waited: float   # seconds spent waiting for data so far
  paused: float   # seconds spent on evaluation and checkpoints so far


def peak_flops(device_kind):
  """Peak of one device, or None when it is not in the table (a CPU)."""
  found = [name for name in PEAK_FLOPS if re.search(rf"\b{name}\b", device_kind, re.IGNORECASE)]
  return PEAK_FLOPS[max(found, key=len)] if found else None


def mark(step, waited, paused):
  return Mark(step, time.monotonic(), waited, paused)


def since(old, new, batch_size, step_flops=None):
  """What the steps between two marks took, pauses left out.

  Args:
    batch_size: of all devices.
    step_flops: of one device and step, or None.
  Returns:
    {"step_s", "data_wait_s" (a step), "examples_per_s", "mfu" where FLOPs and peak are known, "device_bytes" where the
    device tells, "host_bytes" (most so far)}.
  """
  steps = max(new.step - old.step, 1)
  step_s = max(new.time - old.time - (new.paused - old.paused), 1e-9) / steps
  found = {"step_s": step_s, "data_wait_s": (new.waited - old.waited) / steps, "examples_per_s": batch_size / step_s}
  device = jax.local_devices()[0]
  if step_flops and (peak := peak_flops(device.device_kind)):
    found["mfu"] = step_flops / step_s / peak
  if in_use := (device.memory_stats() or {}).get("peak_bytes_in_use"):
    found["device_bytes"] = in_use
  unit = 1 if sys.platform == "darwin" else 1024
  return found | {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def text(found, steps_left):
  """'2.50 steps/s, 160 examples/s, data wait 3 %, mfu 41 %, 0:03:20 left'."""
  parts = [f"{1 / found['step_s']:.2f} steps/s", f"{found['examples_per_s']:.0f} examples/s",
           f"data wait {found['data_wait_s'] / found['step_s']:.0%}"]
  parts += [f"mfu {found['mfu']:.0%}"] if "mfu" in found else []
  return ", ".join([*parts, f"{report.clock(steps_left * found['step_s'])} left"])
