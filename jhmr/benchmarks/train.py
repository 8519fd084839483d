"""Training row: updates of a small HMR, beside the same network and losses as a plain PyTorch loop would have them.

The peer starts from our parameters and sees our batch, so its first loss is ours (a test holds the two together). It
makes its keypoints the usual way, from smplx's full mesh; ours come from the few points they need.
"""

import os

import jax
import jax.numpy as jnp
from jhmr import parallel
from jhmr import regression
from jhmr.benchmarks import body as body_rows
from jhmr.benchmarks import timing
from jhmr.body import camera
from jhmr.body import landmarks
from jhmr.body import smpl
from jhmr.data import spec
from jhmr.nn import resnet
from jhmr.systems import hmr
import ml_collections
import numpy as np

IMAGE_SIZE = 64
CONFIG = {
    "seed": 0, "num_steps": 1000, "supervision": "spin",
    "net": {"backbone": "resnet_tiny", "iterations": 3, "hidden": 1024, "dropout": 0.0, "activation": "relu",
            "dtype": "float32", "batch_norm": "device"},
    "optim": {"name": "adam", "learning_rate": 1e-4},
    "weights": {"keypoints2d": 5.0, "keypoints3d": 5.0, "pose": 1.0, "betas": 0.001, "vertices": 0.0, "camera": 0.0,
                "adversarial": 0.0}}


def hmr_step(batch=32, seconds=5.0):
  """Images per second of whole updates (forward, losses, backward, Adam) on one device, from a batch already there."""
  arrays = smpl.load_arrays("mannequin")
  step, state, data, assets = set_up(arrays, batch)
  functions = {"ours": runner(step, state, data, assets)}
  if timing.installed("torch", "smplx"):
    functions["peer"] = peer_step(arrays, state, data, assets)
  flops = step.lower(state, data, assets).cost_analysis()["flops"]
  times = timing.interleaved(functions, seconds)
  return {"name": "HMR update", "unit": "images/s", "ours": batch / times["ours"],
          "peer": batch / times["peer"] if "peer" in times else None, "peer_name": "the same in PyTorch, smplx",
          "flops_per_item": flops / batch,
          "bytes_per_item": bytes_per_image(state.params, batch)}


def bytes_per_image(params, batch):
  """What an update must move: parameters and Adam's two moments both ways, the gradient in, and the image in."""
  return 4 * 7 * sum(x.size for x in jax.tree.leaves(params)) / batch + 4 * 3 * IMAGE_SIZE ** 2


def set_up(arrays, batch, image_size=IMAGE_SIZE, net=()):
  """(mapped step, state, batch laid out for it, assets) of CONFIG on one device; `net` changes its network."""
  system = hmr.build(ml_collections.ConfigDict(CONFIG | {"net": CONFIG["net"] | dict(net)}))
  return lay_out(system, arrays, "spin49", spec.fake_batch(image_size, batch))


def lay_out(system, arrays, set_name, data, more=()):
  """(mapped step, state, batch laid out for it, assets) of a system whose keypoints are `set_name`, on one device."""
  body = smpl.from_arrays(arrays)
  pose = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
  pose[0] = np.diag([1, -1, -1])
  mean = {"pose": jnp.asarray(pose), "betas": jnp.zeros(10), "camera": jnp.array([0.9, 0, 0])}
  assets = {"keypoint_body": landmarks.rigid_body(body, (set_name,)), "mean": mean} | dict(more)
  mapper = parallel.make("pmap", jax.devices()[:1])
  state = mapper.replicate(system.init(jax.random.key(0), data, assets))
  data = {k: jnp.asarray(v) for k, v in mapper.to_devices(data).items()}
  return mapper.train(system.step), state, data, mapper.replicate(assets)


def runner(step, state, data, assets):
  """One update per call; the step eats its state, so the first one is a copy."""
  box = [jax.tree.map(jnp.copy, state)]

  def run():
    box[0], metrics = step(box[0], data, assets)
    return float(metrics["loss"])

  return run


