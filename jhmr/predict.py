"""Bodies from images with a trained system.

    python -m jhmr.predict --workdir runs/quickstart --images photo.jpg --out out
    python -m jhmr.predict --workdir runs/quickstart --images folder --boxes boxes.json --out out
    python -m jhmr.predict --workdir runs/quickstart --split val --num 16 --out out
    python -m jhmr.predict --workdir runs/prohmr --images photo.jpg --num-samples 100 --out out
    python -m jhmr.predict --workdir runs/prohmr --images photo.jpg --num-samples 100 --interpolate 5 --out out
    python -m jhmr.predict --workdir runs/lifting --poses poses.npz --num-samples 200 --out out

Per person, `<name>.npz` and `<name>.json` with every hypothesis, `<name>.obj` of the first one, and `<name>.png`:
input, overlay, side view. `boxes.json` is {"photo.jpg": [[x, y, width, height], ...]} in pixels; a box should hold
the whole person. Without boxes the whole image is one box, enlarged to a square.

A run that was shown body parts or surface coordinates (`config.data.input`) is given them in PNGs, see `data.inputs`.

A mesh that is no posed body, where a system makes one, is `<name>_mesh.obj` and "vertices" in the `.npz`.

For systems with a density over poses, `--num-samples N` gives the mode and N - 1 samples. Sample s of a person depends
on the picture and (--seed, the person's name, s) alone, not on who else is asked for. "shown" lists those that are
drawn as bodies and get a mesh, `<name>_sample<s>.obj`: all up to 4, else the mode and the medoids of three clusters of
the samples. The `.npz` has all N, with their latents "z"; the `.json` has no latents and, above 128, only those shown:
its "hypotheses" says which. "log_prob" is the density of the 6D rotations drawn.

For systems that make sets of hypotheses in their own way, `--num-samples N` gives a set of N: of many heads those that
stand for all of them, of a mixture N of its means, of an autoencoder N draws. Only latents are missing then.

A run that lifts 2D poses is given them with `--poses`, see `predict_lift`.

`--interpolate K` walks through the latent space from the mode to the first sample shown, on to the second, ..., with K
bodies between any two: `<name>_walk.png` and `<name>_walk.npz`, axes [leg, K + 2] with the ends.
"""

import argparse
import json
import os
import sys

import cv2
from jhmr import command, evaluate, joint_prior, pictures, predict_files, predict_lift, report, sampling, task
from jhmr.data import images as images_lib
from jhmr.data import inputs
from jhmr.data import source as source_lib
from jhmr.errors import InputError
import jax
import jax.numpy as jnp
import numpy as np

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
BATCH = 16


def read_image(path):
  """RGB uint8 [H, W, 3]. Raises InputError when the file is missing or not an image."""
  if not os.path.isfile(path):
    raise InputError(f"image {path!r} does not exist: give a file or a folder of images")
  try:
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if os.path.getsize(path) else None
  except (OSError, MemoryError, cv2.error) as error:  # a header that asks for too many pixels is a cv2.error
    said = getattr(error, "strerror", None) or getattr(error, "err", None) or type(error).__name__
    said = " ".join(str(said).split())[:120]
    raise InputError(f"image {path!r} cannot be read ({said}): give another file") from error
  if image is None:
    raise InputError(f"{path!r} is not an image that can be read: give a JPEG, PNG, WebP or BMP file")
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_boxes(path):
  """{file name: [[x, y, width, height], ...]} from JSON. Raises InputError naming what is malformed."""
  try:
    with open(path) as f:
      boxes = json.load(f)
    boxes = {str(k): np.asarray(v, np.float32).reshape(-1, 4) for k, v in boxes.items()}
  except (OSError, ValueError, TypeError, AttributeError) as error:
    raise InputError(f"boxes {path!r} cannot be read ({error}): give JSON like "
                     '{"photo.jpg": [[x, y, width, height]]}') from error
  for name, rows in boxes.items():
    if not np.all(np.isfinite(rows)) or np.any(rows[:, 2:] <= 0):
      raise InputError(f"boxes {path!r}: {name!r} has a box without positive width and height")
  return boxes


