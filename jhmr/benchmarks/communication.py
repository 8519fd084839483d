"""What a training step communicates, and what that costs at scale.

python -m jhmr.benchmarks.communication --config configs/hmr.py [--step_seconds S] [--json FILE]

The bytes are counted, the times modelled. Counted: the operands of every all-reduce in the HLO of the config's own
train step, lowered for several (fake) CPU devices from abstract shapes, so that nothing large is computed. Modelled:
an all-reduce over `jhmr.benchmarks.fabrics` beside the compute of one step, which is either measured by you
(--step_seconds) or estimated from the step's FLOPs. Batches grow with the devices (weak scaling).

    efficiency, lower bound = compute / (compute + communication)      nothing overlaps
    efficiency, upper bound = compute / max(compute, communication)    everything does
"""

import argparse
import json
import math
import re

import jax
from jhmr import assets as assets_lib
from jhmr import command, optim, parallel, report, systems
from jhmr.benchmarks import fabrics
from jhmr.data import source as source_lib
from jhmr.errors import InputError
import numpy as np

DEVICES = (8, 64, 512)
# XLA merges all-reduces up to this size, so that the hundreds of a step become a few.
# Source: openxla/xla, service/collective_utils.h, kDefaultAllReduceCombineThreshold.
MERGED_BYTES = 30 * 1024 * 1024 + 7
_TYPE_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
               "s64": 8, "u64": 8, "f64": 8}
_ALL_REDUCE = re.compile(r"^[^=]*= (?P<type>\(.*?\)|\S+) all-reduce(?:-start)?\(", re.MULTILINE)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


def lower_step(config, num_devices=2):
  """The config's train step lowered as the loop maps it, `config.batch_size` images on each device.

  Args:
    num_devices: how many of `jax.devices()` to lower for.
  Returns:
    (lowered, parameters), parameters being {network: number of them}.
  Raises:
    InputError: for a config that cannot be trained, or fewer devices than asked for.
  """
  if len(jax.devices()) < num_devices:
    raise InputError(f"{num_devices} devices wanted, {len(jax.devices())} there: set "
                     f"XLA_FLAGS=--xla_force_host_platform_device_count={num_devices}")
  assets = assets_lib.load(config)
  source = source_lib.open_source(config, assets)
  config = optim.resolve(config, source.epoch)
  system = systems.load(config)
  mapper = parallel.make(config.parallel, jax.devices()[:num_devices])
  local = source.batch(0)
  example = jax.eval_shape(source.on_device, local, assets)
  state = jax.eval_shape(lambda batch: system.init(jax.random.key(config.seed), batch, assets), example)
  batch = mapper.to_devices({k: np.concatenate([v] * num_devices) for k, v in local.items()})
  step = mapper.train(lambda state, batch, assets: system.step(state, source.on_device(batch, assets), assets))
  return step.lower(state, batch, assets), {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in state.params.items()}


def all_reduces(hlo):
  """Bytes of each all-reduce of an HLO text, in its order; a tuple's operands count together."""
  return [sum(_TYPE_BYTES[kind] * math.prod(map(int, filter(None, shape.split(","))))
              for kind, shape in _ARRAY.findall(found["type"])) for found in _ALL_REDUCE.finditer(hlo)]


def count(config, num_devices=2):
  """{"parameters", "bytes", "ops", "merged_ops", "flops"} of one step on each device, as written.

  Differs: what XLA compiles is a little less: it drops reductions nobody reads, 0.01 % of configs/hmr.py's bytes.
  """
  lowered, parameters = lower_step(config, num_devices)
  sizes = all_reduces(lowered.as_text(dialect="hlo"))
  return {"parameters": parameters, "bytes": sum(sizes), "ops": len(sizes), "merged_ops": merged(sum(sizes)),
          "flops": float(lowered.cost_analysis()["flops"])}


def merged(size):
  """All-reduces a compiled step waits for: the label counts, which losses divide by, then gradients in merged lots."""
  return 1 + max(1, math.ceil(size / MERGED_BYTES))


