"""Configs, assets and a network of systems with several hypotheses, small enough for seconds on a CPU."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr import joint_prior
from jhmr.body import landmarks
from jhmr.nn import realnvp
import ml_collections
import numpy as np

from systems import hmr_config

HYPOTHESES = 5
WEIGHTS = {"keypoints2d": 1.0, "keypoints3d": 10.0, "pose": 1.0, "betas": 0.01, "vertices": 0.0, "camera": 0.1}
FIELDS = {
    "multibodies": {"prior": "", "supervise_first": False, "quantise": "paper", "infer_joints": True, "freeze": False},
    "smpl_mdn": {"mixture": {"components": HYPOTHESES, "variance": 0.01, "spread": 0.1, "learn": ""}},
    "smpl_cvae": {}}
NET = {"multibodies": {"hypotheses": HYPOTHESES, "apart": 0, "spread": 0.1}, "smpl_mdn": {},
       "smpl_cvae": {"latent": 4, "encoder_hidden": 16}}
MORE = {"multibodies": {"keypoints2d_all": 1.0}, "smpl_mdn": {"nll": 0.001}, "smpl_cvae": {"kl": 0.01}}


def get_config(system, **overrides):
  """The smallest one; overrides as {"net.dropout": 0.0}, with "__" for "." too."""
  hmr = hmr_config.get_config()
  config = ml_collections.ConfigDict({
      "system": system, "seed": 0, "num_steps": 100, "accumulate": 1, "supervision": "spin",
      "camera_convention": "spin", "net": hmr.net.to_dict() | {"hidden": 32} | NET[system],
      "optim": {"name": "adam", "learning_rate": 1e-3}, "weights": WEIGHTS | MORE[system], **FIELDS[system]})
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config.lock()


def get_assets():
  """Those of HMR, with a body of points that one joint each moves."""
  assets = hmr_config.get_assets()
  return assets | {"keypoint_body": landmarks.rigid_body(assets["body"], ("spin49",))}


def get_prior(seed=0):
  """A flow that is not the normal."""
  net, rng = realnvp.RealNvp(couplings=2, hidden=8), np.random.default_rng(seed)
  fresh = jax.jit(net.init)(jax.random.key(seed), jnp.zeros((1, 72)))
  params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), fresh["params"])
  return joint_prior.JointPrior(params, fresh[realnvp.MASKS], net)


class Table(nn.Module):
  """In place of a network with M answers: those of a table, moved by the image's mean colour; compiles in no time."""
  hypotheses: int = HYPOTHESES
  axis_name: Any = None

  @nn.compact
  def __call__(self, image, start, train):
    sizes = [len(x) for x in start]
    table = self.param("own", nn.initializers.normal(0.3), (self.hypotheses, sum(sizes)))
    moves = self.param("head", nn.initializers.normal(0.05), (3, sum(sizes)))
    seen = self.variable("batch_stats", "seen", lambda: jnp.zeros(3))
    colours = jnp.mean(image, (1, 2))
    if train:
      seen.value = 0.9 * seen.value + 0.1 * jnp.mean(colours, 0)
    estimates = jnp.concatenate(start) + table[None] + (colours @ moves)[:, None]
    return tuple(jnp.split(estimates, [sizes[0], sizes[0] + sizes[1]], -1))


get_batch, on_devices, hide_labels = hmr_config.get_batch, hmr_config.on_devices, hmr_config.hide_labels
