"""Fitting row: people per second from keypoints and a latent, beside PyTorch's L-BFGS on the same objective.

The density is a fixed smooth map from z to the 6D pose, so that the row measures fitting and not a network. The peer is
what ProHMR's demo does: one torch.optim.LBFGS problem for all people (10 calls of up to 20 steps at most, their stop
rules) over smplx's full mesh, of which 25 keypoints are taken. It gets the first 8 of our people, no new call after 40
seconds, and is run once: each of its up to 250 evaluations poses and differentiates a mesh for each person, so that
with 64 people a fit takes minutes on two cores. Its evaluations are about as many for 8 people as for 64 and cost in
proportion to people, so its rate is about the same; the note tells where both sides end on the same people.
"""

import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr.benchmarks import body as body_rows
from jhmr.benchmarks import timing
from jhmr.body import camera, joints, landmarks, poses, rotations, smpl
from jhmr.fitting import latent, objectives
import numpy as np

_SET, _DIM, _CALLS = "openpose25", 144, 10
_PEER_PEOPLE, _PEER_S = 8, 40.0  # seconds after which the peer begins no further call


class _Encoded(NamedTuple):
  shift: jax.Array   # [P, 144]
  betas: jax.Array   # [P, 10]
  camera: jax.Array  # [P, 3]


def keypoint_fits(people=64, seconds=3.0):
  """People fitted to 25 noisy keypoints per second, from the mode of a density to the end of the fit."""
  arrays = smpl.load_arrays("mannequin")
  whole = smpl.from_arrays(arrays)
  body, scene = landmarks.rigid_body(whole, (_SET,)), _scene(people)
  targets, start = _seen(body, scene)
  run = jax.jit(lambda body, scene, targets, start: latent.fit_keypoints(
      lambda z, e: _decode(scene[1], z, e), scene[0], body, targets, start, dim=_DIM, set_name=_SET, use_hips=True))
  ours = lambda: jax.block_until_ready(run(body, scene, targets, start))
  losses, took = np.asarray(ours().losses), timing.interleaved({"ours": ours}, seconds)["ours"]
  note, peer = _ends(losses, "everybody"), None
  if timing.installed("torch", "smplx"):
    few = min(people, _PEER_PEOPLE)
    encoded, targets, start = jax.tree.map(lambda x: x[:few], (scene[0], targets, start))
    began = time.perf_counter()
    end, calls, evaluations = _peer(arrays, whole, (encoded, scene[1]), targets, start)
    peer = few / (time.perf_counter() - began)
    note += (f"\n{_ends(losses[:few], f'the first {few}')}, the peer's at {end / few:.1f} after {calls} calls, "
             f"{evaluations} evaluations, run once; its rate is that of these {few} people")
  coefficients, vertices, steps = body.blend_dirs.shape[0], body.template.shape[1], latent.NUM_STEPS
  flops = 3 * steps * (2 * _DIM**2 + 6 * vertices * coefficients + 24 * vertices * 24)
  return {"name": "keypoint fits", "unit": "people/s", "ours": people / took, "peer": peer,
          "peer_name": "torch L-BFGS + smplx", "flops_per_item": float(flops),
          "bytes_per_item": 4.0 * steps * (2 * 40 * (_DIM + 13) + body.blend_dirs.size / people), "note": note}


def _ends(losses, who):
  return f"mean objective of {who}: {losses[:, 0].mean():.0f}, ours ends at {losses.min(1).mean():.1f}"


def _scene(people):
  """(_Encoded, (map [144, 144], spread [144], mean [144])) as float32."""
  rng, f32 = np.random.default_rng(0), lambda x: jnp.asarray(x, jnp.float32)
  pose = np.array(poses.mean_pose())
  pose[0] = np.diag([1.0, -1.0, -1.0])  # facing the camera
  weak = np.stack([rng.uniform(0.7, 0.9, people), *rng.uniform(-0.05, 0.05, (2, people))], -1)
  encoded = _Encoded(f32(0.3 * rng.normal(size=(people, _DIM))), f32(0.3 * rng.normal(size=(people, 10))), f32(weak))
  mean = f32(rotations.matrix_to_six_d(pose, "prohmr")).reshape(-1)
  return encoded, (f32(0.5 * rng.normal(size=(_DIM, _DIM)) / 12), f32(rng.uniform(0.03, 0.35, _DIM)), mean)


