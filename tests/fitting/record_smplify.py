"""Records goldens/smplify.npz: the authors' SMPLify of SPIN and loss of SMPLify-X on the built-in body and mixture.

    PYTHONPATH=.:tests python tests/fitting/record_smplify.py SPIN smplify-x tests/fitting/goldens/smplify.npz

SPIN and smplify-x are checkouts of nkolot/SPIN and vchoutas/smplify-x. Their optimisation and losses run as they are;
their SMPL class, which reads licensed files, is stood in for by smplx's layer with the built-in body.
"""

import importlib
import os
import pickle
import sys
import tempfile
import types

from jhmr.benchmarks import body as body_rows
from jhmr.body import joints, smpl
from jhmr.fitting import gmm_fit, priors
import numpy as np
import torch

from fitting import body_sum

PEOPLE, STEPS = 6, 100
BODY = "mannequin"


class Layer(torch.nn.Module):
  """smplx's layer, with the 49 joints of SPIN."""

  def __init__(self, *_, batch_size=1, **__):
    super().__init__()
    arrays = smpl.load_arrays(BODY)
    self.inner = body_rows.peer_layer(arrays, batch_size)
    self.rows = torch.tensor(np.asarray(arrays["regressor_extra9"]), dtype=torch.float32)
    self.order = torch.tensor(joints.mapping("spin54", "spin49"))

  def forward(self, global_orient, body_pose, betas, **_):
    out = self.inner(global_orient=global_orient, body_pose=body_pose, betas=betas)
    points = torch.cat([out.joints, torch.einsum("kn,bnc->bkc", self.rows, out.vertices)], 1)
    full = torch.cat([global_orient, body_pose], 1)
    return types.SimpleNamespace(joints=points[:, self.order], vertices=out.vertices, full_pose=full, betas=betas,
                                 body_pose=body_pose)


def people():
  """What a network could have said of people, and their keypoints: parameters some way off, noise, missing ones."""
  rng = np.random.default_rng(0)
  mean = np.asarray(priors.default_gmm().mean_pose())
  true = np.concatenate([np.tile([np.pi, 0, 0], (PEOPLE, 1)) + 0.2 * rng.normal(size=(PEOPLE, 3)),
                         mean + 0.25 * rng.normal(size=(PEOPLE, 69))], 1)
  betas, depth = rng.normal(size=(PEOPLE, 10)), rng.uniform(40, 60, PEOPLE)
  where = np.stack([*rng.uniform(-0.1, 0.1, (2, PEOPLE)), depth], -1)
  f32 = lambda x: torch.tensor(x, dtype=torch.float32)
  with torch.no_grad():
    points = Layer(batch_size=PEOPLE)(f32(true[:, :3]), f32(true[:, 3:]), f32(betas)).joints.numpy() + where[:, None]
  pixels = 5000 * points[..., :2] / points[..., 2:] + 112 + 3 * rng.normal(size=(PEOPLE, 49, 2))
  confidence = rng.uniform(0.3, 1, (PEOPLE, 49, 1)) * (rng.uniform(size=(PEOPLE, 49, 1)) > 0.15)
  torsos = [joints.index("spin49", prefix + name) for prefix in ("", "op_") for name in
            ("right_hip", "left_hip", "right_shoulder", "left_shoulder")]
  confidence[:, torsos] = np.maximum(confidence[:, torsos], 0.3)
  confidence[0, torsos[4]] = 0  # who has no detected torso is placed by the annotated one
  start = {"start_pose": true + 0.15 * rng.normal(size=true.shape),
           "start_betas": betas + 0.5 * rng.normal(size=betas.shape),
           "start_translation": where + np.stack([*0.03 * rng.normal(size=(2, PEOPLE)), 2 * rng.normal(size=PEOPLE)], -1)}
  found = start | {"keypoints": np.concatenate([pixels, confidence], -1)}
  return {k: v.astype(np.float32) for k, v in found.items()}


def stand_in(folder):
  """Makes SPIN's modules importable, and writes the mixture where they look for it."""
  modules = {"models": {}, "models.smpl": {"SMPL": Layer}, "config": {"SMPL_MODEL_DIR": ""},
             "mesh_viewer": {"MeshViewer": None}}
  for name, content in modules.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(content)
  sys.modules["smplify.prior"] = importlib.import_module("prior")  # SPIN downloads that file of smplify-x
  mixture = {k: np.asarray(v, np.float64) for k, v in gmm_fit.read_mixture(priors.DEFAULT)._asdict().items()}
  os.makedirs(os.path.join(folder, "data"))
  with open(os.path.join(folder, "data", "gmm_08.pkl"), "wb") as f:
    pickle.dump(mixture, f)


