"""Detections of people who never were, to fit and to score fits on:

    python -m jhmr.data.keypoints --people 10000 --noise-px 4 --missing 0.2 --format openpose --out people

Poses and shapes are those of `body.poses` (or of --mocap); cameras look from all around, from a little below to above.
`people/keypoints/` holds what a detector would have said, in one of three formats; `people/truth.npz` the bodies, whose
rows are in the order of the names: pose [N, 24, 3, 3], betas [N, 10], transl_m [N, 3], focal_px, center_px, image_size,
keypoints_px [N, K, 2] without noise, box_size_px [N], joint_set, names and person.
"""

import argparse
import functools
import json
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from jhmr import command
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import landmarks
from jhmr.body import poses
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.data import scratch
from jhmr.errors import InputError

FORMATS = ("openpose", "coco", "npz")
SETS = {"openpose": "openpose25", "coco": "coco17", "npz": "openpose25"}
ELEVATION_DEG = (-12.0, 32.0)  # of the camera above the person, as in the rendered people
BOX_PX = (160.0, 700.0)        # side of the square around a person's keypoints, log-uniform
MAX_BETA = 3.0
_BATCHES = (64, 1000)  # people at a time, for few and for many: two programs, whatever is asked for
_VIEW_U = 6


@functools.partial(jax.jit, static_argnames="set_name")
def people(body, table, seed, index, set_name, image_size, focal_px, frames=1, facing_deg=180.0):
  """People with indices [B]: a function of (seed, index) alone.

  Args:
    body: Smpl, or a part that makes `set_name`.
    table: MocapTable, or None for the pose sampler.
    frames: how many pictures in a row, index // frames, show one person: one shape, other poses and cameras.
    facing_deg: people face the camera to within this.
  Returns:
    {"pose" [B, 24, 3, 3], "betas" [B, 10], "transl_m" [B, 3], "keypoints_px" [B, K, 2], "box_size_px" [B],
    "person" [B]}; poses and translations in the camera's frame.
  """
  key, who = jax.random.key(seed), index // frames
  pose_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
  shape_keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, 0x5ea9e), i))(who)
  pose, _ = jax.vmap(lambda k: poses.sample_any(table, k))(pose_keys)
  _, betas = jax.vmap(lambda k: poses.sample_any(table, k))(shape_keys)
  betas = jnp.clip(betas, -MAX_BETA, MAX_BETA)
  u = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1), (_VIEW_U,)))(pose_keys)
  yaw = jnp.deg2rad(facing_deg) * (2 * u[:, 0] - 1)
  low, high = np.deg2rad(ELEVATION_DEG)
  # y up to y down and z away is a half turn about x; then the camera looks down.
  turn = jnp.matmul(rotations.rotation_about("x", low + (high - low) * u[:, 1] + jnp.pi),
                    rotations.rotation_about("y", yaw), precision=jax.lax.Precision.HIGHEST)
  pose = pose.at[:, 0].set(jnp.matmul(turn, pose[:, 0], precision=jax.lax.Precision.HIGHEST))
  points = smpl.keypoints(body, smpl.forward(body, betas, pose), set_name)
  transl = _placed(points, u[:, 2:], jnp.asarray(image_size, jnp.float32), focal_px)
  pixels = camera.perspective(points + transl[:, None], focal_px, jnp.asarray(image_size, jnp.float32) / 2)
  side = camera.BOX_SCALE * jnp.max(jnp.max(pixels, 1) - jnp.min(pixels, 1), -1)
  return {"pose": pose, "betas": betas, "transl_m": transl, "keypoints_px": pixels, "box_size_px": side, "person": who}


def _placed(points, u, image_size, focal_px):
  """Translations [B, 3] that give bodies [B, K, 3] a box of some size, somewhere inside the picture."""
  low, high = jnp.min(points, 1), jnp.max(points, 1)
  largest = jnp.minimum(BOX_PX[1], 0.9 * jnp.min(image_size))
  side = jnp.minimum(BOX_PX[0], largest / 2) * (largest / jnp.minimum(BOX_PX[0], largest / 2)) ** u[:, 0]
  depth = focal_px * camera.BOX_SCALE * jnp.max((high - low)[:, :2], -1) / side
  depth = jnp.maximum(depth, 1.5 - jnp.min(points[..., 2], 1))  # nobody touches the camera
  room = jnp.maximum(image_size - side[:, None], 0) / 2
  center = (2 * u[:, 1:3] - 1) * room * (depth / focal_px)[:, None]
  return jnp.concatenate([center - ((low + high) / 2)[:, :2], depth[:, None]], -1)


def detected(truth, noise_px, missing, seed):
  """What a detector would say of true keypoints: float32 [N, K, 3], normal noise, some missing.

  Args:
    noise_px: standard deviation in x and in y, in pixels of a 224-pixel box around the person.
    missing: share of keypoints that are all zero.
  """
  rng = np.random.default_rng((seed, 1))
  pixels = truth["keypoints_px"]
  noise = rng.normal(size=pixels.shape) * noise_px * (truth["box_size_px"] / camera.CROP_PX)[:, None, None]
  seen = rng.uniform(size=pixels.shape[:2]) >= missing
  return np.concatenate([np.where(seen[..., None], pixels + noise, 0), seen[..., None]], -1).astype(np.float32)


