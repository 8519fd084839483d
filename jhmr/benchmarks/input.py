"""Input row: augmented crops from JPEGs on disk, on one core, beside the loader one writes for PyTorch.

Both read the same JPEGs (person boxes stored with a margin, 256 to 384 pixels wide), draw the same augmentations and
make the same labels (by our code, so that pictures alone are compared). The peer reads files, decodes and resizes with
Pillow and hands over float32 CHW. Ours reads a data set in our format, checks every record and hands over uint8: gain
and normalisation run on the device, at the rate given in the note. Torch itself is not in it: a peer without
tensors and workers is the faster one.

Returns {"name", "unit", "ours", "peer", "peer_name", "flops_per_item", "bytes_per_item", "note"}.
"""

import os
import pathlib
import tempfile
import time

import cv2
import jax
import ml_collections
import numpy as np

from jhmr.benchmarks import timing
from jhmr.benchmarks import train
from jhmr.body import smpl
from jhmr.data import augment
from jhmr.data import images
from jhmr.data import pipeline
from jhmr.data import records
from jhmr.data import rows
from jhmr.data.builders import examples

SIZE, _BATCH = 224, 16
_SIDES, _PHOTO = (256, 320, 384), 1000
_ACCELERATOR = {"image_size": SIZE, "net": {"backbone": "resnet50", "dtype": "bfloat16"}}  # what one would train there


def disk_input(seconds=3.0, num_images=96, step_batch=None):
  """224 x 224 augmented images per second of one core; the note sets all cores against a training step."""
  with tempfile.TemporaryDirectory() as folder:
    boxes, photos = (_write(pathlib.Path(folder) / name, num, sides)
                     for name, num, sides in (("boxes", num_images, _SIDES), ("photos", num_images // 4, (_PHOTO,))))
    times, photo_times = _per_core(boxes, seconds), _per_core(photos, seconds / 4)
    note = [_photographs(photo_times), _device_share(boxes, seconds / 4), _bottleneck(boxes, seconds / 2, step_batch)]
    size = np.mean([f.stat().st_size for f in boxes.glob("*.jpg")])
  pixels = np.mean(np.square(_SIDES))
  return {"name": f"crops {SIZE}x{SIZE} from {size / 1000:.0f} kB JPEGs", "unit": "images/s/core",
          "ours": _rate(times, "ours"), "peer": _rate(times, "peer"), "peer_name": "Pillow + NumPy",
          # Inverse cosine transforms and colour for every stored pixel, eight products a channel in the warp.
          "flops_per_item": float(pixels * 60 + SIZE**2 * 3 * 8),
          "bytes_per_item": float(size + 2 * 3 * pixels + 3 * SIZE**2), "note": "\n".join(note)}


def _rate(times, who):
  return _BATCH / times[who] if who in times else None


def _photographs(times):
  ours, peer = (_rate(times, who) for who in ("ours", "peer"))
  return f"from {_PHOTO} x {_PHOTO} photographs: {ours:.0f} images/s" + (f", the peer {peer:.0f}" if peer else "")


def _write(folder, num, sides):
  """A folder of num JPEGs, and of the same in our format in folder/set; each shows a box with a margin of a half."""
  folder.mkdir()
  made = []
  for i in range(num):
    side = sides[i % len(sides)]
    data = cv2.imencode(".jpg", picture(i, side), (cv2.IMWRITE_JPEG_QUALITY, 92))[1].tobytes()
    (folder / f"{i:04d}.jpg").write_bytes(data)
    made.append(examples.record(i, data, [side / 2, side / 2, side / 1.5], (side, side), has_pose=np.float32(1)))
  examples.write(folder / "set", {"train": made})
  return folder


def picture(seed, side):
  """[side, side, 3] uint8 with detail at every scale, as photographs have it."""
  rng = np.random.default_rng(seed)
  total = np.zeros((side, side, 3), np.float32)
  for cells in 2 ** np.arange(1, int(np.log2(side))):
    coarse = rng.normal(size=(cells, cells, 3)).astype(np.float32) / cells**0.7
    total += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
  return np.clip(128 + 70 * total / total.std(), 0, 255).astype(np.uint8)


def source(folder, image_size=SIZE, batch_size=_BATCH, **settings):
  """Our pipeline on what `_write` made."""
  return pipeline.open_training(ml_collections.ConfigDict(dict(
      seed=0, batch_size=batch_size, image_size=image_size, data=dict(settings, source=str(folder / "set")))))


def _per_core(folder, seconds):
  ours, peer, step = source(folder, num_threads=0), peer_loader(folder), iter(range(1 << 30))
  functions = {"ours": lambda: ours.batch(next(step))}
  if timing.installed("PIL"):
    functions["peer"] = lambda: peer(next(step))
  threads = cv2.getNumThreads()
  cv2.setNumThreads(0)
  try:
    return timing.interleaved(functions, seconds)
  finally:
    cv2.setNumThreads(threads)


def peer_loader(folder):
  """A function i -> collated batch, as a Dataset and its collate function make it, with Pillow."""
  files = sorted(folder.glob("*.jpg"))
  data, wanted = rows.open_plan(rows.Plan(str(folder / "set"), "train", SIZE, False, 0, True, 0))
  known = [records.parse(data[i], wanted) for i in range(len(data))]  # in memory, as SPIN keeps its npz files

  def batch(i):
    shown = [(i * _BATCH + r) % len(files) for r in range(_BATCH)]
    made = [peer_row(files[j], known[j], augment.draw(np.random.default_rng((0, i, j)))) for j in shown]
    return {name: np.stack([m[name] for m in made]) for name in made[0]}

  return batch


def peer_row(file, record, augmentation):
  """One example: Pillow decodes, turns about the box and resizes; NumPy flips, colours, normalises, transposes."""
  from PIL import Image
  x, y, side = record["box"] * [1, 1, augmentation.scale]
  with Image.open(file) as opened:
    shown = opened.convert("RGB")
  if augmentation.angle_rad:
    shown = shown.rotate(np.rad2deg(augmentation.angle_rad), Image.Resampling.BILINEAR, center=(x, y))
  low, high = np.array([x, y]) - side / 2, np.array([x, y]) + side / 2
  if min(low) < 0 or max(high - shown.size) > 0:  # Pillow resizes from within only
    low, high = np.floor(low).astype(int), np.ceil(high).astype(int)
    shown, low, high = shown.crop((*low, *high)), low - low, high - low
  pixels = np.asarray(shown.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(*low, *high)), np.float32)
  pixels = np.clip((pixels[:, ::-1] if augmentation.flip else pixels) * augmentation.gain, 0, 255)
  pixels = (pixels / 255 - images.MEAN) / images.STD
  affine = augment.crop_map(record["box"], augmentation, SIZE)
  return {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1))} | augment.labels(record, augmentation, affine, SIZE)


