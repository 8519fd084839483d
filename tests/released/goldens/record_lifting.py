"""Records lifting.npz: what Wehrbein et al.'s code, and ProHMR's model of skeletons, compute of `lifting_inputs`.

    git clone https://github.com/twehrbein/Probabilistic-Monocular-3D-Human-Pose-Estimation-with-Normalizing-Flows pose
    git clone https://github.com/vislearn/FrEIA && git -C FrEIA checkout ad2f5a2
    git clone https://github.com/nkolot/ProHMR && git clone https://github.com/nkolot/nflows
    PYTHONPATH=.:tests python tests/released/goldens/record_lifting.py pose FrEIA ProHMR nflows \
        tests/released/goldens/lifting.npz

Needs torch. Losses and gradients are those of their own `train()`, cut out of `train.py`; numbers of the evaluation
those of `eval_hard_subset.py`, both run with their data set reading a file of ours and random numbers given. Gradients
are kept as their norm and their product with a random direction. Their critic's Adam has a learning rate of 0, so that
the generator's term is of the critic as given.
"""

import ast
import io
import os
import pickle
import sys
import tempfile
import types
from unittest import mock

import numpy as np
from nn.goldens import record_flow
from released import lifting_inputs as inputs
from systems import prohmr_inputs
import torch

ACTION = ("S9", "Eating", "0", "55011271")
TRAIN = ("S1", *ACTION[1:])


def stub(name, **values):
  sys.modules[name] = types.ModuleType(name)
  vars(sys.modules[name]).update(values)


def tensors(arrays):
  return {k: torch.tensor(v) for k, v in arrays.items()}


def probe(name, x):
  return torch.tensor(np.vdot(prohmr_inputs.probe(name, tuple(x.shape)), x.detach().double().numpy()))


def written(folder, people, where):
  """A file of their data set with people in one place of it; returns its path."""
  subjects = "S1 S5 S6 S7 S8 S9 S11".split()
  actions = ("Directions Discussion Eating Greeting Phoning Photo Posing Purchases Sitting SittingDown Smoking Waiting "
             "WalkDog WalkTogether Walking").split()
  tree = {s: {a: {t: {c: {"imgpath": []} for c in ("54138969", "55011271", "58860488", "60457274")} for t in "01"}
              for a in actions} for s in subjects}
  subject, action, trial, camera = where
  tree[subject][action][trial][camera] = people | {"imgpath": [""] * len(people["3d_gt"])}
  path = os.path.join(folder, "set.pickle")
  with open(path, "wb") as f:
    pickle.dump(tree, f)
  return path


def wehrbein(clone, freia):
  """Their modules: (config, model, data, critic network, losses, data utilities)."""
  sys.path[:0] = [clone, freia]
  sys.argv = ["train"]
  stub("matplotlib", pyplot=None)
  stub("matplotlib.pyplot")
  import config
  from data import data_h36m
  from models import critic_network, model
  from utils import data_utils, loss_functions
  return config, model, data_h36m, critic_network, loss_functions, data_utils


def items(data, path, **options):
  """All of their data set as one batch, {name: tensor}."""
  made = data.H36MDataset(path, **options)
  return {k: getattr(made, k) for k in ("poses_3d", "p2d_hrnet", "gauss_fits", "p3d_gt")}


def both_ways(inn, batch):
  """The network forward, and backward from where forward came to and from given latents."""
  z = torch.tensor(inputs.draws()["rand"])
  with torch.no_grad():
    y = inn(batch["poses_3d"], batch["gauss_fits"])
    back = inn.reverse(y, batch["gauss_fits"])
    made = inn.reverse(torch.cat([z, batch["p2d_hrnet"]], 1), batch["gauss_fits"])
    log_det = inn.inn.log_jacobian(batch["poses_3d"], inn.cond_net(batch["gauss_fits"]))
  print("round trip", (back - batch["poses_3d"]).abs().max())
  return {"forward": y, "inverse": made, "log_det": log_det, "condition": batch["gauss_fits"],
          "normalised2d": batch["p2d_hrnet"], "normalised3d": batch["poses_3d"]}


def train_function(clone, names):
  """Their `train` in a namespace of ours."""
  with open(f"{clone}/train.py", encoding="utf-8") as f:
    tree = ast.parse(f.read())
  tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train"]
  exec(compile(tree, "train.py", "exec"), names)  # pylint: disable=exec-used
  return names["train"]


