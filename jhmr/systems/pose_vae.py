"""VPoser: a variational autoencoder of body poses, a prior for fits.

Paper: Pavlakos, Choutas, Ghorbani, Bolkart, Osman, Tzionas, Black, "Expressive Body Capture: 3D Hands, Face, and Body
from a Single Image", CVPR 2019, its pose prior. Learns from `real_pose` of a batch: the built-in pose sampler's poses,
or those of `config.data.mocap`; images are never looked at, and so never rendered by a training step.
Predicts: the reconstruction of an example's own pose label, with its root and betas, so that its errors are those of
the latents.

Losses: those of the authors' second release (V02_05), weights 0.005 kl, 4 vertices, 2 rotations, 2 joints.

Differs from the authors' code:
  - rotations and joints count to the end; theirs, in their first 15 epochs.
  - the encoder sees poses with noise of `config.jitter_rad`: its first batch norm would otherwise blow up the turns of
    joints that the data never turn.
  - bodies of mean shape are SMPL's, not SMPL-X's.
"""

import jax
import jax.numpy as jnp
from jhmr import losses
from jhmr import optim
from jhmr import pose_prior
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.errors import InputError
from jhmr.nn import pose_vae
from jhmr.state import AXIS, Prediction, System, TrainState
import optax

TERMS = ("kl", "rotations", "joints", "vertices")


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  if config.net.version not in pose_vae.SLOPES:
    raise InputError(f"config.net.version is {config.net.version}: use 1 or 2, the two architectures of VPoser")
  if odd := sorted(set(config.weights) ^ set(TERMS)):
    raise InputError(f"config.weights must name each loss of pose_vae ({', '.join(TERMS)}) once, 0 to leave it out: "
                     f"look at {', '.join(odd)}")


def turned(predicted, target):
  """Mean angle in radians between rotations [..., J, 3, 3] -> [...].

  Source: authors' `tools/angle_continuous_repres.py:geodesic_loss_R`.
  Differs: theirs has an infinite gradient where they are equal.
  """
  return jnp.mean(rotations.angle_between_rad(predicted, target), axis=-1)


def terms_of(six_d, mean, std, body_pose, assets, weights):
  """The losses of each example, {name: [B]}; terms of weight 0 are left out.

  Args:
    six_d: [B, 21, 6] decoded.  mean, std: [B, L].  body_pose: [B, 23, 3, 3] what was encoded.
  Source: authors' `train/vposer_trainer.py:_compute_loss`.
  """
  made, joints = pose_prior.body_pose_of(six_d), pose_vae.NUM_JOINTS
  target = body_pose.at[:, joints:].set(jnp.eye(3, dtype=body_pose.dtype))
  terms = {"kl": losses.kl_divergence(mean, std), "rotations": turned(made[:, :joints], target[:, :joints])}
  if weights["joints"]:
    found, wanted = (_posed(assets["keypoint_body"], p).joints for p in (made, target))
    terms["joints"] = losses.vertices(found, wanted)
  if weights["vertices"]:  # the only term that needs the full mesh
    found, wanted = (_posed(assets["body"], p).vertices for p in (made, target))
    terms["vertices"] = losses.vertices(found, wanted)
  return {name: value for name, value in terms.items() if weights[name]}


def _posed(body, body_pose):
  """Bodies of mean shape, upright."""
  root = jnp.broadcast_to(jnp.eye(3, dtype=body_pose.dtype), (len(body_pose), 1, 3, 3))
  return smpl.forward(body, jnp.zeros((len(body_pose), body.joint_dirs.shape[0])),
                      jnp.concatenate([root, body_pose], axis=1))


def reconstruct(prior, batch, assets):
  """Prediction of every example's own label, through the latents' means."""
  pose = pose_prior.decode(prior, pose_prior.encode(prior, batch["body_pose"])[0])
  camera = jnp.broadcast_to(assets["mean"]["camera"], (len(pose), 1, 3))
  return Prediction(global_orient=batch["global_orient"][:, None], body_pose=pose[:, None],
                    betas=batch["betas"][:, None], camera=camera, log_prob=jnp.zeros((len(pose), 1), jnp.float32))


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net, weights = pose_vae.PoseVae(**config.net, axis_name=AXIS), dict(config.weights)
  num_parts = config.get("accumulate", 1)
  optimizers = optim.of_run(config)

  def init(rng, batch, assets):
    del assets

    @jax.jit
    def fresh(rng, body_pose):
      variables = net.init(rng, pose_prior.features(body_pose), jnp.zeros((1, config.net.latent)))
      params = {"net": variables["params"]}
      return TrainState(step=jnp.zeros((), jnp.int32), params=params, stats={"net": variables["batch_stats"]},
                        opt_state={"net": optimizers()["net"].init(params["net"])}, memory={})

    return fresh(rng, batch["body_pose"][:1])

  def net_loss(params, stats, batch, assets, total, key):
    pose, keys = batch["real_pose"], jax.random.split(key, 3)
    seen = pose_prior.features(pose)
    seen += config.jitter_rad * jax.random.normal(keys[0], seen.shape)
    noise = jax.random.normal(keys[1], (len(pose), config.net.latent))
    made, new = net.apply({"params": params, "batch_stats": stats}, seen, noise, True, rngs={"dropout": keys[2]},
                          mutable=["batch_stats"])
    terms = {name: losses.masked_mean(value, batch["mask"], total=total)
             for name, value in terms_of(*made, pose, assets, weights).items()}
    loss = losses.weigh(weights, terms)
    return loss, ({"loss": loss} | terms, new["batch_stats"])

  def step(state, batch, assets):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))  # devices draw different noise
    batch = {name: batch[name] for name in ("real_pose", "mask")}
    total = losses.totals({"mask": batch["mask"]})["mask"]

    def part(stats, batch, index):
      grads, (metrics, stats) = jax.grad(net_loss, has_aux=True)(
          state.params["net"], stats, batch, assets, total, jax.random.fold_in(key, index))
      return stats, ((grads, metrics), ())

    stats, (grads, metrics), _ = optim.accumulate(part, state.stats["net"], batch, num_parts)
    grads, metrics, stats = jax.lax.pmean((grads, metrics, stats), AXIS)  # after grad, or it would be silently wrong
    updates, opt_state = optimizers()["net"].update(grads, state.opt_state["net"], state.params["net"])
    params = optax.apply_updates(state.params["net"], updates)
    return state.replace(step=state.step + 1, params={"net": params}, opt_state={"net": opt_state},
                         stats={"net": stats}), metrics | {"grad_norm_net": optax.tree.norm(grads)}

  def predict(state, batch, assets):
    if "body_pose" not in batch:
      raise InputError("a pose_vae sees no images: score it with python -m jhmr.evaluate, fit with it as a pose prior")
    prior = pose_prior.PosePrior(state.params["net"], state.stats["net"], net)
    return reconstruct(prior, batch, assets)

  return System(init=init, step=step, predict=predict)
