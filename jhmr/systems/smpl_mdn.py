"""SMPL-MDN, a baseline of 3D Multi-bodies: a mixture of Gaussians over the body's pose as log-rotations.

Paper: Biggs, Ehrhardt, Joo, Graham, Vedaldi, Novotny, "3D Multi-bodies: Fitting Sets of Plausible 3D Human Models to
Ambiguous Image Data", NeurIPS 2020, supplement C; Li and Lee, CVPR 2019. HMR's regressor corrects M means of 69
log-rotations at once, beside one root, shape and camera. Training minimises the mixture's negative log-likelihood and
HMR's losses of one virtual prediction, the means weighted by their posterior given the label (Eq. 9).
Predicts: the M means, first the one nearest to their mean; `choose`: random means, as in the paper.

With `config.mixture.learn` "" all components are equally likely, of variance `config.mixture.variance` (the paper's
best); "weights", "variances" or "weights,variances" are regressed too.
Differs from the paper, which says no more than the above: an image without a pose label trains its first mean.
"""

import math

import jax
from jhmr import losses
from jhmr import multi_hypothesis
from jhmr import one_loss
from jhmr import regression
from jhmr.body import rotations
from jhmr.errors import InputError
from jhmr.nn import regressor
from jhmr.state import AXIS, Prediction, System
import jax.numpy as jnp

TERMS = ("keypoints2d", "keypoints3d", "pose", "betas", "vertices", "camera", "nll")
LEARN = ("", "weights", "variances", "weights,variances")
DIM = 69
_LOG_VARIANCE = (-30.0, 30.0)  # limits, as far as a float goes


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  regression.one_of("supervision", config.supervision, regression.SUPERVISION)
  regression.one_of("mixture.learn", config.mixture.learn, LEARN)
  regression.check(config, TERMS)
  if config.mixture.components < 1 or config.mixture.variance <= 0:
    raise InputError("config.mixture.components must be 1 or more, config.mixture.variance above 0")


def virtual(likelihoods, means):
  """Means weighted by their posterior: [B, M], [B, M, D] -> [B, D]. Source: 3D Multi-bodies, Eq. 9."""
  return jnp.sum(jax.nn.softmax(likelihoods, -1)[..., None] * means, 1)


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net, weights = regressor.ImageRegressor(**config.net, axis_name=AXIS), dict(config.weights)
  of_body = {name: w for name, w in weights.items() if name != "nll"}
  supervision, convention = config.supervision, config.camera_convention
  count, learned = config.mixture.components, config.mixture.learn

  def start(mean):
    """Where the regressor starts: root 6D, M means around the mean pose, and what else is learned of the mixture."""
    six_d, betas, cam = regression.start_values(mean)
    angles = rotations.matrix_to_axis_angle(mean["pose"][1:]).reshape(-1)
    apart = config.mixture.spread * jax.random.normal(jax.random.key(config.seed), (count, DIM))
    more = [jnp.zeros(count)] * ("weights" in learned)
    more += [jnp.full((count,), math.log(config.mixture.variance))] * ("variances" in learned)
    return jnp.concatenate([six_d[:6], (angles[None] + apart).reshape(-1), *more]), betas, cam

  def mixture(estimates):
    """The last estimates -> root [B, 3, 3], means [B, M, 69], log_weights and log_variance [B, M], betas, camera."""
    pose, betas, cam = (x[:, -1] for x in estimates)
    root = rotations.six_d_to_matrix(pose[:, :6], "spin")
    cam = regression.from_eft(cam) if convention == "eft" else cam
    more = jnp.split(pose[:, 6 + DIM * count:], max(len(learned.split(",")), 1), -1) if learned else []
    log_weights = jax.nn.log_softmax(more.pop(0) if "weights" in learned else jnp.zeros((len(pose), count)), -1)
    log_variance = more.pop(0) if "variances" in learned else jnp.full((len(pose), count),
                                                                       math.log(config.mixture.variance))
    return (root, pose[:, 6:6 + DIM * count].reshape(-1, count, DIM), log_weights,
            jnp.clip(log_variance, *_LOG_VARIANCE), betas, cam)

  def matrices(root, angles):
    """root [..., 3, 3], angles [..., 69] -> [..., 24, 3, 3]."""
    body = rotations.axis_angle_to_matrix(angles.reshape(*angles.shape[:-1], 23, 3))
    return jnp.concatenate([root[..., None, :, :], body], -3)

  def init(rng, batch, assets):
    @jax.jit
    def fresh(rng, image, mean):
      variables = net.init(rng, image, start(mean), False)
      return one_loss.fresh_state(config, {"net": variables["params"]}, {"net": variables["batch_stats"]})

    return fresh(rng, batch["image"][:1], assets["mean"])

  def label_weights(batch):
    known = {"nll": batch["mask"] * batch["has_pose"]} if weights["nll"] else {}
    return known | regression.label_weights(batch, of_body, supervision)

  def loss(params, stats, batch, assets, totals, key):
    estimates, new = net.apply({"params": params["net"], "batch_stats": stats["net"]}, batch["image"],
                               start(assets["mean"]), True, rngs={"dropout": key}, mutable=["batch_stats"])
    root, means, log_weights, log_variance, betas, cam = mixture(estimates)
    target = rotations.matrix_to_axis_angle(batch["body_pose"]).reshape(-1, DIM)
    each = losses.mixture_log_likelihoods(target, means, log_weights, log_variance)
    angles = jnp.where(batch["has_pose"][:, None] > 0, virtual(each, means), means[:, 0])
    batch = regression.weighed(batch) if supervision == "spin49" else batch
    terms = regression.image_terms(matrices(root, angles), betas, cam, batch, assets, of_body, supervision, totals)
    if weights["nll"]:
      terms["nll"] = losses.masked_mean(-jax.nn.logsumexp(each, -1), label_weights(batch)["nll"], total=totals["nll"])
    total = losses.weigh(weights, terms)
    return total, ({"loss": total} | terms, {"net": new["batch_stats"]})

  def components(state, batch, assets):
    """(Prediction of all means, their log_weights)."""
    variables = {"params": state.params["net"], "batch_stats": state.stats["net"]}
    estimates = net.apply(variables, batch["image"], start(assets["mean"]), False)
    root, means, log_weights, _, betas, cam = mixture(estimates)
    same = lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], count, *x.shape[1:]))
    return Prediction.of(matrices(same(root), means), same(betas), same(cam)), log_weights

  def predict(state, batch, assets):
    found, log_weights = components(state, batch, assets)
    likely = found.replace(log_prob=log_weights)
    first, _ = multi_hypothesis.best_first(likely, multi_hypothesis.clustered(found, assets))
    return first.replace(log_prob=found.log_prob)

  def choose(state, batch, assets, keys, num):
    if num > count:
      raise InputError(f"{num} hypotheses asked for, but the mixture has {count}: ask for {count} or fewer")
    found, log_weights = components(state, batch, assets)
    draw = lambda key, p: jax.random.choice(key, count, (num,), replace=False, p=p)
    return multi_hypothesis.chosen(found, jax.vmap(draw)(keys, jnp.exp(log_weights)))

  return System(init, one_loss.make_step(config, loss, label_weights), predict, choose=choose)
