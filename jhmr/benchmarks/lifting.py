"""Lifting rows: hypotheses of 2D poses, and updates, of Wehrbein et al.'s network, beside the same in PyTorch.

The peer is our parameters in the order of work of the authors' code: every hypothesis is a row of its own, whose
condition is repeated, goes through the condition's net and is concatenated in front of every coupling; an update makes
its way back three times, and a backward pass for each of the critic's three terms and the network's three groups.
"""

import os

import jax
import jax.numpy as jnp
from jhmr import lifting, parallel
from jhmr.benchmarks import timing, train
from jhmr.data import lift_spec
from jhmr.nn import cinn
from jhmr.systems import cinn_lifting
import ml_collections
import numpy as np

CONFIG = {
    "system": "cinn_lifting", "seed": 0, "num_steps": 1000, "batch_size": 704, "hypotheses": 200, "top_k": 5,
    "critic_steps": 5, "mmd": "code", "clip": 15.0, "mode_first": True,
    "net": {"blocks": 8, "hidden": 1028, "condition_hidden": 256, "features": 56, "condition": True, "clamp": 2.0,
            "dtype": "float32"},
    "critic": {"hidden": 100, "chain_hidden": 1000, "penalty": 10.0},
    "optim": {"name": "adam", "learning_rate": 1e-4, "b1": 0.5, "b2": 0.9},
    "critic_optim": {"name": "adam", "learning_rate": 1e-4, "b1": 0.5, "b2": 0.9},
    "weights": {"keypoints2d": 1.0, "mmd": 10.0, "deterministic": 4.0, "best": 4.0, "covariance": 750.0,
                "generator": 1.0}}
_DIM_Z = cinn_lifting.DIM_Z


def hypotheses(poses=1, num=1000, seconds=3.0):
  """3D poses per second: `num` hypotheses of each of `poses` 2D poses, from joints and Gaussians as detected."""
  config = ml_collections.ConfigDict(CONFIG)
  params, batch, z = set_up(config, poses, num)
  program = jax.jit(sampler(config))
  functions = {"ours": lambda: jax.block_until_ready(program(params, batch, z))}
  if timing.installed("torch"):
    functions["peer"] = peer(config, params, batch, z)
  times = timing.interleaved(functions, seconds / 4)  # a call takes as long as several turns
  count, size = poses * num, sum(x.size for x in jax.tree.leaves(params))
  return {"name": f"lifting, {num:,} hypotheses of {poses}", "unit": "poses/s", "ours": count / times["ours"],
          "peer": count / times["peer"] if "peer" in times else None,
          "peer_name": "the same in PyTorch, condition repeated",
          "flops_per_item": flops_per_pose(config.net),
          "bytes_per_item": 4.0 * (_DIM_Z + 3 * lift_spec.NUM_3D + size / count),
          "note": f"{1000 * times['ours']:.1f} ms for all of them" + (
              f", the peer {1000 * times['peer']:.1f}" if "peer" in times else "")}


def hypotheses_of_64(seconds=3.0):
  """As `hypotheses`, of 64 poses."""
  return hypotheses(64, seconds=seconds)


def update(seconds=5.0):
  """Poses per second of whole updates, 5 of the critic and 1 of the network, of 704 poses already there."""
  config = ml_collections.ConfigDict(CONFIG)
  step, state, data = set_up_update(config)
  functions = {"ours": train.runner(step, state, data, {})}
  if timing.installed("torch"):
    update_once = peer_update(config, state, data)
    functions["peer"] = lambda: update_once(iter(lambda: None, 0))
  flops = step.lower(state, data, {}).cost_analysis()["flops"]
  times = timing.interleaved(functions, seconds / 4)
  batch, size = config.batch_size, sum(x.size for x in jax.tree.leaves(state.params))
  return {"name": "lifting update", "unit": "poses/s", "ours": batch / times["ours"],
          "peer": batch / times["peer"] if "peer" in times else None, "peer_name": "the same in PyTorch",
          "flops_per_item": flops / batch, "bytes_per_item": 4 * 7 * size / batch,
          "note": f"{1000 * times['ours']:.0f} ms an update, with {config.hypotheses} hypotheses of each pose that "
                  "the network learns from"}


