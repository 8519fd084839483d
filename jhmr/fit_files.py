"""Fits of people in picture files: what is read, in which order it is worked off, and what is written of each person.

Everything is a function of one person's keypoints and picture; the person's JSON is written last, so that a person
with a JSON of the same settings is finished and is passed over when the command is given again.
"""

import json
import os
import time
from typing import NamedTuple

import cv2
from jhmr import files, fit_journal, pictures, predict, report
from jhmr.body import camera, draw, joints, mesh, smpl
from jhmr.data import images as images_lib
from jhmr.errors import InputError
from jhmr.fitting import keypoint_files, latent, multiview, objectives
import jax
import jax.numpy as jnp
import numpy as np

BATCH = 16
ON_SHEET = 12  # pictures whose panels are kept for the sheet of all
METHODS = ("regression", "fit")       # axis 0 of everything that is written
VIEW_METHODS = ("regression", "refined")
_forward = jax.jit(smpl.forward)


class Options(NamedTuple):
  """What decides the result of a fit; written with it."""
  joint_set: str = "openpose25"
  full_frame: bool = False
  focal_px: float = camera.FOCAL_PX  # of whole images. Source: ProHMR's authors, whatever the image
  use_hips: bool = False
  mode: str = "vmap"
  num_steps: int = 0                 # 0: the default of the mode
  noise_px: float = 0.0              # of the detector, in pixels of a crop; see latent.weights_for


class Job(NamedTuple):
  """One person to fit: where they are, before the picture is read."""
  name: str
  path: str
  keypoints: np.ndarray  # [K, 3]


def find_jobs(image_paths, keypoints, set_name, too_little=lambda keypoints: ""):
  """([Job], [what is wrong with those left out]).

  Args:
    too_little: keypoints [K, 3] of one person -> why a method cannot fit what others can, or "".
  """
  jobs, bad = [], []
  for path in image_paths:
    try:
      people = keypoint_files.read_openpose(keypoint_files.beside(keypoints, path), set_name)
    except InputError as error:
      bad.append(str(error))
      continue
    stem = os.path.splitext(os.path.basename(path))[0]
    if not len(people):
      bad.append(f"{path!r}: its keypoint file has no people: skipped")
    for i, person in enumerate(people):
      name = stem if len(people) == 1 else f"{stem}_{i}"
      if said := keypoint_files.too_little(person) or too_little(person):
        bad.append(f"{name}: {said}: skipped")
      else:
        jobs.append(Job(name, path, person))
  predict.check_names(job.name for job in jobs)
  return jobs, bad


def settings_of(args, run, *inputs):
  """What decides the files of a person, besides the code: is_done compares it.

  Args:
    run: `fit_journal.run_digest` of what was loaded.
    inputs: arrays or texts of this person; of files their stamp.
  """
  texts, arrays = ([x for x in inputs if isinstance(x, np.ndarray) is kind] for kind in (False, True))
  return {"run": run, "inputs": fit_journal.key_of(texts, arrays), "meshes": args.meshes is not False,
          "pictures": args.pictures is not False}


def is_done(out, name, settings):
  """Whether a person was written with the same settings."""
  try:
    with open(os.path.join(out, name + ".json")) as f:
      return json.load(f).get("settings") == settings
  except (OSError, ValueError, AttributeError):
    return False


def crop_of(path, center, side, image_size):
  """What is known of one person in a picture, and the crop the network sees. Raises InputError on a bad picture."""
  image = predict.read_image(path)
  return {"image": os.path.basename(path), "box_center_px": np.asarray(center, np.float32),
          "box_size_px": np.float32(side), "image_size": np.array(image.shape[1::-1], np.float32),
          "crop": images_lib.crop(image, center, side, image_size)}


def cameras(people, encoded, options):
  """(Target, start translation) of a batch of people, in crops or in whole images."""
  place = (people["keypoints"], encoded.camera, people["box_center_px"], people["box_size_px"])
  if options.full_frame:
    return objectives.full_camera(*place, people["image_size"], options.focal_px)
  return objectives.crop_camera(*place)


