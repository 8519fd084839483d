"""ProHMR: a distribution over poses for each image, by a conditional normalizing flow; shape and camera as points.

Paper: Kolotouros, Pavlakos, Jayaraman, Daniilidis, "Probabilistic Modeling for Human Mesh Recovery", ICCV 2021. An
image encoder gives a context c; a flow maps z ~ N(0, I) to the 24 rotations, as 6D, given c. Training minimises
L = L_nll + L_exp + L_mode + L_orth, weighted (Eq. 9): the likelihood of poses that are known (Eq. 5), a regressor's
losses on the mode z = 0 (Eq. 8) and, weaker, on random samples (Eq. 7), both with a critic that has seen real poses,
and columns that are orthonormal (section 3.4).
Predicts: the mode; samples and densities through `System.latent`.

Reductions are the authors': sums over joints and coordinates, divided by the number of images, labelled or not; the
likelihood is the mean over images with a pose, orthonormality a mean over everything.
The paper's weights: keypoints2d 0.01 on the mode and 0.001 on samples, keypoints3d 0.05 and 0, rotations 0.001 and 0,
betas 0.0005, nll 0.001, orthogonal 0.1, adversarial 0.0005; two samples an image, one of them the mode.

Differs from the authors' code:
  - ActNorm starts from noisy poses, as every step sees them. From clean ones it has the scale 1,000 where poses never
    change, in each of the four blocks, and the first loss is 1e13.
  - the critic sees as many real poses as images; each side of its loss is a mean over bodies.
  - crops are rendered or augmented as `jhmr.data` does for every system; their extreme crops are not among it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr import losses, optim, regression
from jhmr.body import camera, joints, rotations, smpl
from jhmr.errors import InputError
from jhmr.nn import flow as flow_lib
from jhmr.nn import regressor, resnet
from jhmr.nn.critic import Critic, scores
from jhmr.nn.flow import ConditionalGlow, actnorm_from_data, log_normal
from jhmr.state import AXIS, Encoded, labelled_pose, Latent, Prediction, System, TrainState
import optax

TERMS = ("keypoints2d_mode", "keypoints2d_exp", "keypoints3d_mode", "keypoints3d_exp", "global_orient_mode",
         "global_orient_exp", "body_pose_mode", "body_pose_exp", "betas", "nll", "orthogonal", "adversarial")
CHOICES = {"backbone": resnet.ARCHITECTURES, "dtype": ("float32", "bfloat16"),
           "batch_norm": regressor.BATCH_NORM}
MODEL_JOINTS = ("prohmr44", "spin49")  # which regressors give the model's joints; named alike, the first 44 of each
NUM_JOINTS = 44
PELVIS = joints.index("prohmr44", "pelvis")
POSE_NOISE = 0.005  # added to the 6D of known poses, which never change in some joints. Source: authors' code
DIM = 24 * 6


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  for field, choices in CHOICES.items():
    regression.one_of(f"net.{field}", config.net[field], choices)
  regression.one_of("model_joints", config.model_joints, MODEL_JOINTS)
  regression.positive("net.flow", config.net.flow, ("blocks", "hidden", "depth"))
  if config.train_samples < 1:
    raise InputError(f"config.train_samples is {config.train_samples}: give 1 (the mode alone) or more")
  regression.check_weights(config, TERMS)
  if config.train_samples == 1 and (odd := [n for n in TERMS if n.endswith("_exp") and config.weights[n]]):
    raise InputError(f"config.weights.{odd[0]} needs random samples: set it to 0 or config.train_samples to 2")


def to_pose(six_d):
  """Flow outputs [..., 144] -> (rotations [..., 24, 3, 3], six_d [..., 24, 6])."""
  six_d = six_d.reshape(*six_d.shape[:-1], -1, 6)
  return rotations.six_d_to_matrix(six_d, "prohmr"), six_d


def from_pose(pose):
  """Rotations [..., 24, 3, 3] -> what the flow models [..., 144]: their first two columns."""
  six_d = rotations.matrix_to_six_d(pose, "prohmr")
  return six_d.reshape(*six_d.shape[:-2], -1)


# --- losses, [B, S] for S bodies of each image, summed over joints and coordinates


def keypoints2d(projected, labels):
  """Absolute reprojection error times confidence, in crops of side 1, [B, S, K, 2] and [B, K, 3] -> [B, S].

  Source: ProHMR, authors' `models/losses.py:Keypoint2DLoss`. Their crops reach from -1/2 to 1/2, ours from -1 to 1.
  """
  error = 0.5 * jnp.abs(projected - labels[:, None, :, :2])
  return jnp.sum(labels[:, None, :, 2:] * error, axis=(-2, -1))


def keypoints3d(points, labels):
  """Absolute error of pelvis-centred joints times confidence in metres, [B, S, K, 3] and [B, K, 4] -> [B, S].

  Source: ProHMR, authors' `models/losses.py:Keypoint3DLoss`.
  """
  centred = lambda x: x - x[..., PELVIS:PELVIS + 1, :]
  error = jnp.abs(centred(points) - centred(labels[..., :3])[:, None])
  return jnp.sum(labels[:, None, :, 3:] * error, axis=(-2, -1))


def squared(predicted, target):
  """Squared differences of [B, S, ...] and [B, ...], summed -> [B, S]. Source: authors' `ParameterLoss`."""
  return jnp.sum((predicted - target[:, None]).reshape(*predicted.shape[:2], -1) ** 2, axis=-1)