def flops_per_pose(net):
  """What a hypothesis needs at least: the condition's share is the pose's."""
  return 2.0 * net.blocks * 2 * (cinn_lifting.DIM3D // 2) * 3 * net.hidden


def set_up(config, poses, num, seed=0):
  """(parameters of a fresh network, a batch of `poses`, latents [poses, num, 16])."""
  batch = {k: jnp.asarray(v) for k, v in lift_spec.fake_batch(poses, seed).items()}
  params = cinn_lifting.build(config).init(jax.random.key(0), batch, {}).params["net"]
  z = np.random.default_rng(seed).normal(size=(poses, num, _DIM_Z)).astype(np.float32)
  return params, batch, jnp.asarray(z)


def sampler(config):
  """A function (params, batch, z) -> poses [B, S, 17, 3] metres."""
  net = cinn_lifting.network(config.net)

  def run(params, batch, z):
    projected = net.apply({"params": params}, lifting.condition(batch["gaussians"]), method="project")
    x, _ = cinn_lifting.lifted_many(net, params, z, lifting.normalise2d(batch["pose2d"]), projected)
    return lifting.to_pose3d(x)

  return run


def set_up_update(config):
  """(mapped step, state, batch laid out for it) on one device."""
  data, system = lift_spec.fake_batch(config.batch_size), cinn_lifting.build(config)
  data["pose3d"] = np.asarray(lifting.to_pose3d(0.3 * lifting.normalise3d(data["pose3d"])))  # of a person's size
  mapper = parallel.make("pmap", jax.devices()[:1])
  state = mapper.replicate(system.init(jax.random.key(0), data, {}))
  data = {k: jnp.asarray(v) for k, v in mapper.to_devices(data).items()}
  return mapper.train(system.step), state, data


# The peer.

def peer(config, params, batch, z):
  """A function that makes the same hypotheses in PyTorch with every core: vectors [S, B, 48] as the network has them.

  It is given conditions and 2D poses that are normalised already.
  """
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  tensor = lambda x: torch.tensor(np.asarray(x))
  params = torch_parameters(params, False)
  condition, y = tensor(lifting.condition(batch["gaussians"])), tensor(lifting.normalise2d(batch["pose2d"]))
  z = tensor(jnp.swapaxes(z, 0, 1)).contiguous()

  @torch.no_grad()
  def run():
    return torch_many(params, z, y, condition, config.net)

  return run


def torch_parameters(params, learn=True):
  """Our parameters as tensors in torch's layout."""
  import torch
  return jax.tree.map(lambda x: torch.tensor(x).requires_grad_(learn), train.torch_layout(params))


def torch_many(params, z, y, condition, net):
  """Hypotheses of latents [S, B, 16], 2D poses [B, 32] and conditions [B, 78]: [S, B, 48]."""
  import torch
  v = torch.cat([z, y[None].repeat(len(z), 1, 1)], 2).flatten(0, 1)
  return torch_way(params, v, condition[None].repeat(len(z), 1, 1).flatten(0, 1), net, True).unflatten(0, z.shape[:2])


def torch_way(params, x, condition, net, back):
  """The network's way from poses [M, 48] to (z, y), or back, with a condition [M, 78] each."""
  import torch
  c = _two_layers(params["condition"], condition)
  for block in range(net.blocks)[::-1 if back else 1]:
    coupling, order = params[f"coupling_{block}"], cinn.permutation(block, cinn_lifting.DIM3D)
    if back:
      x = x[:, np.argsort(order)]
    a, b = x.chunk(2, 1)
    if back:
      scale, shift = _scale_shift(coupling["s1"], a, c, net.clamp)
      b = (b - shift) / scale
      scale, shift = _scale_shift(coupling["s2"], b, c, net.clamp)
      x = torch.cat([(a - shift) / scale, b], 1)
    else:
      scale, shift = _scale_shift(coupling["s2"], b, c, net.clamp)
      a = scale * a + shift
      scale, shift = _scale_shift(coupling["s1"], a, c, net.clamp)
      x = torch.cat([a, scale * b + shift], 1)[:, order]
  return x


def _scale_shift(net, x, c, clamp):
  import torch
  s, t = _two_layers(net, torch.cat([x, c], 1)).chunk(2, 1)
  return torch.exp(clamp * 0.636 * torch.atan(s / clamp)), t


def _two_layers(net, x):
  from torch.nn import functional as F
  x = F.relu(F.linear(x, net["fc0"]["kernel"], net["fc0"]["bias"]))
  return F.linear(x, net["fc2"]["kernel"], net["fc2"]["bias"])


def peer_update(config, state, data):
  """A function that makes one update in PyTorch, with every core: (losses of the network, of the critic).

  It takes an iterator of what it draws, in its order, as arrays; where that gives None it draws for itself.
  """
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  params = {name: torch_parameters(tree) for name, tree in state.params.items()}
  optimizers = {name: torch.optim.Adam(jax.tree.leaves(tree), lr=config.optim.learning_rate,
                                       betas=(config.optim.b1, config.optim.b2)) for name, tree in params.items()}
  batch = {k: jnp.asarray(v[0]) for k, v in data.items() if k in ("pose2d", "pose3d", "gaussians")}
  target, mask = lifting.covariance_target(batch["gaussians"])
  rows = {"x": lifting.normalise3d(batch["pose3d"]), "y": lifting.normalise2d(batch["pose2d"]),
          "condition": lifting.condition(batch["gaussians"]), "target": target, "mask": mask}
  rows = {k: torch.tensor(np.asarray(v)) for k, v in rows.items()}
  parts = 2 * config.critic_steps + 1

  def run(drawn):
    made = []
    for i in range(config.critic_steps):
      real, other = ({k: v[j::parts] for k, v in rows.items()} for j in (2 * i, 2 * i + 1))
      made.append(_critic_update(config, params, optimizers["critic"], real, other, drawn))
    rest = {k: v[parts - 1::parts] for k, v in rows.items()}
    return _network_update(config, params, optimizers["net"], rest, drawn), float(np.mean(made))

  return run


def _draw(drawn, shape, function="randn"):
  import torch
  given = next(drawn)
  return getattr(torch, function)(shape) if given is None else torch.tensor(np.asarray(given))


def _critic_update(config, params, optimizer, real, other, drawn):
  import torch
  optimizer.zero_grad()
  first = -torch_score(params["critic"], real["x"]).mean()
  first.backward()
  with torch.no_grad():
    v = torch.cat([_draw(drawn, (len(real["x"]), _DIM_Z)), other["y"]], 1)
    fake = torch_way(params["net"], v, other["condition"], config.net, True)
  second = torch_score(params["critic"], fake).mean()
  second.backward()
  share = _draw(drawn, (len(fake), 1), "rand")
  between = (share * real["x"] + (1 - share) * fake).requires_grad_()
  slope, = torch.autograd.grad(torch_score(params["critic"], between).sum(), between, create_graph=True)
  third = config.critic.penalty * ((slope.norm(dim=1) - 1) ** 2).mean()
  third.backward()
  optimizer.step()
  return (first + second + third).item()


def _network_update(config, params, optimizer, rows, drawn):
  import torch
  weights, net, tree = config.weights, config.net, params["net"]
  x, y, condition = rows["x"], rows["y"], rows["condition"]
  optimizer.zero_grad()
  for leaf in jax.tree.leaves(params["critic"]):
    leaf.requires_grad_(False)
  draw = lambda *shape: _draw(drawn, (*shape, len(x), _DIM_Z))
  out = torch_way(tree, x, condition, net, False)
  found = torch.cat([out[:, :_DIM_Z], out[:, _DIM_Z:].detach()], 1)
  forward = (weights.keypoints2d * (out[:, _DIM_Z:] - y).abs().mean() +
             weights.mmd * _mmd(found, torch.cat([draw(), y], 1)))
  forward.backward()
  back = lambda z: torch_way(tree, torch.cat([z, y], 1), condition, net, True)
  fake, own = back(draw()), back(out[:, :_DIM_Z].detach())
  many = _posed(torch_many(tree, draw(config.hypotheses), y, condition, net))
  spread = _lack(many, rows["target"]) * rows["mask"]
  reverse = (weights.deterministic * (own - x).abs().mean() + weights.covariance * spread.mean() +
             weights.best * _best(many, _posed(x), config.top_k))
  reverse.backward(retain_graph=True)
  critic = -weights.generator * torch_score(params["critic"], fake).mean()
  critic.backward()
  for name, part in tree.items():
    for leaf in jax.tree.leaves(part) if name != "condition" else ():
      leaf.grad.clamp_(-config.clip, config.clip)
  optimizer.step()
  for leaf in jax.tree.leaves(params["critic"]):
    leaf.requires_grad_(True)
  return (forward + reverse + critic).item()


def _mmd(x, y):
  def kernel(p, q):
    squared = (p ** 2).sum(1)[:, None] + (q ** 2).sum(1) - 2 * p @ q.T
    return sum(a ** 2 / (a ** 2 + squared) for a in (0.05, 0.2, 0.9))
  return (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)).mean()


