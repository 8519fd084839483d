"""Records goldens/gmm.npz: SMPLify-X's pose prior, which SPIN uses, on the mixture and poses of `mixtures`.

    PYTHONPATH=.:tests python tests/fitting/record_gmm.py smplify-x tests/fitting/goldens/gmm.npz

smplify-x is a checkout of vchoutas/smplify-x. All is float32, as when SPIN runs it.
"""

import pathlib
import pickle
import sys
import tempfile

from fitting import mixtures
import numpy as np
import torch


def main(checkout, path):
  sys.path.insert(0, str(pathlib.Path(checkout) / "smplifyx"))
  import prior
  with tempfile.TemporaryDirectory() as folder:
    with open(pathlib.Path(folder) / "gmm_08.pkl", "wb") as f:
      pickle.dump(mixtures.mixture(), f, protocol=2)
    gmm = prior.create_prior("gmm", prior_folder=folder, num_gaussians=8)
  angle, pose = prior.create_prior("angle"), torch.tensor(mixtures.poses(), requires_grad=True)
  energy = gmm(pose, None)
  gradient, = torch.autograd.grad(energy.sum(), pose)
  np.savez_compressed(path, energy=energy.detach().numpy(), gradient=gradient.numpy(), mean=gmm.get_mean()[0].numpy(),
                      angle=angle(pose).sum(-1).detach().numpy())


if __name__ == "__main__":
  main(*sys.argv[1:])
