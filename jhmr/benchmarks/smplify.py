"""SMPLify rows: people fitted per second by SPIN's 100 + 100 steps of Adam, beside the same optimisation in PyTorch.

Both sides start from the same parameters, see the same 49 noisy keypoints and minimise the same objective; ours from
the few dozen points that make the keypoints, the peer from smplx's full mesh, as the authors do. The peer takes minutes
for a thousand people, so there it makes a few steps of each stage, which its rate is counted from; the note says so.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from jhmr.benchmarks import body as body_rows
from jhmr.benchmarks import timing
from jhmr.body import camera, joints, landmarks, poses, rotations, smpl
from jhmr.fitting import objectives, priors, smplify
import numpy as np

_SET, _STEPS, _FEW = "spin49", 100, 5
PEOPLE, STEPS = (1, 16, 64, 256, 1024, 4096), (20, 50, 100)  # of the growth table
COLUMNS = ("people", "steps", "people/s", "ms")
_PEER_WHOLE = 64  # up to so many people the peer runs from start to end


def fits64(seconds=3.0):
  """64 people at once."""
  return row(64, seconds)


def fits1024(seconds=3.0):
  """1,024 people at once."""
  return row(1024, seconds)


def row(people, seconds):
  """The row of a batch of people."""
  arrays = smpl.load_arrays("mannequin")
  body, scene = set_up(arrays, people)
  ours = runner(body, scene)
  end = ours()
  took = timing.interleaved({"ours": ours}, seconds)["ours"]
  note = f"mean objective {float(end.losses[:, _STEPS].mean()):.0f}, ours ends at {float(end.objective.mean()):.2f}"
  peer = None
  if timing.installed("torch", "smplx"):
    steps = _STEPS if people <= _PEER_WHOLE else _FEW
    per_stage, objective = run_peer(arrays, scene, steps)
    peer = people / (_STEPS * sum(per_stage))
    note += (f", the peer's at {objective:.2f}, run once" if steps == _STEPS else
             f"; the peer's rate is from {steps} steps of each stage")
  coefficients, points = body.blend_dirs.shape[0], body.template.shape[1]
  keypoints = 3 * (6 * points * coefficients + 24 * points * len(joints.SMPL24))
  prior = 2 * 8 * 69 * 69
  return {"name": f"SMPLify, {people} people", "unit": "people/s", "ours": people / took, "peer": peer,
          "peer_name": "the same in PyTorch, smplx", "flops_per_item": float(_STEPS * (2 * keypoints + prior)),
          "bytes_per_item": 4.0 * 2 * _STEPS * (3 * 2 * 82 + body.blend_dirs.size / people), "note": note}


def measure_growth(seconds, people=PEOPLE, steps=STEPS):
  """Rows of COLUMNS: how the rate grows with the people at once, and falls with the steps of each of both stages."""
  arrays, rows = smpl.load_arrays("mannequin"), []
  for num in people:
    body, scene = set_up(arrays, num)
    for num_steps in steps:
      took = timing.interleaved({"ours": runner(body, scene, num_steps)}, seconds)["ours"]
      rows.append({"people": num, "steps": f"{num_steps} + {num_steps}", "people/s": num / took, "ms": 1000 * took})
  return rows


def set_up(arrays, people):
  """(body, {"target", "start", "gmm"}): people some way off their keypoints, which have two pixels of noise."""
  body, rng = landmarks.rigid_body(smpl.from_arrays(arrays), (_SET,)), np.random.default_rng(0)
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  pose = np.array(jax.jit(jax.vmap(poses.sample))(jax.random.split(jax.random.key(0), people)))
  pose[:, 0] = np.diag([1.0, -1.0, -1.0])
  vectors = np.array(rotations.matrix_to_axis_angle(f32(pose))).reshape(people, 72)
  betas = 0.5 * rng.normal(size=(people, 10))
  where = np.stack([*0.1 * rng.normal(size=(2, people)), np.full(people, 50.0)], -1)
  points = jax.jit(lambda body, betas, pose: smpl.keypoints(body, smpl.forward(body, betas, pose), _SET))(
      body, f32(betas), f32(pose))
  pixels = np.array(camera.perspective(points + f32(where)[:, None], camera.FOCAL_PX, f32([112, 112])))
  keypoints = np.concatenate([pixels + 2 * rng.normal(size=pixels.shape), rng.uniform(0.5, 1, (people, 49, 1))], -1)
  off = lambda x, by: f32(x + by * rng.normal(size=x.shape))
  start = smplify.Body(off(vectors[:, :3], 0.1), off(vectors[:, 3:], 0.1), off(betas, 0.3), off(where, 0.02))
  return body, {"target": objectives.crop_target(f32(keypoints)), "start": start, "gmm": priors.default_gmm()}


def runner(body, scene, steps=_STEPS):
  """A function of no arguments that fits everybody and waits for the end."""
  program = jax.jit(lambda body, target, start, gmm: smplify.fit(
      body, target, start, smplify.Priors(gmm), method="spin", set_name=_SET, steps=steps))
  return lambda: jax.block_until_ready(program(body, **scene))


def run_peer(arrays, scene, steps):
  """(median seconds of a step of each stage, mean objective at the end) of the same in torch."""
  import torch
  tensor = lambda x: torch.tensor(np.asarray(x))
  start, target = jax.tree.map(tensor, scene["start"]), jax.tree.map(tensor, scene["target"])
  keypoints = body_rows.peer_keypoints(arrays, len(start.betas))
  mixture = {name: tensor(getattr(scene["gmm"], name)) for name in ("means", "precisions", "log_weights")}
  x = {name: value.clone() for name, value in start._asdict().items()}
  depth, names = x["translation"][:, 2].clone(), joints.names(_SET)
  used = tensor(np.array([n not in smplify.METHODS["spin"].ignored for n in names], np.float32))
  torso = [names.index(f"op_{n}") for n in ("right_hip", "left_hip", "right_shoulder", "left_shoulder")]

  def error():
    moved = keypoints(**{k: v for k, v in x.items() if k != "translation"}) + x["translation"][:, None]
    return camera.FOCAL_PX * moved[..., :2] / moved[..., 2:] + 112 - target.keypoints[..., :2]

  def place():
    return (error()[:, torso]**2).sum() + 1e4 * ((x["translation"][:, 2] - depth)**2).sum()

  def pose():
    square, off = error()**2, x["body_pose"][:, None] - mixture["means"]
    data = ((used * target.keypoints[..., 2])**2 * (1e4 * square / (1e4 + square)).sum(-1)).sum()
    likely = 0.5 * (torch.einsum("pmi,mij->pmj", off, mixture["precisions"]) * off).sum(-1) - mixture["log_weights"]
    bent = torch.exp(2 * x["body_pose"][:, [52, 55, 9, 12]] * torch.tensor([1.0, -1.0, -1.0, -1.0]))
    return data + 4.78**2 * likely.min(1)[0].sum() + 15.2**2 * bent.sum() + 25 * (x["betas"]**2).sum()

  took = []
  for free, loss in ((("global_orient", "translation"), place), (("global_orient", "body_pose", "betas"), pose)):
    x = {name: value.detach().requires_grad_(name in free) for name, value in x.items()}
    optimizer = torch.optim.Adam([x[name] for name in free], lr=1e-2)
    each = []
    for _ in range(steps):
      began = time.perf_counter()
      optimizer.zero_grad()
      loss().backward()
      optimizer.step()
      each.append(time.perf_counter() - began)
    took.append(statistics.median(each))
  with torch.no_grad():
    return took, pose().item() / len(depth)
