"""Records spin.npz: what the authors' SPIN and EFT predict of a crop, with `authors.spin_trained` as weights.

    git clone https://github.com/nkolot/SPIN && git clone https://github.com/facebookresearch/eft
    PYTHONPATH=.:tests python tests/released/goldens/record_spin.py SPIN eft tests/released/goldens/spin.npz

Needs torch. Their ImageNet weights, which these replace, are not asked for.
"""

import os
import sys
import tempfile
import types

import numpy as np
from released import authors
from systems import prohmr_inputs
import torch

POINTS = 5  # random ones, which both cameras are asked to project


def stand_in(spin, eft):
  """Their networks alone: their packages import much else at once, and torchvision for ImageNet's weights."""
  folders = {"models": f"{spin}/models", "utils": f"{spin}/utils", "eft": f"{eft}/eft", "eft.models":
             f"{eft}/eft/models", "eft.utils": f"{eft}/eft/utils", "torchvision": "", "torchvision.models": "",
             "torchvision.models.resnet": ""}
  for name, folder in folders.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
  for name in folders:
    package, _, leaf = name.rpartition(".")
    if package:
      setattr(sys.modules[package], leaf, sys.modules[name])


def predict(hmr, arrays):
  """(rotations [1, 24, 3, 3], betas [1, 10], camera [1, 3]) of their network."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "mean.npz")
    np.savez(path, pose=arrays["init_pose"][0], shape=arrays["init_shape"][0], cam=arrays["init_cam"][0])
    model = hmr(path, pretrained=False)
  missing, odd = model.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()}, strict=True)
  assert not missing and not odd
  image = torch.tensor(prohmr_inputs.images(1, 224)).permute(0, 3, 1, 2)
  with torch.no_grad():
    return model.eval()(image)


def main(spin, eft, path):
  stand_in(spin, eft)
  from models.hmr import hmr as spin_hmr
  from utils.geometry import perspective_projection
  from eft.models.hmr import hmr as eft_hmr
  from eft.utils.geometry import weakProjection_gpu
  arrays = authors.spin_trained()
  pose, betas, camera = predict(spin_hmr, arrays)
  for ours, theirs in zip((pose, betas, camera), predict(eft_hmr, arrays)):
    assert torch.equal(ours, theirs)
  points = torch.tensor(np.random.RandomState(0).uniform(-0.8, 0.8, (1, POINTS, 3)).astype(np.float32))
  # The two trainers' projections, train/trainer.py and train/eftFitter.py.
  translation = torch.stack([camera[:, 1], camera[:, 2], 2 * 5000.0 / (224 * camera[:, 0] + 1e-9)], -1)
  seen = perspective_projection(points, rotation=torch.eye(3)[None], translation=translation,
                                focal_length=5000.0, camera_center=torch.zeros(1, 2)) / 112
  found = {"pose": pose, "betas": betas, "camera": camera, "points": points, "spin_projection": seen,
           "eft_projection": weakProjection_gpu(points, camera[:, 0], camera[:, 1:])}
  np.savez_compressed(path, **{k: v.numpy() for k, v in found.items()}, sum_weights=prohmr_inputs.total(arrays))


if __name__ == "__main__":
  main(*sys.argv[1:])
