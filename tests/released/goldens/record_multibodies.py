"""Records multibodies.npz: what the authors' 3D Multi-bodies computes of `multibodies_inputs`.

    git clone https://github.com/benjiebob/3D-Multibodies
    PYTHONPATH=.:tests python tests/released/goldens/record_multibodies.py 3D-Multibodies \
        tests/released/goldens/multibodies.npz

Needs torch. Of their modules those that read data or draw are replaced by empty ones, as are the packages
they ask for. The losses are those of their own forward pass, with a network that returns what was given.
"""

import contextlib
import io
import os
import sys
import tempfile
import types
import warnings
from unittest import mock

from jhmr.body import body_file
import numpy as np
from released import multibodies_inputs as inputs
from systems import prohmr_inputs
import torch

# Their losses and default weights; that of vertices is 0, and densities of labels are for training the prior.
WEIGHTS = {"joint": 25.0, "angle": 1.0, "shape": 0.001, "skel2d": 1.0, "skel2d_modewise": 0.1, "depth_modewise": 1.0}
FACE5 = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")


def write_files(folder):
  """What their modules read."""
  body = inputs.body()
  body_file.write_body_file(os.path.join(folder, "SMPL_NEUTRAL.pkl"), body)
  np.savez(os.path.join(folder, "J_regressor.npz"), J_regressor=body["J_regressor"])
  np.save(os.path.join(folder, "J_regressor_extra.npy"), body["regressor_extra9"])
  np.save(os.path.join(folder, "J_regressor_h36m.npy"), body["regressor_h36m17"])
  start = inputs.authors.spin_start()
  np.savez(os.path.join(folder, "mean.npz"), pose=start["init_pose"][0], shape=start["init_shape"][0],
           cam=start["init_cam"][0])


def stub(name, **values):
  sys.modules[name] = types.ModuleType(name)
  vars(sys.modules[name]).update(values)


def authors(clone, folder):
  """(model module, HMR_CondSpin, Bottleneck, RealNVP, GPUKmeans) of a clone that reads its files from a folder."""
  sys.path.insert(0, f"{clone}/src")
  for name in ("torchgeometry", "torchvision", "torchvision.models", "torchvision.models.resnet", "trimesh"):
    stub(name)
  sys.modules["torchvision"].models = sys.modules["torchvision.models"]
  sys.modules["torchvision.models"].resnet = sys.modules["torchvision.models.resnet"]
  stub("visdom_plotly", VisdomPlotly=None)
  stub("exp_manager.vis_utils", get_visdom_connection=None)
  stub("accuracies", AccuracyMetrics=mock.Mock)
  stub("utils.skeleton", draw_skeleton=None)
  import config
  for name, file in (("JOINT_REGRESSOR_3DMB", "J_regressor.npz"), ("SMPL_MEAN_PARAMS", "mean.npz"),
                     ("JOINT_REGRESSOR_TRAIN_EXTRA", "J_regressor_extra.npy"), ("SMPL_MODEL_DIR", ""),
                     ("JOINT_REGRESSOR_H36M", "J_regressor_h36m.npy")):
    setattr(config, name, os.path.join(folder, file))
  import model
  from networks.benvp.benvp import RealNVP
  from networks.spin.hmr_condspin import Bottleneck, HMR_CondSpin
  from utils.kmeans import GPUKmeans
  return model, HMR_CondSpin, Bottleneck, RealNVP, GPUKmeans


def load(module, arrays, prefix):
  mine = {k.removeprefix(prefix): torch.tensor(v) for k, v in arrays.items()}
  print(prefix, module.load_state_dict(mine, strict=False), sum(v.numel() for v in module.state_dict().values()))
  assert set(mine) == set(module.state_dict())
  return module.eval()


def predicted(HMR_CondSpin, Bottleneck, mean):
  """What the network says of a crop: first of SPIN's own feature, then of each hypothesis."""
  net = HMR_CondSpin(inputs.HYPOTHESES, inputs.FLOWS, True, Bottleneck, [3, 4, 6, 3], mean, 64)
  load(net, inputs.weights(), "module.model.model.")
  image = torch.tensor(prohmr_inputs.images(1, 224)).permute(0, 3, 1, 2)
  with torch.no_grad():
    features = torch.cat(net.encode(image), 1)
    found = net.decode_smpl(features)
  return {"features_dots": torch.stack([dot("features", f) for f in features[0]]), "rotations": found["pred_rotmat"],
          "betas": found["pred_shape"], "camera": found["pred_camera"]}


def dot(name, x):
  return torch.tensor(np.vdot(prohmr_inputs.probe(name, tuple(x.shape)), x.detach().double().numpy()))


def fresh_prior(model, RealNVP):
  """Their prior, as their model makes it."""
  with mock.patch.object(model, "ConditionalHMR", return_value=torch.nn.Identity()):
    return model.Model(num_modes=inputs.HYPOTHESES)


