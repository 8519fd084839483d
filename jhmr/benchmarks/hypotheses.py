"""Hypothesis row: from the features of images to joints, projections and densities of many random poses of each.

Features go in, 2,048 numbers an image; out come n hypotheses of each image, drawn from the flow: 44 joints in metres,
their 2D projections and a log-probability. Shape and camera are the head's, the same for all hypotheses of an image.

The peer is the authors' order of work in PyTorch: features are repeated for every sample and concatenated in front of
each network of the flow, LU is solved against every sample, smplx poses the full mesh of every sample, and a dense
regressor picks 19 joints from it. It may take meshes in pieces of `PEER_MESHES`, the fastest for it on a CPU (the
authors take all at once, which needs 1.3 MB a mesh), and at most `PEER_SAMPLES` samples through the flow at once.
"""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr import fast_sampling
from jhmr.benchmarks import body as body_rows
from jhmr.benchmarks import flow, precision, timing
from jhmr.body import camera, joints, landmarks, smpl
from jhmr.nn import regressor
from jhmr.nn.flow import ConditionalGlow
import numpy as np

NET = ConditionalGlow()  # ProHMR's size
PEER_MESHES, PEER_SAMPLES = 64, 4096
_HEAD = regressor.ShapeCamera()
_MEAN = {"betas": jnp.zeros(10), "camera": jnp.array([0.9, 0.0, 0.0])}


class Setting(NamedTuple):
  """Everything both sides start from."""
  arrays: dict        # of the body
  body: smpl.Smpl
  flow: dict          # variables
  head: dict          # variables
  context: jax.Array  # [B, C]


def set_up(net, num_images, body="mannequin", seed=0):
  """The Setting of a net whose values are of a trained net's size."""
  arrays, rng = smpl.load_arrays(body), np.random.default_rng(seed)
  variables, _, _ = flow.set_up(net, 1)
  context = jnp.asarray(rng.normal(size=(num_images, net.context)), jnp.float32)
  fresh = jax.eval_shape(_HEAD.init, jax.random.key(0), context, **_MEAN)
  head = jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape) * x.shape[0] ** -0.5, jnp.float32), fresh)
  return Setting(arrays, smpl.from_arrays(arrays), variables, head, context)


def joints_of_one_image(num=4096, seconds=5.0):
  """Hypotheses per second of one image, each with 44 joints and their projections."""
  setting = set_up(NET, 1)
  programs = {n: precision.variant(n, lambda dtype: runner(NET.clone(dtype=dtype), setting, num))
              for n in precision.VARIANTS}
  points = {n: np.asarray(program().keypoints) for n, program in programs.items()}
  reference = points.pop(precision.REFERENCE)
  functions = {n: programs[n] for n in precision.timed()} | {"ours": programs["float32"]}
  if timing.installed("torch", "smplx"):
    functions["peer"] = peer(NET, setting, num)
  times = timing.interleaved(functions, seconds / 8)  # a call takes as long as many turns
  rates = {"float32" if n == "ours" else n: num / t for n, t in times.items() if n != "peer"}
  flops, size = flops_per_item(NET, setting), sum(x.size for x in jax.tree.leaves(setting.flow))
  moved = {n: precision.moved_mm(p, reference) for n, p in points.items()}
  return {"name": "hypotheses", "unit": "hypotheses/s", "ours": num / times["ours"],
          "peer": num / times["peer"] if "peer" in times else None, "peer_name": "the same in PyTorch, smplx's mesh",
          "flops_per_item": flops, "bytes_per_item": 4.0 * (44 * 5 + 1 + size / num),
          "note": precision.note("hypotheses/s", rates, flops, moved)}


def flops_per_item(net, setting):
  """Of the flow and of the points that joints are made of; what is done once per image is not counted."""
  body = landmarks.rigid_body(setting.body, ("prohmr44",))
  points, coefficients = body.template.shape[1], body.blend_dirs.shape[0]
  return flow.flops_per_sample(net) + 6 * points * coefficients + 24 * points * 24 + 6 * points * len(body.landmarks)


