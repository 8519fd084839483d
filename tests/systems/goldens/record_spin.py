"""Records spin.npz: what the authors' SPIN computes of `spin_inputs`.

    git clone https://github.com/nkolot/SPIN
    PYTHONPATH=.:tests python tests/systems/goldens/record_spin.py SPIN tests/systems/goldens/spin.npz

Needs torch and OpenCV. Their modules that read data or draw are replaced by empty ones, torchgeometry's Rodrigues
formula by OpenCV's.
"""

import sys
import types
from unittest import mock

import cv2
import numpy as np
from systems import spin_inputs as inputs
import torch


def rodrigues(vectors):
  out = torch.eye(4).repeat(len(vectors), 1, 1)
  for i, v in enumerate(vectors):
    out[i, :3, :3] = torch.from_numpy(cv2.Rodrigues(v.double().numpy())[0]).float()
  return out


def stub(name, **values):
  sys.modules[name] = types.ModuleType(name)
  vars(sys.modules[name]).update(values)


def authors(folder):
  """(FitsDict, Trainer, estimate_translation, body_fitting_loss, constants) of a clone."""
  sys.path.insert(0, folder)
  stub("torchgeometry", angle_axis_to_rotation_matrix=rodrigues, rotation_matrix_to_angle_axis=None)
  stub("datasets", MixedDataset=None)
  stub("models", hmr=None, SMPL=None)
  for name in ("train", "utils", "smplify"):  # without their __init__, which import everything
    stub(name)
    sys.modules[name].__path__ = [f"{folder}/{name}"]
  vars(sys.modules["smplify"])["SMPLify"] = None
  vars(sys.modules["utils"])["BaseTrainer"] = object
  stub("utils.renderer", Renderer=None)
  import constants
  from smplify.losses import body_fitting_loss
  from train.fits_dict import FitsDict
  from train.trainer import Trainer
  from utils.geometry import estimate_translation
  return FitsDict, Trainer, estimate_translation, body_fitting_loss, constants


def read_and_stored(FitsDict, constants):
  i = {k: torch.from_numpy(v) for k, v in inputs.fits().items()}
  table = object.__new__(FitsDict)
  table.flipped_parts, table.fits_dict = torch.tensor(constants.SMPL_POSE_FLIP_PERM), {"set": i["table"].clone()}
  where = (["set"] * inputs.PEOPLE, torch.arange(inputs.PEOPLE), i["angle_deg"], i["flip"])
  pose, betas = table[where]
  table[(*where, i["better"])] = (i["new"][:, :72].clone(), i["new"][:, 72:])
  return {"read_pose": pose, "read_betas": betas, "stored": table.fits_dict["set"]}


def quality(estimate_translation, body_fitting_loss, constants):
  i = {k: torch.from_numpy(v) for k, v in inputs.views().items()}
  translation = estimate_translation(i["points"], i["keypoints"], focal_length=5000.0, img_size=224.0)
  confidence = i["keypoints"][..., 2].clone()
  confidence[:, [constants.JOINT_IDS[n] for n in ("OP Neck", "OP RHip", "OP LHip", "Right Hip", "Left Hip")]] = 0
  zero = lambda *_: torch.zeros(inputs.PEOPLE)
  each = body_fitting_loss(torch.zeros(inputs.PEOPLE, 69), torch.zeros(inputs.PEOPLE, 10), i["points"], translation,
                           112 * torch.ones(inputs.PEOPLE, 2), i["keypoints"][..., :2], confidence, zero,
                           output="reprojection")
  return {"translation": translation, "quality": each.mean(-1)}


def losses(Trainer):
  i = {k: torch.from_numpy(v) for k, v in inputs.predictions().items()}
  self = mock.Mock(criterion_keypoints=torch.nn.MSELoss(reduction="none"), criterion_regr=torch.nn.MSELoss())
  pose, betas = Trainer.smpl_losses(self, i["rotations"], i["betas"], i["pose"], i["to_betas"], i["valid"])
  return {"keypoints2d": Trainer.keypoint_loss(self, i["projected"], i["keypoints2d"], 0.25, 1.0),
          "keypoints3d": Trainer.keypoint_3d_loss(self, i["points"], i["keypoints3d"], i["has_keypoints3d"]),
          "pose": pose, "betas": betas}


def main(folder, out):
  FitsDict, Trainer, estimate_translation, body_fitting_loss, constants = authors(folder)
  found = (read_and_stored(FitsDict, constants) | quality(estimate_translation, body_fitting_loss, constants) |
           losses(Trainer))
  np.savez_compressed(out, **{k: v.numpy() for k, v in found.items()})


if __name__ == "__main__":
  main(*sys.argv[1:])
