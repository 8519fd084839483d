"""Training row of ProHMR: updates of a small one, beside the same network and losses as a plain PyTorch loop.

A small backbone, the flow at its full size, without dropout; two bodies of each image, smplx's full mesh on the
peer's side. The peer starts from our parameters and sees our batch; given our random numbers, its first loss is ours (a
test holds the two together), otherwise it draws its own.
"""

import os

import jax
from jhmr.benchmarks import flow, hypotheses, timing, train
from jhmr.body import smpl
from jhmr.data import spec
from jhmr.systems import prohmr
import ml_collections
import numpy as np

_OPTIM = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4}
CONFIG = {
    "seed": 0, "num_steps": 1000, "train_samples": 2, "model_joints": "prohmr44",
    "net": {"backbone": "resnet_tiny", "hidden": 1024, "dtype": "float32", "batch_norm": "device", "remat": False,
            "flow": {"blocks": 4, "hidden": 1024, "depth": 2, "dropout": 0.0, "legacy_lu": False}},
    "optim": _OPTIM, "critic_optim": _OPTIM,
    "weights": {"keypoints2d_mode": 0.01, "keypoints2d_exp": 0.001, "keypoints3d_mode": 0.05, "keypoints3d_exp": 0.0,
                "global_orient_mode": 0.001, "global_orient_exp": 0.0, "body_pose_mode": 0.001, "body_pose_exp": 0.0,
                "betas": 0.0005, "nll": 0.001, "orthogonal": 0.1, "adversarial": 0.0005}}


def update(batch=32, seconds=5.0):
  """Images per second of whole updates (forward, losses, critic, backward, AdamW) from a batch already there."""
  arrays, config = smpl.load_arrays("mannequin"), ml_collections.ConfigDict(CONFIG)
  step, state, data, assets = set_up(config, arrays, batch)
  functions = {"ours": train.runner(step, state, data, assets)}
  if timing.installed("torch", "smplx"):
    functions["peer"] = peer_step(config, arrays, state, data, assets)
  flops = step.lower(state, data, assets).cost_analysis()["flops"]
  times = timing.interleaved(functions, seconds / 4)  # a call of the peer takes as long as several turns
  return {"name": "ProHMR update", "unit": "images/s", "ours": batch / times["ours"],
          "peer": batch / times["peer"] if "peer" in times else None, "peer_name": "the same in PyTorch, smplx",
          "flops_per_item": flops / batch,
          "bytes_per_item": train.bytes_per_image(state.params, batch)}


def set_up(config, arrays, batch):
  """(mapped step, state, batch laid out for it, assets) on one device."""
  names = [n for n, f in spec.FIELDS.items() if f.required] + ["real_pose", "real_betas"]
  data = spec.fake_batch(train.IMAGE_SIZE, batch, names)
  return train.lay_out(prohmr.build(config), arrays, config.model_joints, data)


def our_numbers(seed, step, batch):
  """(latents [B, 1, 144], noise [B, 1, 144]) of our update number `step` on the first device."""
  key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), 0), 0)
  keys = jax.random.split(key, 5)
  return tuple(np.asarray(jax.random.normal(k, (batch, 1, prohmr.DIM))) for k in keys[:2])


# The peer.

def peer_step(config, arrays, state, data, assets, numbers=None):
  """A function that makes one update in PyTorch, with every core, and returns its loss.

  Args:
    numbers: step -> (latents, noise) as in `our_numbers`; None draws them.
  """
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  tensor = lambda x: torch.tensor(np.asarray(x))
  params, critic = (train.torch_parameters(state.params[name]) for name in ("net", "critic"))
  stats = jax.tree.map(tensor, state.stats["net"])
  batch, mean = {k: tensor(v[0]) for k, v in data.items()}, jax.tree.map(np.asarray, assets["mean"])
  layer, net = hypotheses.torch_joints(arrays), prohmr.networks(config.net).flow
  optimizers = [torch.optim.AdamW(jax.tree.leaves(p), lr=_OPTIM["learning_rate"], weight_decay=_OPTIM["weight_decay"])
                for p in (params, critic)]
  draw = numbers or (lambda step: torch.randn(2, len(batch["image"]), 1, prohmr.DIM).numpy())
  count = [0]

  def run():
    z, noise = (torch.tensor(x)[:, 0] for x in draw(count[0]))
    count[0] += 1
    predicted = _bodies(net, params, stats, batch, mean, z, noise)
    loss, fakes = _loss(dict(config.weights), predicted, layer, critic, batch)
    _apply(optimizers[0], loss)
    fake, real = _scores(critic, *fakes), _scores(critic, batch["real_pose"], batch["real_betas"])
    paid = (fake ** 2).sum(1).mean() + ((real - 1) ** 2).sum(1).mean()
    _apply(optimizers[1], config.weights.adversarial * paid)
    return loss.item()

  return run