def trained(owner):
  """Losses of each image before their weights, who was best, and gradients of each image's weighted sum."""
  i = {k: torch.tensor(v) for k, v in inputs.training().items()}
  from utils.conversions import rot3x3_to_axis_angle
  from utils.geometry import rot6d_to_rotmat
  leaves = {k: i[k].clone().requires_grad_() for k in ("six_d", "betas", "camera")}
  rotations = rot6d_to_rotmat(leaves["six_d"]).reshape(inputs.BATCH, inputs.HYPOTHESES, inputs.JOINTS, 3, 3)
  given = {"pred_shape": leaves["betas"], "pred_camera": leaves["camera"], "pred_global_rotmat": rotations[:, :, :1],
           "pred_local_axis": rot3x3_to_axis_angle(rotations).flatten(2)[..., 3:]}
  del owner.model
  vars(owner)["model"] = lambda _: given
  batch = {"img": torch.zeros(inputs.BATCH, 3, 2, 2), "keypoints": i["keypoints2d"], "pose": i["pose"],
           "betas": i["to_betas"], "pose_3d": i["keypoints3d"], "gender": None, "has_smpl": i["has_pose"],
           "has_pose_3d": i["has_keypoints3d"], "dataset_key": torch.zeros(inputs.BATCH)}
  owner.train()
  owner.model_realnvp.eval()  # no dropout
  owner.accuracy_metrics.compute_accuracies = lambda *_: {}
  owner.loss_weights = {f"loss_{n}": 1.0 for n in WEIGHTS}
  out = owner(0, batch)
  found = {f"loss_{n}": out[f"loss_{n}"] for n in WEIGHTS}
  found |= {"best": out["min_mode_gt"], "log_prob": out["log_weights"], "joints": out["out_joints_mode"][:, :, 25::3]}
  owner.loss_weights = {f"loss_{n}": w for n, w in WEIGHTS.items()}
  matmul = torch.matmul
  with mock.patch("torch.matmul", lambda a, b: matmul(a.clone(), b)):  # their SMPL writes into what it multiplied
    found["objective"] = owner(0, batch)["objective"]
  found["objective"].sum().backward()
  for name, leaf in leaves.items():
    grads = leaf.grad.flatten(1)
    found |= {f"grad_{name}_norms": grads.norm(dim=1), f"grad_{name}_dots": torch.stack([dot(name, g) for g in grads])}
  return found


def prior(owner):
  """Densities of poses and poses of latents."""
  poses, latents = map(torch.tensor, inputs.poses())
  with torch.no_grad():
    log_prob, z = owner.model_realnvp.log_prob(poses)
    return {"prior_log_prob": log_prob, "prior_z": z, "prior_poses": owner.model_realnvp.g(latents)}


def clustered(GPUKmeans):
  """Centres and representatives from a fixed start, with and without weights."""
  points, log_weights, first = map(torch.tensor, inputs.clusters())
  rest = torch.tensor([i for i in range(inputs.POINTS) if i not in first])
  found = {}
  for name, weights in (("uniform", torch.zeros_like(log_weights)), ("weighted", log_weights)):
    with mock.patch("torch.randperm", lambda _: torch.cat([first, rest])):
      out = GPUKmeans(K=inputs.CLUSTERS)(points.clone(), weights)
    sizes = out["assignments"].sum(1)
    print(name, "sizes of clusters:", sizes.tolist())
    found |= {f"kmeans_{name}_centres": out["centroids"][..., ::6], f"kmeans_{name}_chosen": out["representatives_idx"]}
  return found


def main(clone, path):
  warnings.simplefilter("ignore")
  with tempfile.TemporaryDirectory() as folder:
    write_files(folder)
    model, HMR_CondSpin, Bottleneck, RealNVP, GPUKmeans = authors(os.path.abspath(clone), folder)
    with contextlib.redirect_stdout(io.StringIO()):
      owner = fresh_prior(model, RealNVP)
    load(owner.model_realnvp, inputs.prior_weights(), "module.model_realnvp.")
    found = predicted(HMR_CondSpin, Bottleneck, os.path.join(folder, "mean.npz")) | prior(owner) | trained(owner)
    found |= clustered(GPUKmeans)
  for name, value in found.items():
    print(name, tuple(value.shape), value.tolist() if value.numel() < 13 else f"{value.abs().max():.4g}")
  found = {k: v.detach().numpy() for k, v in found.items()}
  small = {k: v.astype(np.float32 if v.dtype.kind == "f" else np.int32) for k, v in found.items()}
  np.savez_compressed(path, **small, sum_weights=prohmr_inputs.total(inputs.weights()),
                      sum_prior=prohmr_inputs.total(inputs.prior_weights()),
                      sum_body=prohmr_inputs.total(inputs.body()))


if __name__ == "__main__":
  main(*sys.argv[1:])
