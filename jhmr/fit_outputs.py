"""What a fit of many people writes: one table of arrays, EFT's JSON, and for a few people meshes and pictures.

`fits.npz`, a row a person: names, images, person, annotation, joint_set; keypoints [N, K, 3] as read; pose
[N, 24, 3, 3] and pose_axis_angle [N, 72], root first, in the camera's frame; betas; transl_m in the camera of the whole
picture with focal_px and center_px; camera [N, 3], the weak one (s, tx, ty) of the box, s (X + tx); box_center_px,
box_size_px; image_size, where it is not known that of `fit_cameras.arrays_of`; fitted_px [N, K, 2], where the body's
joints are seen; reprojection_px [N, K], their distance to the keypoints, NaN where there is none, and its mean,
reprojection_mean_px; objective; valid, see `fit_smplify.is_valid`.
"""

import json
import os

from jhmr import files, fit_cameras, fit_smplify, metrics, pictures, predict, report
from jhmr.body import camera, draw, joints, mesh, smpl
from jhmr.data import images as images_lib
from jhmr.errors import InputError
from jhmr.fitting import npz_files, objectives
import jax
import numpy as np

FEW = 32         # people who get meshes and pictures unless the command says otherwise
ON_SHEET = 12
CHUNK = 16
BLANK = 238      # grey of a canvas without a picture
SCORES = ("keypoints_px", "true_keypoints_px", "mpjpe_mm", "pa_mpjpe_mm")  # columns of what --truth prints
OPENPOSE18 = tuple(n.removeprefix("op_") for n in joints.names("openpose18"))
_forward = jax.jit(smpl.forward)


def write(args, people, arrays, results, solver, paths, truth=None):
  """Writes everything of the people who were fitted, to --out; prints how well they fit.

  Args:
    people: [Person]; arrays: of fit_cameras.arrays_of; results: of a Solver, in pixels of the pictures.
    paths: [N] of their pictures, "" where there is none.
    truth: of `read_truth`, or None.
  """
  table = table_of(people, arrays, results, args.use_hips)
  with files.whole(os.path.join(args.out, "fits.npz"), "wb") as f:
    np.savez(f, **table)
  with files.whole(os.path.join(args.out, "fits.json")) as f:
    write_json(f, table, paths)
  few = len(people) <= FEW
  if few if args.meshes is None else args.meshes:
    write_meshes(os.path.join(args.out, "meshes"), table, solver)
  if args.pictures is not False:
    write_pictures(args.out, table, solver, paths, everybody=few or bool(args.pictures))
  off = np.nanmedian(table["reprojection_px"] * (camera.CROP_PX / table["box_size_px"])[:, None])
  report.say(f"{len(people)} people: keypoints are met to {off:.2f} pixels of a 224 crop (median), "
             f"{100 * table['valid'].mean():.0f} % of the fits are valid")
  if truth is not None:
    report.table(score(truth, table, solver.inputs["body"]), ("people", *SCORES))
  report.say(f"bodies are in {args.out}: fits.npz, fits.json")


def table_of(people, arrays, results, use_hips=False):
  """{name: [N, ...]}, as `fits.npz` holds it; hips count in `valid` where they did in the fit."""
  keypoints, set_name = arrays["keypoints"], people[0].joint_set
  error = results["pixels"] - keypoints[..., :2]
  seen = keypoints[..., 2] > 0
  used = seen if use_hips else seen * objectives.hips_left_out(set_name)
  scaled = error * (camera.CROP_PX / arrays["box_size_px"])[:, None, None]
  energy = keypoints[..., 2]**2 * np.sum(np.asarray(objectives.geman_mcclure(scaled)), -1)
  quality = np.sum(energy * used, 1) / np.maximum(np.sum(used, 1), 1)
  distance = np.where(seen, np.linalg.norm(error, axis=-1), np.nan).astype(np.float32)
  valid = fit_smplify.is_valid(results["pose"], results["betas"], results["transl_m"], quality)
  return {"names": np.array([p.name for p in people]), "images": np.array([p.image for p in people]),
          "person": np.array([p.person for p in people]), "annotation": np.array([p.annotation for p in people]),
          "joint_set": np.array(set_name), **{k: v for k, v in results.items() if k != "pixels"},
          "fitted_px": results["pixels"], "reprojection_px": distance,
          "reprojection_mean_px": np.nansum(distance, 1) / np.maximum(seen.sum(1), 1), "valid": valid,
          "camera": fit_cameras.weak_cameras(arrays, results["transl_m"]),
          **{k: v for k, v in arrays.items() if k not in ("in_crop", "transl_m")}}


