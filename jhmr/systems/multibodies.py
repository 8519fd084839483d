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
  - config.net.heads = "stage4": not the last layer is M times larger, but the last one of the encoder, so that M
    features go through one regressor; with net.activation = "none". Released weights want it.
  - config.supervise_first: hypothesis 0 always learns too, its losses added, so that it is a single prediction (n = 1).
  - config.quantise = "code": hypothesis 0 is one of the n, n - 1 clusters are of the others.
  - config.infer_joints = False: where no 3D joints were measured, those of the label's body choose the best hypothesis,
    as always, but are not what it learns.
  - config.freeze: nothing but what is M times as large learns; the rest is what config.warm_start made it. Batch norm
    goes on moving its averages.
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
from jhmr.body import camera
from jhmr.errors import InputError
from jhmr.nn import multi_head
from jhmr.nn import resnet
from jhmr.nn import stage_heads
from jhmr.state import AXIS, Prediction, System
import jax.numpy as jnp

TERMS = ("keypoints2d", "keypoints3d", "pose", "betas", "vertices", "camera", "keypoints2d_all")
QUANTISE = ("paper", "code")
# net.heads, and what of the network is new beside one regressor: the paper's last layers, or the authors' code's stage.
HEADS = {"output": "own", "stage4": "stage"}


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  regression.one_of("supervision", config.supervision, regression.SUPERVISION)
  regression.one_of("quantise", config.quantise, QUANTISE)
  regression.check(config, TERMS)
  regression.one_of("net.heads", heads := config.net.get("heads", "output"), HEADS)
  if heads == "stage4" and resnet.ARCHITECTURES[config.net.backbone].locate:
    raise InputError(f"config.net.heads is 'stage4': config.net.backbone {config.net.backbone!r} has no features that "
                     "are means of its last stage; use resnet18 or resnet50")
  if config.net.hypotheses < 1:
    raise InputError(f"config.net.hypotheses is {config.net.hypotheses}: give 1 or more")


def label_weights(batch, weights, supervision, infer_joints=True):
  """As `regression.label_weights`, with the losses of all hypotheses; with infer_joints, bodies have 3D joints too."""
  known = jnp.maximum(batch["has_keypoints3d"], infer_joints * batch["has_pose"] * batch["has_betas"])
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


def network(fields):
  """The network of config.net, whose parameters begin with those of one regressor; see HEADS."""
  fields = dict(fields)
  if fields.pop("heads", "output") == "output":
    return multi_head.MultiImageRegressor(**fields, axis_name=AXIS)
  return stage_heads.StageImageRegressor(**{n: v for n, v in fields.items() if n not in ("apart", "spread")},
                                         axis_name=AXIS)


def apart(variables):
  """A network's variables -> {"net": those of one regressor, "heads": what makes many of it}, if there are any."""
  heads = {name: tree for name, tree in variables.items() if name in HEADS.values()}
  net = {name: tree for name, tree in variables.items() if name not in heads}
  return {"net": net} | ({"heads": heads} if heads else {})


def together(parts):
  """Back from `apart`."""
  return {**parts["net"], **parts.get("heads", {})}


def learning(fields):
  """Which parameters learn with config.freeze: names of a leaf's place in the state -> bool.

  Source: 3D Multi-bodies, authors' `hmr_condspin.py`, freeze_weights.
  """
  if fields.get("heads", "output") == "output":
    return lambda names: names[0] == "heads"
  block, layers = stage_heads.wide_layers(fields["backbone"])
  return lambda names: names[0] == "heads" and names[-3] == block and names[-2] in layers


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net, weights = network(config.net), dict(config.weights)
  of_one = {name: w for name, w in weights.items() if name != "keypoints2d_all"} | {"camera": 0.0}
  convention, supervision = config.camera_convention, config.supervision
  infer_joints, frozen = config.get("infer_joints", True), config.get("freeze", False)  # older runs do not say it

  def init(rng, batch, assets):
    @jax.jit
    def fresh(rng, image, mean):
      variables = net.init(rng, image, regression.start_values(mean), False)
      return one_loss.fresh_state(config, apart(variables["params"]), apart(variables["batch_stats"]))

    return fresh(rng, batch["image"][:1], assets["mean"])

  def loss(params, stats, batch, assets, totals, key):
    estimates, new = net.apply({"params": together(params), "batch_stats": together(stats)}, batch["image"],
                               regression.start_values(assets["mean"]), True, rngs={"dropout": key},
                               mutable=["batch_stats"])
    bodies = regression.decode(estimates, convention)
    batch = regression.weighed(batch) if supervision == "spin49" else batch
    measured, batch = batch["has_keypoints3d"], multi_hypothesis.with_joints(batch, assets)
    points = multi_hypothesis.joints_of(assets["keypoint_body"], *bodies[:2])
    projected = camera.project_crop(points, bodies[2])
    best = multi_hypothesis.selected(points, projected, batch, supervision)
    batch |= {} if infer_joints else {"has_keypoints3d": measured}
    learns = lambda index: regression.image_terms(*multi_hypothesis.rows(bodies, index), batch, assets, of_one,
                                                  supervision, totals)
    terms = learns(best)
    if config.supervise_first:
      terms = jax.tree.map(jnp.add, terms, learns(jnp.zeros_like(best)))
    terms |= losses_of_all(projected, bodies[2], batch, weights, supervision, totals)
    total = losses.weigh(weights, terms)
    return total, ({"loss": total} | terms, apart(new["batch_stats"]))

  def all_of(state, batch, assets):
    """(Prediction of all M, the best guess first, and the joints they are clustered by)."""
    variables = {"params": together(state.params), "batch_stats": together(state.stats)}
    estimates = net.apply(variables, batch["image"], regression.start_values(assets["mean"]), False)
    found = Prediction.of(*regression.decode(estimates, convention))
    found = multi_hypothesis.weighed(found, assets)
    points = multi_hypothesis.clustered(found, assets)
    return (found, points) if config.supervise_first else multi_hypothesis.best_first(found, points)

  def choose(state, batch, assets, keys, num):
    return multi_hypothesis.quantised(*all_of(state, batch, assets), keys, num, config.quantise == "code")

  step = one_loss.make_step(config, loss, lambda batch: label_weights(batch, weights, supervision, infer_joints),
                            learning(config.net) if frozen else None)
  return System(init, step, lambda *given: all_of(*given)[0], choose=choose)
