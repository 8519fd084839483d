"""Lifting networks of full size and what goes into them, from seeds: the same for the authors' code and for ours.

Everything is in the authors' terms: Wehrbein et al.'s 17 joints with the right leg first, millimetres, seven numbers
for a Gaussian; ProHMR's 16 + 1 joints, z-scores and metres.
"""

import numpy as np
from released import authors

BLOCKS, HIDDEN, CONDITION = 8, 1028, 56
BATCH, HYPOTHESES, TOP_K = 8, 12, 5     # of the losses
POSES, SETS = 14, 20                    # of the evaluation: poses, hypotheses of each
PEOPLE, SAMPLES, DIM = 5, 3, 48         # of ProHMR's skeletons


def inn_shapes(blocks=BLOCKS, hidden=HIDDEN):
  """{key: shape} of Wehrbein et al.'s file, below its "net"."""
  found = {}
  for k in range(blocks):
    for net in ("s1", "s2"):
      name = f"inn.module_list.{2 * k + 1}.{net}"
      found |= _linear(f"{name}.0", 24 + CONDITION, hidden) | _linear(f"{name}.2", hidden, 48)
  return found | _linear("cond_net.0", 78, 256) | _linear("cond_net.2", 256, CONDITION)


def inn_weights(seed=0):
  """{key: array}, a little smaller than those their training starts from, whose poses are of many metres."""
  rng, found = np.random.RandomState(seed), {}
  for key, shape in inn_shapes().items():
    size = 0.038 if key.startswith("inn") else shape[-1] ** -0.5 if len(shape) > 1 else 0.1
    found[key] = (3 ** 0.5 * size * rng.uniform(-1, 1, shape)).astype(np.float32)
  return found


def critic_weights(seed=1):
  """{key: array} of their critic, whose weights they do not release."""
  sizes = {"fc1": (48, 100), "fc2": (100, 100), "fc3": (100, 100), "fc4": (100, 100), "fc5": (256, 1000),
           "fc6": (1000, 1000), "fc7": (1000, 1000), "fc8": (1100, 100), "fc9": (100, 1)}
  rng, found = np.random.RandomState(seed), {}
  for name, (inputs, outputs) in sizes.items():
    for key, shape in _linear(name, inputs, outputs).items():
      found[key] = ((3 / inputs) ** 0.5 * rng.uniform(-1, 1, shape)).astype(np.float32)
  return found


def people(count, seed=2):
  """What a data set holds: "3d_gt" [count, 51] mm and "2d_hrnet" [count, 32] px, coordinate-major, "gaussfit"
  [count, 112]. Fits are as curve_fit leaves them: some are far outside of what a heatmap can hold."""
  rng = np.random.RandomState(seed)
  pose = rng.uniform(-500, 500, (count, 3, 17)) + np.array([100, -200, 5000])[:, None]
  pose[:, :, 0] = (pose[:, :, 1] + pose[:, :, 4]) / 2 + rng.uniform(-5, 5, (count, 3))
  detected = rng.uniform(20, 235, (count, 2, 16))
  sigma = rng.choice([1.9, 2.05, 2.6, 4.0], (2, count, 16), p=[0.4, 0.2, 0.2, 0.2]) + rng.uniform(-0.04, 0.04,
                                                                                                  (2, count, 16))
  sigma[0, ::3, 4], sigma[1, 1::3, 9], sigma[0, 2, 7] = 7.5, 13.0, -0.8
  fits = [rng.uniform(-0.1, 1.4, (count, 16)), *(detected.transpose(1, 0, 2) / 4 + rng.uniform(-8, 8, (2, count, 16))),
          sigma[0], rng.uniform(-4, 7, (count, 16)), sigma[1], rng.uniform(0, 0.1, (count, 16))]
  made = {"3d_gt": pose.reshape(count, 51), "2d_hrnet": detected.reshape(count, 32),
          "gaussfit": np.stack(fits, -1).reshape(count, 112)}
  return {k: v.astype(np.float32) for k, v in made.items()}


def as_batch(theirs):
  """The same people as our batches have them: pose3d [B, 17, 3] m, pose2d [B, 16, 2] px, gaussians [B, 16, 6]."""
  pose = theirs["3d_gt"].reshape(-1, 3, 17).swapaxes(1, 2) / np.float32(1000)
  return {"pose3d": pose - pose[:, :1], "pose2d": theirs["2d_hrnet"].reshape(-1, 2, 16).swapaxes(1, 2),
          "gaussians": theirs["gaussfit"].reshape(-1, 16, 7)[..., :6]}