def write_json(f, table, paths=()):
  """Writes fits as EFT releases its: {"ver", "data": [{"parm_pose", "parm_shape", "parm_cam", ...}]}.

  Source: EFT (Joo et al. 2021), authors' README of their fits. parm_cam is (s, tx, ty) with x = s X + t in -1..1 of the
  box, where SPIN's camera is s (X + t); the side of the box is 200 bbox_scale.
  Differs: "valid", "loss" and the sentence on the camera are ours.
  Args:
    paths: [N] of the pictures, "" where unknown; imageName is the keypoint file's, with the picture's extension.
  """
  paths = paths or [""] * len(table["names"])
  count, names = len(table["names"]), joints.names(str(table["joint_set"]))
  have = {n.removeprefix("op_"): i for i, n in reversed(list(enumerate(names)))}
  f.write('{"ver": "jhmr 1", "parm_cam": "x = s X + t in -1..1 of the box (EFT)", "data": [\n')
  for i in range(count):
    row = {name: values[i] for name, values in table.items() if name != "joint_set"}
    s, tx, ty = row["camera"].astype(np.float64)
    entry = {"parm_pose": _numbers(row["pose"]), "parm_shape": _numbers(row["betas"]),
             "parm_cam": _numbers([s, s * tx, s * ty]), "bbox_scale": _numbers(row["box_size_px"] / 200),
             "bbox_center": _numbers(row["box_center_px"]),
             "joint_validity_openpose18": [int(n in have and row["keypoints"][have[n], 2] > 0) for n in OPENPOSE18],
             "smpltype": "smpl", "imageName": image_name(str(row["images"]), paths[i]),
             "annotId": int(row["annotation"]), "subjectId": str(row["names"]),
             "loss": _numbers(row["objective"]), "valid": bool(row["valid"])}
    f.write(json.dumps(entry) + (",\n" if i + 1 < count else "\n"))
  f.write("]}\n")


def image_name(name, path):
  """What a keypoint file calls a picture, with the extension of the file that it was found in."""
  complete = not path or name.lower().endswith(predict.EXTENSIONS)
  return name if complete else os.path.join(os.path.dirname(name), os.path.basename(path))


def _numbers(x):
  """As JSON has numbers: six decimals, and 0 where a fit is not finite."""
  return np.nan_to_num(np.round(np.asarray(x, np.float64), 6)).tolist()


def bodies(table, solver):
  """Vertices [N, 3] of one person after another, in their cameras."""
  for first in range(0, len(table["names"]), CHUNK):
    pick = np.minimum(np.arange(first, first + CHUNK), len(table["names"]) - 1)
    posed = _forward(solver.body, table["betas"][pick], table["pose"][pick], table["transl_m"][pick])
    yield from np.asarray(posed.vertices)[:len(table["names"]) - first]


def write_meshes(folder, table, solver):
  os.makedirs(folder, exist_ok=True)
  for name, vertices in zip(table["names"], bodies(table, solver)):
    mesh.write_obj(os.path.join(folder, f"{name}.obj"), vertices, solver.faces)


