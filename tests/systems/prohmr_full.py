"""Our ProHMR of full size with the weights and the body of `prohmr_inputs`, as a released file would bring them."""

import jax
import jax.numpy as jnp
from jhmr.body import rotations, smpl
from jhmr.released import keys
from jhmr.released import prohmr as released
from jhmr.state import TrainState
import ml_collections
import numpy as np
from systems import prohmr_inputs as inputs

BETA1 = 0.9  # of Adam


def get_config(**overrides):
  """configs/prohmr.py in float32, without dropout, and with an optimiser that remembers the gradient of one step."""
  adam = {"name": "adam", "learning_rate": 1e-4, "b1": BETA1}
  config = ml_collections.ConfigDict({
      "system": "prohmr", "seed": 0, "num_steps": 100, "train_samples": 2, "model_joints": "prohmr44",
      "net": {"backbone": "resnet50", "hidden": 1024, "dtype": "float32", "batch_norm": "device", "remat": False,
              "flow": {"blocks": 4, "hidden": 1024, "depth": 2, "dropout": 0.0, "legacy_lu": False,
                       "dtype": "float32"}},
      "optim": adam, "critic_optim": adam,
      "weights": {"keypoints2d_mode": 0.01, "keypoints2d_exp": 0.001, "keypoints3d_mode": 0.05, "keypoints3d_exp": 0.0,
                  "global_orient_mode": 0.001, "global_orient_exp": 0.0, "body_pose_mode": 0.001,
                  "body_pose_exp": 0.0, "betas": 0.0005, "nll": 0.001, "orthogonal": 0.1, "adversarial": 0.0005}})
  config.update_from_flattened_dict(overrides)
  return config


def load(recorded):
  """(state without optimisers, assets), after checking that they are those of a recording."""
  weights, body = inputs.weights(), inputs.body()
  inputs.check(recorded, weights, "weights")
  inputs.check(recorded, body, "body")
  found = released.convert(weights, get_config().net, "theirs")
  state = TrainState(step=jnp.zeros((), jnp.int32), params=found.params, stats=found.stats, memory={}, opt_state={})
  return jax.device_put(state), {"keypoint_body": smpl.sub_body(smpl.from_arrays(body), ("prohmr44",)),
                                 "mean": jax.tree.map(jnp.asarray, found.start)}


def matrices(axis_angle):
  """[..., 3 J] -> [..., J, 3, 3]."""
  return np.asarray(rotations.axis_angle_to_matrix(axis_angle.reshape(*axis_angle.shape[:-1], -1, 3)))


def batch():
  """Their labels as ours: crops from -1 to 1, room for 49 joints, rotation matrices."""
  known = inputs.labels()
  pad = lambda x: np.pad(x, ((0, 0), (0, 5), (0, 0)))
  pose = matrices(known["pose"])
  return {"image": inputs.images(inputs.IMAGES, inputs.SIZE), "mask": np.ones(inputs.IMAGES, np.float32),
          "keypoints2d": pad(known["keypoints2d"] * np.array([2, 2, 1], np.float32)),
          "keypoints3d": pad(known["keypoints3d"]),
          "has_keypoints3d": np.any(known["keypoints3d"][..., 3], axis=1).astype(np.float32),
          "global_orient": pose[:, :1], "body_pose": pose[:, 1:], "betas": known["betas"],
          "has_pose": known["has_pose"], "has_betas": known["has_betas"], "real_pose": matrices(known["real_pose"]),
          "real_betas": known["real_betas"]}


def probed(tree):
  """Products of our arrays with the directions that stand for theirs: {their keys: (norm, product)}.

  Args:
    tree: {"params": ..., "stats": ...}, shaped as a TrainState's; or one of both.
  """
  shapes = inputs.shapes()
  entries = [e for e in released.entries(released.Sizes()) + released.critic_entries() if e.path[0] in tree]
  probes = keys.fill({n: inputs.probe(n, shapes[n]) for e in entries for n in e.names}, entries, "probes", "probes")
  found = {}
  for entry in entries:
    ours, probe = (_at(t, entry.path) for t in (tree, probes))
    found[entry.names] = np.linalg.norm(ours), np.vdot(probe, np.asarray(ours, np.float64))
  return found


def _at(tree, path):
  return _at(tree[path[0]], path[1:]) if path else tree
