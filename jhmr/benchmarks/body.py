"""Body rows: posing full meshes, and gradients of keypoints, beside smplx in PyTorch on the same machine.

Each function returns {"name", "unit", "ours", "peer", "peer_name", "flops_per_item", "bytes_per_item"}; rates are items
per second, `peer` is None where torch and smplx are not installed. Both sides compute in float32 from the same arrays
and inputs.
"""

import os

import jax
import jax.numpy as jnp
from jhmr.benchmarks import timing
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import landmarks
from jhmr.body import people_last
from jhmr.body import smpl
import numpy as np

_KEYPOINTS = "spin49"


def body_forward(batch=64, seconds=3.0):
  """Full meshes (6,890 vertices and 45 joints) per second from betas, axis-angle poses and translations."""
  arrays, inputs = smpl.load_arrays("mannequin"), _inputs(batch)
  body = smpl.from_arrays(arrays)
  program = jax.jit(_mesh)
  on_device = [jnp.asarray(x) for x in inputs]
  functions = {"ours": lambda: jax.block_until_ready(program(body, *on_device))}
  if timing.installed("torch", "smplx"):
    functions["peer"] = _peer_forward(arrays, inputs)
  coefficients, vertices = body.blend_dirs.shape[0], body.template.shape[1]
  return _row("body forward", "meshes/s", functions, batch, seconds,
              flops=6 * vertices * coefficients + 24 * vertices * len(joints.SMPL24) + 24 * vertices,
              bytes_=4 * 3 * vertices + 4 * body.blend_dirs.size / batch)


def keypoints_grad(batch=64, seconds=3.0):
  """Value and gradient of the 2D residual of 49 keypoints w.r.t. betas, pose and translation, per second.

  Ours as fits compute it, people on the last axis.
  """
  arrays, inputs = smpl.load_arrays("mannequin"), _inputs(batch)
  body = landmarks.rigid_body(smpl.from_arrays(arrays), (_KEYPOINTS,))
  target = np.random.default_rng(1).normal(size=(batch, 49, 2)).astype(np.float32)
  program = jax.jit(jax.value_and_grad(_residual, argnums=(2, 3, 4)))
  on_device = [jnp.moveaxis(jnp.asarray(x), 0, -1) for x in (target, *inputs)]
  functions = {"ours": lambda: jax.block_until_ready(program(body, *on_device))}
  if timing.installed("torch", "smplx"):
    functions["peer"] = _peer_grad(arrays, target, inputs)
  coefficients, vertices = body.blend_dirs.shape[0], body.template.shape[1]
  forward = 6 * vertices * coefficients + 24 * vertices * len(joints.SMPL24) + 6 * vertices * len(body.landmark_names)
  return _row("keypoints grad", "bodies/s", functions, batch, seconds, flops=3 * forward,
              bytes_=4 * 2 * (10 + 72 + 3) + 4 * 49 * 2 + 4 * body.blend_dirs.size / batch)


def _row(name, unit, functions, batch, seconds, flops, bytes_):
  times = timing.interleaved(functions, seconds)
  peer = batch / times["peer"] if "peer" in times else None
  return {"name": name, "unit": unit, "ours": batch / times["ours"], "peer": peer, "peer_name": "smplx (PyTorch)",
          "flops_per_item": float(flops), "bytes_per_item": float(bytes_)}


def _inputs(batch):
  """(betas [B, 10], pose [B, 72] axis-angle, transl [B, 3]) as NumPy float32."""
  rng = np.random.default_rng(0)
  transl = np.array([0, 0, 40], np.float32) + rng.normal(size=(batch, 3))
  return tuple(x.astype(np.float32) for x in (rng.normal(size=(batch, 10)), .3 * rng.normal(size=(batch, 72)), transl))


def _mesh(body, betas, pose, transl):
  posed = smpl.forward_axis_angle(body, betas, pose, transl)
  return posed.vertices, smpl.keypoints(body, posed, "smplx45")


def _residual(body, target, betas, pose, transl):
  pose = people_last.matrices(pose.reshape(-1, 3, pose.shape[-1]))
  points = people_last.keypoints(body, betas, pose, _KEYPOINTS) + transl
  return jnp.sum((camera.FOCAL_PX * points[:, :2] / points[:, 2:] - target) ** 2)


# The peer: smplx's own layer, and what SPIN adds to it for 49 keypoints, in PyTorch with every core.

def peer_layer(arrays, batch):
  import contextlib
  import io

  import smplx
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))  # every core that we may use too
  num_vertices = arrays["v_template"].shape[0]
  struct = smplx.utils.Struct(
      v_template=arrays["v_template"], shapedirs=arrays["shapedirs"], weights=arrays["weights"], f=arrays["f"],
      posedirs=np.asarray(arrays["posedirs"]).T.reshape(num_vertices, 3, -1), J_regressor=arrays["J_regressor"],
      kintree_table=np.stack([arrays["parents"], np.arange(len(arrays["parents"]))]))
  with contextlib.redirect_stdout(io.StringIO()):  # it remarks on models of 10 betas
    return smplx.SMPL("", data_struct=struct, batch_size=batch)


def _peer_forward(arrays, inputs):
  import torch
  layer = peer_layer(arrays, len(inputs[0]))
  betas, pose, transl = map(torch.from_numpy, inputs)

  def run():
    with torch.no_grad():
      return layer(betas=betas, global_orient=pose[:, :3], body_pose=pose[:, 3:], transl=transl)

  return run


def peer_keypoints(arrays, batch):
  """A function of smplx's arguments -> 49 keypoints [B, 49, 3] through smplx, as SPIN makes them."""
  import torch
  layer = peer_layer(arrays, batch)
  extra = torch.tensor(np.asarray(arrays["regressor_extra9"], np.float32))
  order = torch.tensor(joints.mapping("spin54", _KEYPOINTS))

  def keypoints(**arguments):
    out = layer(**arguments)
    return torch.cat([out.joints, torch.einsum("bik,ji->bjk", out.vertices, extra)], 1)[:, order]

  return keypoints


def _peer_grad(arrays, target, inputs):
  import torch
  keypoints, target = peer_keypoints(arrays, len(inputs[0])), torch.from_numpy(target)
  variables = [torch.from_numpy(x).requires_grad_() for x in inputs]

  def run():
    betas, pose, transl = variables
    points = keypoints(betas=betas, global_orient=pose[:, :3], body_pose=pose[:, 3:], transl=transl)
    loss = ((camera.FOCAL_PX * points[..., :2] / points[..., 2:] - target) ** 2).sum()
    return loss.item(), torch.autograd.grad(loss, variables)

  return run