def write_pictures(out, table, solver, paths, everybody):
  """pictures/<name>.png of everybody or nobody, and fits.png, the first dozen on one sheet."""
  sheet = []
  for i, vertices in zip(range(len(paths) if everybody else ON_SHEET), bodies(table, solver)):
    panels = panels_of(table, i, vertices, solver.faces, paths[i])
    sheet += panels if i < ON_SHEET else []
    if everybody:
      os.makedirs(os.path.join(out, "pictures"), exist_ok=True)
      pictures.write(os.path.join(out, "pictures", f"{table['names'][i]}.png"), draw.grid(panels, columns=3))
  if sheet:
    labels = ["keypoints", "body and its joints", "from the side"] * (len(sheet) // 3)
    pictures.write(os.path.join(out, "fits.png"), draw.grid(sheet, columns=6, labels=labels))


def panels_of(table, i, vertices, faces, path):
  """[keypoints, body with its joints, side view] of one person, in the box around them."""
  center, size = table["box_center_px"][i], float(table["box_size_px"][i])
  zoom, bones = pictures.SIDE_PX / size, joints.edges(str(table["joint_set"]))
  place = lambda px: (px - center) * zoom + pictures.SIDE_PX / 2
  crop = np.full((pictures.SIDE_PX,) * 2 + (3,), BLANK, np.uint8)
  try:
    crop = images_lib.crop(predict.read_image(path), center, size, pictures.SIDE_PX) if path else crop
  except InputError as error:
    report.warn(f"{error}: drawn on grey")
  points = table["keypoints"][i]
  seen = draw.skeleton(crop, np.concatenate([place(points[:, :2]), points[:, 2:]], -1), bones)
  if not np.isfinite(vertices).all():
    return [seen, crop, crop]
  body, side = pictures.body_panels(crop, vertices, faces, float(table["focal_px"][i]) * zoom,
                                    tuple(place(table["center_px"][i])))
  return [seen, draw.skeleton(body, place(table["fitted_px"][i]), bones, thickness=1), side]


def read_truth(path, names):
  """{name: array} of a `truth.npz` of `python -m jhmr.data.keypoints`.

  Raises:
    InputError: when it is something else, or has nobody of these names.
  """
  truth = npz_files.read(path, ("names", "pose", "betas", "keypoints_px", "joint_set"))
  if missing := sorted({"names", "pose", "betas"} - set(truth)):
    raise InputError(f"--truth {path!r} lacks {', '.join(missing)}: give a truth.npz of jhmr.data.keypoints")
  count, pixels = truth["names"].shape, truth.get("keypoints_px", np.zeros((*truth["names"].shape, 0, 2)))
  if len(count) != 1 or truth["pose"].shape != (*count, 24, 3, 3) or truth["betas"].shape != (*count, 10) or (
      pixels.shape != (*count, *pixels.shape[1:2], 2)) or not all(
          np.issubdtype(x.dtype, np.floating) for x in (truth["pose"], truth["betas"], pixels)):
    shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in truth.items())
    raise InputError(f"--truth {path!r} holds {shapes}: give a truth.npz of jhmr.data.keypoints")
  if not set(names) & set(truth["names"].tolist()):
    raise InputError(f"--truth {path!r} names none of the people in the keypoints: give the truth.npz made with them")
  return truth


def score(truth, table, body):
  """[one row of a table] that compares fits with bodies that are known, matched by name.

  Args:
    truth: of `read_truth`.
    body: Smpl that both are bodies of.
  Returns:
    medians over keypoints of their distance to the detected and to the true ones, in pixels of a 224 crop; means over
    people of the errors of the 24 joints, in mm.
  """
  row = {name: i for i, name in enumerate(truth["names"].tolist())}
  ours = np.array([i for i, name in enumerate(table["names"].tolist()) if name in row], int)
  if not len(ours):
    raise InputError("--truth names none of the people that could be fitted: give the truth.npz of these keypoints")
  theirs = np.array([row[name] for name in table["names"][ours]])
  crop = camera.CROP_PX / table["box_size_px"][ours, None]
  found, real = (_forward(body, t["betas"][i], t["pose"][i]).joints for t, i in ((table, ours), (truth, theirs)))
  centred = lambda x: x - x[:, :1]
  result = {"people": len(ours), "keypoints_px": float(np.nanmedian(table["reprojection_px"][ours] * crop)),
            "mpjpe_mm": 1000 * float(np.mean(metrics.mpjpe(centred(found), centred(real)))),
            "pa_mpjpe_mm": 1000 * float(np.mean(metrics.pa_mpjpe(found, real)))}
  if "keypoints_px" in truth and truth.get("joint_set") == table["joint_set"]:
    gap = np.linalg.norm(table["fitted_px"][ours] - truth["keypoints_px"][theirs], axis=-1)
    result["true_keypoints_px"] = float(np.median(gap * crop))
  return [result]
