"""A 3D Multi-bodies with few hypotheses but layers of full size, and what goes into it, from seeds: the same for the
authors' code and for ours."""

import functools

from body import random_body
from jhmr.body import joints
import numpy as np
from released import authors

HYPOTHESES = 4
BATCH = 3            # images of the losses
FLOWS, JOINTS, HIDDEN, DIM = 20, 24, 512, 72  # of the prior
SETS, POINTS, CLUSTERS = 2, 40, 5             # what K-means is given
_UNUSED = {"fc3": (2048 + 82, 1024), "fc4": (1024, 1024), "fc5": (2048 + 64, 1024), "fc6": (1024, 2048),
           "decflow_mu": (1024, 69 * FLOWS), "decflow_logsigma": (1024, 69 * FLOWS)}


def shapes(hypotheses=HYPOTHESES, backbone=None, context=2048, head=1024):
  """{key: shape} of their network as one file holds it, without the prior and the body beside it.

  Args:
    backbone: {key: shape} of a ResNet of bottlenecks, default a ResNet-50; context: its features.
  """
  backbone = authors.resnet_shapes(authors.BLOCKS["resnet50"], 64, True) if backbone is None else backbone
  stage = {k.replace("layer4.", "layer5."): s for k, s in backbone.items() if k.startswith("layer4.")}
  last = max(int(k.split(".")[1]) for k in stage)
  wide = lambda key, s: key.startswith((f"layer5.{last}.conv3", f"layer5.{last}.bn3")) and bool(s)
  stage = {k: (s[0] * hypotheses, *s[1:]) if wide(k, s) else s for k, s in stage.items()}
  found = authors.spin_shapes(backbone | stage, context, head)
  for name, (inputs, outputs) in _UNUSED.items():
    if name == "fc3":
      inputs = (context + 82) * (hypotheses + 1) + 2 * 69 * FLOWS
    found |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
  return {f"module.model.model.{k}": s for k, s in found.items()}


def prior_shapes(flows=FLOWS, hidden=HIDDEN):
  """{key: shape} of their prior."""
  found = {"mask": (flows, DIM)}
  for net in "ts":
    for i in range(flows):
      for layer, inputs, outputs in ((0, DIM, hidden), (3, hidden, hidden), (6, hidden, DIM)):
        found |= {f"{net}.{i}.{layer}.weight": (outputs, inputs), f"{net}.{i}.{layer}.bias": (outputs,)}
  return {f"module.model_realnvp.{k}": s for k, s in found.items()}


def weights(seed=0):
  """{key: array} of the network, of the size training leaves; what takes no part is 0."""
  prefix, trained = "module.model.model.", authors.spin_trained(seed)
  wanted = {k.removeprefix(prefix): s for k, s in shapes().items()}
  stage = {k: s for k, s in wanted.items() if k.startswith("layer5.")}
  stage = authors.trained({f"backbone.{k}": s for k, s in stage.items()}, seed + 2)
  trained |= {k.removeprefix("backbone."): v for k, v in stage.items()}
  return {prefix + k: trained.get(k, np.zeros(s, np.float32)) for k, s in wanted.items()}


def prior_weights(seed=1):
  """{key: array} of the prior: densities of joints of half a metre are neither flat nor wild."""
  rng, found = np.random.RandomState(seed), {}
  for key, shape in prior_shapes().items():
    if key.endswith("mask"):
      found[key] = (rng.uniform(size=shape) < 0.5).astype(np.float32)
    else:
      size = (1.8 / shape[1]) ** 0.5 if len(shape) > 1 else 0.05
      found[key] = rng.uniform(-size, size, shape).astype(np.float32)
  return found


def poses():
  """Root-relative joints [4, 72] whose density is asked for, and latents [4, 72]."""
  rng = np.random.RandomState(2)
  return rng.uniform(-0.6, 0.6, (4, DIM)).astype(np.float32), rng.normal(size=(4, DIM)).astype(np.float32)


def clusters():
  """Points [SETS, POINTS, 72] in a few heaps, log-weights [SETS, POINTS], and who starts, [CLUSTERS] ids."""
  rng = np.random.RandomState(4)
  heaps = rng.normal(size=(SETS, CLUSTERS, DIM))[:, rng.randint(0, CLUSTERS, POINTS)]
  points = 0.2 * (heaps + 0.7 * rng.normal(size=heaps.shape))
  return (points.astype(np.float32), (3 * rng.normal(size=(SETS, POINTS))).astype(np.float32),
          rng.permutation(POINTS)[:CLUSTERS])


@functools.cache
def body():
  """Arrays of a body of noise, with SMPL's sizes, whose joints after posing are the chain's, as theirs are regressed.

  Each joint is a vertex of its own that follows this joint alone.
  """
  arrays = random_body.arrays()
  used = np.flatnonzero(arrays["regressor_extra9"].any(0))
  rest = np.setdiff1d(np.arange(joints.NUM_VERTICES), [*joints.VERTEX_IDS.values(), *used])[:JOINTS]
  arrays["J_regressor"][:] = 0
  arrays["J_regressor"][np.arange(JOINTS), rest] = 1
  arrays["weights"][rest] = np.eye(JOINTS)
  arrays["posedirs"].reshape(207, -1, 3)[:, rest] = 0
  arrays["v_template"] *= 0.5
  return arrays


def training():
  """What the losses see: 6D numbers of hypotheses in SPIN's layout, betas, cameras; and labels, poses as axis-angle.

  Every example has SMPL parameters, as their code assumes; the second lacks 3D joints.
  """
  rng = np.random.RandomState(6)
  uniform = lambda size, *shape: rng.uniform(-size, size, (BATCH, *shape))
  confidence = [rng.choice([0.0, 0.5, 1.0], size=(BATCH, n, 1), p=[0.3, 0.2, 0.5]) for n in (49, 24)]
  pose = uniform(0.5, 24, 3)
  first_order = np.eye(3) + np.cross(pose[..., None, :], np.eye(3)).swapaxes(-1, -2)  # nearly those rotations
  far = np.where(np.arange(HYPOTHESES) == np.array([[2], [0], [3]]), 0.1, 0.6)[..., None]  # who is likely the best
  made = {"six_d": first_order[..., :2].reshape(BATCH, 1, 144) + far * uniform(1.0, HYPOTHESES, 144),
          "betas": uniform(1.0, HYPOTHESES, 10), "camera": np.array([0.5, 0, 0]) + uniform(0.4, HYPOTHESES, 3),
          "pose": pose.reshape(BATCH, 72), "to_betas": uniform(1.0, 10),
          "keypoints2d": np.concatenate([uniform(0.8, 49, 2), confidence[0]], -1),
          "keypoints3d": np.concatenate([uniform(0.6, 24, 3), confidence[1]], -1),
          "has_pose": np.ones(BATCH), "has_keypoints3d": np.array([1.0, 0, 1])}
  return {name: x.astype(np.float32) for name, x in made.items()}