def draws(seed=3):
  """What an update draws, in order: {name: array}; "alpha" is uniform, all others normal."""
  rng = np.random.RandomState(seed)
  made = {"fake": rng.normal(size=(BATCH, 16)), "alpha": rng.uniform(size=(BATCH, 1)),
          "latent": rng.normal(size=(BATCH, 16)), "rand": rng.normal(size=(BATCH, 16)),
          "hypotheses": rng.normal(size=(HYPOTHESES, BATCH, 16))}
  return {k: v.astype(np.float32) for k, v in made.items()}


def alike(seed=7):
  """People to evaluate, as `people`, whose poses are within centimetres of each other."""
  made, rng = people(POSES, seed), np.random.RandomState(seed)
  pose = rng.uniform(-500, 500, (1, 3, 17)) + rng.uniform(-60, 60, (POSES, 3, 17))
  pose[:, :, 0] = (pose[:, :, 1] + pose[:, :, 4]) / 2
  return made | {"3d_gt": pose.reshape(POSES, 51).astype(np.float32)}


def guesses(hypotheses, poses, seed=4):
  """What a lifter might say of `alike`, in the network's terms: [hypotheses, poses, 48]; with 1, z = 0."""
  middle = np.random.RandomState(7).uniform(-0.5, 0.5, (3, 17))[:, 1:] * np.array([[1], [-1], [-1]])
  spread = np.random.RandomState(seed).normal(size=(hypotheses, poses, 48)) * (0.05 if hypotheses > 1 else 0.02)
  return (middle.reshape(48) + spread).astype(np.float32)


def skeleton_shapes(blocks=4, hidden=1024, depth=2, layers=2, dim=DIM, inputs=34, context=1024):
  """{key: shape} of ProHMR's model that lifts 2D skeletons."""
  found = {"initialized": (), "flow.flow._transform.dummy_buffer": ()}
  for name, size in [("0.fc_block.0", inputs)] + [(f"{i + 1}.fc_block.{j}", context) for i in range(layers)
                                                  for j in (0, 4)]:
    number = int(name.rsplit(".", maxsplit=1)[1]) + 1
    norm = f"{name.rsplit('.', maxsplit=1)[0]}.{number}"
    found |= _linear(f"backbone.fc_layers.{name}", size, context) | authors._norm(f"backbone.fc_layers.{norm}", context)
  flow = authors.prohmr_shapes({}, context, 4, blocks, hidden, depth)
  halves = {144: dim, 72: dim // 2, 72 + context: dim // 2 + context, 10296: dim * (dim - 1) // 2}
  flow = {k: tuple(halves.get(n, n) for n in s) for k, s in flow.items() if k.startswith("flow.flow.")}
  return found | flow


def skeleton_weights(seed=5):
  """{key: array}, of the size training leaves; index buffers are theirs."""
  rng, found = np.random.RandomState(seed), {}
  for key, shape in skeleton_shapes().items():
    layer, kind = key.split(".")[-2:] if "." in key else ("", key)
    middle, size = {"running_var": (1.0, 0.5), "log_scale": (0.5, 0.3), "unconstrained_upper_diag": (0.5, 0.3),
                    "lower_entries": (0.0, 0.08), "upper_entries": (0.0, 0.08)}.get(kind, (0.0, 0.3))
    if kind == "weight":
      middle, size = (0.0, (2.0 / shape[1]) ** 0.5) if len(shape) > 1 else (1.0, 0.3)
    value = (middle + size * rng.uniform(-1, 1, shape)).astype(np.float32)
    if kind.endswith("_features"):
      odd = (int(key.split(".")[4]) // 3 + kind.startswith("transform")) % 2
      value = np.arange(odd, DIM, 2)
    elif kind in ("initialized", "num_batches_tracked", "dummy_buffer"):
      value = np.array({"initialized": True, "num_batches_tracked": 7, "dummy_buffer": 0.0}[kind])
    found[key] = value
  return found


def skeletons(seed=6):
  """{name: array} of ProHMR's model: z-scores "x" [PEOPLE, 17, 2], joints "pose" [PEOPLE, 16, 3] m, "z" and "noise"."""
  rng = np.random.RandomState(seed)
  made = {"x": rng.normal(size=(PEOPLE, 17, 2)), "pose": rng.uniform(-0.6, 0.6, (PEOPLE, 16, 3)),
          "z": rng.normal(size=(PEOPLE, SAMPLES, DIM)), "noise": rng.normal(size=(PEOPLE, 16, 3))}
  return {k: v.astype(np.float32) for k, v in made.items()}


def _linear(name, inputs, outputs):
  return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