def image_names(folder):
  """The names of a folder's image files, sorted."""
  try:
    return sorted(name for name in os.listdir(folder) if name.lower().endswith(EXTENSIONS))
  except OSError as error:
    raise InputError(f"folder {folder!r} cannot be read ({error.strerror or error}): give another") from error


def find_images(path):
  """The image files of a folder, sorted, or the one file given."""
  if not os.path.isdir(path):
    return [path]
  found = [os.path.join(path, name) for name in image_names(path)]
  if not found:
    raise InputError(f"folder {path!r} holds no images ({', '.join(EXTENSIONS)}): give another --images")
  return found


def check_out(out, *inputs):
  """Raises InputError when results would be written among the files they are made from, whose names they share."""
  for path in filter(None, inputs):
    folder = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    if os.path.realpath(folder) == os.path.realpath(out):
      raise InputError(f"--out {out!r} is the folder of {path!r}, whose files would be replaced: give another --out")


def check_names(names):
  """Raises InputError when two people would be written to the same files, or one to those of the sheet of all."""
  names = list(names)
  if odd := sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else [
      n for n in names if n == "all"]:
    raise InputError(f"the files of {odd[0]!r} would be written twice: rename one of the images of that name")


def people_of(path, boxes, image_size, kind="rgb"):
  """One record a person: name, crop and where the crop lies in the image, of a photograph or `inputs`' labels."""
  image = read_image(path) if kind == "rgb" else inputs.read(path, kind)
  height, width = image.shape[:2]
  rows = np.array([[0, 0, width, height]], np.float32) if boxes is None else boxes.get(os.path.basename(path), ())
  stem = os.path.splitext(os.path.basename(path))[0]
  for i, (x, y, w, h) in enumerate(rows):
    center, side = np.array([x + w / 2, y + h / 2], np.float32), float(max(w, h))
    crop = (images_lib.crop(image, center, side, image_size) if kind == "rgb"
            else inputs.crop(image, kind, center, side, image_size))
    yield {"name": stem if len(rows) == 1 else f"{stem}_{i}", "image": os.path.basename(path), "box_center_px": center,
           "box_size_px": side, "image_size": np.array([width, height], np.float32),
           "crop": crop}


def from_files(args, image_size, kind="rgb"):
  """All people of the files; in a folder, files that are no images of the kind are named and passed over."""
  boxes = read_boxes(args.boxes) if args.boxes else None
  files = find_images(args.images)
  people, bad = [], []
  for path in files:
    try:
      people.extend(people_of(path, boxes, image_size, kind))
    except InputError as error:
      bad.append(str(error))
  if not people:
    raise InputError(bad[0] if bad else f"no file of {args.images!r} has a box in {args.boxes!r}: names must match")
  for line in bad:
    print(f"warning: {line}", file=sys.stderr)
  check_names(p["name"] for p in people)
  return people


def from_split(args, config, assets):
  """The first --num examples of an evaluation split, as if they were images."""
  split = source_lib.open_split(config, assets, args.split)
  on_device, people = jax.jit(split.on_device), []
  for i in range(split.num_batches):
    batch = jax.device_get(on_device(split.batch(i), assets))
    side = float(batch["image"].shape[1])
    for j in np.flatnonzero(batch["mask"]):
      people.append({"name": f"{args.split}_{len(people):04d}", "image": f"{args.split}/{batch['id'][j]}",
                     "box_center_px": np.array([side / 2] * 2, np.float32), "box_size_px": side,
                     "image_size": np.array([side, side], np.float32), "crop": images_lib.to_uint8(batch["image"][j])})
      if batch["has_pose"][j]:
        people[-1]["truth"] = batch["betas"][j], np.concatenate([batch["global_orient"][j], batch["body_pose"][j]])
      if len(people) == args.num:
        return people
  return people