def updated(clone, config, inn, critic, batch, losses, utilities):
  """Every term of one critic and one generator update, and the gradients that they left."""
  config.batch_size, config.n_its_per_epoch, config.CRITIC_ITERS, config.TOP_K = inputs.BATCH, 1, 1, inputs.TOP_K
  flipped = {k: v.flip(0) for k, v in batch.items()}
  names = {"torch": torch, "c": config, "inn": inn, "critic": critic, "n_hypo": inputs.HYPOTHESES,
           "train_loader": [batch, flipped, batch], "l1_loss": torch.nn.L1Loss(), "loss_latent": losses.mmd_multiscale,
           "optimizer_critic": torch.optim.Adam(critic.parameters(), lr=0.0),
           "covariance_loss": losses.covariance_loss, "calc_gradient_penalty": losses.calc_gradient_penalty,
           "reinsert_root_joint_torch": utilities.reinsert_root_joint_torch,
           "root_center_poses": utilities.root_center_poses}
  drawn = tensors(inputs.draws())
  normal = iter([drawn[k] for k in ("fake", "latent", "rand", "hypotheses")])
  given = lambda *shape, **_: next(normal).reshape(shape)
  with mock.patch("torch.randn", given), mock.patch("torch.rand", lambda *_: drawn["alpha"]), \
       mock.patch("torch.Tensor.cuda", lambda x: x), mock.patch.object(inn.optimizer, "step"):
    terms = train_function(clone, names)()
  found = dict(zip(("l2d", "mmd", "det", "best", "covariance", "generator", "critic"), map(torch.tensor, terms)))
  found = {f"loss_{k}": v for k, v in found.items()}
  with torch.no_grad():
    found |= {"critic_real": critic(batch["poses_3d"])}
  for who, module in (("net", inn), ("critic", critic)):
    found |= gradients(who, module)
  return found


def gradients(name, module):
  """Norms of the gradients, and their products with random directions, in the order of the parameters."""
  grads = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in module.named_parameters()}
  largest = {k: float(g.abs().max()) for k, g in grads.items()}
  print(name, "largest gradients", sorted(round(g, 3) for g in largest.values()))
  return {f"{name}_norms": torch.stack([g.norm() for g in grads.values()]),
          f"{name}_dots": torch.stack([probe(k, g) for k, g in grads.items()])}


def penalty(critic, batch, losses):
  """The gradient penalty alone, between poses and the same in another order, and its own gradients."""
  critic.requires_grad_(True).zero_grad()
  with mock.patch("torch.rand", lambda *_: torch.tensor(inputs.draws()["alpha"])):
    value = losses.calc_gradient_penalty(critic, batch["poses_3d"], batch["poses_3d"].flip(0))
  value.backward()
  return {"penalty": value} | gradients("penalty", critic)


