"""Pictures of predictions: the crop, the body laid over it, and the body from the side."""

import os

import cv2
from jhmr import files
from jhmr.body import camera, draw, smpl
from jhmr.data import images
from jhmr.errors import InputError
import jax
import numpy as np

SIDE_PX = 224           # every panel of a sheet
ON_SHEET = 12           # examples of a sheet
SIDE_M = 2.1            # of the world, across a side view
COLOR = (150, 185, 220)  # RGB of a predicted body
TRUTH = (165, 205, 160)  # RGB of a labelled one
_forward = jax.jit(smpl.forward)  # one program, not a hundred small ones


def write(path, image):
  """Writes RGB or RGBA uint8 [H, W, 3 or 4] to path, whole or not at all. Raises InputError when it cannot."""
  bgr = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[-1] == 4 else cv2.COLOR_RGB2BGR)
  extension = os.path.splitext(path)[1]
  ok, encoded = cv2.imencode(extension, bgr)
  if not ok:
    raise InputError(f"cannot write a picture as {extension!r}: use .png or .jpg")
  with files.whole(path, "wb") as f:
    f.write(encoded.tobytes())


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
  posed = _forward(body, prediction.betas[hypothesis], pose)
  vertices = np.asarray(posed.vertices + camera.weak_to_translation(prediction.camera[hypothesis]))
  return body_panels(crop, vertices, faces, camera.FOCAL_PX * SIDE_PX / camera.CROP_PX, (SIDE_PX / 2,) * 2)


def body_panels(crop, vertices, faces, focal_px, center_px, color=COLOR):
  """[overlay, side view] of a body [N, 3] (camera axes, metres); the camera is in pixels of the overlay's panel."""
  drawn = draw.body_picture(vertices, faces, focal_px, center_px, (SIDE_PX, SIDE_PX), color)
  large = cv2.resize(crop, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
  return [draw.overlay(large, drawn[..., :3], drawn[..., 3]), side_panel(vertices, faces, color)]


def side_panel(vertices, faces, color):
  """A body [N, 3] (camera axes, metres) from its right, in the middle of a white panel SIDE_M wide."""
  side = draw.side_view(vertices)
  side = side - (side.min(0) + side.max(0)) / 2 + np.array([0, 0, camera.FOCAL_PX * SIDE_M / SIDE_PX], np.float32)
  drawn = draw.body_picture(side, faces, camera.FOCAL_PX, (SIDE_PX / 2,) * 2, (SIDE_PX, SIDE_PX), color)
  return draw.overlay(np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8), drawn[..., :3], drawn[..., 3], 1.0)


def prediction_sheet(predict, state, batch, assets, num=ON_SHEET):
  """A grid of a batch's first examples: input, predicted overlay and side view, and the labelled body's side view.

  Args:
    predict: of a System.  state, batch, assets: on the host; the batch as networks see it.
  Returns:
    uint8 [H, W, 3].
  """
  prediction = jax.device_get(jax.jit(predict)(state, batch, assets))
  faces, rows = np.asarray(assets["surface"].faces), []
  for i in range(min(num, batch["image"].shape[0])):
    crop = images.to_uint8(batch["image"][i])
    one = jax.tree.map(lambda x: x[i], prediction)
    pose = np.concatenate([batch["global_orient"][i], batch["body_pose"][i]])
    truth = _forward(assets["body"], batch["betas"][i], pose)
    rows += [cv2.resize(crop, (SIDE_PX, SIDE_PX)), *panels(crop, assets["body"], faces, one),
             side_panel(np.asarray(truth.vertices), faces, TRUTH)]
  return draw.grid(rows, columns=8, labels=["input", "predicted", "from the side", "truth, side"] * (len(rows) // 4))