def predicting(system):
  """found(state, people, crops [B, S, S, 3] uint8, assets): for each person (Hypotheses of what is predicted, None)."""
  predict = jax.jit(lambda state, crops, assets: system.predict(state, {"image": images_lib.normalize(crops)}, assets))

  def found(state, people, crops, assets):
    prediction = jax.device_get(predict(state, crops, assets))
    for i in range(len(people)):
      yield sampling.Hypotheses(jax.tree.map(lambda x, i=i: x[i], prediction), (), np.zeros(1, np.int32), ()), None
  return found


def choosing(system, args):
  """As `predicting`, with --num-samples, for systems that make sets of hypotheses in their own way."""
  @jax.jit
  def choose(state, crops, assets, keys):
    batch = {"image": images_lib.normalize(crops)}
    return sampling.of_system(system, state, batch, assets, keys, args.num_samples, pictures.SHOWN)

  def found(state, people, crops, assets):
    names = [p["name"] for p in people] + [""] * (len(crops) - len(people))
    everyone = jax.device_get(choose(state, crops, assets, sampling.keys_of(args.seed, names)))
    for i in range(len(people)):
      yield jax.tree.map(lambda x, i=i: x[i], everyone), None
  return found


def sampling_from(latent, args):
  """As `predicting`, with --num-samples: (Hypotheses, the walk (Prediction, z) with leaves [L, T, ...], or None).

  People are drawn one by one, so that memory does not grow with their number, nor results depend on their order.
  """
  encode = jax.jit(lambda state, crops, assets: latent.encode(state, {"image": images_lib.normalize(crops)}, assets))
  draw_one = jax.jit(lambda state, encoded, assets, keys: sampling.hypotheses(
      latent, state, encoded, assets, keys, args.num_samples, pictures.SHOWN))
  walk = jax.jit(lambda state, encoded, assets, found: walk_of(
      latent, state, encoded, assets, found, args.interpolate, args.path))

  def found(state, people, crops, assets):
    everyone = encode(state, crops, assets)
    for i, person in enumerate(people):
      encoded = jax.tree.map(lambda x, i=i: x[i:i + 1], everyone)
      drawn = draw_one(state, encoded, assets, sampling.keys_of(args.seed, [person["name"]]))
      walked = walk(state, encoded, assets, drawn) if args.interpolate else None
      yield jax.tree.map(lambda x: x[0], jax.device_get((drawn, walked)))
  return found


def walk_of(latent, state, encoded, assets, found, num, path):
  """(Prediction with leaves [B, L, num + 2, ...], z) of a walk through the L + 1 hypotheses that are shown."""
  z = sampling.walk(jnp.take_along_axis(found.z, found.shown[..., None], axis=1), num, path)
  passed = sampling.decode(latent, state, z.reshape(z.shape[0], -1, z.shape[-1]), encoded, assets)
  bodies = sampling.as_prediction(passed, encoded)
  return jax.tree.map(lambda x: x.reshape(*z.shape[:3], *x.shape[2:]), bodies), z