def evaluated(clone, folder, inn, data):
  """What their evaluation of the hard subset prints of given guesses, without rounding."""
  path = written(folder, inputs.alike(), ACTION)
  everyone, hard = items(data, path, train_set=False), items(data, path, train_set=False, hardsubset=True)
  count = len(hard["p3d_gt"])
  config = sys.modules["config"]
  config.test_file, config.result_dir = path, folder + "/"
  stub("sklearn")
  stub("sklearn.metrics", auc=lambda x, y: np.trapezoid(y, x))
  with open(f"{clone}/eval_hard_subset.py", encoding="utf-8") as f:
    source = f.read().replace("n_hypo = 200", f"n_hypo = {inputs.SETS}")
  lifts = lambda y, _: torch.tensor(inputs.guesses(len(y) // count, count)).flatten(0, 1)
  one = lambda *_, **__: [hard]  # not shuffled
  names = {"__name__": "eval"}
  inn.load = lambda *_: None
  with mock.patch("models.model.poseINN", lambda: inn), mock.patch.object(inn, "reverse", lifts), \
       mock.patch("torch.Tensor.cuda", lambda x: x), mock.patch("torch.utils.data.DataLoader", one), \
       mock.patch("sys.stdout", io.StringIO()):
    exec(compile(source, "eval_hard_subset.py", "exec"), names)  # pylint: disable=exec-used
  which = (everyone["p3d_gt"][:, None] == hard["p3d_gt"]).all(-1).any(1)
  found = {"hard": which, "eval_target": hard["p3d_gt"], "eval_mode": names["poses_3d_z0"]}
  for name in ("z0", "mean", "best", "median", "worst"):
    found |= {f"eval_{name}_p{p}": torch.tensor(float(names[f"total_err_{name}_p{p}"]) / count) for p in (1, 2)}
  return found | {"eval_pck": torch.tensor(names["total_best_pck_oracle_p1"] / count),
                  "eval_cps": torch.tensor(names["cps_auc_p2_best"]), "eval_std": names["std_dev_means"]}


def skeletons(prohmr, nflows):
  """ProHMR's model of skeletons: the context, samples, densities, and losses and gradients of a step."""
  sys.path[:0] = [prohmr, nflows]
  record_flow.package()
  config = skeleton_model(prohmr)
  from prohmr.models.backbones.fcresnet import fcresnet
  from prohmr.models.heads.skeleton_flow import SkeletonFlow
  net = torch.nn.Module()
  net.backbone, net.flow = fcresnet(config), SkeletonFlow(config)
  net.register_buffer("initialized", torch.tensor(False))
  weights = inputs.skeleton_weights()
  said = net.load_state_dict(tensors(weights), strict=False)
  print(said, sum(p.numel() for p in net.parameters()))
  assert not said.unexpected_keys and all("dummy" in k for k in said.missing_keys)
  i = tensors(inputs.skeletons())
  net.eval()
  with torch.no_grad():
    features = net.backbone(i["x"].flatten(1))
    made = [net.flow(features, z=z[:, None]) for z in (torch.zeros_like(i["z"][:, 0]), *i["z"].unbind(1))]
    log_prob, z = net.flow.log_prob(i["pose"].flatten(1)[:, None], features)
  found = {"skeleton_features": features[:, ::16], "skeleton_poses": torch.cat([m[0] for m in made], 1),
           "skeleton_sample_log_prob": torch.cat([m[1] for m in made], 1), "skeleton_log_prob": log_prob,
           "skeleton_z": z}
  mode = net.flow(net.backbone(i["x"].flatten(1)), z=torch.zeros(inputs.PEOPLE, 1, inputs.DIM))[0]
  found["skeleton_l1"] = (i["pose"][:, None] - mode).abs().sum() / inputs.PEOPLE
  noisy = i["pose"] + 0.005 * i["noise"]
  found["skeleton_nll"] = -net.flow.log_prob(noisy.flatten(1)[:, None], features)[0].mean()
  return found


def skeleton_model(prohmr):
  """Their config, and packages that other parts of their code ask for replaced by nothing."""
  import yaml
  stub("yacs")
  stub("yacs.config", CfgNode=dict)
  for name, folder in (("prohmr", ""), ("prohmr.models", "models"), ("prohmr.models.heads", "models/heads"),
                       ("prohmr.models.backbones", "models/backbones")):
    stub(name)
    sys.modules[name].__path__ = [f"{prohmr}/prohmr/{folder}"]
  with open(f"{prohmr}/prohmr/configs/proskeleton.yaml", encoding="utf-8") as f:
    return dotted(yaml.safe_load(f))


def dotted(tree):
  return types.SimpleNamespace(**{k: dotted(v) for k, v in tree.items()}) if isinstance(tree, dict) else tree


def main(pose, freia, prohmr, nflows, path):
  pose, freia, prohmr, nflows = map(os.path.abspath, (pose, freia, prohmr, nflows))
  config, model, data, critics, losses, utilities = wehrbein(pose, freia)
  inn, critic = model.poseINN(), critics.CriticNetwork()
  said = inn.load_state_dict(tensors(inputs.inn_weights()), strict=False)
  print(said, sum(p.numel() for p in inn.parameters()))
  assert not said.unexpected_keys and all("tmp_var" in k for k in said.missing_keys)
  critic.load_state_dict(tensors(inputs.critic_weights()))
  with tempfile.TemporaryDirectory() as folder:
    batch = items(data, written(folder, inputs.people(inputs.BATCH), TRAIN))
    found = both_ways(inn, batch)
    found |= updated(pose, config, inn, critic, batch, losses, utilities) | penalty(critic, batch, losses)
    found |= evaluated(pose, folder, inn, data)
  found |= skeletons(prohmr, nflows)
  for name, value in found.items():
    print(name, tuple(value.shape), value.tolist() if value.numel() < 13 else f"{value.double().abs().max():.4g}")
  small = {k: v.detach().numpy() for k, v in found.items()}
  small = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in small.items()}
  sums = {"inn": inputs.inn_weights(), "critic": inputs.critic_weights(), "skeleton": inputs.skeleton_weights()}
  np.savez_compressed(path, **small, **{f"sum_{k}": prohmr_inputs.total(v) for k, v in sums.items()})


if __name__ == "__main__":
  main(*sys.argv[1:])
