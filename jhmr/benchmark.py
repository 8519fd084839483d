"""Our rates beside the peers', measured on this machine in one run: python -m jhmr.benchmark [rows] [--json FILE]

Each row gives our rate, the peer's in the same run where the peer is installed (`pip install 'jhmr[torch]'`), the
ratio, and the floor: the rate this device would reach if the row's arithmetic ran at the measured matrix-product
speed and its memory traffic at the measured copy bandwidth, whichever is slower. `python -m jhmr.benchmark growth`
prints, in place of rows, how the rates of hypotheses and of SMPLify grow with their number; with --json also FILE.png.
"""

import argparse
import json

import cv2
import jax
import jax.numpy as jnp
from jhmr import command, report
from jhmr.benchmarks import alignment, body, data, eft, fitting, flow, gaussians, graph_conv, graphcmr, growth
from jhmr.benchmarks import hypotheses, input as input_row, lifting, multibodies, precision, quantise, render, smplify
from jhmr.benchmarks import timing, train, train_prohmr, train_spin
from jhmr.errors import InputError

ROWS = {
    "body": body.body_forward,          # vertices and joints of the full mesh
    "keypoints": body.keypoints_grad,   # value and gradient of 49 projected keypoints
    "raster": render.scene,             # 512 x 832 pixels, three bodies
    "crops": render.crops,              # 64 crops of 96 x 96
    "train": train.hmr_step,            # one HMR update
    "prohmr": train_prohmr.update,      # one ProHMR update
    "graphcmr": graphcmr.update,        # one GraphCMR update, both networks
    "graph_conv": graph_conv.layer,     # one graph convolution, value and gradient, in every form of its matrix
    "multibodies": multibodies.update,  # one 3D Multi-bodies update, 100 hypotheses of each image
    "spin": train_spin.update,          # one SPIN update, 20 + 20 steps of SMPLify in it
    "flow": flow.samples,               # samples of one image, with log-probabilities
    "flow_log_prob": flow.log_prob,     # the way back
    "hypotheses": hypotheses.joints_of_one_image,  # 4,096 of one image: 44 joints each, and their projections
    "lift": lifting.hypotheses,         # 1,000 hypotheses of one 2D pose
    "lift_64": lifting.hypotheses_of_64,
    "lift_step": lifting.update,        # one update of lifting, 200 hypotheses of each of its 64 poses
    "fit": fitting.keypoint_fits,       # 64 people, 25 keypoints each
    "smplify": smplify.fits64,          # 64 people, 49 keypoints each, 100 + 100 steps of Adam
    "smplify_1024": smplify.fits1024,
    "eft": eft.fine_tuned,              # 4 people, a small network fine-tuned for each, 20 evaluations
    "gaussians": gaussians.fits,        # Gaussians of 1,024 heatmaps
    "quantise": quantise.sets,          # 64 images, 100 hypotheses each -> 5, 10 and 25 that stand for them
    "align": alignment.errors,          # PA-MPJPE of 32,768 sets of 17 joints
    "people": data.rendered_people,     # the on-device stream of labelled images
    "input": input_row.disk_input,      # augmented crops from JPEGs on disk, on one core
}
COLUMNS = ("row", "unit", "ours", "peer", "ratio", "floor", "of floor", "peer is")


def ceilings(seconds=1.0):
  """Measured ceilings of the default device: (FLOP/s of a large float32 product, bytes/s of a 256 MB copy)."""
  x = jnp.ones((64 << 20,), jnp.float32)
  return precision.ceiling("float32"), 2 * x.nbytes * timing.best_rate(jax.jit(lambda x: x + 1), x, seconds)


def measure(names, seconds):
  """Runs the rows; returns {"device", "flops_per_s", "bytes_per_s", "rows": [...]}, floors filled in."""
  flops, bandwidth = ceilings()
  device = jax.devices()[0]
  rows = []
  for place, name in enumerate(names, 1):
    report.say(f"measuring {name}, row {place} of {len(names)}")
    row = {"row": name} | ROWS[name](seconds=seconds)
    row["floor"] = 1 / max(row["flops_per_item"] / flops, row["bytes_per_item"] / bandwidth)
    row["ratio"] = row["ours"] / row["peer"] if row["peer"] else None
    rows.append(row)
  return {"device": f"{device.device_kind} x {jax.device_count()}", "jax": jax.__version__, "flops_per_s": flops,
          "bytes_per_s": bandwidth, "rows": rows}


def main(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.benchmark", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("rows", nargs="*", help=f"which rows; default all: {', '.join(ROWS)}; or growth, a table")
  parser.add_argument("--seconds", type=float, default=5.0, help="time to spend measuring each row")
  parser.add_argument("--json", help="also write everything measured to this file")
  args = parser.parse_args(argv[1:])
  odd = [r for r in args.rows if r not in ROWS]
  if odd and args.rows != ["growth"]:
    raise InputError(f"no benchmark row {odd[0]!r}: the rows are {', '.join(ROWS)}; growth is a table of its own")
  result = measure_growth(args.seconds, args.json) if odd else measure(args.rows or list(ROWS), args.seconds)
  if not odd:
    show(result)
  if args.json:
    with open(args.json, "w") as f:
      json.dump(result, f, indent=2)


def show(result):
  """Prints what `measure` returned."""
  report.say(f"{result['device']}, jax {result['jax']}: {result['flops_per_s'] / 1e9:.0f} GFLOP/s in a matrix "
             f"product, {result['bytes_per_s'] / 1e9:.1f} GB/s in a copy")
  shown = [r | {"of floor": f"{r['ours'] / r['floor']:.1%}", "ratio": r["ratio"] and f"{r['ratio']:.1f} x",
                "peer is": r["peer_name"] if r["peer"] else f"{r['peer_name'] or 'none'} (not measured)"}
           for r in result["rows"]]
  report.table(shown, COLUMNS)
  for r in result["rows"]:
    for line in r.get("note", "").splitlines():
      report.say(f"{r['row']}: {line}")


def measure_growth(seconds, path):
  """Measures and prints the growth tables; with a path also a picture of that of hypotheses, {path}.png.

  Calls take 2 `seconds` at most.
  """
  rows, fits = growth.measure(2 * seconds), smplify.measure_growth(seconds / 5)
  growth.show(rows)
  report.say("SMPLify")
  report.table(fits, smplify.COLUMNS)
  if path:
    cv2.imwrite(f"{path}.png", growth.picture(rows)[..., ::-1])
  return {"device": f"{jax.devices()[0].device_kind} x {jax.device_count()}", "jax": jax.__version__, "growth": rows,
          "smplify": fits}


if __name__ == "__main__":
  command.run(main)
