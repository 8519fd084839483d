"""The authors' ProHMR with the weights and the body of `prohmr_inputs`, built from checkouts of their code.

Modules that only other parts of it need (Lightning's trainer, the renderer, the reader of its config files) are stood
in for; its networks, losses, training step and optimisation run as they are. Given, not drawn: the latents, the noise
of the labels, and no unit is dropped.
"""

import os
import pickle
import sys
import types

from jhmr.body import smpl
import numpy as np
from systems import prohmr_inputs as inputs
import torch
import yaml


# Smplx's names of `joints.VERTEX21`, in order.
VERTICES = ("nose reye leye rear lear LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel lthumb lindex lmiddle lring "
            "lpinky rthumb rindex rmiddle rring rpinky").split()


class Node(dict):
  """A config whose entries are attributes."""
  __getattr__ = dict.__getitem__

  @classmethod
  def of(cls, x):
    return cls({k: cls.of(v) for k, v in x.items()}) if isinstance(x, dict) else x


class Module(torch.nn.Module):
  """What the authors' model uses of Lightning's module; remembers gradients where an optimiser would step."""
  global_step = 0

  def manual_backward(self, loss):
    loss.backward()

  def optimizers(self, use_pl_optimizer):
    del use_pl_optimizer
    return self._optimizer("net"), self._optimizer("critic")

  def _optimizer(self, name):
    parts = (self.discriminator,) if name == "critic" else (self.backbone, self.flow)
    keep = lambda: setattr(self, f"grads_{name}", {
        id(p): p.grad.double().numpy().copy() for part in parts for p in part.parameters()})
    return types.SimpleNamespace(zero_grad=lambda: self.zero_grad(set_to_none=True), step=keep)

  def gradients(self):
    """{key: float64 array} of both steps."""
    found = self.grads_net | self.grads_critic
    return {name: found[id(p)] for name, p in self.named_parameters() if id(p) in found}


def stand_in():
  """Makes the authors' package importable."""
  nothing = lambda *a, **k: None
  modules = {"pytorch_lightning": dict(LightningModule=Module, LightningDataModule=object),
             "yacs": {}, "yacs.config": dict(CfgNode=Node), "pyrender": {},
             "UMNN": dict(NeuralIntegral=None, ParallelNeuralIntegral=None)}
  for name, content in modules.items():
    sys.modules.setdefault(name, types.ModuleType(name)).__dict__.update(content)
  configs = types.ModuleType("prohmr.configs")  # theirs only reads files
  configs.to_lower = nothing
  sys.modules["prohmr.configs"] = configs
  utils = types.ModuleType("prohmr.utils")      # theirs only draws
  utils.SkeletonRenderer = nothing
  sys.modules["prohmr.utils"] = utils
  torch.utils.model_zoo.load_url = lambda url: {}


def build(prohmr, nflows, folder, dtype):
  """(model, cfg) of the authors' code, training, with dtype for everything.

  Args:
    prohmr, nflows: paths of checkouts.
    folder: an empty one, for the body.
    dtype: torch.float32 or torch.float64.
  """
  import torch.utils.model_zoo  # noqa: F401
  stand_in()
  sys.path[:0] = [prohmr, nflows]
  sys.modules["prohmr.utils"].__path__ = [os.path.join(prohmr, "prohmr", "utils")]
  from prohmr.models import ProHMR
  arrays = inputs.body()
  smpl.write_body_file(os.path.join(folder, "SMPL_NEUTRAL.pkl"), arrays)
  with open(os.path.join(folder, "J19.pkl"), "wb") as f:
    pickle.dump(arrays["regressor_j19"], f)
  np.savez(os.path.join(folder, "mean.npz"), cam=np.array([0.9, 0, 0]), shape=np.zeros(10))
  with open(os.path.join(prohmr, "prohmr", "configs", "prohmr.yaml")) as f:
    cfg = Node.of(yaml.safe_load(f))
  cfg.SMPL.update(MODEL_PATH=folder, JOINT_REGRESSOR_EXTRA=os.path.join(folder, "J19.pkl"),
                  MEAN_PARAMS=os.path.join(folder, "mean.npz"),
                  VERTEX_IDS=dict(zip(VERTICES, map(int, arrays["vertex_joint_ids"]))))
  model = ProHMR(cfg)
  torch.set_default_dtype(dtype)
  if dtype == torch.float64:
    torch.Tensor.float = torch.Tensor.double  # they cast features and poses to float32 by name
  missing, odd = model.load_state_dict({k: torch.tensor(v) for k, v in inputs.weights().items()}, strict=False)
  assert not odd and all(k.startswith("smpl.") for k in missing), (missing, odd)
  for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
      module.p = 0.0
  return model.to(dtype), cfg