def parse(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.predict", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--workdir", required=True, help="of a training run")
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--images", help="an image or a folder of images")
  what.add_argument("--poses", metavar="NPZ", help="2D poses of jhmr.data.lift_poses, for a run that lifts them")
  what.add_argument("--split", help="an evaluation split: val, val_occluded, multiview")
  parser.add_argument("--boxes", help="JSON with the people's boxes; default: the whole image")
  parser.add_argument("--out", required=True, help="folder to write to")
  parser.add_argument("--num", type=int, default=16, help="how many examples of a split")
  parser.add_argument("--step", type=int, help="which checkpoint; default: the best")
  parser.add_argument("--body", help="another body than the run's: an SMPL file")
  parser.add_argument("--focal", type=float, help="focal length in image pixels; default 5000/224 of the longer side")
  parser.add_argument("--no-meshes", action="store_true", help="write no .obj")
  parser.add_argument("--no-pictures", action="store_true", help="write no .png")
  parser.add_argument("--num-samples", type=int, metavar="N", help="N hypotheses a person, the best guess first; for "
                      "systems that have many")
  parser.add_argument("--seed", type=int, default=0, help="of the samples")
  parser.add_argument("--prior", metavar="WORKDIR", help="of configs/joint_prior.py: weighs the hypotheses")
  parser.add_argument("--interpolate", type=int, metavar="K", help="also walk from the mode through the samples shown, "
                      "with K bodies between any two")
  parser.add_argument("--path", default="spherical", choices=sampling.PATHS, help="of that walk, between samples")
  return parser.parse_args(argv[1:])


def check(args):
  """Raises InputError for what can be seen to be wrong before anything is loaded."""
  check_out(args.out, args.images, args.poses)
  if args.num < 1 or (args.focal is not None and not args.focal > 0):
    raise InputError("--num is 1 or more, --focal is positive")
  if args.num_samples is not None and args.num_samples < 1:
    raise InputError(f"--num-samples is {args.num_samples}: give 1 (the mode alone) or more")
  if not 0 <= args.seed < 2**32:
    raise InputError(f"--seed is {args.seed}: give a number from 0 to {2**32 - 1}")
  if args.interpolate is not None and args.interpolate < 1:
    raise InputError(f"--interpolate is {args.interpolate}: give 1 or more bodies between two hypotheses")
  if args.interpolate and (args.num_samples or 0) < 2:
    raise InputError("--interpolate needs samples to walk to: give --num-samples 2 or more")


def main(argv):
  args = parse(argv)
  check(args)
  config, system, state, assets = evaluate.load_run(args.workdir, args.step, args.body, lifting=True)
  if args.poses:
    predict_lift.check(args, config)
  elif task.lifts(config):
    raise InputError(f"{args.workdir!r} lifts 2D poses: give --poses, a file of jhmr.data.lift_poses")
  if args.num_samples and system.latent is None and system.choose is None:
    raise InputError(f"--num-samples needs a system of many hypotheses, but {args.workdir!r} is a run of "
                     f"{config.system!r}: train configs/prohmr.py, configs/multibodies.py or configs/lifting.py")
  if args.interpolate and system.latent is None:
    raise InputError(f"--interpolate walks through a latent space, which {config.system!r} has not: leave it out")
  if args.poses:
    predict_lift.write(args, config, system, state, assets)
    return
  assets = assets | joint_prior.given(args.prior, system)
  people = (from_files(args, config.image_size, inputs.kind_of(config)) if args.images
            else from_split(args, config, assets))
  os.makedirs(args.out, exist_ok=True)
  assets = assets | {"joints_body": sampling.body_of(assets)}
  find = predicting(system) if not args.num_samples else (
      choosing(system, args) if system.latent is None else sampling_from(system.latent, args))
  rows = []
  for first in range(0, len(people), BATCH):
    group = people[first:first + BATCH]
    crops = np.stack([p["crop"] for p in group] + [group[0]["crop"]] * (BATCH - len(group)))
    for person, (found, walked) in zip(group, find(state, group, crops, assets)):
      row = predict_files.write_person(args.out, person, found, assets, args)
      rows += [row] if len(rows) < predict_files.ON_SHEET else []
      if walked:
        predict_files.write_walk(args.out, person, found, *walked, assets, args)
    report.say(f"{min(first + BATCH, len(people))}/{len(people)} people")
  if not args.no_pictures:
    pictures.write(os.path.join(args.out, "all.png"), predict_files.sheet(rows))
  report.say(f"parameters, meshes and pictures are in {args.out}")


if __name__ == "__main__":
  command.run(main)
