"""3D Multi-bodies row: updates with 100 hypotheses for each image, beside the same as a plain PyTorch loop.

The peer does what the authors' code does, for the paper's larger last layer: the image's features are written in front
of every hypothesis' estimate (all of them in one batch, which the authors take one by one), and joints come from a mesh
reduced to the vertices that any of them needs. It starts from our parameters and sees our batch, so its losses are ours
(a test holds the two together). The note compares predictions of all hypotheses with their joints.
"""

import os

import jax
import jax.numpy as jnp
from jhmr import regression
from jhmr.benchmarks import hypotheses, timing, train
from jhmr.body import joints, smpl
from jhmr.data import spec
from jhmr.systems import multibodies
import ml_collections
import numpy as np

CONFIG = train.CONFIG | {
    "system": "multibodies", "camera_convention": "spin", "supervise_first": False, "quantise": "paper",
    "net": train.CONFIG["net"] | {"hypotheses": 100, "apart": 0, "spread": 0.1},
    "weights": {"keypoints2d": 5.0, "keypoints3d": 5.0, "pose": 1.0, "betas": 0.001, "vertices": 0.0, "camera": 1.0,
                "keypoints2d_all": 1.0}}
_GT24, _SET = list(joints.mapping("spin49", "gt24")), "spin49"


def update(batch=8, seconds=5.0):
  """Images per second of whole updates (forward, best of M, losses, backward, Adam), from a batch already there."""
  arrays, config = smpl.load_arrays("mannequin"), ml_collections.ConfigDict(CONFIG)
  step, state, data, assets = set_up(config, arrays, batch)
  predict = jax.jit(multibodies.build(config).predict)
  kept, image = jax.tree.map(jnp.copy, state), jax.tree.map(lambda x: x[0], data)
  functions = {"ours": train.runner(step, state, data, assets),
               "predict": lambda: jax.block_until_ready(predict(kept, image, assets))}
  if timing.installed("torch"):
    functions |= {"peer": peer_step(config, arrays, state, data, assets),
                  "peer predicts": peer(config, arrays, kept, data, assets)}
  flops = step.lower(state, data, assets).cost_analysis()["flops"]
  times = timing.interleaved(functions, seconds / 4)  # a call takes as long as several turns
  rate = lambda name: batch / times[name] if name in times else None
  against = f", the peer {rate('peer predicts'):.1f}" if "peer" in times else ""
  return {"name": "3D Multi-bodies update", "unit": "images/s", "ours": rate("ours"), "peer": rate("peer"),
          "peer_name": "the same in PyTorch", "flops_per_item": flops / batch,
          "bytes_per_item": train.bytes_per_image(state.params, batch),
          "note": f"without learning {rate('predict'):.1f} images per second, {config.net.hypotheses} bodies and their "
                  f"joints each{against}"}


def set_up(config, arrays, batch):
  """(mapped step, state, batch laid out for it, assets) on one device."""
  return train.lay_out(multibodies.build(config), arrays, _SET, spec.fake_batch(train.IMAGE_SIZE, batch))


# The peer.

def peer_step(config, arrays, state, data, assets):
  """A function that makes one update in PyTorch, with every core, and returns its loss."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  params, estimate, batch = _set_up(config, arrays, state, data, assets)
  optimizer = torch.optim.Adam(jax.tree.leaves(params), lr=config.optim.learning_rate)

  def run():
    loss = _loss(*estimate(True), batch, config.weights)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


def peer(config, arrays, state, data, assets):
  """A function that predicts in PyTorch: pose [B, M, 24, 3, 3], betas, camera, and joints [B, M, 49, 3]."""
  import torch
  _, estimate, _ = _set_up(config, arrays, state, data, assets)

  @torch.no_grad()
  def run():
    return estimate(False)

  return run


def _set_up(config, arrays, state, data, assets):
  """(parameters, function (training) -> (pose, betas, camera, joints) of all hypotheses, batch)."""
  import torch
  tensor = lambda x: torch.tensor(np.asarray(x))
  own = jax.tree.map(lambda x: tensor(x).requires_grad_(), state.params["heads"]["own"])
  params = train.torch_parameters(state.params["net"]) | {"own": own}
  stats = jax.tree.map(tensor, state.stats["net"]["backbone"])
  batch = {k: tensor(v[0]) for k, v in data.items()}
  image = batch["image"].permute(0, 3, 1, 2).contiguous()
  start = torch.cat([tensor(x) for x in regression.start_values(assets["mean"])])
  points = reduced_keypoints(arrays)

  def estimate(training):
    features = train.torch_features(params["backbone"], stats, image, training)
    six_d, betas, camera = _regress(params, features, start, config.net).split([144, len(start) - 147, 3], -1)
    pose = _rotations(six_d)
    found = points(betas.flatten(0, 1), pose.flatten(0, 1))
    return pose, betas, camera, found.reshape(*betas.shape[:2], *found.shape[1:])

  return params, estimate, batch


def _regress(params, features, start, net):
  """Estimates [B, M, 157] of the iterative regressor."""
  import torch
  from torch.nn import functional as F
  head, own = params["head"], params["own"]
  dense = lambda x, name: F.linear(x, head[name]["kernel"], head[name]["bias"])
  estimate = start.expand(len(features), net.hypotheses, -1)
  features = features[:, None].expand(-1, net.hypotheses, -1)
  for _ in range(net.iterations):
    x = F.relu(dense(F.relu(dense(torch.cat([features, estimate], -1), "fc1")), "fc2"))
    common = torch.cat([dense(x, name) for name in ("decpose", "decshape", "deccam")], -1)
    estimate = estimate + common + torch.einsum("bmh,mho->bmo", x, own["kernel"]) + own["bias"]
  return estimate


def _rotations(six_d):
  """Two columns for each joint, in SPIN's layout: [..., 144] -> [..., 24, 3, 3]."""
  six_d = six_d.reshape(*six_d.shape[:-1], 24, 3, 2).mT
  return hypotheses.torch_rotations(six_d.flatten(-3))