def _decode(density, z, encoded):
  matrix, spread, mean = density
  moved = z @ matrix + encoded.shift[:, None]
  six_d = mean + spread * 2 * jnp.sinh(moved / 2)
  return rotations.six_d_to_matrix(six_d.reshape(*z.shape[:-1], 24, 6), "prohmr")


def _seen(body, scene):
  """(targets, start) with keypoints of another z, two pixels of noise on them."""
  encoded, density = scene
  rng, people = np.random.default_rng(1), encoded.betas.shape[0]
  z = jnp.asarray(rng.normal(size=(people, 1, _DIM)), jnp.float32)

  @jax.jit
  def pixels(body, density, z, encoded):
    points = objectives.body_points(body, encoded.betas, _decode(density, z, encoded)[:, 0], _SET)
    return (camera.project_crop(points, encoded.camera) + 1) * 112

  px = np.asarray(pixels(body, density, z, encoded))
  keypoints = np.concatenate([px + 2 * rng.normal(size=px.shape), rng.uniform(0.5, 1, (*px.shape[:2], 1))], -1)
  place = jnp.full((people, 2), 112.0), jnp.full(people, 224.0)
  return objectives.crop_camera(jnp.asarray(keypoints, jnp.float32), encoded.camera, *place)


def _peer(arrays, whole, scene, targets, start):
  """Fits everybody with torch; returns the final objective, summed over people, calls made and evaluations."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  began, evaluations = time.perf_counter(), 0
  encoded, density = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), scene)
  matrix, spread, mean = density
  layer, people = body_rows.peer_layer(arrays, len(start)), len(start)
  rows = torch.tensor(np.asarray(whole.landmarks))
  z, betas = torch.zeros(people, _DIM, requires_grad=True), encoded.betas.clone().requires_grad_()
  translation = torch.tensor(np.asarray(start)).requires_grad_()
  detected = torch.tensor(np.asarray(targets.keypoints))

  def closure():
    nonlocal evaluations
    evaluations += 1
    optimizer.zero_grad()
    six_d = mean + spread * 2 * torch.sinh((z @ matrix + encoded.shift) / 2)
    a, b = six_d.reshape(-1, 24, 2, 3).unbind(2)
    x = torch.nn.functional.normalize(a, dim=-1)
    y = torch.nn.functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    pose = torch.stack([x, y, torch.cross(x, y, dim=-1)], -1)
    out = layer(betas=betas, global_orient=pose[:, :1], body_pose=pose[:, 1:], pose2rot=False)
    points = torch.stack([out.joints[:, joints.SMPL24.index(n)] if n in joints.SMPL24 else
                          torch.einsum("n,bnc->bc", rows[whole.landmark_names.index(n)], out.vertices)
                          for n in joints.landmarks(_SET)], 1) + translation[:, None]
    error = camera.FOCAL_PX * points[..., :2] / points[..., 2:] + 112 - detected[..., :2]
    robust = 1e4 * error**2 / (1e4 + error**2)
    loss = (1000 / 224) ** 2 * (detected[..., 2:] ** 2 * robust).sum() + 16 * (z**2).sum() + 36 * (betas**2).sum()
    loss.backward()
    return loss

  optimizer, last = torch.optim.LBFGS([z, betas, translation], lr=1.0, line_search_fn="strong_wolfe"), None
  for call in range(1, _CALLS + 1):
    loss = optimizer.step(closure).item()
    if last is not None and (last - loss) / max(abs(last), abs(loss), 1) < 1e-9:
      break
    if time.perf_counter() - began > _PEER_S:
      break
    last = loss
  return closure().item(), call, evaluations
