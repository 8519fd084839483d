"""Records eft.npz: EFT's loss of made-up predictions and keypoints, and its gradients, by the authors' own step.

    git clone https://github.com/facebookresearch/eft
    PYTHONPATH=.:tests python tests/fitting/record_eft.py eft tests/fitting/goldens/eft.npz

Needs torch. Their `EFTFitter.run_eft_step` runs as it is, in float64, with a network and a body that return what they
are given; modules that only other parts of it need are stood in for.
"""

import sys
import types
from unittest import mock

from fitting import eft_inputs
import numpy as np
import torch


def import_fitter(path):
  """The authors' module, everything it imports besides their Trainer and geometry stood in for."""
  for package in ("eft", "eft.train", "eft.utils"):
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = [f"{path}/{package.replace('.', '/')}"]

  class Finder:
    """Answers for whatever is not found."""
    ours = ("eft.train.trainer", "eft.train.eftFitter", "eft.utils.geometry")

    @staticmethod
    def find_spec(name, path=None, target=None):
      if name in Finder.ours or name.split(".")[0] in ("torch", "numpy"):
        return None
      stranger = name.startswith(("eft.", "smplx", "tensorboard", "torchgeometry", "renderer", "torchvision", "smplify",
                                  "utils", "cv2", "tqdm", "models", "datasets", "bodymocap"))
      if stranger:
        sys.modules[name] = mock.MagicMock(__path__=[], __spec__=None, __name__=name)
        raise Retry(name)
      return None

  class Retry(ImportError):
    """Asks for the import to be made again."""

  sys.meta_path.insert(0, Finder)
  base = types.ModuleType("eft.cores.base_trainer")
  base.BaseTrainer = object
  sys.modules |= {"eft.cores": mock.MagicMock(__path__=[]), "eft.cores.base_trainer": base}
  for name in ("eft.train.trainer", "eft.train.eftFitter"):
    while name not in sys.modules:
      try:
        __import__(name)
      except Retry:
        continue
    for public in ("Trainer", "normalize_2dvector"):
      setattr(sys.modules["eft.train"], public, getattr(sys.modules[name], public))
  return sys.modules["eft.train.eftFitter"]


def step(module, case, with_hips, with_3d):
  """({loss: number}, gradients w.r.t. points, betas and camera) of one case."""
  tensor = lambda x: torch.tensor(np.asarray(x, np.float64))[None]
  points, betas, camera = (tensor(case[k]).requires_grad_() for k in ("points", "betas", "camera"))
  model = mock.MagicMock(return_value=(torch.zeros(1, 24, 3, 3), betas, camera, None))
  fake = types.SimpleNamespace(
      model=model, smpl=lambda **_: types.SimpleNamespace(vertices=None, joints=points), device="cpu",
      fits_dict=mock.MagicMock(__getitem__=lambda *_: (torch.zeros(1),) * 3), optimizer=mock.MagicMock(),
      focal_length=5000.0, criterion_keypoints=torch.nn.MSELoss(reduction="none"), exemplerTrainingMode=lambda: None,
      options=types.SimpleNamespace(
          bExemplarMode=True, bExemplar_dataLoaderStart=-1, img_res=224, eft_withHip2D=with_hips,
          beta_loss_weight=0.001, openpose_train_weight=0.0, gt_train_weight=1.0, bExemplarWith3DSkel=with_3d,
          keypoint_loss_weight=5.0, bDebug_visEFT=False))
  for name in ("keypoint_loss", "keypoint_3d_loss_panopticDB"):
    setattr(fake, name, types.MethodType(getattr(module.EFTFitter, name), fake))
  one = torch.ones(1)
  batch = {"img": torch.zeros(1, 3, 8, 8), "keypoints": tensor(case["keypoints"]), "pose": one, "betas": one,
           "pose_3d": tensor(case["joints3d"]), "has_pose_3d": one, "sample_index": one, "is_flipped": one,
           "rot_angle": one, "dataset_name": "", "imgname": "", "scale": one, "center": one, "keypoints_original": one}
  _, losses = module.EFTFitter.run_eft_step(fake, batch)[:2]
  return losses, [x.grad[0].numpy() for x in (points, betas, camera)]


def main(path, out):
  sys.path.insert(0, path)
  module = import_fitter(path)
  losses, grads = zip(*(step(module, case, *kind) for case in eft_inputs.cases().values()
                        for kind in eft_inputs.KINDS.values()))
  names = [k for k in losses[0] if k.startswith("loss")]
  np.savez_compressed(out, names=np.array(names), losses=np.array([[row[k] for k in names] for row in losses]),
                      grads=np.array([np.concatenate([g.ravel() for g in row]) for row in grads], np.float32))


if __name__ == "__main__":
  main(*sys.argv[1:])