def estimate(counted, fabric, num_devices, step_seconds=None, flops_share=0.4, link_share=0.8, dtype="float32"):
  """One row of the table: what `count` found, on num_devices of a fabric.

  Args:
    step_seconds: measured compute of one device's batch; None: FLOPs over flops_share of the fabric's peak.
    link_share: what all-reduces reach of the published link speed.
  Returns:
    {"fabric", "devices", "compute_ms", "communication_ms", "lower", "upper"}.
  """
  compute = step_seconds or counted["flops"] / (flops_share * fabric.peak[dtype])
  rest = fabrics.all_reduce_seconds(fabric, num_devices, 0, link_share) * (counted["merged_ops"] - 1)
  communication = fabrics.all_reduce_seconds(fabric, num_devices, counted["bytes"], link_share) + rest
  return {"fabric": fabric.name, "devices": num_devices, "compute_ms": 1e3 * compute,
          "communication_ms": 1e3 * communication, "lower": compute / (compute + communication),
          "upper": compute / max(compute, communication)}


def _say(config, counted, args):
  names = ", ".join(f"{k} {v:,}" for k, v in counted["parameters"].items())
  total = 4 * sum(counted["parameters"].values())
  report.say(f"counted: {counted['bytes']:,} bytes all-reduced per step and device in {counted['ops']} operations as "
             f"written (gradients of {names} parameters: {total:,} bytes; the rest is statistics and metrics)")
  report.say(f"assumed: about {counted['merged_ops']} operations once XLA has merged them up to 30 MiB; links at "
             f"{args.link_share:.0%} of their published speed")
  if args.step_seconds:
    report.say(f"compute: {args.step_seconds * 1e3:.4g} ms per step, as given by --step_seconds")
  else:
    report.say(f"compute: ESTIMATED, not measured: {counted['flops'] / 1e9:.4g} GFLOP per step (batch of "
               f"{config.batch_size} on each device, rendering included) at {args.flops_share:.0%} of the device's "
               f"published {config.net.dtype} peak; a slower step makes communication matter less")
  report.say("efficiency: of weak scaling; lower bound without overlap, upper bound with all of it overlapped")


def _parse(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.benchmarks.communication",
                                   description=__doc__.split("\n", maxsplit=1)[0],
                                   epilog="Everything else is read as train does: --config FILE [--config.key=value]")
  parser.add_argument("--step_seconds", type=float, help="measured compute of one step on one device")
  parser.add_argument("--flops_share", type=float, default=0.4, help="share of the peak the estimate assumes")
  parser.add_argument("--link_share", type=float, default=0.8, help="share of the links' published speed")
  parser.add_argument("--json", help="also write everything to this file")
  args, rest = parser.parse_known_args(argv[1:])
  for name in ("step_seconds", "flops_share", "link_share"):
    value = getattr(args, name)
    if value is not None and not 0 < value < math.inf:
      raise InputError(f"--{name} is {value:g}: give a number above 0")
  return args, command.parse_config([argv[0], *rest])[0]


def main(argv):
  args, config = _parse(argv)
  jax.config.update("jax_platforms", "cpu")  # before the first look at a device: lowering needs none but fake ones
  jax.config.update("jax_num_cpu_devices", 2)
  counted = count(config)
  _say(config, counted, args)
  rows = [estimate(counted, fabric, n, args.step_seconds, args.flops_share, args.link_share, config.net.dtype)
          for fabric in fabrics.FABRICS for n in DEVICES]
  shown = [r | {k: f"{r[k]:.1%}" for k in ("lower", "upper")} for r in rows]
  report.table(shown, ("fabric", "devices", "compute_ms", "communication_ms", "lower", "upper"))
  if args.json:
    with open(args.json, "w") as f:
      json.dump({"counted": counted, "step_seconds": args.step_seconds, "flops_share": args.flops_share,
                 "link_share": args.link_share, "rows": rows}, f, indent=2)


if __name__ == "__main__":
  command.run(main)
