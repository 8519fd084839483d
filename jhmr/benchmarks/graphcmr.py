"""GraphCMR row: updates of its two networks, beside the same networks and losses as a plain PyTorch loop.

A small encoder of crops, the graph network and the perceptron at full size, on the built-in body's mesh of 1,723
vertices. The peer has the authors' order of work: the image's features are written at every vertex behind the template,
the sparse adjacency multiplies features (here of all images at once, which the authors do one by one), and joints come
from the upsampled mesh. It starts from our parameters and sees our batch, so its losses are ours (a test holds the two
together). The note compares predictions, bodies not posed.
"""

import os

import jax
import jax.numpy as jnp
from jhmr import assets as assets_lib
from jhmr.benchmarks import body as body_rows
from jhmr.benchmarks import timing, train
from jhmr.body import joints, smpl
from jhmr.data import spec
from jhmr.systems import graphcmr
import ml_collections
import numpy as np

CONFIG = {
    "seed": 0, "num_steps": 1000, "supervision": "paper", "train": "joint", "pyramid": "",
    "model_joints": graphcmr.JOINTS,
    "net": {"backbone": "resnet_tiny", "mesh": "graph", "layers": 5, "channels": 256, "hidden": 1024, "start": "mean",
            "dtype": "float32", "batch_norm": "device", "remat": False, "conv": "auto", "determinant": "nearest"},
    "optim": {"name": "adam", "learning_rate": 3e-4},
    "weights": {"vertices": 1.0, "keypoints2d": 1.0, "keypoints3d": 0.0, "smpl_vertices": 1.0, "smpl_keypoints2d": 1.0,
                "smpl_keypoints3d": 0.0, "pose": 1.0, "betas": 0.1}}
_LABELS = np.array(joints.mapping("spin49", "gt24"))


def update(batch=8, seconds=5.0):
  """Images per second of whole updates (forward, losses, backward, Adam) on one device, from a batch already there."""
  arrays, config = smpl.load_arrays("mannequin"), ml_collections.ConfigDict(CONFIG)
  step, state, data, assets = set_up(config, arrays, batch)
  predict = jax.jit(graphcmr.build(config).predict)
  one = lambda tree: jax.tree.map(lambda x: x[0], tree)
  kept, image = jax.tree.map(jnp.copy, state), one(data)
  functions = {"ours": train.runner(step, state, data, assets),
               "predict": lambda: jax.block_until_ready(predict(kept, image, assets))}
  if timing.installed("torch", "smplx"):
    functions |= {"peer": peer_step(config, arrays, state, data, assets), "peer predicts": peer(kept, data, assets)}
  flops = step.lower(state, data, assets).cost_analysis()["flops"]
  times = timing.interleaved(functions, seconds / 4)  # a call takes as long as several turns
  rate = lambda name: batch / times[name] if name in times else None
  against = f", the peer {rate('peer predicts'):.1f}" if "peer" in times else ""
  return {"name": "GraphCMR update", "unit": "images/s", "ours": rate("ours"), "peer": rate("peer"),
          "peer_name": "the same in PyTorch, smplx", "flops_per_item": flops / batch,
          "bytes_per_item": train.bytes_per_image(state.params, batch),
          "note": f"without learning it predicts {rate('predict'):.1f} meshes and bodies per second{against}"}


def set_up(config, arrays, batch, mesh=None):
  """(mapped step, state, batch laid out for it, assets) on one device.

  Args:
    mesh: of `assets.mesh_network`; None makes that of the body's own pyramid.
  """
  body = smpl.from_arrays(arrays)
  mesh = mesh or assets_lib.mesh_network(config, arrays, body)
  data = spec.fake_batch(train.IMAGE_SIZE, batch)
  return train.lay_out(graphcmr.build(config), arrays, graphcmr.JOINTS, data, mesh | {"body": body})


def rows_of(body):
  """Which of a body's landmarks are the joints, in their order."""
  return smpl.landmark_ids(body, joints.landmarks(graphcmr.JOINTS), graphcmr.JOINTS)


# The peer.

