"""Bodies from images with a trained system.

    python -m jhmr.predict --workdir runs/quickstart --images photo.jpg --out out
    python -m jhmr.predict --workdir runs/quickstart --images folder --boxes boxes.json --out out
    python -m jhmr.predict --workdir runs/quickstart --split val --num 16 --out out

Per person, `<name>.npz` and `<name>.json` with every hypothesis, `<name>.obj` of the first one, and `<name>.png`:
input, overlay, side view. `boxes.json` is {"photo.jpg": [[x, y, width, height], ...]} in pixels; a box should hold
the whole person. Without boxes the whole image is one box, enlarged to a square.
"""

import argparse
import json
import os
import sys

import cv2
from jhmr import command, evaluate, pictures, report
from jhmr.body import camera, draw, mesh, smpl
from jhmr.data import images as images_lib
from jhmr.data import source as source_lib
from jhmr.errors import InputError
import jax
import numpy as np

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
BATCH = 16
_forward = jax.jit(smpl.forward)


def read_image(path):
  """RGB uint8 [H, W, 3]. Raises InputError when the file is missing or not an image."""
  if not os.path.isfile(path):
    raise InputError(f"image {path!r} does not exist: give a file or a folder of images")
  image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if os.path.getsize(path) else None
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


def find_images(path):
  """The image files of a folder, sorted, or the one file given."""
  if not os.path.isdir(path):
    return [path]
  found = sorted(os.path.join(path, n) for n in os.listdir(path) if n.lower().endswith(EXTENSIONS))
  if not found:
    raise InputError(f"folder {path!r} holds no images ({', '.join(EXTENSIONS)}): give another --images")
  return found


def people_of(path, boxes, image_size):
  """One record a person: name, crop and where the crop lies in the image."""
  image = read_image(path)
  height, width = image.shape[:2]
  rows = np.array([[0, 0, width, height]], np.float32) if boxes is None else boxes.get(os.path.basename(path), ())
  stem = os.path.splitext(os.path.basename(path))[0]
  for i, (x, y, w, h) in enumerate(rows):
    center, side = np.array([x + w / 2, y + h / 2], np.float32), float(max(w, h))
    yield {"name": stem if len(rows) == 1 else f"{stem}_{i}", "image": os.path.basename(path), "box_center_px": center,
           "box_size_px": side, "image_size": np.array([width, height], np.float32),
           "crop": images_lib.crop(image, center, side, image_size)}


def from_files(args, image_size):
  """All people of the files; in a folder, files that are no images are named and passed over."""
  boxes = read_boxes(args.boxes) if args.boxes else None
  files = find_images(args.images)
  people, bad = [], []
  for path in files:
    try:
      people.extend(people_of(path, boxes, image_size))
    except InputError as error:
      bad.append(str(error))
  if not people:
    raise InputError(bad[0] if bad else f"no file of {args.images!r} has a box in {args.boxes!r}: names must match")
  for line in bad:
    print(f"warning: {line}", file=sys.stderr)
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
      if len(people) == args.num:
        return people
  return people


def outputs(person, prediction, assets, focal_px):
  """What is written of one person: every hypothesis in its crop's camera and in the full image's."""
  focal = focal_px or camera.FOCAL_PX / camera.CROP_PX * float(person["image_size"].max())
  transl = camera.crop_to_full(prediction.camera, person["box_center_px"], person["box_size_px"],
                               person["image_size"], focal)
  pose = np.concatenate([prediction.global_orient, prediction.body_pose], axis=1)
  posed = _forward(assets["body"], prediction.betas, pose, transl)
  return {"global_orient": prediction.global_orient, "body_pose": prediction.body_pose, "betas": prediction.betas,
          "camera": prediction.camera, "log_prob": prediction.log_prob, "transl_m": np.asarray(transl),
          "joints_cam_m": np.asarray(posed.joints), "focal_px": np.float32(focal),
          "box_center_px": person["box_center_px"], "box_size_px": np.float32(person["box_size_px"]),
          "image_size": person["image_size"]}, np.asarray(posed.vertices)


def write_person(out, person, prediction, assets, args):
  """Writes one person's files into the folder `out`."""
  stem = os.path.join(out, person["name"])
  values, vertices = outputs(person, prediction, assets, args.focal)
  np.savez_compressed(stem + ".npz", **values)
  with open(stem + ".json", "w") as f:
    json.dump({"image": person["image"]} | {
        k: np.asarray(v, np.float64).round(6).tolist() for k, v in values.items()}, f)
  faces = np.asarray(assets["surface"].faces)
  if not args.no_meshes:
    mesh.write_obj(stem + ".obj", vertices[0], faces)
  if not args.no_pictures:
    side = pictures.SIDE_PX
    large = cv2.resize(person["crop"], (side, side))
    row = [large, *pictures.panels(person["crop"], assets["body"], faces, prediction)]
    pictures.write(stem + ".png", draw.grid(row, columns=3))
    return row
  return None


def parse(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.predict", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--workdir", required=True, help="of a training run")
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--images", help="an image or a folder of images")
  what.add_argument("--split", help="an evaluation split: val, val_occluded, multiview")
  parser.add_argument("--boxes", help="JSON with the people's boxes; default: the whole image")
  parser.add_argument("--out", required=True, help="folder to write to")
  parser.add_argument("--num", type=int, default=16, help="how many examples of a split")
  parser.add_argument("--step", type=int, help="which checkpoint; default: the best")
  parser.add_argument("--body", help="another body than the run's: an SMPL file")
  parser.add_argument("--focal", type=float, help="focal length in image pixels; default 5000/224 of the longer side")
  parser.add_argument("--no-meshes", action="store_true", help="write no .obj")
  parser.add_argument("--no-pictures", action="store_true", help="write no .png")
  return parser.parse_args(argv[1:])


def main(argv):
  args = parse(argv)
  config, system, state, assets = evaluate.load_run(args.workdir, args.step, args.body)
  people = from_files(args, config.image_size) if args.images else from_split(args, config, assets)
  os.makedirs(args.out, exist_ok=True)
  predict = jax.jit(lambda state, crops, assets: system.predict(state, {"image": images_lib.normalize(crops)}, assets))
  rows = []
  for first in range(0, len(people), BATCH):
    group = people[first:first + BATCH]
    crops = np.stack([p["crop"] for p in group] + [group[0]["crop"]] * (BATCH - len(group)))
    prediction = jax.device_get(predict(state, crops, assets))
    for i, person in enumerate(group):
      rows.append(write_person(args.out, person, jax.tree.map(lambda x: x[i], prediction), assets, args))
    report.say(f"{min(first + BATCH, len(people))}/{len(people)} people")
  if not args.no_pictures:
    pictures.write(os.path.join(args.out, "all.png"), draw.grid([p for row in rows[:48] for p in row], columns=6))
  report.say(f"parameters, meshes and pictures are in {args.out}")


if __name__ == "__main__":
  command.run(main)
