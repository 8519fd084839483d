"""Records graphcmr.npz: what the authors' GraphCMR computes of `graphcmr_inputs`.

    git clone -b cuda11_fix https://github.com/nkolot/GraphCMR
    PYTHONPATH=.:tests python tests/released/goldens/record_graphcmr.py GraphCMR tests/released/goldens/graphcmr.npz

Needs torch and scipy. Of their modules those that read data or draw are replaced by empty ones. The losses are those of
their own training step, with networks that return what was given; gradients are kept as in `record_prohmr.py`.
"""

import os
import sys
import tempfile
import types
import warnings
from unittest import mock

from jhmr.body import body_file, joints
import numpy as np
from released import graphcmr_inputs as inputs
from scipy import sparse
from systems import prohmr_inputs
import torch

LOSSES = {"vertices": 5, "smpl_vertices": 6, "keypoints2d": 7, "smpl_keypoints2d": 8, "keypoints3d": 9,
          "smpl_keypoints3d": 10, "pose": 11, "betas": 12, "total": 13}  # places in what their step returns
FACE5 = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")


def write_files(folder):
  """What their modules read from the folder they run in."""
  data, body = os.path.join(folder, "data"), inputs.body()
  os.mkdir(data)
  body_file.write_body_file(os.path.join(data, "smpl.pkl"), body)
  os.rename(os.path.join(data, "smpl.pkl"), os.path.join(data, "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"))
  face = np.zeros((len(FACE5), inputs.NUM))
  face[range(len(FACE5)), [joints.VERTEX_IDS[n] for n in FACE5]] = 1
  np.save(os.path.join(data, "J_regressor_extra.npy"), np.concatenate([face, body["regressor_extra9"]]))
  write_hierarchy(os.path.join(data, "mesh_downsampling.npz"))


def write_hierarchy(path):
  """A file as their `mesh_downsampling.npz`, of two levels; the first level's graph is not used."""
  edges, (down, up_ids, up_weights), num = inputs.edges(), inputs.hierarchy(), inputs.COARSE
  rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
  graph = sparse.csc_matrix((np.full(len(rows), 2.0), (rows, columns)), (num, num))
  chosen = sparse.csc_matrix((np.ones(num), (np.arange(num), down)), (num, inputs.NUM))
  spread = sparse.csc_matrix((up_weights.ravel(), (np.repeat(np.arange(inputs.NUM), 3), up_ids.ravel())),
                             (inputs.NUM, num))
  objects = lambda *x: np.array([*x, None], object)[:-1]
  np.savez(path, A=objects(sparse.csc_matrix(np.eye(3)), graph), U=objects(spread), D=objects(chosen))


def authors(clone):
  """(GraphCNN, SMPLParamRegressor, Mesh, Trainer, SMPL, rodrigues) of a clone."""
  sys.path.insert(0, clone)
  for name in ("models", "utils", "train"):  # without their __init__, which import everything
    stub(name, __path__=[f"{clone}/{name}"])
  stub("datasets", create_dataset=None)
  stub("torchvision")
  stub("torchvision.utils", make_grid=None)
  stub("utils.renderer", Renderer=None, visualize_reconstruction=None)
  from models.geometric_layers import rodrigues
  from models.smpl import SMPL
  from models.smpl_param_regressor import SMPLParamRegressor
  from models import graph_cnn
  sys.modules["models"].__dict__.update(GraphCNN=graph_cnn.GraphCNN, SMPLParamRegressor=SMPLParamRegressor, SMPL=SMPL)
  from utils.mesh import Mesh
  sys.modules["utils"].__dict__.update(BaseTrainer=object, Mesh=Mesh)
  from train.trainer import Trainer
  fresh = graph_cnn.resnet50
  graph_cnn.resnet50 = lambda pretrained: fresh(pretrained=False)
  return graph_cnn.GraphCNN, SMPLParamRegressor, Mesh, Trainer, SMPL, rodrigues


def stub(name, **values):
  sys.modules[name] = types.ModuleType(name)
  vars(sys.modules[name]).update(values)


