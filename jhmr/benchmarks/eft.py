"""EFT row: people per second whose network is fine-tuned to their keypoints, 20 evaluations each.

The network is the training row's. The peer is what EFT's authors do: person after person, the weights and an empty Adam
are put back and `backward` goes through smplx's full mesh. It gets the first two of our people; one takes it as long as
another. Nobody is finished early on either side.
"""

import functools
import os

import jax
import jax.numpy as jnp
from jhmr import regression
from jhmr.benchmarks import body as body_rows
from jhmr.benchmarks import timing
from jhmr.benchmarks import train
from jhmr.body import camera
from jhmr.body import landmarks
from jhmr.body import smpl
from jhmr.fitting import eft
from jhmr.fitting import objectives
from jhmr.nn import regressor
import numpy as np

SETTINGS = eft.Settings(threshold=0.0)
_PEER_PEOPLE = 2
_OFF = 0.06  # how far keypoints are from the prediction, in the crop's -1 to 1


def fine_tuned(people=4, seconds=3.0):
  """People per second from crops and keypoints to fitted bodies, one network a person."""
  arrays = smpl.load_arrays("mannequin")
  problem, params = set_up(arrays, people)
  run, look = functools.partial(jax.jit(ours), params, *problem), jax.jit(forward(*problem[:2]))
  functions = {"ours": lambda: jax.block_until_ready(run())}
  if timing.installed("torch", "smplx"):
    functions["peer"] = lambda fit=peer(arrays, problem, params): [fit(i) for i in range(_PEER_PEOPLE)]
  times = timing.interleaved(functions, seconds)
  size = sum(x.size for x in eft.split(params, SETTINGS.subset)[0].values())
  flops = look.lower(params, problem[2][0]).cost_analysis()["flops"]
  return {"name": "EFT", "unit": "people/s", "ours": people / times["ours"],
          "peer": _PEER_PEOPLE / times["peer"] if "peer" in times else None, "peer_name": "the same in PyTorch, smplx",
          "flops_per_item": 3.0 * SETTINGS.max_iter * flops,
          # Parameters and Adam's two moments are read and written and the gradient read.
          "bytes_per_item": 4.0 * 7 * SETTINGS.max_iter * size}


def set_up(arrays, people, image_size=train.IMAGE_SIZE, net=()):
  """((start, stats, images [P, S, S, 3], keypoints [P, 49, 3], body), parameters) of noise."""
  body = landmarks.rigid_body(smpl.from_arrays(arrays), (eft.SET,))
  pose = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
  pose[0] = np.diag([1, -1, -1])
  start = regression.start_values({"pose": jnp.asarray(pose), "betas": jnp.zeros(10),
                                   "camera": jnp.array([0.9, 0, 0])})
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(people, image_size, image_size, 3)), jnp.float32)
  module = regressor.ImageRegressor(**train.CONFIG["net"] | dict(net))
  variables = jax.jit(lambda key: module.init(key, images[:1], start, False))(jax.random.key(0))
  params, stats = variables["params"], variables["batch_stats"]
  see = lambda image: _seen(body, *forward(start, stats, module)(params, image))
  seen = jax.lax.map(see, images)
  keypoints = jnp.asarray(np.concatenate([seen + _OFF * rng.normal(size=seen.shape),
                                          rng.uniform(0.5, 1, (people, 49, 1))], -1), jnp.float32)
  return (start, stats, images, keypoints, body), params


def forward(start, stats, module=None):
  """(params, image [S, S, 3]) -> (pose [24, 3, 3], betas, camera)."""
  module = module or regressor.ImageRegressor(**train.CONFIG["net"])

  def predict(params, image):
    estimates = module.apply({"params": params, "batch_stats": stats}, image[None], start, False)
    return tuple(x[0, -1] for x in regression.decode(estimates))
  return predict


def ours(params, start, stats, images, keypoints, body):
  return eft.fine_tune(forward(start, stats), params, images, keypoints, body, SETTINGS)


def _seen(body, pose, betas, cam):
  return camera.project_crop(objectives.body_points(body, betas, pose, eft.SET), cam)


def peer(arrays, problem, params):
  """A function (i) that fits person i in PyTorch with every core -> losses of all evaluations."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  tensor = lambda x: torch.tensor(np.asarray(x))
  start, stats, images, keypoints, _ = problem
  kept = jax.tree.map(tensor, train.torch_layout(params))
  stats, images = jax.tree.map(tensor, stats["backbone"]), tensor(images).permute(0, 3, 1, 2)
  keypoints = tensor(keypoints)
  start, points_of = [tensor(x)[None] for x in start], body_rows.peer_keypoints(arrays, 1)
  norm = lambda path: any(p.key.startswith("bn") or p.key == "downsample_1" for p in path)

  def fit(i):
    weights = jax.tree_util.tree_map_with_path(lambda path, x: x.clone().requires_grad_(not norm(path)), kept)
    optimizer = torch.optim.Adam([x for x in jax.tree.leaves(weights) if x.requires_grad], lr=SETTINGS.learning_rate)
    losses = []
    for _ in range(SETTINGS.max_iter):
      pose, betas, cam = train.regress(weights, stats, images[i:i + 1].contiguous(), start, training=False)
      points = points_of(betas=betas, global_orient=pose[:, :1], body_pose=pose[:, 1:], pose2rot=False)
      loss = _loss(points[0], betas[0], cam[0], keypoints[i])
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
      losses.append(loss.item())
    return losses

  return fit


def _loss(points, betas, cam, keypoints):
  """EFT's loss of one person in PyTorch."""
  import torch
  weights = eft.Weights()
  depth = 2 * camera.FOCAL_PX / (camera.CROP_PX * cam[0] + 1e-9)
  moved = points + torch.stack([cam[1], cam[2], depth])
  seen = camera.FOCAL_PX * moved[:, :2] / moved[:, 2:] / (camera.CROP_PX / 2)
  confidence = keypoints[:, 2] * torch.tensor(eft.counted(False))
  unit = lambda bone: bone / bone.norm()
  legs = sum(keypoints[k, 2] * keypoints[a, 2] * (1 - torch.dot(
      unit(keypoints[a, :2] - keypoints[k, :2]), unit(seen[a] - seen[k]))) for k, a in eft.LEGS)
  return (weights.keypoints2d * (confidence[:, None] * (seen - keypoints[:, :2]) ** 2).mean() +
          weights.betas * (betas ** 2).mean() + weights.camera * torch.exp(-10 * cam[0]) ** 2 + weights.legs * legs)
