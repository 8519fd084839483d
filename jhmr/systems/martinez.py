"""The baseline of Martinez et al.: a 2D pose in, one 3D pose out, by a residual network of linear layers.

Paper: Martinez, Hossain, Romero, Little, "A simple yet effective baseline for 3D human pose estimation", ICCV 2017.
Both poses are z-scores of the training split. Training minimises their squared difference, a mean over the 48 numbers
and the poses. Predicts: that pose; there are no sets of hypotheses.

With `config.missing`, so many joints of limbs are hidden in every training pose (Li and Lee 2019); a joint of a batch
that is not finite is missing too, in training and after.

Differs from the authors' code:
  - batch norm counts no padding, and an unlabelled pose is no part of the mean.
"""

from jhmr import lift_baselines, one_loss
from jhmr.lift_baselines import MARTINEZ
from jhmr.nn import lift_mlp
from jhmr.state import Lifted, System
import jax.numpy as jnp

TERMS = ("pose3d",)


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  lift_baselines.check(config, TERMS)
  net = lift_mlp.Regression(lift_baselines.body(config.net, max_norm=config.net.max_norm), lift_baselines.DIM)
  weights = dict(config.weights)

  def loss(params, stats, batch, assets, totals, key):
    found, stats = lift_baselines.train(net, config.missing, params, stats, batch, assets, key)
    error = jnp.mean((found - lift_baselines.targets(batch, MARTINEZ, assets["lift_stats"])) ** 2, -1)
    total, metrics = lift_baselines.weighed(weights, {"pose3d": error}, batch, totals)
    return total, (metrics, stats)

  def predict(state, batch, assets):
    found = lift_baselines.infer(net, state, batch, assets)
    points = lift_baselines.to_joints(found, MARTINEZ, assets["lift_stats"])
    return Lifted(points[:, None], jnp.zeros((len(points), 1), jnp.float32))

  step = one_loss.make_step(config, loss, lift_baselines.label_weights)
  return System(lift_baselines.make_init(config, net), step, predict)