def _posed(x):
  """Vectors [..., 48] -> [..., 3, 17], the pelvis half way between the hips and at the origin."""
  import torch
  x = x.unflatten(-1, (3, 16))
  pelvis = x[..., list(lifting.HIPS)].mean(-1, keepdim=True)
  return torch.cat([torch.zeros_like(pelvis), x - pelvis], -1)


def _lack(many, target):
  """By how much poses [S, B, 3, 17] vary too little: [B, 13]."""
  flat = many[:, :, :2, 1:][..., list(lifting.MATCHED_3D)]
  away = flat - flat.mean(0)
  spread = lambda i, j: (away[:, :, i] * away[:, :, j]).sum(0) / (len(many) - 1)
  lack = (target[..., 0] - spread(0, 0)).relu() ** 2 + (target[..., 2] - spread(1, 1)).relu() ** 2
  return (lack + (target[..., 1] - spread(0, 1)) ** 2 + 1e-30).sqrt()


def _best(many, target, count):
  """How far the mean of the nearest of [S, B, 3, 17] is from [B, 3, 17]."""
  import torch
  errors = (many - target).norm(dim=2).mean(-1)                          # [S, B]
  nearest = errors.argsort(0)[:count]
  return (many[nearest, torch.arange(many.shape[1])].mean(0) - target).abs().mean()


def torch_score(net, pose):
  """Scores [M, 1] of the critic for poses [M, 48]."""
  import torch
  from torch.nn import functional as F
  dense = lambda x, name: F.linear(x, net[name]["kernel"], net[name]["bias"])
  x1 = F.leaky_relu(dense(pose, "fc1"))
  x = dense(F.leaky_relu(dense(F.leaky_relu(dense(x1, "fc2")), "fc3") + x1), "fc4")
  first, second = map(list, zip(*cinn_lifting.BONES))
  points = pose.unflatten(-1, (3, 16))
  bones = points[..., first] - points[..., second]
  k1 = F.leaky_relu(dense((bones.mT @ bones).flatten(1), "fc5"))
  k = dense(F.leaky_relu(dense(k1, "fc6")), "fc7") + k1
  return dense(F.leaky_relu(dense(torch.cat([x, k], 1), "fc8")), "fc9")