def spin(given):
  """Their losses at the start, and where their optimisation ends."""
  from smplify import losses
  from smplify.smplify import SMPLify
  tensor = {k: torch.tensor(v) for k, v in given.items()}
  fitter = SMPLify(batch_size=PEOPLE, num_iters=STEPS, device=torch.device("cpu"))
  center, keypoints = torch.full((PEOPLE, 2), 112.0), tensor["keypoints"]
  start = tensor["start_pose"], tensor["start_betas"], tensor["start_translation"]
  with torch.no_grad():
    points = fitter.smpl(start[0][:, :3], start[0][:, 3:], start[1]).joints
    each = {"camera_loss": [], "body_loss": []}
    for i in range(PEOPLE):
      one = lambda *x, i=i: [v[i:i + 1] for v in x]
      p, t, c, kp, pose, betas = one(points, start[2], center, keypoints, start[0][:, 3:], start[1])
      each["camera_loss"].append(losses.camera_fitting_loss(p, t, t + 0.1, c, kp[..., :2], kp[..., 2]))
      confidence = kp[..., 2].clone()
      confidence[:, fitter.ign_joints] = 0
      each["body_loss"].append(losses.body_fitting_loss(pose, betas, p, t, c, kp[..., :2], confidence,
                                                        fitter.pose_prior))
  vertices, points, pose, betas, translation, error = fitter(*start, center, keypoints.clone())
  del vertices
  return {k: torch.stack(v) for k, v in each.items()} | {
      "joints": points, "pose": pose, "betas": betas, "translation": translation, "reprojection": error,
      "pose_prior": fitter.pose_prior(start[0][:, 3:], start[1])}


def smplify_x(given, folder):
  """Their loss of every person at the start, last stage, image height 300, as their configuration has it."""
  for name in [n for n in sys.modules if n.split(".")[0] == "utils"]:
    del sys.modules[name]  # SPIN has some of that name too
  sys.path.insert(0, folder)
  import fitting
  import prior
  tensor = {k: torch.tensor(v) for k, v in given.items()}
  weights = torch.ones(1, 25)
  weights[:, [1, 9, 12]] = 0
  loss = fitting.SMPLifyLoss(rho=100, body_pose_prior=prior.MaxMixturePrior("data", num_gaussians=8),
                             shape_prior=prior.L2Prior(), angle_prior=prior.SMPLifyAnglePrior(), use_face=False,
                             use_hands=False, interpenetration=False)
  loss.reset_loss_weights({"data_weight": 1000 / 300, "body_pose_weight": 4.78, "shape_weight": 5.0,
                           "bending_prior_weight": 3.17 * 4.78})
  layer, found = Layer(batch_size=1), []
  for i in range(PEOPLE):
    pose, betas, where, keypoints = (tensor[k][i:i + 1] for k in ("start_pose", "start_betas", "start_translation",
                                                                "keypoints"))
    with torch.no_grad():
      out = layer(pose[:, :3], pose[:, 3:], betas)
      moved = out.joints[:, :25] + where[:, None]
      camera = lambda _, moved=moved: 5000 * moved[..., :2] / moved[..., 2:] + 112
      found.append(loss(out, camera, keypoints[:, :25, :2], keypoints[:, :25, 2], None, weights))
  return {"smplify_x_loss": torch.stack(found)}


def main(spin_folder, x_folder, path):
  given, path = people(), os.path.abspath(path)
  x_folder = os.path.join(os.path.abspath(x_folder), "smplifyx")
  sys.path[:0] = [os.path.abspath(spin_folder), x_folder]
  with tempfile.TemporaryDirectory() as folder:
    stand_in(folder)
    os.chdir(folder)
    found = spin(given) | smplify_x(given, x_folder)
  recorded = given | {k: np.asarray(v.detach(), np.float32) for k, v in found.items()}
  recorded["sum_body"] = body_sum.total(smpl.load_arrays(BODY))
  np.savez_compressed(path, **recorded)


if __name__ == "__main__":
  main(*sys.argv[1:])
