"""SMPL-CVAE, a baseline of 3D Multi-bodies: a conditional variational autoencoder of bodies.

Paper: Biggs, Ehrhardt, Joo, Graham, Vedaldi, Novotny, "3D Multi-bodies: Fitting Sets of Plausible 3D Human Models to
Ambiguous Image Data", NeurIPS 2020, supplement C. An encoder makes a Gaussian latent z of the label's mesh, the
regressor a body of the image's features and z; training minimises HMR's losses of it and a KL divergence to N(0, 1).
Predicts: the body of z = 0; `choose`: z = 0 first, then z ~ N(0, 1).

Differs from the paper, which says no more than the above:
  - the encoder sees joints and landmarks of the mesh (of `assets["keypoint_body"]`), which say as much.
  - images without pose or shape train with z ~ N(0, 1), without a KL divergence.
"""

import jax
from jhmr import losses
from jhmr import one_loss
from jhmr import regression
from jhmr.body import smpl
from jhmr.nn import cvae
from jhmr.state import AXIS, labelled_pose, Prediction, System
import jax.numpy as jnp

TERMS = ("keypoints2d", "keypoints3d", "pose", "betas", "vertices", "camera", "kl")


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  regression.one_of("supervision", config.supervision, regression.SUPERVISION)
  regression.check(config, TERMS)
  regression.positive("net", config.net, ("latent", "encoder_hidden"))


def encoded(batch, assets):
  """What the encoder sees of the labels: joints and rigid points [B, F] of their bodies, metres."""
  pose = labelled_pose(batch)
  posed = smpl.forward(assets["keypoint_body"], batch["betas"], pose)
  return jnp.concatenate([posed.joints, posed.vertices], 1).reshape(len(pose), -1)


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net, weights = cvae.CvaeRegressor(**config.net, axis_name=AXIS), dict(config.weights)
  of_body = {name: w for name, w in weights.items() if name != "kl"}
  supervision, convention, latent = config.supervision, config.camera_convention, config.net.latent

  def init(rng, batch, assets):
    @jax.jit
    def fresh(rng, batch, assets):
      points = encoded(batch, assets)
      variables = net.init(rng, batch["image"], points, jnp.zeros((1, latent)), jnp.ones((1,)),
                           regression.start_values(assets["mean"]), False)
      return one_loss.fresh_state(config, {"net": variables["params"]}, {"net": variables["batch_stats"]})

    return fresh(rng, jax.tree.map(lambda x: x[:1], batch), assets)

  def label_weights(batch):
    known = {"kl": batch["mask"] * batch["has_pose"] * batch["has_betas"]} if weights["kl"] else {}
    return known | regression.label_weights(batch, of_body, supervision)

  def loss(params, stats, batch, assets, totals, key):
    keys = jax.random.split(key)
    noise = jax.random.normal(keys[0], (len(batch["image"]), latent))
    seen = batch["has_pose"] * batch["has_betas"]
    (estimates, mean, std), new = net.apply(
        {"params": params["net"], "batch_stats": stats["net"]}, batch["image"], encoded(batch, assets), noise, seen,
        regression.start_values(assets["mean"]), True, rngs={"dropout": keys[1]}, mutable=["batch_stats"])
    last = (x[:, -1] for x in regression.decode(estimates, convention))
    batch = regression.weighed(batch) if supervision == "spin49" else batch
    terms = regression.image_terms(*last, batch, assets, of_body, supervision, totals)
    if weights["kl"]:
      terms["kl"] = losses.masked_mean(losses.kl_divergence(mean, std), label_weights(batch)["kl"], total=totals["kl"])
    total = losses.weigh(weights, terms)
    return total, ({"loss": total} | terms, {"net": new["batch_stats"]})

  def decoded(state, batch, assets, z):
    variables = {"params": state.params["net"], "batch_stats": state.stats["net"]}
    features = net.apply(variables, batch["image"], method="features")
    estimates = net.apply(variables, features, z, regression.start_values(assets["mean"]), method="decode")
    return Prediction.of(*regression.decode(estimates, convention))

  def predict(state, batch, assets):
    return decoded(state, batch, assets, jnp.zeros((len(batch["image"]), 1, latent)))

  def choose(state, batch, assets, keys, num):
    z = jax.vmap(lambda key: jax.random.normal(key, (num, latent)))(keys)
    return decoded(state, batch, assets, z.at[:, 0].set(0.0))

  return System(init, one_loss.make_step(config, loss, label_weights), predict, choose=choose)