def peer_step(arrays, state, data, assets):
  """A function that makes one update in PyTorch, with every core, and returns its loss."""
  import torch
  torch.set_num_threads(os.cpu_count())
  tensor = lambda x: torch.tensor(np.asarray(x))
  params = torch_parameters(state.params["net"])
  stats = jax.tree.map(tensor, state.stats["net"]["backbone"])
  batch = {k: tensor(v[0]) for k, v in data.items()}
  image = batch["image"].permute(0, 3, 1, 2).contiguous()
  start = [tensor(x).expand(len(image), -1) for x in regression.start_values(assets["mean"])]
  keypoints = body_rows.peer_keypoints(arrays, len(image))
  optimizer = torch.optim.Adam(jax.tree.leaves(params), lr=CONFIG["optim"]["learning_rate"])

  def run():
    pose, betas, cam = regress(params, stats, image, start)
    points = keypoints(betas=betas, global_orient=pose[:, :1], body_pose=pose[:, 1:], pose2rot=False)
    loss = _loss(pose, betas, cam, points, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


def torch_parameters(params):
  """Our parameters as tensors that want gradients, in torch's layout."""
  import torch
  return jax.tree.map(lambda x: torch.tensor(x).requires_grad_(), torch_layout(params))


def torch_layout(params):
  """Our parameters with convolutions [out, in, h, w] and dense layers [out, in], contiguous."""
  turn = lambda x: np.ascontiguousarray(x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T if x.ndim == 2 else x)
  return jax.tree.map(lambda x: turn(np.asarray(x)), params)


def torch_features(net, stats, image, training=True):
  """`nn.resnet.ResNet` as resnet_tiny, said again in PyTorch, in training or not: [B, 3, S, S] -> [B, C]."""
  import torch
  from torch.nn import functional as F
  bn = lambda x, p, s: F.batch_norm(x, s["mean"], s["var"], p["scale"], p["bias"], training=training)
  x = F.relu(bn(F.conv2d(image, net["conv1"]["kernel"], stride=2, padding=1), net["bn1"], stats["bn1"]))
  strides = resnet.ARCHITECTURES[CONFIG["net"]["backbone"]].strides
  for name, stride in zip(sorted(n for n in net if n.startswith("layer")), strides):
    p, s = net[name], stats[name]
    y = F.relu(bn(F.conv2d(x, p["conv1"]["kernel"], stride=stride, padding=1), p["bn1"], s["bn1"]))
    y = bn(F.conv2d(y, p["conv2"]["kernel"], padding=1), p["bn2"], s["bn2"])
    if "downsample_0" in p:
      x = bn(F.conv2d(x, p["downsample_0"]["kernel"], stride=stride), p["downsample_1"], s["downsample_1"])
    x = F.relu(x + y)
  where = F.linear(x.permute(0, 2, 3, 1), net["where"]["kernel"])
  weight = where.flatten(1, 2).softmax(1).reshape(where.shape)
  rows, columns = (torch.linspace(-1, 1, n) for n in weight.shape[1:3])
  located = [torch.einsum("bhwc,h->bc", weight, rows), torch.einsum("bhwc,w->bc", weight, columns)]
  return torch.cat([x.mean((2, 3)), *located], 1)


def regress(params, stats, image, start, training=True):
  """`nn.regressor.ImageRegressor` with resnet_tiny, said again in PyTorch: (pose [B, 24, 3, 3], betas, camera)."""
  import torch
  from torch.nn import functional as F
  head, estimate = params["head"], start
  features = torch_features(params["backbone"], stats, image, training)
  dense = lambda x, name: F.linear(x, head[name]["kernel"], head[name]["bias"])
  for _ in range(CONFIG["net"]["iterations"]):
    x = F.relu(dense(F.relu(dense(torch.cat([features, *estimate], -1), "fc1")), "fc2"))
    estimate = [e + dense(x, name) for e, name in zip(estimate, ("decpose", "decshape", "deccam"))]
  six_d = estimate[0].reshape(-1, 24, 3, 2)
  a = F.normalize(six_d[..., 0], dim=-1)
  b = F.normalize(six_d[..., 1] - (a * six_d[..., 1]).sum(-1, keepdim=True) * a, dim=-1)
  return torch.stack([a, b, torch.cross(a, b, dim=-1)], -1), estimate[1], estimate[2]


def _loss(pose, betas, cam, points, batch):
  """SPIN's reductions of CONFIG's losses, for a batch that has every label."""
  import torch
  weights, gt, hips = CONFIG["weights"], slice(25, 49), list(regression.HIPS)
  s, tx, ty = cam.unbind(-1)
  depth = 2 * camera.FOCAL_PX / (camera.CROP_PX * s + 1e-9)
  moved = points + torch.stack([tx, ty, depth], -1)[:, None]
  projected = camera.FOCAL_PX * moved[..., :2] / moved[..., 2:] / (camera.CROP_PX / 2)
  centred = lambda x: x - x[:, hips].mean(1, keepdim=True)
  label2d, label3d = batch["keypoints2d"][:, gt], batch["keypoints3d"][:, gt]
  label_pose = torch.cat([batch["global_orient"], batch["body_pose"]], 1)
  error3d = centred(points[:, gt]) - centred(label3d[..., :3])
  terms = {"keypoints2d": (label2d[..., 2:] * (projected[:, gt] - label2d[..., :2]) ** 2).mean(),
           "keypoints3d": (label3d[..., 3:] * error3d ** 2).mean(), "pose": ((pose - label_pose) ** 2).mean(),
           "betas": ((betas - batch["betas"]) ** 2).mean()}
  return sum(weights[n] * term for n, term in terms.items())
