"""Pictures of predictions: the crop, the body laid over it, and the body from the side."""

import os

import cv2
from jhmr.body import camera, draw, smpl
from jhmr.data import images
from jhmr.errors import InputError
import jax
import numpy as np

SIDE_PX = 224           # every panel of a sheet
COLOR = (150, 185, 220)  # RGB of a predicted body
TRUTH = (165, 205, 160)  # RGB of a labelled one


def write(path, image):
  """Writes RGB or RGBA uint8 [H, W, 3 or 4] to path, whole or not at all. Raises InputError when it cannot."""
  bgr = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[-1] == 4 else cv2.COLOR_RGB2BGR)
  extension = os.path.splitext(path)[1]
  ok, encoded = cv2.imencode(extension, bgr)
  if not ok:
    raise InputError(f"cannot write a picture as {extension!r}: use .png or .jpg")
  with open(path + ".tmp", "wb") as f:
    f.write(encoded.tobytes())
  os.replace(path + ".tmp", path)


def panels(crop, body, faces, prediction, hypothesis=0):
  """[overlay, side view] of one hypothesis of one example.

  Args:
    crop: uint8 [S, S, 3], what the network saw, before normalisation.
    body: Smpl.  faces: [F, 3].
    prediction: a Prediction of one example, leaves [S, ...] (no batch axis), NumPy.
  Returns:
    a list of two uint8 images [SIDE_PX, SIDE_PX, 3].
  """
  pose = np.concatenate([prediction.global_orient[hypothesis], prediction.body_pose[hypothesis]])
  posed = smpl.forward(body, prediction.betas[hypothesis], pose)
  transl = camera.weak_to_translation(prediction.camera[hypothesis])
  return body_panels(crop, np.asarray(posed.vertices + transl), faces, camera.FOCAL_PX, (camera.CROP_PX / 2,) * 2, COLOR)


def body_panels(crop, vertices_cam, faces, focal_px, center_px, color):
  """[overlay, side view] of a posed body in the camera frame of a CROP_PX crop, in metres."""
  scale = SIDE_PX / camera.CROP_PX
  big = cv2.resize(crop, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
  center = np.asarray(center_px, np.float32) * scale
  front = draw.body_picture(vertices_cam, faces, focal_px * scale, center, (SIDE_PX, SIDE_PX), color)
  side = draw.side_view(vertices_cam)
  aside = draw.body_picture(side, faces, focal_px * scale, (SIDE_PX / 2,) * 2, (SIDE_PX, SIDE_PX), color)
  white = np.full_like(big, 255)
  return [draw.overlay(big, front[..., :3], front[..., 3]), draw.overlay(white, aside[..., :3], aside[..., 3], 1.0)]


def prediction_sheet(predict, state, split, assets, num=12):
  """A grid of a split's first examples: input, predicted overlay and side view, and the labelled body's side view.

  Args:
    predict: of a System.  state, assets: on the host or one device.  split: a Source of `data.source.open_split`.
  Returns:
    uint8 [H, W, 3].
  """
  batch = jax.jit(split.on_device)(split.batch(0), assets)
  prediction = jax.device_get(jax.jit(predict)(state, batch, assets))
  faces, rows = np.asarray(assets["surface"].faces), []
  for i in range(min(num, batch["image"].shape[0])):
    crop = images.to_uint8(np.asarray(batch["image"][i]))
    one = jax.tree.map(lambda x: x[i], prediction)
    pose = np.concatenate([batch["global_orient"][i], batch["body_pose"][i]])
    truth = smpl.forward(assets["body"], batch["betas"][i], pose)
    placed = np.asarray(truth.vertices + camera.weak_to_translation(one.camera[0]))
    rows += [cv2.resize(crop, (SIDE_PX, SIDE_PX)), *panels(crop, assets["body"], faces, one),
             body_panels(crop, placed, faces, camera.FOCAL_PX, (camera.CROP_PX / 2,) * 2, TRUTH)[1]]
  return draw.grid(rows, columns=8, labels=["input", "predicted", "from the side", "truth, side"] * (len(rows) // 4))
