"""Pictures of predictions: the crop, the body laid over it, and the body from the side; several bodies where there are.

A person of many hypotheses is two rows of panels: above the crop, the first one, and a few others over it; below the
same bodies from the side. The last column has the skeletons of all hypotheses, the first one's in black. The few others
are those of `sampling.representatives`.
"""

import os

import cv2
from jhmr import files, sampling
from jhmr.body import camera, draw, joints, smpl
from jhmr.data import images
from jhmr.errors import InputError
import jax
import numpy as np

SIDE_PX = 224           # every panel of a sheet
ON_SHEET = 12           # examples of a sheet
SIDE_M = 2.1            # of the world, across a side view
COLOR = (150, 185, 220)  # RGB of a predicted body
MESH = (230, 180, 180)   # RGB of a predicted mesh that is no posed body
TRUTH = (165, 205, 160)  # RGB of a labelled one
SAMPLE = (228, 190, 150)  # RGB of a random one
SHOWN = 4               # hypotheses that are drawn as bodies, the mode among them
SHEET_SAMPLES = 64      # hypotheses an example on the sheet of a density
SHEET_SET = 10          # of a set, fewer where there are no more
SHEET_PEOPLE = 8        # examples of that sheet
MOST_SKELETONS = 200    # in one panel
BONES = joints.edges("smpl24")
LIMBS = {"left": (225, 120, 50), "right": (40, 125, 215), "": (130, 130, 130)}  # RGB of their bones
_BONE_COLORS = [LIMBS[n.split("_")[0] if n.split("_")[0] in LIMBS else ""] for n in
                (joints.names("smpl24")[j] for _, j in BONES)]
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


def panels(crop, body, faces, prediction, hypothesis=0, color=COLOR):
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
  return body_panels(crop, vertices, faces, camera.FOCAL_PX * SIDE_PX / camera.CROP_PX, (SIDE_PX / 2,) * 2,
                     color)


def mesh_panels(crop, faces, prediction):
  """As `panels`, of the first hypothesis' mesh that is no posed body, `Prediction.vertices`."""
  vertices = np.asarray(prediction.vertices[0] + camera.weak_to_translation(prediction.camera[0]))
  return body_panels(crop, vertices, faces, camera.FOCAL_PX * SIDE_PX / camera.CROP_PX, (SIDE_PX / 2,) * 2, MESH)


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


def hypothesis_picture(crop, body, faces, hypotheses, truth=None):
  """The two rows of panels of one person, labelled; see the top of this file.

  Args:
    crop, body, faces: as `panels` takes them.
    hypotheses: sampling.Hypotheses of one example, NumPy.
    truth: (betas [10], pose [24, 3, 3]) of the labelled body, whose side view goes below the crop.
  Returns:
    uint8 [H, W, 3], SHOWN + 2 columns wide or, for fewer hypotheses, less.
  """
  below = np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8)
  if truth is not None:
    below = side_panel(np.asarray(_forward(body, *truth).vertices), faces, TRUTH)
  columns = [("input", "" if truth is None else "truth, side", cv2.resize(crop, (SIDE_PX, SIDE_PX)), below)]
  first, other = ("mode", "sample") if len(hypotheses.z) else ("first", "hypothesis")
  for s in hypotheses.shown:
    name = f"{other} {s}" if s else first
    columns.append((name, f"{name}, side",
                    *panels(crop, body, faces, hypotheses.prediction, s, SAMPLE if s else COLOR)))
  if (count := len(hypotheses.joints)) > 1:
    name = f"all {count}" if count <= MOST_SKELETONS else f"first {MOST_SKELETONS} of {count}"
    columns.append((name, f"{name}, side",
                    *skeleton_panels(crop, hypotheses.joints, hypotheses.prediction.camera)))
  labels, side_labels, front, side = zip(*columns)
  return draw.grid(front + side, columns=len(columns), labels=labels + side_labels)


