"""The prior of 3D Multi-bodies: a normalizing flow over the joints of bodies, see `jhmr.joint_prior`.

Paper: Biggs, Ehrhardt, Joo, Graham, Vedaldi, Novotny, "3D Multi-bodies: Fitting Sets of Plausible 3D Human Models to
Ambiguous Image Data", NeurIPS 2020, Eq. 4. Learns from `real_pose` and `real_betas` of a batch: the built-in pose
sampler's bodies, or those of `config.data.mocap`; images are never looked at, and so never rendered by a training step.
Predicts: nothing of an image; the mean pose with an example's root and betas, and the log-density of its own label.
The sampler never repeats a body, so `nll` of a training step is that of bodies not seen before.

Differs from the authors' code:
  - with `config.jitter_m`, joints get noise. Joints of bodies fill less than the 72 dimensions (the face does not
    bend), and across what is left the density would grow with every step; noise gives it a width.
"""

import jax
import jax.numpy as jnp
from jhmr import joint_prior
from jhmr import losses
from jhmr import one_loss
from jhmr import regression
from jhmr.body import joints
from jhmr.errors import InputError
from jhmr.nn import realnvp
from jhmr.state import Prediction, System

TERMS = ("nll",)
DIM = 3 * len(joints.names("gt24"))


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  if set(config.weights) != set(TERMS):
    raise InputError(f"config.weights must name the loss of joint_prior, {TERMS[0]}, and no other")
  if config.net.dim != DIM:
    raise InputError(f"config.net.dim is {config.net.dim}: the prior is over {DIM} numbers, three of each joint")
  regression.positive("net", config.net, ("couplings", "hidden"))


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net, weights = realnvp.RealNvp(**config.net), dict(config.weights)

  def init(rng, batch, assets):
    del batch, assets

    @jax.jit
    def fresh(rng):
      variables = net.init(rng, jnp.zeros((1, DIM)))
      return one_loss.fresh_state(config, {"net": variables["params"]}, {"net": variables[realnvp.MASKS]})

    return fresh(rng)

  def loss(params, stats, batch, assets, totals, key):
    points = joint_prior.upright(assets["keypoint_body"], batch["real_pose"], batch["real_betas"])
    keys = jax.random.split(key)
    points += config.jitter_m * jax.random.normal(keys[0], points.shape)
    log_prob = net.apply({"params": params["net"], realnvp.MASKS: stats["net"]}, points.reshape(len(points), -1), True,
                         rngs={"dropout": keys[1]})
    terms = {"nll": losses.masked_mean(-log_prob, batch["mask"], total=totals["mask"])}
    total = losses.weigh(weights, terms)
    return total, ({"loss": total} | terms, stats)

  update = one_loss.make_step(config, loss, lambda batch: {"mask": batch["mask"]})

  def step(state, batch, assets):
    return update(state, {name: batch[name] for name in ("real_pose", "real_betas", "mask")}, assets)

  def predict(state, batch, assets):
    if "body_pose" not in batch:
      raise InputError("a joint_prior sees no images: name its workdir as config.prior of a run that does")
    prior = joint_prior.JointPrior(state.params["net"], state.stats["net"], net)
    mean, rows = assets["mean"], len(batch["body_pose"])
    points = joint_prior.upright(assets["keypoint_body"], batch["body_pose"], batch["betas"])
    return Prediction(global_orient=batch["global_orient"][:, None],
                      body_pose=jnp.broadcast_to(mean["pose"][1:], (rows, 1, 23, 3, 3)),
                      betas=batch["betas"][:, None], camera=jnp.broadcast_to(mean["camera"], (rows, 1, 3)),
                      log_prob=joint_prior.log_prob(prior, points)[:, None])

  return System(init=init, step=step, predict=predict)
