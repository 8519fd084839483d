"""SPIN: a regressor that learns from bodies fitted to keypoints, which start from what it predicts.

Paper: Kolotouros, Pavlakos, Black, Daniilidis, "Learning to Reconstruct 3D Human Pose and Shape via Model-fitting in
the Loop", ICCV 2019. HMR's regressor predicts a body; SMPLify, started there, fits it to the 2D keypoints; the fit,
when it reprojects better than the best one of that image so far, takes its place in a table. The best fit supervises
the network, unless its error says that it failed; images with ground truth are supervised by that.
Predicts: one hypothesis per image, without a density.

The loss is keypoints2d + keypoints3d + pose + betas (+ vertices) + camera, weighted. Paper: all 60, betas 6, rate
3e-5; authors' code: 60 x (5, 5, 1, 0.001, 0, 1), rate 5e-5. Keypoints are those of "spin49": the first 25 detected
(OpenPose), the other 24 annotated. Fits use all; the 2D loss weighs the two kinds by `config.keypoint_weights`.

`config.fitting.mode` says where bodies for images without ground truth come from:
  "none"         nowhere: such images teach by their keypoints alone.
  "static"       the files of `config.fits`, which never change (`jhmr.static_fits` makes some).
  "in_the_loop"  the table, which starts from `config.fits` or empty, and improves.
`config.unpaired` hides all 3D labels.

Differs from the authors' code:
  - of equal examples in one batch the best fit is kept, theirs keeps the last; `fits_memory` says more.
  - the table may have rows without a fit, which any new one betters; theirs compares with a body of zeros there. Fits
    that are not finite are rejected; theirs turns NaN into 0.
  - an example without any keypoint has no valid fit; theirs fails to solve for its camera. With few keypoints nearly
    every fit is valid here as there, since the quality is a mean over all 49: the authors leave such examples out when
    they prepare their data, and so should data for this.
  - torso keypoints without confidence add nothing to the fits' first stage; theirs fits whatever is stored for them.
  - an example without annotated keypoints gets its camera from detected ones.
  - pose and betas may be labelled separately; each label replaces its part of the fit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr import fits_memory
from jhmr import losses
from jhmr import optim
from jhmr import regression
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.errors import InputError
from jhmr.fitting import objectives
from jhmr.fitting import smplify
from jhmr.state import AXIS, System, TrainState, sound
import numpy as np
import optax

TERMS = ("keypoints2d", "keypoints3d", "pose", "betas", "vertices", "camera")
MODES = ("none", "static", "in_the_loop")
TORSOS = ("annotated", "detected")  # which hips and shoulders place the camera, see `smplify.fit`
NAMES = joints.names("spin49")
MAX_BETA = 3.0  # a fit with a larger one teaches no shape. Source: authors' `train/trainer.py`


class Chosen(NamedTuple):
  """What B examples learn from, and what the table may learn from them."""
  labels: dict          # fields of the batch that it replaces, and vertex_betas
  pose: jax.Array       # [B, 72] axis-angle of the best fit, as the crop shows it
  betas: jax.Array      # [B, 10] of the best fit
  quality: jax.Array    # [B] of the best fit; infinite where there is none
  better: jax.Array     # [B] bool, whether it is new
  valid: jax.Array      # [B] float32, whether it is good enough to learn from


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  regression.check(config, TERMS)
  fitting = config.fitting
  regression.one_of("fitting.mode", fitting.mode, MODES)
  regression.one_of("fitting.method", fitting.method, smplify.METHODS)
  regression.one_of("fitting.torso", fitting.torso, TORSOS)
  for name in fitting.ignored:
    regression.one_of("fitting.ignored", name, NAMES)
  if fitting.steps < 1 or not fitting.threshold > 0:
    raise InputError(f"config.fitting has steps {fitting.steps} and threshold {fitting.threshold}: give 1 or more, and "
                     "a number above 0")
  if fitting.mode == "static" and not config.fits:
    raise InputError("config.fitting.mode is 'static', but config.fits names no file: make one with "
                     "python -m jhmr.static_fits, or use 'in_the_loop'")
  if fitting.mode == "none" and config.fits:
    raise InputError(f"config.fitting.mode is 'none', but config.fits names {config.fits!r}: leave it out, or use "
                     "'static' or 'in_the_loop'")
  if fitting.mode != "none" and config.get("num_examples") == 0:
    raise InputError("SPIN keeps a fit of every training example, but rendered people never end: set "
                     "config.data.examples, such as 20000, or config.data.source to a data set")


def targets_of(keypoints2d):
  """Keypoints [B, 49, 3] of a batch -> objectives.Target in pixels of a 224-pixel crop, whatever the image's size."""
  half = camera.CROP_PX / 2
  return objectives.crop_target(jnp.concatenate([half * (keypoints2d[..., :2] + 1), keypoints2d[..., 2:]], -1))


def used(keypoints, ignored):
  """[..., K] squared confidences of keypoints that count in a fit's quality; K = 49, of `ignored` joints 0."""
  counts = np.array([name not in ignored for name in NAMES], np.float32)
  return (objectives.known(keypoints)[1] * counts) ** 2