def skeleton_panels(crop, points, cameras):
  """[over the faded crop, from the side] of skeletons [S, 24, 3] with cameras [S, 3], the first one in black."""
  points, cameras = np.asarray(points)[:MOST_SKELETONS], cameras[:MOST_SKELETONS]
  pale = np.round(255 - 0.35 * (255.0 - cv2.resize(crop, (SIDE_PX, SIDE_PX)))).astype(np.uint8)
  over = SIDE_PX / 2 * (1 + np.asarray(camera.project_crop(points, cameras)))
  lowest, highest = points[0].min(0), points[0].max(0)
  off = (points - (lowest + highest) / 2) * (SIDE_PX / SIDE_M)  # as `side_panel`, whose camera is far away
  beside = SIDE_PX / 2 + np.stack([off[..., 2], off[..., 1]], -1)
  alpha = float(np.clip(6 / len(points), 0.15, 0.6))
  mode = lambda image, px: draw.skeletons(image, px[:1], BONES, [(0, 0, 0)] * len(BONES), 1.0)
  return [mode(draw.skeletons(image, px[1:], BONES, _BONE_COLORS, alpha), px)
          for image, px in ((pale, over), (np.full_like(pale, 255), beside))]


def walk_picture(crop, body, faces, prediction, names):
  """Strips of a walk through the latent space: for each leg a row of overlays, and below it the bodies from the side.

  Args:
    prediction: Prediction of one example with leaves [L, T, ...]: L legs of T bodies, ends included.
    names: of the L + 1 places the walk passes.
  Returns:
    uint8 [H, W, 3].
  """
  legs, steps = prediction.camera.shape[:2]
  cells, labels = [], []
  for leg in range(legs):
    bodies = [panels(crop, body, faces, jax.tree.map(lambda x, leg=leg: x[leg], prediction), t,
                     COLOR if leg == 0 and t == 0 else SAMPLE) for t in range(steps)]
    cells += [b[0] for b in bodies] + [b[1] for b in bodies]
    labels += [names[leg], *(f"{t}/{steps - 1}" for t in range(1, steps - 1)), names[leg + 1]] + [""] * steps
  return draw.grid(cells, columns=steps, labels=labels)


def prediction_sheet(system, state, batch, assets, num=ON_SHEET):
  """A grid of a batch's first examples: input, predicted overlay and side view, and the labelled body's side view.

  For a system of many hypotheses it has SHEET_PEOPLE of them at most, each a `hypothesis_picture`; where a mesh is
  predicted beside the body, that is shown too.

  Args:
    system: a System.  state, batch, assets: on the host; the batch as networks see it.
  Returns:
    uint8 [H, W, 3].
  """
  num = min(num, batch["image"].shape[0])
  if system.latent is not None or system.choose is not None:
    return _hypothesis_sheet(system, state, batch, assets, min(num, SHEET_PEOPLE))
  prediction = jax.device_get(jax.jit(system.predict)(state, batch, assets))
  faces, rows, labels = np.asarray(assets["surface"].faces), [], ["input", "predicted", "from the side"]
  for i in range(num):
    crop = images.to_uint8(batch["image"][i])
    one = jax.tree.map(lambda x: x[i], prediction)
    truth = _forward(assets["body"], *_truth(batch, i))
    rows += [cv2.resize(crop, (SIDE_PX, SIDE_PX)), *panels(crop, assets["body"], faces, one)]
    rows += [] if one.vertices is None else mesh_panels(crop, faces, one)
    rows.append(side_panel(np.asarray(truth.vertices), faces, TRUTH))
  labels += [] if prediction.vertices is None else ["mesh", "from the side"]
  return draw.grid(rows, columns=2 * len(labels) + 2, labels=[*labels, "truth, side"] * num)


def _truth(batch, i):
  return batch["betas"][i], np.concatenate([batch["global_orient"][i], batch["body_pose"][i]])


def _set_size(system, state, batch, assets):
  """How many hypotheses of a set are shown: no more than there are; what predicts one draws as many as asked for."""
  there = jax.eval_shape(system.predict, state, batch, assets).betas.shape[1]
  return min(SHEET_SET, there) if there > 1 else SHEET_SET


def _hypothesis_sheet(system, state, batch, assets, num):
  batch = {name: x[:num] for name, x in batch.items()}
  assets = assets | {"joints_body": sampling.body_of(assets)}
  keys = sampling.keys_of(0, [str(i) for i in batch["id"]])
  count = SHEET_SAMPLES if system.latent is not None else _set_size(system, state, batch, assets)

  @jax.jit
  def program(state, batch, assets, keys):
    return sampling.of_system(system, state, batch, assets, keys, count, SHOWN)

  found, faces = jax.device_get(program(state, batch, assets, keys)), np.asarray(assets["surface"].faces)
  people = [hypothesis_picture(images.to_uint8(batch["image"][i]), assets["body"], faces,
                               jax.tree.map(lambda x, i=i: x[i], found),
                               _truth(batch, i) if batch["has_pose"][i] else None) for i in range(num)]
  return draw.grid(people, columns=min(2, num))
