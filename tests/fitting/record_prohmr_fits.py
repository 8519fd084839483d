"""Records goldens/prohmr_fits.npz: the authors' keypoint fitting and multi-view refinement, weights of `prohmr_inputs`.

    PYTHONPATH=.:tests python tests/fitting/record_prohmr_fits.py ProHMR nflows tests/fitting/goldens/prohmr_fits.npz

ProHMR and nflows are checkouts of theirs, see `record_prohmr.py`. Everything is run from the same float32 numbers: one
call of L-BFGS, up to 20 steps, in float32, and CALLS of them in float64, since a fit magnifies rounding: after five
calls of their float32 and float64 code, joints are 5 mm apart on average. The keypoints are those of a body away from
the mode, with noise.
"""

import sys
import tempfile

import numpy as np
from systems import prohmr_inputs as inputs
from systems.goldens import authors_prohmr
import torch

CALLS = 5


def started(model, dtype):
  """What their network says of the people: {"features", "betas", "camera"}, float32 numbers."""
  image = torch.tensor(inputs.images(inputs.PEOPLE, inputs.PEOPLE_SIZE), dtype=dtype).permute(0, 3, 1, 2)
  with torch.no_grad():
    features = model.backbone(image)
    made = model.flow(features, z=torch.zeros(inputs.PEOPLE, 1, 144, dtype=dtype))
  return {"features": features.numpy(), "betas": made[0]["betas"][:, 0].numpy(), "camera": made[1][:, 0].numpy()}


def detections(model, start):
  """[PEOPLE, 44, 3] pixels of the pictures and confidence."""
  from prohmr.utils.geometry import perspective_projection
  rng, place = np.random.RandomState(5), inputs.places()
  z = torch.tensor(0.5 * rng.normal(size=(inputs.PEOPLE, 1, 144)).astype(np.float32))
  with torch.no_grad():
    made = model.flow(torch.tensor(start["features"]), z=z)[0]
    points = model.smpl(**{k: v[:, 0] for k, v in made.items()}, pose2rot=False).joints
    scale, x, y = torch.tensor(start["camera"]).T * torch.tensor([1.05, 1.0, 1.0])[:, None]
    size, center, wh = (torch.tensor(place[k]) for k in ("box_size", "box_center", "img_size"))
    depth = 2 * 5000 / (size * scale)
    where = torch.cat([torch.stack([x, y], 1) + (center - wh / 2) * depth[:, None] / 5000, depth[:, None]], 1)
    pixels = perspective_projection(points, where, torch.full((inputs.PEOPLE, 2), 5000.0), camera_center=wh / 2).numpy()
  pixels += 3 * rng.normal(size=pixels.shape)
  confidence = rng.uniform(0.3, 1, (inputs.PEOPLE, 44, 1)) * (rng.uniform(size=(inputs.PEOPLE, 44, 1)) > 0.1)
  return np.concatenate([pixels, confidence], -1).astype(np.float32)


def fits(model, cfg, start, keypoints, dtype, num_calls):
  """Their two optimisations: joints of every person."""
  from prohmr.optimization import KeypointFitting, MultiviewRefinement
  options = dict(max_iters=num_calls, device=torch.device("cpu"))
  given = {k: torch.tensor(v, dtype=dtype) for k, v in start.items()}
  flow = lambda z: model.flow(given["features"], z=z)
  output = {"pred_cam": given["camera"][:, None], "pred_smpl_params": {"betas": given["betas"][:, None]}}
  data = {k: torch.tensor(v, dtype=dtype) for k, v in inputs.places().items()}
  data["orig_keypoints_2d"] = torch.tensor(keypoints, dtype=dtype)
  task = KeypointFitting(cfg, **options)
  task.smpl = task.smpl.to(dtype)
  found = task(flow, output, data, full_frame=True, use_hips=False)
  task = MultiviewRefinement(cfg, **options)
  task.smpl = task.smpl.to(dtype)
  views = task(flow, output, data)
  return {"joints": found["model_joints"], "translation": found["camera_translation"],
          "view_joints": views["model_joints"]}


def main(prohmr, nflows, path):
  recorded, seen = {}, ("features", "betas", "camera")
  for name, dtype in (("", torch.float32), ("exact_", torch.float64)):
    with tempfile.TemporaryDirectory() as folder:
      model, cfg = authors_prohmr.build(prohmr, nflows, folder, dtype)
      model.eval().requires_grad_(False)  # else each evaluation would differentiate by every weight, too
      if not recorded:
        recorded = started(model, dtype)
        recorded["keypoints"] = detections(model, recorded)
      given = {k: recorded[k] for k in seen}, recorded["keypoints"], dtype
      for num in {1, CALLS}:
        found = fits(model, cfg, *given, num)
        recorded |= {f"{name}{k}_{num}": v.detach().numpy() for k, v in found.items()}
  for num in (1, CALLS):
    for k in (f"joints_{num}", f"view_joints_{num}"):
      apart = 1000 * np.linalg.norm(recorded[k] - recorded[f"exact_{k}"], axis=-1)
      print(f"{k}: their float32 is {apart.mean():.4f} mm from their float64 on average, {apart.max():.4f} at most")
  recorded["sum_weights"], recorded["sum_body"] = inputs.total(inputs.weights()), inputs.total(inputs.body())
  np.savez_compressed(path, **recorded)


if __name__ == "__main__":
  main(*sys.argv[1:])