def write(folder, form, keypoints, truth):
  """Writes keypoints [N, K, 3] into a folder, in one of FORMATS."""
  names, size = truth["names"], truth["image_size"]
  rows = np.round(keypoints.reshape(len(keypoints), -1).astype(np.float64), 3).tolist()
  if form == "openpose":
    for name, row in zip(names, rows):
      (folder / f"{name}_keypoints.json").write_text(
          json.dumps({"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": row}]}))
  elif form == "coco":
    images = [{"id": i, "file_name": f"{n}.jpg", "width": int(size[0]), "height": int(size[1])}
              for i, n in enumerate(names)]
    marks = [{"id": i, "image_id": i, "category_id": 1, "keypoints": row} for i, row in enumerate(rows)]
    (folder / "person_keypoints.json").write_text(json.dumps({"images": images, "annotations": marks}))
  else:
    np.savez(folder / "keypoints.npz", keypoints=keypoints, **{k: truth[k] for k in (
        "names", "person", "joint_set", "image_size", "focal_px", "center_px")})


def make(args):
  """The bodies that the options ask for, as `truth.npz` holds them."""
  body = landmarks.rigid_body(smpl.load(args.body), (args.joint_set,))
  table = poses.mocap_table(args.mocap) if args.mocap else None
  count = _BATCHES[args.people > _BATCHES[0]]
  options = np.float32(args.image_size), np.float32(args.focal), args.frames, np.float32(args.facing_deg)
  parts = [jax.device_get(people(body, table, args.seed, jnp.arange(i, i + count), args.joint_set, *options))
           for i in range(0, args.people, count)]
  truth = jax.tree.map(lambda *x: np.concatenate(x)[:args.people], *parts)
  digits = len(str(args.people - 1))
  names = np.array([f"{i:0{digits}d}" for i in range(args.people)])
  size = np.asarray(args.image_size, np.float32)
  return truth | {"names": names, "image_size": size, "focal_px": np.float32(args.focal), "center_px": size / 2,
                  "joint_set": np.array(args.joint_set)}


def parse(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.data.keypoints",
                                   description="Makes keypoints of people whose bodies are known.")
  parser.add_argument("--out", required=True, help="folder to make")
  parser.add_argument("--people", type=int, default=1000, help="how many pictures, one person each")
  parser.add_argument("--frames", type=int, default=1, help="pictures in a row that show the same person")
  parser.add_argument("--noise-px", type=float, default=4.0, help="in x and y, in pixels of a 224 crop of the person")
  parser.add_argument("--missing", type=float, default=0.2, help="share of keypoints that are missing")
  parser.add_argument("--format", default="openpose", choices=FORMATS)
  parser.add_argument("--joint-set", help="default: openpose25, or for coco coco17")
  parser.add_argument("--image-size", default="1280,960", help="W,H of the pictures in pixels")
  parser.add_argument("--focal", type=float, default=camera.FOCAL_PX, help="focal length in pixels")
  parser.add_argument("--facing-deg", type=float, default=180.0, help="people face the camera to within this")
  parser.add_argument("--body", default="mannequin", help="mannequin, mannequin_small or a body file")
  parser.add_argument("--mocap", default="", help="mocap file whose poses and shapes are taken")
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args(argv[1:])
  args.joint_set = args.joint_set or SETS[args.format]
  return args


def check(args):
  """Raises InputError for options out of range; turns the image size into numbers."""
  args.image_size = command.image_size(args.image_size, least=64)
  if args.joint_set not in joints.SETS:
    raise InputError(f"--joint-set {args.joint_set!r} does not exist: use one of {', '.join(joints.SETS)}")
  if min(args.people, args.frames) < 1 or not (
      0 <= args.noise_px < 1e7 and 0 <= args.missing < 1 and 0 < args.focal < 1e7):
    raise InputError("--people and --frames are 1 or more, --noise-px not negative, --missing from 0 to below 1, "
                     "--focal positive")
  if not 0 <= args.seed < 2**31:
    raise InputError(f"--seed {args.seed}: give a number from 0 to {2**31 - 1}")
  out = pathlib.Path(args.out).absolute()
  if out.exists():
    raise InputError(f"--out {str(out)!r} exists: give a new directory, nothing is overwritten")
  if not out.parent.is_dir():
    raise InputError(f"the folder of --out {str(out)!r} does not exist: make it first")
  return out


def main(argv):
  args = parse(argv)
  out, began = check(args), time.monotonic()
  truth = make(args)
  try:
    with scratch.beside(out) as made:
      whole = made / "whole"
      (whole / "keypoints").mkdir(parents=True)
      write(whole / "keypoints", args.format, detected(truth, args.noise_px, args.missing, args.seed), truth)
      np.savez(whole / "truth.npz", **truth)
      os.rename(whole, out)
  except OSError as error:
    raise InputError(f"--out {str(out)!r} cannot be written to ({error.strerror or error}): give another directory"
                    ) from error
  print(f"{args.people} people in {time.monotonic() - began:.0f} s: {out}/keypoints, and the truth, {out}/truth.npz")


if __name__ == "__main__":
  command.run(main)