def orthogonal(six_d):
  """How far the two columns of each 6D rotation are from orthonormal, [B, S, J, 6] -> [B, S].

  Source: ProHMR, section 3.4, L_orth; a mean over joints and the four entries, as in the authors' code.
  """
  columns = six_d.reshape(*six_d.shape[:-1], 2, 3)
  gram = jnp.einsum("...ic,...jc->...ij", columns, columns)
  return jnp.mean((gram - jnp.eye(2)) ** 2, axis=(-3, -2, -1))


def terms_of(pose, six_d, betas, cam, log_prob, batch, assets, weights, model_joints, totals):
  """The losses of S bodies of each image, the mode first; {name: []}, without the critic's.

  Args:
    pose: [B, S, 24, 3, 3], six_d: [B, S, 24, 6], betas: [B, 10], cam: [B, 3].
    log_prob: [B] of the known poses.
    weights: {name: number}; terms of weight 0 are left out.
    totals: {"images", "poses"} of the whole batch.
  Source: ProHMR, Eq. 5, 7 and 8, and L_orth of section 3.4.
  """
  count = pose.shape[1]
  repeat = lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], count, *x.shape[1:]))
  body, labels2d, labels3d = assets["keypoint_body"], batch["keypoints2d"][:, :NUM_JOINTS], batch["keypoints3d"]
  points = smpl.keypoints(body, smpl.forward(body, repeat(betas), pose), model_joints)[..., :NUM_JOINTS, :]
  errors = {"keypoints2d": keypoints2d(camera.project_crop(points, repeat(cam)), labels2d),
            "keypoints3d": keypoints3d(points, labels3d[:, :NUM_JOINTS]) * batch["has_keypoints3d"][:, None],
            "global_orient": squared(pose[:, :, :1], batch["global_orient"]) * batch["has_pose"][:, None],
            "body_pose": squared(pose[:, :, 1:], batch["body_pose"]) * batch["has_pose"][:, None]}
  per_image = {f"{n}_mode": e[:, 0] for n, e in errors.items()}
  if count > 1:
    per_image |= {f"{n}_exp": jnp.mean(e[:, 1:], axis=1) for n, e in errors.items()}
  skew = orthogonal(six_d)
  per_image["orthogonal"] = skew[:, 0] + (jnp.mean(skew[:, 1:], axis=1) if count > 1 else 0.0)
  per_image["betas"] = squared(betas[:, None], batch["betas"])[:, 0] * batch["has_betas"]
  mask = batch["mask"]
  found = {n: losses.masked_mean(e, mask, total=totals["images"]) for n, e in per_image.items() if weights[n]}
  if weights["nll"]:
    found["nll"] = losses.masked_mean(-log_prob, mask * batch["has_pose"], total=totals["poses"])
  return found


def critic_loss(critic, params, fakes, batch):
  """What the critic pays for S made-up bodies of each image and as many real poses as images -> [].

  Source: ProHMR, authors' `models/prohmr.py:training_step_discriminator`.
  """
  fake = scores(critic, params, *jax.lax.stop_gradient(fakes))
  real = critic.apply({"params": params}, batch["real_pose"], batch["real_betas"])
  return (losses.masked_mean(losses.critic_fake(fake), batch["mask"]) +
          losses.masked_mean(losses.critic_real(real), batch["mask"]))


