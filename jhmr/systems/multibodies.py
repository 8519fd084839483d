"""3D Multi-bodies: M hypotheses for each image, of which the best one learns, and few that stand for all.

Paper: Biggs, Ehrhardt, Joo, Graham, Vedaldi, Novotny, "3D Multi-bodies: Fitting Sets of Plausible 3D Human Models to
Ambiguous Image Data", NeurIPS 2020. HMR's last layer is M times larger. Training minimises Eq. 8: HMR's losses of the
hypothesis whose joints are nearest to the label (Eq. 1, 6, 7: `keypoints3d` is L_best, `keypoints2d` L_rb), and the
reprojection error of all of them (Eq. 5: `keypoints2d_all`). A normalizing flow over joints (`joint_prior`) weighs the
hypotheses (Eq. 2); K-means makes any n < M of them (Eq. 3). It is used after training only: assets["joint_prior"].
Predicts: M hypotheses, first the one nearest to their weighted mean (n = 1); `choose`: n of them.

Reductions of the losses are `regression`'s, of config.supervision; the mean over M of `keypoints2d_all` and `camera`.
The paper's weights, for its own reductions: 25 best, 1 pose, 0.001 betas, 1 vertices, 1 keypoints2d_all; keypoints2d is
used, its weight not given.

Variants of the authors' code:
  - config.supervise_first: hypothesis 0 always learns too, its losses added, so that it is a single prediction (n = 1).
  - config.quantise = "code": hypothesis 0 is one of the n, n - 1 clusters are of the others.
Differs from both:
  - M estimates start apart (`net.spread`), not all from one network that was trained before; with config.warm_start
    they do start from one, `heads` alone being new.
  - an example without any 3D label chooses by its 2D error; the authors' training data have fits everywhere.
"""

import jax
from jhmr import losses
from jhmr import multi_hypothesis
from jhmr import one_loss
from jhmr import regression
from jhmr.errors import InputError
from jhmr.nn import multi_head
from jhmr.state import AXIS, System
import jax.numpy as jnp

TERMS = ("keypoints2d", "keypoints3d", "pose", "betas", "vertices", "camera", "keypoints2d_all")
QUANTISE = ("paper", "code")


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  regression.one_of("supervision", config.supervision, regression.SUPERVISION)
  regression.one_of("quantise", config.quantise, QUANTISE)
  regression.check(config, TERMS)
  if config.net.hypotheses < 1:
    raise InputError(f"config.net.hypotheses is {config.net.hypotheses}: give 1 or more")


def label_weights(batch, weights, supervision):
  """As `regression.label_weights`, with the losses of all hypotheses; every example may have 3D joints by now."""
  known = jnp.maximum(batch["has_keypoints3d"], batch["has_pose"] * batch["has_betas"])
  counted = regression.label_weights(batch | {"has_keypoints3d": known}, weights, supervision)
  of_all = {"keypoints2d_all": "keypoints2d", "camera": "camera"}
  for name, like in of_all.items():
    if weights.get(name):
      counted |= {name: regression.label_weights(batch, {like: weights[name]}, supervision)[like]}
  return counted


def losses_of_all(projected, cam, batch, weights, supervision, totals):
  """The losses that every hypothesis has: {name: []}, means over M. Source: 3D Multi-bodies, Eq. 5."""
  two = regression.JOINTS_2D[supervision]
  error = losses.keypoints2d if supervision == "hmr" else losses.keypoints2d_squared
  each = lambda one, label: error(one[None], label[None])[0]
  off = jax.vmap(jax.vmap(each, (0, None)))(projected[:, :, two], batch["keypoints2d"][:, two])     # [B, M]
  found = {"keypoints2d_all": jnp.mean(off, 1), "camera": jnp.mean(losses.camera(cam), 1)}
  counted = label_weights(batch, weights, supervision)
  return {n: losses.masked_mean(e, counted[n], total=totals[n]) for n, e in found.items() if weights[n]}


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net, weights = multi_head.MultiImageRegressor(**config.net, axis_name=AXIS), dict(config.weights)
  of_one = {name: w for name, w in weights.items() if name != "keypoints2d_all"} | {"camera": 0.0}
  convention, supervision = config.camera_convention, config.supervision
  together = lambda params: {**params["net"], **params["heads"]}

  def init(rng, batch, assets):
    @jax.jit
    def fresh(rng, image, mean):
      variables = net.init(rng, image, regression.start_values(mean), False)
      params = dict(variables["params"])
      heads = {"own": params.pop("own")}
      return one_loss.fresh_state(config, {"net": params, "heads": heads}, {"net": variables["batch_stats"]})

    return fresh(rng, batch["image"][:1], assets["mean"])

  def loss(params, stats, batch, assets, totals, key):
    estimates, new = net.apply({"params": together(params), "batch_stats": stats["net"]}, batch["image"],
                               regression.start_values(assets["mean"]), True, rngs={"dropout": key},
                               mutable=["batch_stats"])
    bodies = regression.decode(estimates, convention)
    batch = multi_hypothesis.with_joints(batch, assets)
    points = multi_hypothesis.joints_of(assets["keypoint_body"], *bodies[:2])
    projected = multi_hypothesis.projected_of(points, bodies[2])
    best = multi_hypothesis.selected(points, projected, batch, supervision)
    learns = lambda index: regression.image_terms(*multi_hypothesis.rows(bodies, index), batch, assets, of_one,
                                                  supervision, totals)
    terms = learns(best)
    if config.supervise_first:
      terms = jax.tree.map(jnp.add, terms, learns(jnp.zeros_like(best)))
    terms |= losses_of_all(projected, bodies[2], batch, weights, supervision, totals)
    total = losses.weigh(weights, terms)
    return total, ({"loss": total} | terms, {"net": new["batch_stats"]})

  def all_of(state, batch, assets):
    """(Prediction of all M, the best guess first, and the joints they are clustered by)."""
    variables = {"params": together(state.params), "batch_stats": state.stats["net"]}
    estimates = net.apply(variables, batch["image"], regression.start_values(assets["mean"]), False)
    found = multi_hypothesis.of_estimates(regression.decode(estimates, convention))
    found = multi_hypothesis.weighed(found, assets)
    points = multi_hypothesis.clustered(found, assets)
    return (found, points) if config.supervise_first else multi_hypothesis.best_first(found, points)

  def choose(state, batch, assets, keys, num):
    return multi_hypothesis.quantised(*all_of(state, batch, assets), keys, num, config.quantise == "code")

  step = one_loss.make_step(config, loss, lambda batch: label_weights(batch, weights, supervision))
  return System(init, step, lambda *given: all_of(*given)[0], choose=choose)