def peer_step(config, arrays, state, data, assets):
  """A function that makes one update in PyTorch, with every core, and returns its loss."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  batch, params, stats, fixed = _set_up(state, data, assets)
  body, layer = assets["body"], body_rows.peer_layer(arrays, len(batch["image"]))
  regressor = torch.tensor(np.asarray(body.landmarks)[rows_of(body)])
  mesh_of = lambda betas, pose: layer(betas=betas, global_orient=pose[:, :1], body_pose=pose[:, 1:],
                                      pose2rot=False).vertices
  optimizer = torch.optim.Adam(jax.tree.leaves(params), lr=config.optim.learning_rate)

  def run():
    coarse, camera, pose, betas = _networks(params, stats, batch["image"], fixed, True)
    label = torch.cat([batch["global_orient"], batch["body_pose"]], 1)
    with torch.no_grad():
      target = mesh_of(batch["betas"], label)
    meshes = {"": _multiply(fixed["up"], coarse.mT).mT, "smpl_": mesh_of(betas, pose)}
    terms = {"pose": ((pose - label) ** 2).mean(), "betas": ((betas - batch["betas"]) ** 2).mean()}
    for name, mesh in meshes.items():
      points = torch.einsum("kn,bnc->bkc", regressor, mesh)
      seen = camera.detach() if name else camera
      terms |= {f"{name}vertices": (mesh - target).abs().mean(), f"{name}keypoints2d": _error2d(points, seen, batch)}
    loss = sum(config.weights[n] * term for n, term in terms.items())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


def peer(state, data, assets):
  """A function that predicts in PyTorch: upsampled mesh, camera, pose, betas."""
  import torch
  batch, params, stats, fixed = _set_up(state, data, assets)

  @torch.no_grad()
  def run():
    coarse, *others = _networks(params, stats, batch["image"], fixed, False)
    return (_multiply(fixed["up"], coarse.mT).mT, *others)

  return run


def _set_up(state, data, assets):
  """(batch, parameters, statistics, {"template", "graph", "up"}) as tensors."""
  import torch
  tensor = lambda x: torch.tensor(np.asarray(x))
  batch = {k: tensor(v[0]) for k, v in data.items()}
  batch["image"] = batch["image"].permute(0, 3, 1, 2).contiguous()
  graph, up = assets["graph"], assets["upsampling"]
  num = len(graph.template)
  fixed = {"template": tensor(graph.template), "graph": _sparse(graph.ids, graph.weights, num),
           "up": _sparse(up.ids, up.weights, num)}
  return batch, train.torch_parameters(state.params), jax.tree.map(tensor, state.stats), fixed


def _sparse(ids, weights, columns):
  """The matrix [rows, columns] of padded rows."""
  import torch
  ids, weights = np.asarray(ids), np.asarray(weights)
  rows, slots = np.nonzero(weights)
  index = torch.tensor(np.stack([rows, ids[rows, slots]]))
  values = torch.tensor(weights[rows, slots])
  return torch.sparse_coo_tensor(index, values, (len(ids), columns), check_invariants=True).coalesce()


def _multiply(matrix, x):
  """A sparse [m, n] times features [B, C, n] -> [B, C, m], all images in one product."""
  import torch
  flat = x.permute(2, 0, 1).flatten(1)
  return torch.sparse.mm(matrix, flat).reshape(-1, *x.shape[:2]).permute(1, 2, 0)


def _networks(params, stats, image, fixed, training):
  """(mesh [B, n, 3], camera [B, 3], pose [B, 24, 3, 3], betas [B, 10]); channels first, as the authors have them."""
  import torch
  from torch.nn import functional as F
  net = params["net"]
  linear = lambda x, p: p["kernel"] @ x + p["bias"][:, None]
  norm = lambda x, p: F.relu(F.group_norm(x, x.shape[1] // 8, p["scale"], p["bias"]))

  def block(x, p):
    y = norm(linear(norm(x, p["pre_norm"]), p["lin1"]), p["norm1"])
    y = _multiply(fixed["graph"], p["conv"]["kernel"] @ y) + p["conv"]["bias"][:, None]
    y = linear(norm(y, p["norm2"]), p["lin2"])
    return y + (linear(x, p["skip_conv"]) if "skip_conv" in p else x)

  features = train.torch_features(net["backbone"], stats["net"]["backbone"], image, training)
  template = fixed["template"].T.expand(len(image), -1, -1)
  x = torch.cat([template, features[..., None].expand(-1, -1, template.shape[-1])], 1)
  x = linear(x, net["gc_0"])
  for i in range(sum(name.startswith("gc_") for name in net) - 1):
    x = block(x, net[f"gc_{i + 1}"])
  shape = norm(block(block(x, net["shape_0"]), net["shape_1"]), net["shape_2"])
  coarse = linear(shape, net["shape_4"]).mT
  each = F.relu(linear(norm(x, net["camera_0"]), net["camera_2"]))[:, 0]
  camera = F.linear(each, net["camera_4"]["kernel"], net["camera_4"]["bias"])
  return coarse, camera, *_perceptron(params["smpl"], stats["smpl"], coarse.detach(), fixed["template"], training)


def _perceptron(net, stats, coarse, template, training):
  """Mesh [B, n, 3] -> pose [B, 24, 3, 3], betas [B, 10]."""
  import torch
  from torch.nn import functional as F
  dense = lambda x, p: F.linear(x, p["kernel"], p["bias"])
  bn = lambda x, p, s: F.batch_norm(x, s["mean"], s["var"], p["scale"], p["bias"], training=training)
  x = torch.cat([coarse, template.expand_as(coarse)], -1).flatten(1)
  x = F.relu(bn(dense(x, net["fc_0"]), net["bn_0"], stats["bn_0"]))
  for name in ("block_1", "block_2"):
    p, s = net[name], stats[name]
    y = bn(dense(F.relu(bn(dense(x, p["fc_0"]), p["bn_1"], s["bn_1"])), p["fc_3"]), p["bn_4"], s["bn_4"])
    x = F.relu(x + y)
  x = dense(x, net["out"])
  u, _, vt = torch.linalg.svd(x[:, :216].reshape(-1, 24, 3, 3))
  sign = torch.linalg.det(u @ vt).detach()
  last = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
  return (u * last[..., None, :]) @ vt, x[:, 216:]


def _error2d(points, camera, batch):
  """Absolute errors of visible joints, their mean over the batch."""
  label = batch["keypoints2d"][:, _LABELS]
  seen = camera[:, None, :1] * (points[..., :2] + camera[:, None, 1:])
  error = label[..., 2:] * (seen - label[..., :2]).abs()
  return error.sum() / (2 * (label[..., 2] > 0).sum())
