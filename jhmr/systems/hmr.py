"""HMR: pose, shape and camera of one person from one crop, by iterative regression and an adversarial prior.

Paper: Kanazawa, Black, Jacobs, Malik, "End-to-end Recovery of Human Shape and Pose", CVPR 2018. An image encoder and
a regressor that corrects an estimate three times minimise L = lambda (L_reproj + 1 L_3D) + L_adv (Eq. 1) against
whatever labels an image has. L_adv is a critic that has seen real poses; it is applied to the estimate of every
iteration, the other terms to the last one (section 3.2).
Predicts: one hypothesis per image, without a density.

`config.supervision` says whose reductions are used:
  "hmr"   2D: absolute error, mean over visible keypoints, the 19 of the paper. 3D: its 14 joints.
          The paper's weights are 60 keypoints2d, 30 keypoints3d, 28.7 pose (60 x 108/226), 1.33 betas (60 x 5/226),
          1 adversarial, 0 for the rest; learning rates 1e-5 and 1e-4 for the critic, batches of 64.
  "spin"  2D: squared error times confidence, mean over all, 3D likewise; both on SPIN's 24 annotated joints.
          SPIN's weights are 300 keypoints2d, 300 keypoints3d, 60 pose, 0.06 betas, 60 camera, 0 for the rest.

Differs from the authors' code:
  - rotations are regressed as 6D (as SPIN does), not axis-angle; the network is a ResNet v1.5 on ImageNet-normalised
    crops, not v2 on [-1, 1], and dropout follows both hidden layers (as in their code; the paper has one).
  - the start of the iterations is constant, not learned; it may be the mean of any pose source.
  - joints are projected with SPIN's camera (f = 5000 at 224 pixels), 0.2 % away from their s (X + t) orthography.
  - 3D joint errors are weighted by confidence; there are as many real poses as images, not three times as many.
"""

import functools

import jax
import jax.numpy as jnp
from jhmr import losses
from jhmr import optim
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.errors import InputError
from jhmr.nn import regressor
from jhmr.nn import resnet
from jhmr.nn.critic import Critic, scores
from jhmr.state import AXIS, Prediction, System, TrainState
import numpy as np
import optax

TERMS = ("keypoints2d", "keypoints3d", "pose", "betas", "vertices", "camera", "adversarial")
CHOICES = {"backbone": resnet.ARCHITECTURES, "activation": ("relu", "none"), "dtype": ("float32", "bfloat16"),
           "batch_norm": regressor.BATCH_NORM}
SUPERVISION = ("hmr", "spin")


def _labelled(set_name, *names):
  """Positions among spin49 of a set's joints, and of more named ones of it."""
  return np.array([*joints.mapping("spin49", set_name), *(joints.index("spin49", n) for n in names)])


FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
JOINTS_2D = {"hmr": _labelled("lsp_annotated14", *FACE), "spin": _labelled("gt24")}
JOINTS_3D = {"hmr": _labelled("lsp_annotated14"), "spin": _labelled("gt24")}
HIPS = tuple(joints.index("gt24", f"{side}_hip") for side in ("right", "left"))  # and in the 14, which begin alike


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  for field, choices in CHOICES.items():
    if config.net[field] not in choices:
      raise InputError(f"config.net.{field} is {config.net[field]!r}: use one of {', '.join(choices)}")
  if config.supervision not in SUPERVISION:
    raise InputError(f"config.supervision is {config.supervision!r}: use one of {', '.join(SUPERVISION)}")
  if odd := sorted(set(config.weights) ^ set(TERMS)):
    raise InputError(f"config.weights must name each loss of hmr ({', '.join(TERMS)}) once, 0 to leave it out: "
                     f"look at {', '.join(odd)}")


def start_values(mean):
  """assets["mean"] as the regressor wants it: pose_six_d [144] in SPIN's layout, betas [L], camera [3]."""
  return rotations.matrix_to_six_d(mean["pose"], "spin").reshape(-1), mean["betas"], mean["camera"]


def decode(estimates):
  """Network outputs of all T iterations -> (pose [B, T, 24, 3, 3], betas [B, T, L], camera [B, T, 3])."""
  six_d, betas, cam = estimates
  return rotations.six_d_to_matrix(six_d.reshape(*six_d.shape[:-1], -1, 6), "spin"), betas, cam


def label_weights(batch, weights, supervision):
  """What each example weighs in each loss's mean: {name: [B]}, of the batch alone.

  Args:
    weights: {name: number} of the losses; those of weight 0 are left out.
  """
  visible = losses.visible_count(batch["keypoints2d"][:, JOINTS_2D[supervision], 2])
  everyone = jnp.ones_like(batch["mask"])
  labelled = {"keypoints2d": visible if supervision == "hmr" else everyone, "keypoints3d": batch["has_keypoints3d"],
              "pose": batch["has_pose"], "betas": batch["has_betas"], "camera": everyone,
              "vertices": batch["has_pose"] * batch["has_betas"], "adversarial": everyone}
  return {name: batch["mask"] * weight for name, weight in labelled.items() if weights[name]}