def fit_program(system, options):
  """run(state, people, assets, body) -> {name: [P, 2, ...]}: what regression and fit say, in pixels of whole images.

  people: {"crop" [P, S, S, 3] uint8, "keypoints" [P, K, 3], "box_center_px", "box_size_px", "image_size"}.
  """
  # Of many evaluations the lowest is kept; a joint fit has but two, and may end higher for one person.
  reached = (lambda losses: losses[:, -1]) if options.mode == "joint" else (lambda losses: jnp.nanmin(losses, 1))

  @jax.jit
  def run(state, people, assets, body):
    encoded = system.latent.encode(state, {"image": images_lib.normalize(people["crop"])}, assets)
    decode = latent.decoder(system.latent, state, assets)
    targets, start = cameras(people, encoded, options)
    fit = latent.fit_keypoints(decode, encoded, body, targets, start, dim=system.latent.dim,
                               set_name=options.joint_set, use_hips=options.use_hips, mode=options.mode,
                               num_steps=options.num_steps or None, weights=latent.weights_for(options.noise_px))
    z = jnp.stack([jnp.zeros_like(fit.z), fit.z], 1)
    scale = jnp.ones_like(targets.focal_px) if options.full_frame else people["box_size_px"] / camera.CROP_PX
    center = targets.center_px if options.full_frame else people["box_center_px"]
    return {"z": z, "pose": decode(z, encoded), "betas": jnp.stack([encoded.betas, fit.betas], 1),
            "transl_m": jnp.stack([start, fit.translation], 1), "focal_px": targets.focal_px * scale,
            "center_px": center, "objective": jnp.stack([fit.losses[:, 0], reached(fit.losses)], 1),
            "reprojection_px": fit.pixels * scale[:, None]}

  return run


def write_person(out, name, values, vertices, faces, person, settings, args, methods=METHODS):
  """Writes <name>_<method>.obj, .png, .npz, and last the .json; returns the picture's panels.

  Args:
    values: {key: array}, methods on axis 0 where they differ.
    vertices: [M, N, 3] metres in the camera with focal_px and center_px.
  """
  stem, panels = os.path.join(out, name), None
  if args.meshes is not False:
    for method, v in zip(methods, vertices):
      mesh.write_obj(f"{stem}_{method}.obj", v, faces)
  if args.pictures is not False:
    panels = picture(person, vertices, faces, values)
    pictures.write(stem + ".png", draw.grid(panels, columns=5, labels=["input", methods[0], "", methods[1], ""]))
  with files.whole(stem + ".npz", "wb") as f:
    np.savez_compressed(f, **values)
  rounded = {k: np.asarray(v, np.float64).round(6).tolist() for k, v in values.items()}
  with files.whole(stem + ".json") as f:
    said = {"image": person["image"], "methods": methods, "workdir": args.workdir, "settings": settings}
    json.dump(said | rounded, f)
  return panels


def picture(person, vertices, faces, values):
  """Panels of one person: input with keypoints, then overlay and side view of both methods."""
  zoom = pictures.SIDE_PX / person["box_size_px"]
  place = lambda px: (px - person["box_center_px"]) * zoom + pictures.SIDE_PX / 2
  large = cv2.resize(person["crop"], (pictures.SIDE_PX,) * 2)
  if "keypoints" in person:
    points = np.concatenate([place(person["keypoints"][:, :2]), person["keypoints"][:, 2:]], -1)
    large = draw.skeleton(large, points, joints.edges(person["joint_set"]))
  camera_of = float(values["focal_px"] * zoom), tuple(place(values["center_px"]))
  return [large, *(p for v in vertices for p in pictures.body_panels(person["crop"], v, faces, *camera_of))]


