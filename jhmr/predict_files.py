"""What `predict` writes of each person: parameters, meshes and pictures of their hypotheses."""

import json
import os

import cv2
from jhmr import files, pictures
from jhmr.body import camera, draw, mesh, smpl
import jax
import numpy as np

JSON_MOST = 128  # hypotheses of which the JSON has the parameters
ON_SHEET = 48    # people whose pictures are kept for `sheet`; fewer where each has many panels
_forward = jax.jit(smpl.forward)


def outputs(person, prediction, assets, focal_px):
  """What is written of one person, every hypothesis in its crop's camera and in the full image's.

  Args:
    prediction: of one person, leaves [S, ...].
    assets: with "joints_body" of `sampling.body_of`: no mesh is made here.
  """
  focal = focal_px or camera.FOCAL_PX / camera.CROP_PX * float(person["image_size"].max())
  transl = camera.crop_to_full(prediction.camera, person["box_center_px"], person["box_size_px"],
                               person["image_size"], focal)
  pose = np.concatenate([prediction.global_orient, prediction.body_pose], axis=1)
  posed = _forward(assets["joints_body"], prediction.betas, pose, transl)
  found = {"vertices": prediction.vertices} if prediction.vertices is not None else {}
  return found | {
      "global_orient": prediction.global_orient, "body_pose": prediction.body_pose, "betas": prediction.betas,
      "camera": prediction.camera, "log_prob": prediction.log_prob, "transl_m": np.asarray(transl),
      "joints_cam_m": np.asarray(posed.joints), "focal_px": np.float32(focal),
      "box_center_px": person["box_center_px"], "box_size_px": np.float32(person["box_size_px"]),
      "image_size": person["image_size"]}


def write_person(out, person, found, assets, args):
  """Writes one person's files into the folder `out`; returns the panels of the picture.

  Args:
    found: sampling.Hypotheses of the person, NumPy; without --num-samples those predicted, of which one is shown.
  """
  stem, prediction = os.path.join(out, person["name"]), found.prediction
  values = outputs(person, prediction, assets, args.focal)
  if args.num_samples:
    values |= {"shown": found.shown} | ({"z": found.z} if len(found.z) else {})
  with files.whole(stem + ".npz", "wb") as f:
    np.savez_compressed(f, **values)
  with files.whole(stem + ".json") as f:
    json.dump({"image": person["image"]} | {k: _rounded(v) for k, v in _for_json(values, args).items()
                                            if k != "vertices"}, f)
  faces = np.asarray(assets["surface"].faces)
  if not args.no_meshes:
    for s in found.shown:
      pose = np.concatenate([prediction.global_orient[s], prediction.body_pose[s]])
      posed = _forward(assets["body"], prediction.betas[s], pose, values["transl_m"][s])
      mesh.write_obj(f"{stem}_sample{s}.obj" if s else stem + ".obj", np.asarray(posed.vertices), faces)
    if prediction.vertices is not None:
      mesh.write_obj(stem + "_mesh.obj", np.asarray(prediction.vertices[0]) + values["transl_m"][0], faces)
  return None if args.no_pictures else _write_picture(stem, person, found, assets["body"], faces, args)


def _rounded(x):
  x = np.asarray(x)
  return x.tolist() if x.dtype.kind == "i" else x.astype(np.float64).round(6).tolist()


def _for_json(values, args):
  """What the JSON has of `outputs`: without --num-samples all, else no latents and perhaps not every hypothesis."""
  if not args.num_samples:
    return values
  kept = np.arange(args.num_samples) if args.num_samples <= JSON_MOST else values["shown"]
  several = ("global_orient", "body_pose", "betas", "camera", "log_prob", "transl_m", "joints_cam_m")
  return {k: v[kept] if k in several else v for k, v in values.items() if k != "z"} | {
      "hypotheses": kept, "num_samples": args.num_samples, "seed": args.seed}


def _write_picture(stem, person, found, body, faces, args):
  if args.num_samples:
    row = [pictures.hypothesis_picture(person["crop"], body, faces, found, person.get("truth"))]
    pictures.write(stem + ".png", row[0])
    return row
  side = pictures.SIDE_PX
  large = cv2.resize(person["crop"], (side, side))
  row = [large, *pictures.panels(person["crop"], body, faces, found.prediction)]
  row += [] if found.prediction.vertices is None else pictures.mesh_panels(person["crop"], faces, found.prediction)
  pictures.write(stem + ".png", draw.grid(row, columns=len(row)))
  return row


def write_walk(out, person, found, prediction, z, assets, args):
  """Writes the walk through one person's shown hypotheses: `prediction` and z have leaves [L, T, ...]."""
  stem = os.path.join(out, person["name"] + "_walk")
  values = outputs(person, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), prediction), assets, args.focal)
  legs = lambda v: np.reshape(v, (*z.shape[:2], *np.shape(v)[1:]))
  single = ("focal_px", "box_center_px", "box_size_px", "image_size")
  with files.whole(stem + ".npz", "wb") as f:
    np.savez_compressed(f, z=z, shown=found.shown, **{k: v if k in single else legs(v) for k, v in values.items()})
  if not args.no_pictures:
    names = ["mode", *(f"sample {s}" for s in found.shown[1:])]
    faces = np.asarray(assets["surface"].faces)
    pictures.write(stem + ".png", pictures.walk_picture(person["crop"], assets["body"], faces, prediction, names))


def sheet(rows):
  """The first people's pictures in one."""
  if len(rows[0]) > 1:
    return draw.grid([p for row in rows[:ON_SHEET] for p in row], columns=2 * len(rows[0]))
  return draw.grid([row[0] for row in rows[:ON_SHEET // 4]], columns=min(2, len(rows)))