class Networks(NamedTuple):
  """The modules of a config."""
  backbone: resnet.ResNet
  flow: ConditionalGlow
  head: regressor.ShapeCamera
  frozen: bool  # batch norm of the backbone


def networks(net):
  """The Networks of config.net."""
  axis_name = AXIS if net.batch_norm == "sync" else None
  return Networks(resnet.ResNet(net.backbone, jnp.dtype(net.dtype), axis_name, net.remat),
                  ConditionalGlow(dim=DIM, context=resnet.ARCHITECTURES[net.backbone].features, **net.flow,
                                  batch_norm=net.batch_norm, axis_name=axis_name),
                  regressor.ShapeCamera(net.hidden), net.batch_norm == "frozen")


def look(nets, params, stats, image, mean, train):
  """Crops -> (context [B, C], betas [B, 10], camera [B, 3], new batch-norm moments of the backbone)."""
  variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
  context, new = nets.backbone.apply(variables, image, train and not nets.frozen, mutable=["batch_stats"])
  betas, cam = nets.head.apply({"params": params["head"]}, context, mean["betas"], mean["camera"])
  return context, betas, cam, new.get("batch_stats", stats["backbone"])


def known_poses(batch):
  """What the flow models of a batch's labels, [B, 144]."""
  return from_pose(labelled_pose(batch))


class Draws(NamedTuple):
  """What a training pass draws, for B images and N random bodies of each."""
  z: jax.Array        # [B, N, 144] latents
  noise: jax.Array    # [B, 1, 144] on the known poses, before POSE_NOISE
  dropout: jax.Array  # [3] keys, one for each call of the flow


def draw(key, size, num_random):
  """The Draws of a training pass."""
  z, noise, *dropout = jax.random.split(key, 5)
  return Draws(jax.random.normal(z, (size, num_random, DIM)), jax.random.normal(noise, (size, 1, DIM)),
               jnp.stack(dropout))


def bodies(nets, params, stats, batch, assets, draws):
  """A training pass: S = 1 + N bodies of each image, the mode first, and the density of the known pose.

  Returns:
    (pose [B, S, 24, 3, 3], six_d [B, S, 24, 6], betas [B, 10], camera [B, 3], log_prob [B], new moments).
  """
  context, betas, cam, moments = look(nets, params, stats, batch["image"], assets["mean"], True)
  run = functools.partial(flow_lib.training_call, nets.flow, params["flow"])
  flow_stats, made = stats["flow"], []
  if draws.z.shape[1]:
    made, flow_stats = run(flow_stats, draws.z, context, draws.dropout[0], "sample")
    made = [made]
  mode, flow_stats = run(flow_stats, jnp.zeros_like(draws.noise), context, draws.dropout[1], "sample")
  known = known_poses(batch)[:, None] + POSE_NOISE * draws.noise
  labelled = batch["mask"] * batch["has_pose"]  # they alone count in batch norm, as if the others were not there
  log_prob, flow_stats = run(flow_stats, known, context, draws.dropout[2], "log_prob", weight=labelled)
  pose, six_d = to_pose(jnp.concatenate([mode, *made], axis=1))
  return pose, six_d, betas, cam, log_prob[:, 0], {"backbone": moments, "flow": flow_stats}


def fresh_state(nets, critic, txs, rng, batch, mean):
  """The TrainState before the first step; ActNorm starts from the batch's known poses, as noisy as in a step."""
  keys = dict(zip(("backbone", "flow", "head", "critic", "noise"), jax.random.split(rng, 5)))
  backbone = nets.backbone.init(keys["backbone"], batch["image"], False)
  context = nets.backbone.apply(backbone, batch["image"], False)
  head = nets.head.init(keys["head"], context, mean["betas"], mean["camera"])
  x = known_poses(batch)
  x = x + POSE_NOISE * jax.random.normal(keys["noise"], x.shape)
  flow = nets.flow.init(keys["flow"], x[:1, None], context[:1])
  start = actnorm_from_data(nets.flow, flow, x, batch["mask"] * batch["has_pose"], context)
  params = {"net": {"backbone": backbone["params"], "flow": start, "head": head["params"]}}
  if critic:
    params["critic"] = critic.init(keys["critic"], batch["body_pose"][:1], batch["betas"][:1])["params"]
  stats = {"net": {"backbone": backbone["batch_stats"], "flow": flow.get("batch_stats", {})}}
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, stats=stats, memory={},
                    opt_state={name: txs[name].init(p) for name, p in params.items()})