def predicted(GraphCNN, SMPLParamRegressor, mesh, smpl, arrays):
  """What both networks say of a crop."""
  graph = GraphCNN(mesh.adjmat, mesh.ref_vertices.t(), inputs.LAYERS, inputs.CHANNELS)
  mlp = SMPLParamRegressor()
  for module, prefix in ((graph, "graph_cnn."), (mlp, "smpl_param_regressor.")):
    mine = {k.removeprefix(prefix): torch.tensor(v) for k, v in arrays.items() if k.startswith(prefix)}
    print(prefix, module.load_state_dict(mine, strict=True), sum(p.numel() for p in module.parameters()))
    module.eval()
  image = torch.tensor(prohmr_inputs.images(1, 224)).permute(0, 3, 1, 2)
  with torch.no_grad():
    vertices, camera = graph(image)
    vertices = vertices.transpose(1, 2)
    # The regressor also of meshes that lie further apart than those of one network.
    several = torch.cat([vertices, torch.tensor(inputs.training()["mesh"])])
    seen = torch.cat([several, mesh.ref_vertices[None].expand(len(several), -1, -1)], -1)
    rotations, betas = mlp(seen)
    raw = mlp.layers(seen.flatten(1))[:, :216].reshape(-1, 3, 3)
  print("rotations of negative determinant:", (torch.linalg.det(raw) < 0).float().mean().item())
  upsampled, posed = mesh.upsample(vertices), smpl(rotations[:1], betas[:1])
  return {"vertices": vertices[0, inputs.SHOWN], "vertices_dot": dot("vertices", vertices), "camera": camera,
          "upsampled_dot": dot("upsampled", upsampled), "template": mesh.ref_vertices[inputs.SHOWN],
          "rotations": rotations, "betas": betas, "posed": posed[0, ::100],
          "joints": smpl.get_joints(upsampled), "smpl_joints": smpl.get_joints(posed)}


def dot(name, x):
  return torch.tensor(np.vdot(prohmr_inputs.probe(name, tuple(x.shape)), x.detach().double().numpy()))


def trained(Trainer, mesh, smpl, rodrigues):
  """Losses of their training step, and its gradients."""
  i = {k: torch.tensor(v) for k, v in inputs.training().items()}
  leaves = {"mesh": i["mesh"].clone(), "camera": i["camera"].clone(), "betas": i["betas"].clone(),
            "rotations": rodrigues(i["rotations"].reshape(-1, 3)).reshape(-1, 24, 3, 3)}
  leaves = {k: v.requires_grad_() for k, v in leaves.items()}
  self = object.__new__(Trainer)
  vars(self).update(
      mesh=mesh, smpl=smpl, device="cpu", optimizer=mock.Mock(), criterion_shape=torch.nn.L1Loss(),
      criterion_keypoints=torch.nn.MSELoss(reduction="none"), criterion_regr=torch.nn.MSELoss(),
      graph_cnn=mock.Mock(side_effect=lambda _: (leaves["mesh"].transpose(1, 2), leaves["camera"])),
      smpl_param_regressor=mock.Mock(side_effect=lambda _: (leaves["rotations"], leaves["betas"])))
  batch = {"img": None, "keypoints": i["keypoints2d"], "pose_3d": i["keypoints3d"], "pose": i["pose"],
           "betas": i["to_betas"], "has_smpl": i["has_pose"], "has_pose_3d": i["has_keypoints3d"]}
  out = self.train_step(batch)
  found = {f"loss_{name}": out[place].reshape(()) for name, place in LOSSES.items()}
  for name, leaf in leaves.items():
    found |= {f"grad_{name}_norm": leaf.grad.norm(), f"grad_{name}_dot": dot(name, leaf.grad)}
  return found


def main(clone, path):
  warnings.simplefilter("ignore")
  path, clone = os.path.abspath(path), os.path.abspath(clone)
  with tempfile.TemporaryDirectory() as folder:
    write_files(folder)
    os.chdir(folder)
    GraphCNN, SMPLParamRegressor, Mesh, Trainer, SMPL, rodrigues = authors(clone)
    mesh, smpl = Mesh(device="cpu"), SMPL()
    arrays = inputs.weights()
    found = predicted(GraphCNN, SMPLParamRegressor, mesh, smpl, arrays) | trained(Trainer, mesh, smpl, rodrigues)
  for name, value in found.items():
    print(name, tuple(value.shape), f"{value.abs().max():.4g}")
  found = {k: v.numpy().astype(np.float32) for k, v in found.items()}
  np.savez_compressed(path, **found, sum_weights=prohmr_inputs.total(arrays),
                      sum_body=prohmr_inputs.total(inputs.body()))


if __name__ == "__main__":
  main(*sys.argv[1:])