def image_terms(pose, betas, cam, batch, assets, weights, supervision, totals=None):
  """The losses of the last estimate, each averaged over those examples of all devices that have its label.

  Args:
    pose: [B, 24, 3, 3], betas: [B, L], cam: [B, 3].
    weights: {name: number}; terms of weight 0 are left out.
    totals: of `label_weights` over the whole batch, when this one is a part of it.
  Returns:
    {name: []}.
  Source: HMR, Eq. 3 to 6; SPIN, authors' `train/trainer.py` for the camera and vertex terms.
  """
  two, three = JOINTS_2D[supervision], JOINTS_3D[supervision]
  body = assets["keypoint_body"]
  points = smpl.keypoints(body, smpl.forward(body, betas, pose), "spin49")
  projected, labels2d = camera.project_crop(points, cam)[:, two], batch["keypoints2d"][:, two]
  error2d = losses.keypoints2d if supervision == "hmr" else losses.keypoints2d_squared
  labels = jnp.concatenate([batch["global_orient"], batch["body_pose"]], axis=1)
  errors = {"keypoints2d": error2d(projected, labels2d),
            "keypoints3d": losses.keypoints3d(points[:, three], batch["keypoints3d"][:, three], HIPS),
            "pose": losses.pose(pose, labels), "betas": losses.betas(betas, batch["betas"]),
            "camera": losses.camera(cam)}
  if weights["vertices"]:  # the only term that needs the full mesh
    mesh = lambda b, p: smpl.forward(assets["body"], b, p).vertices
    errors["vertices"] = losses.vertices(mesh(betas, pose), mesh(batch["betas"], labels))
  counted = label_weights(batch, weights, supervision)
  totals = totals or losses.totals(counted)
  return {n: losses.masked_mean(error, counted[n], total=totals[n]) for n, error in errors.items() if weights[n]}


def critic_loss(critic, params, fakes, batch):
  """What the critic pays for the estimates of all iterations and for as many real poses as images -> [].

  Source: HMR, Eq. 8.
  """
  fake_scores = scores(critic, params, *jax.lax.stop_gradient(fakes))
  real_scores = critic.apply({"params": params}, batch["real_pose"], batch["real_betas"])
  return (losses.masked_mean(losses.critic_fake(fake_scores), batch["mask"]) +
          losses.masked_mean(losses.critic_real(real_scores), batch["mask"]))


def _fresh_state(net, critic, txs, rng, image, betas, mean):
  """The TrainState before the first step; inside one jit, or it would be a thousand small programs."""
  keys = jax.random.split(rng)
  variables = net.init(keys[0], image, start_values(mean), False)
  params = {"net": variables["params"]}
  if critic:
    params["critic"] = critic.init(keys[1], jnp.asarray(mean["pose"])[None, 1:], betas)["params"]
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, stats={"net": variables["batch_stats"]},
                    opt_state={name: txs[name].init(p) for name, p in params.items()}, memory={})


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net, weights = regressor.ImageRegressor(**config.net, axis_name=AXIS), dict(config.weights)
  critic = Critic() if weights["adversarial"] else None
  num_parts = config.get("accumulate", 1)

  @functools.cache
  def optimizers():  # only training needs them, and the length of the run
    txs = {"net": optim.make_optimizer(config.optim, config.num_steps)}
    return txs | ({"critic": optim.make_optimizer(config.critic_optim, config.num_steps)} if critic else {})

  if "num_steps" in config:
    optimizers()  # wrong fields are found at once

  def init(rng, batch, assets):
    fresh = jax.jit(lambda rng, image, betas, mean: _fresh_state(net, critic, optimizers(), rng, image, betas, mean))
    return fresh(rng, batch["image"][:1], batch["betas"][:1], assets["mean"])

  def net_loss(params, stats, critic_params, batch, assets, totals, key):
    estimates, new = net.apply({"params": params, "batch_stats": stats}, batch["image"], start_values(assets["mean"]),
                               True, rngs={"dropout": key}, mutable=["batch_stats"])
    pose, betas, cam = decode(estimates)
    terms = image_terms(pose[:, -1], betas[:, -1], cam[:, -1], batch, assets, weights, config.supervision, totals)
    if critic:
      fakes = losses.adversarial(scores(critic, critic_params, pose, betas))
      each = fakes.shape[1]  # the mean is over the estimates of all iterations
      terms["adversarial"] = losses.masked_mean(fakes, batch["mask"], total=each * totals["adversarial"])
    loss = losses.weigh(weights, terms)
    return loss, ({"loss": loss} | terms, new["batch_stats"], (pose, betas))

  def step(state, batch, assets):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))  # devices drop different units
    totals = losses.totals(label_weights(batch, weights, config.supervision))

    def part(stats, batch, index):
      grads, (metrics, stats, fakes) = jax.grad(net_loss, has_aux=True)(
          state.params["net"], stats, state.params.get("critic"), batch, assets, totals, jax.random.fold_in(key, index))
      return stats, ((grads, metrics), fakes)

    grads = {}
    stats, (grads["net"], metrics), fakes = optim.accumulate(part, state.stats["net"], batch, num_parts)
    if critic:
      metrics["critic"], grads["critic"] = jax.value_and_grad(
          lambda params: critic_loss(critic, params, fakes, batch))(state.params["critic"])
    # Averaged after grad: differentiating through a collective would be silently wrong. Statistics too, so that every
    # device goes on with the same ones.
    grads, metrics, stats = jax.lax.pmean((grads, metrics, stats), AXIS)
    metrics |= {f"grad_norm_{name}": optax.tree.norm(g) for name, g in grads.items()}

    params, opt_state = {}, {}
    for name, tx in optimizers().items():
      updates, opt_state[name] = tx.update(grads[name], state.opt_state[name], state.params[name])
      params[name] = optax.apply_updates(state.params[name], updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, stats={"net": stats}), metrics

  def predict(state, batch, assets):
    estimates = net.apply({"params": state.params["net"], "batch_stats": state.stats["net"]}, batch["image"],
                          start_values(assets["mean"]), False)
    pose, betas, cam = (x[:, -1:] for x in decode(estimates))
    return Prediction(global_orient=pose[:, :, :1], body_pose=pose[:, :, 1:], betas=betas, camera=cam,
                      log_prob=jnp.zeros(betas.shape[:2], jnp.float32))

  return System(init, step, predict)