def reduced_keypoints(arrays):
  """A function (betas [P, 10], pose [P, 24, 3, 3]) -> 49 keypoints [P, 49, 3], from the few vertices they need."""
  import torch
  body = smpl.sub_body(smpl.from_arrays(arrays), (_SET,))
  tensor = lambda x: torch.tensor(np.asarray(x))
  template, directions, skin, rows = map(tensor, (body.template, body.blend_dirs, body.skin_weights, body.landmarks))
  rest, rest_directions = tensor(body.joint_template), tensor(body.joint_dirs)
  names = [*joints.SMPL24, *body.landmark_names]
  order = torch.tensor([names.index(n) for n in joints.landmarks(_SET)])

  def keypoints(betas, pose):
    bones = rest + torch.einsum("pl,ljc->pjc", betas, rest_directions)
    turned, placed = [pose[:, 0]], [bones[:, 0]]
    for joint, parent in enumerate(body.parents[1:], 1):
      turned.append(turned[parent] @ pose[:, joint])
      placed.append(placed[parent] + (turned[parent] @ (bones[:, joint] - bones[:, parent])[..., None])[..., 0])
    turned, placed = torch.stack(turned, 1), torch.stack(placed, 1)
    moved = placed - (turned @ bones[..., None])[..., 0]
    bent = (pose[:, 1:] - torch.eye(3)).flatten(1)
    shaped = template.flatten() + torch.cat([betas, bent], 1) @ directions
    shaped = shaped.reshape(len(betas), 3, -1)
    blended = torch.einsum("jn,pjab->pnab", skin, turned)
    vertices = torch.einsum("pnab,pbn->pna", blended, shaped) + torch.einsum("jn,pja->pna", skin, moved)
    return torch.cat([placed, rows @ vertices], 1)[:, order]

  return keypoints


def _loss(pose, betas, cam, points, batch, weights):
  """SPIN's reductions of CONFIG's losses, for a batch that has every label."""
  import torch
  hips, everyone = list(regression.HIPS), torch.arange(len(betas))
  projected = hypotheses.torch_projected(points.flatten(0, 1), cam.flatten(0, 1))
  projected = projected.reshape(*points.shape[:-1], 2)[:, :, _GT24]
  centred = lambda x: x - x[..., hips, :].mean(-2, keepdim=True)
  two, three = batch["keypoints2d"][:, None, _GT24], batch["keypoints3d"][:, None, _GT24]
  error2d = (two[..., 2:] * (projected - two[..., :2]) ** 2).mean((-2, -1))                   # [B, M]
  error3d = (three[..., 3:] * (centred(points[:, :, _GT24]) - centred(three[..., :3])) ** 2).mean((-2, -1))
  best = everyone, error3d.argmin(1)
  label = torch.cat([batch["global_orient"], batch["body_pose"]], 1)
  terms = {"keypoints2d": error2d[best], "keypoints3d": error3d[best], "pose": ((pose[best] - label) ** 2),
           "betas": (betas[best] - batch["betas"]) ** 2, "keypoints2d_all": error2d,
           "camera": torch.exp(-10 * cam[..., 0]) ** 2}
  return sum(weights[n] * term.mean() for n, term in terms.items())