def runner(net, setting, num, seed=0):
  """A function of no arguments: what it draws for the setting's images, a fast_sampling.Drawn. Folds the flow first."""
  sampler = fast_sampling.prepare(net, setting.flow, setting.body)

  @jax.jit
  def run(sampler, variables, head, context, key):
    projected = net.apply(variables, context, method="project")
    betas, cam = _HEAD.apply(head, context, **_MEAN)
    return fast_sampling.draw(sampler, projected, betas, cam, key, num)

  key = jax.random.key(seed)
  return lambda: jax.block_until_ready(run(sampler, setting.flow, setting.head, setting.context, key))


# The peer.

def peer(net, setting, num, z=None):
  """A function of no arguments that gives tensors: joints [B S, 44, 3], projected [B S, 44, 2], log_prob [B S].

  z [B S, D]: latents, where they are given. Uses every core.
  """
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  way, posed = flow.torch_way(net, *flow.torch_variables(setting.flow), towards_z=False), _peer_joints(setting.arrays)
  context, look = torch.tensor(np.asarray(setting.context)), _peer_head(setting.head)

  @torch.no_grad()
  def run():
    betas, cam = (x.repeat_interleave(num, 0) for x in look(context))
    repeated = context.repeat_interleave(num, 0)
    drawn = torch.randn(len(repeated), net.dim) if z is None else z
    found = []
    for i in range(0, len(drawn), PEER_SAMPLES):
      rows = slice(i, i + PEER_SAMPLES)
      x, log_det = way(drawn[rows], repeated[rows])
      points = posed(x, betas[rows])
      found.append((points, torch_projected(points, cam[rows]), flow.torch_log_normal(drawn[rows]) - log_det))
    return tuple(torch.cat(parts) for parts in zip(*found))

  return run


def _peer_head(head):
  import torch
  layers = jax.tree.map(lambda x: torch.tensor(np.asarray(x).T.copy()), head["params"])
  return lambda context: torch_head(layers, context, _MEAN)


def torch_head(layers, context, mean):
  """`regressor.ShapeCamera` said again: [B, C] -> (betas [B, 10], camera [B, 3])."""
  import torch
  from torch.nn import functional as F
  x = F.relu(F.linear(context, layers["fc1"]["kernel"], layers["fc1"]["bias"]))
  start = torch.tensor(np.concatenate([mean["betas"], mean["camera"]]))
  return (start + F.linear(x, layers["fc2"]["kernel"], layers["fc2"]["bias"])).split([10, 3], 1)


def _peer_joints(arrays):
  """(6D [M, 144], betas [M, 10]) -> joints [M, 44, 3], a few meshes at a time."""
  import torch
  layer = torch_joints(arrays)

  def posed(six_d, betas):
    pose, pieces = torch_rotations(six_d), [slice(i, i + PEER_MESHES) for i in range(0, len(six_d), PEER_MESHES)]
    return torch.cat([layer(pose[rows], betas[rows]) for rows in pieces])

  return posed


def torch_joints(arrays):
  """A function (pose [M, 24, 3, 3], betas [M, 10]) -> joints [M, 44, 3], as their SMPL layer makes them by smplx."""
  import torch
  layer = body_rows.peer_layer(arrays, 1)
  extra = torch.tensor(np.asarray(arrays["regressor_j19"], np.float32))
  order = torch.tensor(joints.mapping("smplx45", "openpose25"))

  def posed(pose, betas):
    out = layer(betas=betas, global_orient=pose[:, :1], body_pose=pose[:, 1:], pose2rot=False)
    return torch.cat([out.joints[:, order], torch.einsum("bik,ji->bjk", out.vertices, extra)], 1)

  return posed


def torch_rotations(six_d):
  """Tensors [..., 144], two columns for each joint -> rotations [..., 24, 3, 3]."""
  import torch
  from torch.nn import functional as F
  a, b = six_d.reshape(*six_d.shape[:-1], 24, 2, 3).unbind(-2)
  x = F.normalize(a, dim=-1)
  y = F.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
  return torch.stack([x, y, torch.cross(x, y, dim=-1)], -1)


def torch_projected(points, cam):
  """`camera.project_crop` said again: [M, K, 3], [M, 3] -> [M, K, 2]."""
  import torch
  depth = 2 * camera.FOCAL_PX / (camera.CROP_PX * cam[:, 0] + 1e-9)
  moved = points + torch.stack([cam[:, 1], cam[:, 2], depth], -1)[:, None]
  return camera.FOCAL_PX * moved[..., :2] / moved[..., 2:] / (camera.CROP_PX / 2)
