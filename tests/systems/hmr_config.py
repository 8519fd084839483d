"""A config, a body, assets and labelled batches small enough for seconds on a CPU."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jhmr.body import camera
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.data import spec
from jhmr.state import AXIS
import ml_collections
import numpy as np

from body import random_body


def get_config(**overrides):
  """The smallest HMR; overrides as {"net.dropout": 0.0}."""
  config = ml_collections.ConfigDict({
      "system": "hmr", "seed": 0, "num_steps": 100, "supervision": "hmr",
      "net": {"backbone": "resnet_tiny", "iterations": 3, "hidden": 64, "dropout": 0.0, "activation": "relu",
              "dtype": "float32", "batch_norm": "sync"},
      "optim": {"name": "adam", "learning_rate": 1e-3}, "critic_optim": {"name": "adam", "learning_rate": 1e-3},
      "weights": {"keypoints2d": 10.0, "keypoints3d": 10.0, "pose": 1.0, "betas": 0.01, "vertices": 0.0,
                  "camera": 0.0, "adversarial": 0.0}})
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config.lock()


def get_assets(num_vertices=60):
  body = smpl.from_arrays(random_body.arrays(num_vertices, num_faces=10))
  pose = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
  pose[0] = np.diag([1.0, -1.0, -1.0])
  mean = {"pose": pose, "betas": np.zeros(10, np.float32), "camera": np.array([0.9, 0, 0], np.float32)}
  return jax.tree.map(jnp.asarray, {"body": body, "keypoint_body": smpl.sub_body(body, ("spin49",)), "mean": mean})


def get_batch(assets, batch_size=8, image_size=32, seed=0):
  """Images of noise with labels that belong together: bodies near the mean pose, projected by cameras near its."""
  rng = np.random.default_rng(seed)
  batch = spec.fake_batch(image_size, batch_size, seed=seed)
  turns = 0.3 * rng.normal(size=(batch_size, 24, 3)).astype(np.float32)
  betas = rng.normal(size=(batch_size, 10)).astype(np.float32)
  cameras = (np.array([0.9, 0, 0]) + 0.1 * rng.normal(size=(batch_size, 3))).astype(np.float32)

  @jax.jit
  def label(body, mean):
    pose = rotations.axis_angle_to_matrix(turns) @ mean
    points = smpl.keypoints(body, smpl.forward(body, betas, pose), "spin49")
    return pose, points, camera.project_crop(points, cameras)

  pose, points, projected = map(np.asarray, label(assets["keypoint_body"], assets["mean"]["pose"]))
  ones = np.ones((batch_size, 49, 1), np.float32)
  batch |= {"keypoints2d": np.concatenate([projected, ones], -1),
            "keypoints3d": np.concatenate([points, ones], -1), "global_orient": pose[:, :1], "body_pose": pose[:, 1:],
            "betas": betas, "real_pose": pose[::-1, 1:], "real_betas": betas[::-1]}
  return {k: np.asarray(v) for k, v in batch.items()}


def hide_labels(batch, seed=0):
  """The same batch with most labels missing, unevenly: nobody has all, one row is padding."""
  rng = np.random.default_rng(seed)
  batch, size = dict(batch), len(batch["mask"])
  for name in ("has_pose", "has_betas", "has_keypoints3d"):
    batch[name] = (rng.random(size) < 0.4).astype(np.float32)
  batch["mask"] = np.arange(size, dtype=np.float32) != size - 1
  batch["mask"] = batch["mask"].astype(np.float32)
  for name in ("keypoints2d", "keypoints3d"):
    batch[name] = batch[name] * np.append(np.ones(batch[name].shape[-1] - 1), 0).astype(np.float32) + np.append(
        np.zeros(batch[name].shape[-1] - 1), 1).astype(np.float32) * (rng.random((size, 49, 1)) < 0.5)
    batch[name] = batch[name].astype(np.float32)
  return batch


def on_devices(step, num_devices):
  """step as the loop maps it, taking ordinary global batches and states from anywhere."""
  devices = jax.devices()[:num_devices]
  everywhere = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())  # else the second step compiles again
  mapped = jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices)
  split = lambda x: x.reshape(num_devices, -1, *x.shape[1:])
  return lambda state, batch, assets: mapped(
      jax.device_put(state, everywhere), jax.tree.map(split, batch), jax.device_put(assets, everywhere))
