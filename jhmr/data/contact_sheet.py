"""A picture of rendered people with their keypoints: python -m jhmr.data.contact_sheet --out sheet.png [--num 64]

What a network is trained on, at a glance: look here first when a setting of config.data is changed.
"""

import argparse
import functools
import os

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jhmr import command
from jhmr.body import draw
from jhmr.body import joints
from jhmr.body import mesh
from jhmr.body import smpl
from jhmr.data import images
from jhmr.data import inputs
from jhmr.data import synthetic
from jhmr.errors import InputError

PANEL_PX = 100
_BATCH = 8


def sheet(batch, panel_px=PANEL_PX, columns=8):
  """A grid of examples, the annotated half of their keypoints drawn on them, hidden joints too.

  Args:
    batch: "image" and "keypoints2d" of spec.FIELDS, NumPy.
  Returns:
    [H, W, 3] uint8.
  """
  first = len(joints.names("openpose25"))
  panels = []
  for i in range(len(batch["image"])):
    panel = cv2.resize(images.to_uint8(batch["image"][i]), (2 * panel_px,) * 2, interpolation=cv2.INTER_CUBIC)
    keypoints = batch["keypoints2d"][i, first:].copy()
    keypoints[:, :2] = (keypoints[:, :2] + 1) * panel_px
    panel = draw.skeleton(panel, keypoints, joints.edges("gt24"), thickness=1)
    panels.append(cv2.resize(panel, (panel_px,) * 2, interpolation=cv2.INTER_AREA))
  return draw.grid(panels, columns)


def render(body, num, settings, split=""):
  """The first `num` examples of the stream with seed 0, or of a split, as NumPy arrays."""
  arrays = smpl.load_arrays(body)
  assets = {"body": smpl.from_arrays(arrays), "surface": mesh.surface(arrays)}
  stream = functools.partial(synthetic.examples, seed=0)
  chosen = functools.partial(synthetic.split_examples, name=split) if split else stream
  program = jax.jit(lambda assets, index: chosen(assets, index=index, settings=settings))
  parts = [jax.device_get(program(assets, jnp.arange(i, i + _BATCH))) for i in range(0, num, _BATCH)]
  return jax.tree.map(lambda *x: np.concatenate(x)[:num], *parts)


def main(argv):
  first_line = __doc__.split("\n", maxsplit=1)[0]
  parser = argparse.ArgumentParser(prog="python -m jhmr.data.contact_sheet", description=first_line)
  parser.add_argument("--out", required=True, help="picture to write, .png or .jpg")
  parser.add_argument("--num", type=int, default=64)
  parser.add_argument("--body", default="mannequin", help="mannequin, mannequin_small or a body file")
  parser.add_argument("--split", default="", choices=("", *synthetic.splits()), help="default: the training stream")
  parser.add_argument("--image_size", type=int, default=224, help="side at which people are rendered, in pixels")
  parser.add_argument("--input", default="rgb", choices=inputs.KINDS, help="what networks are shown")
  args = parser.parse_args(argv[1:])
  if not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
    raise InputError(f"the folder of --out {args.out!r} does not exist: make it first")
  if not cv2.haveImageWriter(args.out):
    raise InputError(f"cannot write {args.out!r}: use .png or .jpg")
  if args.num < 1:
    raise InputError(f"--num {args.num}: give at least 1")
  settings = synthetic.Settings(image_size=args.image_size, input=args.input)
  synthetic.check(settings)
  picture = sheet(render(args.body, args.num, settings, args.split))
  smallest = [cv2.IMWRITE_PNG_COMPRESSION, 9] if args.out.endswith(".png") else []
  cv2.imwrite(args.out, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), smallest)
  print(f"{args.out}: {args.num} people, {os.path.getsize(args.out) / 1e6:.2f} MB")


if __name__ == "__main__":
  command.run(main)