def _apply(optimizer, loss):
  optimizer.zero_grad()
  loss.backward()
  optimizer.step()


def _bodies(net, params, stats, batch, mean, z, noise):
  """`prohmr.bodies` said again: (6D [B, 2, 144] with the mode first, betas, camera, log-probability [B])."""
  import torch
  context = train.torch_features(params["backbone"], stats["backbone"], batch["image"].permute(0, 3, 1, 2).contiguous())
  betas, cam = hypotheses.torch_head(params["head"], context, mean)
  way = lambda towards_z: flow.torch_way(net, params["flow"], stats["flow"], towards_z, training=True)
  drawn, mode = way(False)(z, context)[0], way(False)(torch.zeros_like(z), context)[0]
  pose = torch.cat([batch["global_orient"], batch["body_pose"]], 1)
  known = pose[..., :2].transpose(-1, -2).flatten(1) + prohmr.POSE_NOISE * noise
  latent, log_det = way(True)(known, context)
  return torch.stack([mode, drawn], 1), betas, cam, flow.torch_log_normal(latent) + log_det


def _loss(weights, predicted, layer, critic, batch):
  """(weighted sum of `prohmr.terms_of`, for a batch that has every label, and the critic's; bodies for the critic)."""
  import torch
  six_d, betas, cam, log_prob = predicted
  size, count = six_d.shape[:2]
  pose = hypotheses.torch_rotations(six_d)
  flat, shape = pose.flatten(0, 1), betas.repeat_interleave(count, 0)
  points = layer(flat, shape)
  projected = hypotheses.torch_projected(points, cam.repeat_interleave(count, 0)).unflatten(0, (size, count))
  points, (labels2d, labels3d) = points.unflatten(0, (size, count)), (
      batch[name][:, None, :prohmr.NUM_JOINTS] for name in ("keypoints2d", "keypoints3d"))
  centred = lambda x: x - x[..., prohmr.PELVIS:prohmr.PELVIS + 1, :]
  squares = lambda a, b: ((a - b[:, None]) ** 2).flatten(2).sum(-1)
  errors = {"keypoints2d": (labels2d[..., 2:] * 0.5 * (projected - labels2d[..., :2]).abs()).sum((-1, -2)),
            "keypoints3d": (labels3d[..., 3:] * (centred(points) - centred(labels3d[..., :3])).abs()).sum((-1, -2)),
            "global_orient": squares(pose[:, :, :1], batch["global_orient"]),
            "body_pose": squares(pose[:, :, 1:], batch["body_pose"])}                           # [B, 2] each
  terms = {f"{n}_{kind}": e[:, i].mean() for n, e in errors.items() for i, kind in enumerate(("mode", "exp"))}
  columns = six_d.unflatten(-1, (24, 2, 3))
  gram = columns @ columns.transpose(-1, -2)
  terms["orthogonal"] = ((gram - torch.eye(2)) ** 2).mean((0, 2, 3, 4)).sum()
  terms["betas"], terms["nll"] = ((betas - batch["betas"]) ** 2).sum(1).mean(), -log_prob.mean()
  terms["adversarial"] = ((_scores(critic, flat[:, 1:], shape) - 1) ** 2).sum() / size
  return sum(weights[n] * term for n, term in terms.items()), (flat[:, 1:].detach(), shape.detach())


def _scores(critic, pose, betas):
  """`nn.critic.Critic` said again: [M, 23, 3, 3], [M, 10] -> [M, 25]."""
  import torch
  from torch.nn import functional as F
  dense = lambda x, name: F.linear(x, critic[name]["kernel"], critic[name]["bias"])
  x = F.relu(dense(F.relu(dense(pose.flatten(2), "D_conv1")), "D_conv2"))
  joints = torch.einsum("bjc,jco->bj", x, critic["pose_out_kernel"]) + critic["pose_out_bias"].reshape(-1)
  shape = dense(F.relu(dense(F.relu(dense(betas, "betas_fc1")), "betas_fc2")), "betas_out")
  whole = F.relu(dense(F.relu(dense(x.transpose(1, 2).flatten(1), "D_alljoints_fc1")), "D_alljoints_fc2"))
  return torch.cat([joints, shape, dense(whole, "D_alljoints_out")], 1)