def quality(points, target, ignored):
  """How well bodies reproject: mean over joints of c^2 (rho(x) + rho(y)), the camera solved for.

  Args:
    points: [B, 49, 3] metres; target: Target of B people; ignored: names of joints.
  Returns:
    [B] squared pixels; infinite for examples that have no keypoint.
  Source: SPIN, authors' `train/trainer.py` with `utils/geometry.py:estimate_translation`, which looks at annotated
    joints alone, and `smplify/smplify.py:get_fitting_loss`.
  """
  px, confidence = objectives.known(target.keypoints)
  annotated = confidence * (np.arange(len(NAMES)) >= regression.NUM_DETECTED)
  weight = jnp.where(jnp.any(annotated > 0, -1, keepdims=True), annotated, confidence)
  translation = camera.solve_translation(points, px, weight, target.focal_px, target.center_px)
  error = objectives.geman_mcclure(jax.vmap(objectives.project)(points, translation, target) - px)
  counted = used(target.keypoints, ignored)
  return _if_any(counted, jnp.mean(counted * jnp.sum(error, -1), -1))


def _if_any(counted, value):
  """value [B] where something was counted [B, K], else infinity: no keypoint is no evidence."""
  return jnp.where(jnp.any(counted > 0, -1), value, jnp.inf)


def improved(memory, predicted, batch, assets, config):
  """The best fits of a batch: those of the table, or new ones that start from the prediction.

  Args:
    memory: of `fits_memory`.
    predicted: pose [B, 24, 3, 3], betas [B, 10], camera [B, 3].
    config: `fitting`, of the system's.
  Returns:
    (pose [B, 72], betas [B, 10], quality [B], better [B] bool). A new fit is measured with its own camera, one of the
    table with the best one, as in the authors' code; so the quality of a row may be another when it is next read.
  Source: SPIN, section 3.4; authors' `train/trainer.py:train_step`.
  """
  target, body, ignored = targets_of(batch["keypoints2d"]), assets["keypoint_body"], config.ignored
  pose, betas, known = fits_memory.take(memory, batch["id"], batch["flip"], batch["angle_rad"])
  points = smpl.keypoints(body, smpl.forward_axis_angle(body, betas, pose), "spin49")
  old = jnp.where(known, quality(points, target, ignored), jnp.inf)
  if config.mode == "static":
    return pose, betas, old, jnp.zeros_like(known)
  start = smplify.from_matrices(predicted[0], predicted[1], camera.weak_to_translation(predicted[2]))
  method = smplify.METHODS[config.method]._replace(ignored=tuple(ignored))
  fit = smplify.fit(body, target, start, smplify.Priors(assets["pose_prior"]), method=method, torso=config.torso,
                    steps=config.steps)
  new = _if_any(used(target.keypoints, ignored), jnp.mean(fit.reprojection, -1))
  found = jnp.concatenate([fit.body.global_orient, fit.body.body_pose], -1)
  sane = jnp.all(jnp.isfinite(found), -1) & jnp.all(jnp.isfinite(fit.body.betas), -1)
  better = (new < old) & sane & (batch["mask"] > 0)
  pick = lambda n, o: jnp.where(better.reshape(-1, *[1] * (o.ndim - 1)), n, o)
  return pick(found, pose), pick(fit.body.betas, betas), pick(new, old), better


def choose(memory, predicted, batch, assets, config):
  """What each example learns from: its labels, else its best fit when that is valid.

  Args:
    as `improved`; config: the system's.
  Returns:
    Chosen, without gradients.
  Source: SPIN, authors' `train/trainer.py:train_step`: betas of which one is beyond 3 in size are replaced by zeros,
    for supervision only; the mesh of the target keeps them.
  """
  pose, betas, quality_of, better = improved(memory, predicted, batch, assets, config.fitting)
  valid = (quality_of < config.fitting.threshold).astype(jnp.float32)
  extreme = jnp.any(jnp.abs(betas) > MAX_BETA, -1, keepdims=True)
  matrices = rotations.axis_angle_to_matrix(pose.reshape(-1, 24, 3))
  has_pose, has_betas = batch["has_pose"] > 0, batch["has_betas"] > 0
  labelled = lambda has, label, fit: jnp.where(has.reshape(-1, *[1] * (fit.ndim - 1)), label, fit)
  labels = {"global_orient": labelled(has_pose, batch["global_orient"], matrices[:, :1]),
            "body_pose": labelled(has_pose, batch["body_pose"], matrices[:, 1:]),
            "betas": labelled(has_betas, batch["betas"], jnp.where(extreme, 0.0, betas)),
            "vertex_betas": labelled(has_betas, batch["betas"], betas),
            "has_pose": jnp.maximum(batch["has_pose"], valid), "has_betas": jnp.maximum(batch["has_betas"], valid)}
  return jax.lax.stop_gradient(Chosen(labels, pose, betas, quality_of, better, valid))


def prepared(batch, config):
  """A batch with 3D labels hidden where training is unpaired, and all fields of augmentation."""
  zeros = jnp.zeros_like(batch["mask"])
  hidden = {name: zeros for name in ("has_pose", "has_betas", "has_keypoints3d")} if config.unpaired else {}
  return {"flip": zeros, "angle_rad": zeros} | batch | hidden