def fit_images(args, options, config, system, state, assets, body, program=None, too_little=lambda keypoints: ""):
  """Fits everybody whom --images and --keypoints name and who is not in --out yet; by `program`, default fit_program's.

  Args:
    too_little: as of `find_jobs`, what a method asks for besides.
  """
  jobs, bad = find_jobs(predict.find_images(args.images), args.keypoints, options.joint_set, too_little)
  loaded = fit_journal.run_digest(config, state, assets)
  decides = {name: value for name, value in options._asdict().items() if name != "chunk"}
  stamps = {path: fit_journal.stamp(path) for path in {job.path for job in jobs}}
  settings = {job.name: settings_of(args, loaded, stamps[job.path], job.keypoints) | decides for job in jobs}
  todo = [job for job in jobs if not is_done(args.out, job.name, settings[job.name])]
  if len(todo) < len(jobs):
    report.say(f"{len(jobs) - len(todo)} of {len(jobs)} people are in {args.out} already")
  _warn(bad)
  run, began, rows, written = program or fit_program(system, options), time.monotonic(), [], len(jobs) - len(todo)
  faces = np.asarray(assets["surface"].faces)
  for first in range(0, len(todo), BATCH):
    group, wrong = _read(todo[first:first + BATCH], config.image_size, options.joint_set)
    _warn(wrong)
    bad += wrong
    if group:
      os.makedirs(args.out, exist_ok=True)
      results = jax.device_get(run(state, _padded(group, options.mode), assets, body))
      for i, (name, person) in enumerate(group):
        values, vertices = outputs({k: v[i] for k, v in results.items()}, person, assets)
        panels = write_person(args.out, name, values, vertices, faces, person, settings[name], args)
        rows += [panels] if len(rows) < ON_SHEET else []
    written += len(group)
    _progress(min(first + BATCH, len(todo)), len(todo), began)
  if not written:
    raise InputError(f"nobody could be fitted: {bad[0] if bad else 'no pictures'}")
  _sheet(args, rows, METHODS)
  report.say(f"parameters, meshes and pictures of {written} people are in {args.out}")


def outputs(values, person, assets):
  """(what is written of one person, vertices [2, N, 3])."""
  posed = _forward(assets["body"], values["betas"], values["pose"], values["transl_m"])
  pose = values.pop("pose")
  values |= {"global_orient": pose[:, :1], "body_pose": pose[:, 1:], "joints_cam_m": np.asarray(posed.joints),
             **{k: person[k] for k in ("keypoints", "box_center_px", "box_size_px", "image_size") if k in person}}
  return values, np.asarray(posed.vertices)


def _read(jobs, image_size, set_name):
  """([(name, person)], [what is wrong]) of a batch's pictures."""
  people, bad = [], []
  for job in jobs:
    try:
      person = crop_of(job.path, *keypoint_files.box(job.keypoints), image_size)
      people.append((job.name, person | {"keypoints": job.keypoints, "joint_set": set_name}))
    except InputError as error:
      bad.append(f"{error}: skipped")
  return people, bad


def _padded(group, mode):
  """The arrays of a whole batch; those who fill it up have no confident keypoint, and are in no joint problem."""
  people = [person for _, person in group] + [group[0][1]] * (BATCH - len(group) if mode != "joint" else 0)
  arrays = {k: np.stack([p[k] for p in people]) for k in
            ("crop", "keypoints", "box_center_px", "box_size_px", "image_size")}
  arrays["keypoints"][len(group):, :, 2] = 0
  return arrays


def refine_groups(args, config, system, state, assets):
  """Refines the people that --multiview lists, each from all their pictures in --images."""
  groups = keypoint_files.read_groups(args.multiview)
  boxes = predict.read_boxes(args.boxes) if args.boxes else {}
  how = {"mode": args.mode, "num_steps": args.num_steps or 0, "multiview": True}
  loaded = fit_journal.run_digest(config, state, assets)
  settings = {name: how | settings_of(args, loaded, *(x for v in views for x in _view_inputs(args, v, boxes)))
              for name, views in groups.items()}
  predict.check_names(f"{name}_{v}" for name, views in groups.items() for v in range(len(views)))
  num_views = max(map(len, groups.values()))
  run, began, rows, bad, written = refine_program(system, args.mode, args.num_steps), time.monotonic(), [], [], 0
  todo = {name: views for name, views in groups.items()
          if not all(is_done(args.out, f"{name}_{v}", settings[name]) for v in range(len(views)))}
  for i, (name, views) in enumerate(todo.items()):
    try:
      people = [_view(args, os.path.join(args.images, v), boxes, config.image_size) for v in views]
    except InputError as error:
      bad.append(f"{name}: {error}: skipped")
      _warn(bad[-1:])
      continue
    crops = np.stack([p["crop"] for p in people] + [people[0]["crop"]] * (num_views - len(people)))
    results = jax.device_get(run(state, crops, (np.arange(num_views) < len(people)).astype(np.float32), assets))
    os.makedirs(args.out, exist_ok=True)
    panels = [_write_view(args, f"{name}_{v}", {k: x[v] for k, x in results.items()}, person, assets, settings[name])
              for v, person in enumerate(people)]
    rows += panels if len(rows) < ON_SHEET else []
    written += 1
    _progress(i + 1, len(todo), began)
  if not written and todo:
    raise InputError(f"nobody could be refined: {bad[0]}")
  _sheet(args, rows, VIEW_METHODS)
  report.say(f"refined {written} people, {len(groups) - len(todo)} were there already: {args.out}")


