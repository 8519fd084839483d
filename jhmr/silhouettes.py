"""How well a body's outline and parts cover the annotated ones in the photograph: pixel counts, pooled over a data set.

Classes are 0 background, 1 left arm, 2 right arm, 3 head, 4 left leg, 5 right leg, 6 torso, as `mesh.Surface.parts6`.
The body is drawn in its crop, where the network saw it; `data.spin_crop.uncrop` takes its labels to the photograph.
"""

import os

import jax.numpy as jnp
from jhmr import intervals
from jhmr.body import camera, render, smpl
from jhmr.errors import InputError
import numpy as np

NUM_PARTS = 7
IGNORED = 255  # of annotated parts
NEAREST_M = 15.0  # a body three times as large as its crop; nearer ones may lose faces, which are counted


def windows(body, faces):
  """The renderer's search windows for bodies in crops, found once at set-up."""
  return render.choose_windows(np.asarray(body.template).T, np.asarray(faces), camera.FOCAL_PX, NEAREST_M)


def released_parts(folder, num_faces):
  """Part labels of faces from the two files released with GraphCMR and SPIN.

  Args:
    folder: perhaps with `vertex_texture.npy`, an RGB for each face, and `cube_parts.npy`, the class of each RGB.
    num_faces: of the body.
  Returns:
    int32 [F] in 1..6, or None when the folder lacks one of them.
  Raises:
    InputError: when they are not those files.
  Source: SPIN, `utils/part_utils.py:get_parts`: the class at floor(100 RGB).
  """
  paths = [os.path.join(folder, name) for name in ("vertex_texture.npy", "cube_parts.npy")]
  if not all(map(os.path.isfile, paths)):
    return None
  try:
    texture, cube = (np.load(path, allow_pickle=False) for path in paths)
    colors = texture.reshape(num_faces, -1, 3)[:, 0]
    labels = cube[tuple(np.floor(100 * colors).astype(int).T)].astype(np.int32)
  except Exception as error:  # NumPy has many kinds; shapes and indices that do not fit have theirs
    raise InputError(f"{paths[0]!r} and {paths[1]!r} give no part labels of {num_faces:,} faces ({error}): take both "
                     "from SPIN's data, or remove them") from error
  if labels.min() < 1 or labels.max() >= NUM_PARTS:
    raise InputError(f"{paths[1]!r} gives part labels {labels.min()}..{labels.max()}, not 1..{NUM_PARTS - 1}: take it "
                     "from SPIN's data, or remove it")
  return labels


def draw(prediction, assets, size, mesh=False):
  """Part labels of the first hypothesis in its crop.

  Args:
    prediction: state.Prediction.
    assets: with "body" and "surface".
    size: Windows of `windows`, static.
    mesh: draw `prediction.vertices`, the mesh that is no posed body.
  Returns:
    (labels [B, 224, 224] uint8, faces not fully drawn [B] int32).
  Source: SPIN, `utils/part_utils.py`: f = 5000, principal point 112, translation (tx, ty, 2 f / (224 s)).
    GraphCMR, authors' `eval.py`: of its two meshes the one of the graph network, with the same camera.
  """
  transl = camera.weak_to_translation(prediction.camera[:, 0])
  if mesh:
    vertices = prediction.vertices[:, 0] + transl[:, None]
  else:
    pose = prediction.pose[:, 0]
    vertices = smpl.forward(assets["body"], prediction.betas[:, 0], pose, transl).vertices
  side = int(camera.CROP_PX)
  scene = render.render_batch(vertices[:, None], assets["surface"].faces, camera.FOCAL_PX,
                              jnp.array([side / 2, side / 2]), (side, side), size)
  return render.part_labels(scene, assets["surface"].parts6), scene.overflow


def count(predicted, mask, parts):
  """Pixels of one photograph, by what was predicted and what is annotated.

  Args:
    predicted: [H, W] uint8, classes 0..6.
    mask: [H, W] annotated silhouette, background is 0.
    parts: [H, W] uint8 annotated classes, or IGNORED.
  Returns:
    {"pixels": [], "fb_equal": [], "part_equal": [], "fb": [2, 3], "parts": [7, 3]}; the last two are true positives,
    false positives and false negatives of each class.
  Raises:
    ValueError: when the annotations have another size than the prediction, or other classes.
  Source: SPIN, authors' `eval.py`, after UP-3D's code: predictions on ignored pixels are no false positives, but for
    the accuracy those pixels are background.
  """
  for name, image in (("silhouette", mask), ("part labels", parts)):
    if image.shape != predicted.shape:
      raise ValueError(f"its {name} have {image.shape} pixels where its photograph has {predicted.shape}")
  ignored = parts == IGNORED
  if np.any((parts >= NUM_PARTS) & ~ignored):
    raise ValueError(f"its part labels hold a {int(parts[(parts >= NUM_PARTS) & ~ignored].max())} beside classes 0 to "
                     f"{NUM_PARTS - 1} and {IGNORED}")
  true, guess = (mask > 0).astype(np.uint8), (predicted > 0).astype(np.uint8)
  return {"pixels": predicted.size, "fb_equal": np.sum(true == guess), "fb": _by_class(true, guess, 2),
          "part_equal": np.sum(np.where(ignored, 0, parts) == predicted),
          "parts": _by_class(parts[~ignored], predicted[~ignored], NUM_PARTS)}


def _by_class(true, guess, num):
  """[num, 3] true positives, false positives, false negatives."""
  table = np.bincount(true.ravel().astype(np.int64) * num + guess.ravel(), minlength=num**2).reshape(num, num)
  hits = np.diag(table)
  return np.stack([hits, table.sum(0) - hits, table.sum(1) - hits], axis=1)


def replicates(counts, num=intervals.RESAMPLES, seed=0):
  """The four scores of a data set and of resampled ones, as `intervals.replicates`.

  Args:
    counts: {name: [N, ...]} of `count`, N photographs.
  Returns:
    {"fb_accuracy_percent", "fb_f1", "part_accuracy_percent", "part_f1"}: float64 [1 + num].
  Source: SPIN, authors' `eval.py`: counts are pooled, then F1 = 2 TP / (2 TP + FP + FN) is averaged over the classes.
  Differs: a class that is neither annotated nor predicted anywhere is left out; theirs makes the mean undefined.
  """
  counts = {name: np.asarray(value, np.float64) for name, value in counts.items()}
  rows = {"fb_accuracy_percent": (100 * counts["fb_equal"], counts["pixels"]),
          "part_accuracy_percent": (100 * counts["part_equal"], counts["pixels"])}
  for key in ("fb", "parts"):
    hits, false, missed = np.moveaxis(counts[key], 2, 0)
    rows |= {f"{key}{c}": (2 * hits[:, c], 2 * hits[:, c] + false[:, c] + missed[:, c]) for c in range(hits.shape[1])}
  found = intervals.replicates(rows, num, seed)
  mean = lambda key, size: np.nanmean([found[f"{key}{c}"] for c in range(size)], axis=0)
  return {"fb_accuracy_percent": found["fb_accuracy_percent"], "fb_f1": mean("fb", 2),
          "part_accuracy_percent": found["part_accuracy_percent"], "part_f1": mean("parts", NUM_PARTS)}