def fresh_memory(config, batch, assets):
  """state.memory before the first step. Raises InputError when fits and examples do not belong together."""
  if config.fitting.mode == "none":
    return {}
  size, fits = config.num_examples, assets.get("fits")
  if fits and len(fits["pose"]) != size:
    raise InputError(f"config.fits has {len(fits['pose'])} rows, the training data {size} examples: make the fits of "
                     "this data set with python -m jhmr.static_fits")
  if not isinstance(batch["id"], jax.core.Tracer):
    fits_memory.check_ids(batch["id"], size)
    distinct, first = len(np.unique(batch["id"])), min(len(batch["id"]), size)
    if 2 * distinct < first:  # a few come twice where records cannot be read
      raise InputError(f"the first {first} training examples have only {distinct} different ids, which are rows of the "
                       f"table of fits: number them 0..{size - 1} when the data set is built")
  return {"fits": fits_memory.create(size, fits)}


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  network, weights = regression.build(config), dict(config.weights)
  mode, num_parts = config.fitting.mode, config.get("accumulate", 1)
  optimizers = optim.of_run(config)

  def init(rng, batch, assets):
    @jax.jit
    def networks(rng, image, mean):
      variables = network.init(rng, image, mean)
      return variables["params"], variables["batch_stats"], optimizers()["net"].init(variables["params"])

    memory = fresh_memory(config, batch, assets)
    params, stats, moments = networks(rng, batch["image"][:1], assets["mean"])
    return TrainState(step=jnp.zeros((), jnp.int32), params={"net": params}, stats={"net": stats},
                      opt_state={"net": moments}, memory=memory)

  def fits_of(memory, estimates, batch, assets):
    """Chosen for a batch, or () when there are no fits."""
    predicted = jax.lax.stop_gradient([x[:, -1] for x in network.decode(estimates)])
    return choose(memory["fits"], predicted, batch, assets, config) if memory else ()

  def net_loss(params, stats, memory, batch, assets, totals, key):
    estimates, new = network.estimate(params, stats, batch["image"], assets["mean"], key)
    chosen = batch["chosen"] if "chosen" in batch else fits_of(memory, estimates, batch, assets)
    labels = regression.weighed(batch, **config.keypoint_weights) | (chosen.labels if chosen else {})
    last = (x[:, -1] for x in network.decode(estimates))
    terms = regression.image_terms(*last, labels, assets, weights, "spin49", totals)
    loss = losses.weigh(weights, terms)
    return loss, ({"loss": loss} | terms, new["batch_stats"], chosen)

  def step(state, batch, assets):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))  # devices drop different units
    batch, params, totals = prepared(batch, config), state.params["net"], None
    if num_parts > 1:  # what a loss is divided by depends on the fits of all parts, so these come first
      def fit_part(carry, batch, index):
        estimates, _ = network.estimate(params, state.stats["net"], batch["image"], assets["mean"],
                                        jax.random.fold_in(key, index))
        return carry, ({}, fits_of(state.memory, estimates, batch, assets))
      chosen = optim.accumulate(fit_part, (), batch, num_parts)[2]
      batch |= {"chosen": chosen}
      totals = losses.totals(regression.label_weights(batch | (chosen.labels if chosen else {}), weights, "spin49"))

    def part(stats, batch, index):
      grads, (metrics, stats, chosen) = jax.grad(net_loss, has_aux=True)(
          params, stats, state.memory, batch, assets, totals, jax.random.fold_in(key, index))
      return stats, ((grads, metrics), chosen)

    stats, (grads, metrics), chosen = optim.accumulate(part, state.stats["net"], batch, num_parts)
    metrics |= fit_metrics(chosen, batch["mask"]) if chosen else {}
    # Averaged after grad: differentiating through a collective would be silently wrong.
    grads, metrics, stats = jax.lax.pmean((grads, metrics, stats), AXIS)
    metrics |= {"grad_norm_net": optax.tree.norm(grads)}
    updates, moments = optimizers()["net"].update(grads, state.opt_state["net"], params)
    memory = state.memory
    if mode == "in_the_loop":
      memory = {"fits": fits_memory.update(memory["fits"], batch["id"], chosen.pose, chosen.betas, chosen.quality,
                                           chosen.better & sound(metrics), batch["flip"], batch["angle_rad"])}
    return state.replace(step=state.step + 1, params={"net": optax.apply_updates(params, updates)},
                         opt_state={"net": moments}, stats={"net": stats}, memory=memory), metrics

  return System(init, step, network.predict)


def fit_metrics(chosen, mask):
  """Shares of examples with a valid and with a new fit, mean quality of the best fits; of all devices."""
  known = jnp.isfinite(chosen.quality)
  return {"fits_valid": losses.masked_mean(chosen.valid, mask),
          "fits_improved": losses.masked_mean(chosen.better.astype(jnp.float32), mask),
          "fits_quality": losses.masked_mean(chosen.quality, mask * known)}