def latent_of(nets):
  """The density as functions of a latent; see state.Latent."""
  def variables(state):
    return {"params": state.params["net"]["flow"], "batch_stats": state.stats["net"]["flow"]}

  def flow(state, *arguments, method):
    return nets.flow.apply(variables(state), *arguments, method=method)

  def encode(state, batch, assets):
    context, betas, cam, _ = look(nets, state.params["net"], state.stats["net"], batch["image"], assets["mean"], False)
    return Encoded(flow(state, context, method="project"), betas, cam)

  def decode(state, z, encoded, assets):
    del assets
    x, log_det = flow_lib.decode(nets.flow, variables(state), z, encoded.projected)
    return (*to_pose(x), log_normal(z) - log_det)

  def log_prob(state, pose, encoded, assets):
    del assets
    z, log_det = flow(state, from_pose(pose), encoded.projected, method="forward")
    return log_normal(z) + log_det, z

  return Latent(encode, decode, log_prob, DIM)


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  nets, weights = networks(config.net), dict(config.weights)
  critic = Critic() if weights["adversarial"] else None
  num_random, num_parts = config.train_samples - 1, config.get("accumulate", 1)
  optimizers = optim.of_run(config, critic is not None)
  start = jax.jit(lambda rng, batch, mean: fresh_state(nets, critic, optimizers(), rng, batch, mean))

  def init(rng, batch, assets):
    seen = ("image", "global_orient", "body_pose", "betas", "mask", "has_pose")
    return start(rng, {name: batch[name] for name in seen}, assets["mean"])

  def net_loss(params, stats, critic_params, batch, assets, totals, key):
    draws = draw(key, batch["image"].shape[0], num_random)
    pose, six_d, betas, cam, log_prob, stats = bodies(nets, params, stats, batch, assets, draws)
    terms = terms_of(pose, six_d, betas, cam, log_prob, batch, assets, weights, config.model_joints, totals)
    fakes = pose, jnp.broadcast_to(betas[:, None], (*pose.shape[:2], betas.shape[-1]))
    if critic:
      paid = jnp.sum(losses.adversarial(scores(critic, critic_params, *fakes)), axis=1)
      terms["adversarial"] = losses.masked_mean(paid, batch["mask"], total=totals["images"])
    loss = losses.weigh(weights, terms)
    return loss, ({"loss": loss} | terms, stats, fakes)

  def step(state, batch, assets):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))  # devices draw different samples
    totals = losses.totals({"images": batch["mask"], "poses": batch["mask"] * batch["has_pose"]})

    def part(stats, batch, index):
      grads, (metrics, stats, fakes) = jax.grad(net_loss, has_aux=True)(
          state.params["net"], stats, state.params.get("critic"), batch, assets, totals, jax.random.fold_in(key, index))
      return stats, ((grads, metrics), fakes)

    grads = {}
    stats, (grads["net"], metrics), fakes = optim.accumulate(part, state.stats["net"], batch, num_parts)
    if critic:
      paid = lambda params: weights["adversarial"] * critic_loss(critic, params, fakes, batch)
      metrics["critic"], grads["critic"] = jax.value_and_grad(paid)(state.params["critic"])
    grads, metrics, stats = jax.lax.pmean((grads, metrics, stats), AXIS)  # after grad, never before
    metrics |= {f"grad_norm_{name}": optax.tree.norm(g) for name, g in grads.items()}
    params, opt_state = {}, {}
    for name, tx in optimizers().items():
      updates, opt_state[name] = tx.update(grads[name], state.opt_state[name], state.params[name])
      params[name] = optax.apply_updates(state.params[name], updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, stats={"net": stats}), metrics

  latent = latent_of(nets)

  def predict(state, batch, assets):
    encoded = latent.encode(state, batch, assets)
    pose, _, density = latent.decode(state, jnp.zeros((batch["image"].shape[0], 1, DIM)), encoded, assets)
    return Prediction.of(pose, encoded.betas[:, None], encoded.camera[:, None], density)

  return System(init, step, predict, latent)