def _device_share(folder, seconds):
  """What the device does of the input, in a line."""
  opened = source(folder, num_threads=0)
  program, batch = jax.jit(opened.on_device), jax.device_put(opened.batch(0))
  wanted = lambda: jax.block_until_ready(program(batch, {})["image"])
  rate = _BATCH / timing.interleaved({"ours": wanted}, seconds)["ours"]
  return f"finished on the device (gain, normalisation, a pose for the prior): {rate:.0f} images/s"


def _bottleneck(folder, seconds, batch=None):
  """Whether one training step on this device eats faster than all cores feed it, in a line."""
  accelerated = jax.default_backend() != "cpu"
  choice = _ACCELERATOR if accelerated else {"image_size": train.IMAGE_SIZE, "net": train.CONFIG["net"]}
  batch = batch or (128 if accelerated else 32)
  step, state, data, assets = train.set_up(smpl.load_arrays("mannequin_small"), batch, **choice)
  eaten = batch / timing.interleaved({"step": train.runner(step, state, data, assets)}, seconds)["step"]
  cores = len(os.sched_getaffinity(0))
  given = _throughput(source(folder, choice["image_size"], batch, num_workers=cores), batch, seconds)
  return (f"a step of {choice['net']['backbone']} at {choice['image_size']} pixels, batch {batch}, on one device eats "
          f"{eaten:.0f} images/s; {cores} cores give {given:.0f}: the {'step' if given > eaten else 'input'} is the "
          "bottleneck")


def _throughput(opened, batch, seconds):
  """Images per second of batches one after another, once the workers run."""
  try:
    for i in range(4):
      opened.batch(i)
    start, done = time.perf_counter(), 0
    while done < 4 or time.perf_counter() - start < seconds:
      opened.batch(4 + done)
      done += 1
    return done * batch / (time.perf_counter() - start)
  finally:
    opened.close()