def _view_inputs(args, name, boxes):
  """What decides one view of a person."""
  path = os.path.join(args.images, name)
  keypoints = fit_journal.stamp(keypoint_files.beside(args.keypoints, path)) if args.keypoints else ""
  box = boxes.get(os.path.basename(path), "")
  return fit_journal.stamp(path), keypoints, args.joint_set if args.keypoints else "", box


def _view(args, path, boxes, image_size):
  """One view of a person: in the box given, around the first detected person, or the whole picture."""
  if args.keypoints:
    people = [p for p in keypoint_files.read_openpose(keypoint_files.beside(args.keypoints, path), args.joint_set)
              if not keypoint_files.too_little(p)]
    if not people:
      raise InputError(f"{path!r} has no person with {keypoint_files.FEWEST} confident keypoints")
    return crop_of(path, *keypoint_files.box(people[0]), image_size)
  known = {os.path.basename(path): boxes[os.path.basename(path)]} if os.path.basename(path) in boxes else None
  person = next(iter(predict.people_of(path, known, image_size)), None)
  if person is None:
    raise InputError(f"{path!r} has no box in {args.boxes!r}")
  return person


def refine_program(system, mode, num_steps):
  """run(state, crops [V, S, S, 3], mask [V], assets) -> {name: [V, 2, ...]} of one person."""
  @jax.jit
  def run(state, crops, mask, assets):
    encoded = system.latent.encode(state, {"image": images_lib.normalize(crops)}, assets)
    decode = latent.decoder(system.latent, state, assets)
    refined = multiview.refine(decode, jax.tree.map(lambda x: x[None], encoded), mask[None], dim=system.latent.dim,
                               mode=mode, num_steps=num_steps or None)
    z = jnp.stack([jnp.zeros_like(refined.z[0]), refined.z[0]], 1)
    betas = jnp.broadcast_to(refined.betas, encoded.betas.shape)
    return {"z": z, "pose": decode(z, encoded), "betas": jnp.stack([encoded.betas, betas], 1), "camera": encoded.camera}
  return run


def _write_view(args, name, values, person, assets, settings):
  transl = np.asarray(camera.weak_to_translation(values.pop("camera")))
  values |= {"transl_m": np.stack([transl] * 2), "center_px": person["box_center_px"],
             "focal_px": np.float32(camera.FOCAL_PX * person["box_size_px"] / camera.CROP_PX)}
  values, vertices = outputs(values, person, assets)
  faces = np.asarray(assets["surface"].faces)
  return write_person(args.out, name, values, vertices, faces, person, settings, args, VIEW_METHODS)


def _warn(lines):
  for line in lines:
    report.warn(line)


def _progress(done, total, began):
  rate = done / max(time.monotonic() - began, 1e-9)
  report.say(f"{done}/{total} people  {rate:.2f} people/s  {report.clock((total - done) / rate)} left")


def _sheet(args, rows, methods):
  rows = [row for row in rows if row][:ON_SHEET]
  if rows:
    labels = ["input", methods[0], "", methods[1], ""] * len(rows)
    pictures.write(os.path.join(args.out, "all.png"), draw.grid([p for r in rows for p in r], columns=5, labels=labels))
