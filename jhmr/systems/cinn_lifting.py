"""Lifting by a conditional invertible network: 2D joints and how sure their detector was -> many 3D poses.

Paper: Wehrbein, Rudolph, Rosenhahn, Wandt, "Probabilistic Monocular 3D Human Pose Estimation with Normalizing Flows",
ICCV 2021. A bijection takes a 3D pose x to (z, y), its 2D pose y and a latent z of what y leaves open, given what
Gaussians fitted to the detector's heatmaps say. Both ways learn, in one update (Eq. 9). Forward: y is the 2D pose
(`keypoints2d`, Eq. 5), z is normal and independent of it (`mmd`, Eq. 6). Back: the z found for x gives x
(`deterministic`, Eq. 7), the nearest of many samples are near (`best`, Eq. 8), samples vary as heatmaps do
(`covariance`, Eq. 3), and a critic that has seen bones takes a sample for real (`generator`).
Predicts: the pose of z = 0; `choose`: it and samples. log_prob is the density of the change of variables, but for that
of y, which the poses of one example share; no likelihood is maximised, so it is to compare poses, not to be believed.

Of a batch, the rows r, r + n, ... with n = 2 critic_steps + 1 are parts: two for each update of the critic, whose real
poses and made-up ones are of other people, then one for the network. So of 704 rows, 64 are the paper's batch.
The paper's weights: keypoints2d 1, mmd 10, deterministic 4, best 4, covariance 750, generator 1; 200 samples, the best
5 of them, 5 updates of the critic with a penalty of 10. Its ablations: net.condition = False, a weight of 0 (without
the generator critic_steps is 0 too, and the batch is 64 rows), top_k of 1, 10, 50.

Variants of the authors' code:
  - config.mmd = "code": pairs of a point with itself count; the paper's estimator is unbiased.
  - net.hidden = 1028.
  - config.mode_first = False: a set of hypotheses is of samples alone.
Differs from both:
  - what is a mean over the batch is one over the batches of all devices.
  - a 2D pose that lacks a joint is refused, and without Gaussians needs net.condition = False (`lift_source.check`).
  - an example without a 3D label learns from `covariance` and `generator` alone.
  - `best` compares with the label around its own pelvis, which need not be the middle between its hips.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr import lift_losses
from jhmr import lifting
from jhmr import losses
from jhmr import optim
from jhmr import regression
from jhmr import sampling
from jhmr.errors import InputError
from jhmr.nn import cinn
from jhmr.nn.flow import log_normal
from jhmr.nn.pose_critic import PoseCritic
from jhmr.state import AXIS, Lifted, System, TrainState
import optax

TERMS = ("keypoints2d", "mmd", "deterministic", "best", "covariance", "generator")
DIM3D, DIM2D = 48, 32
DIM_Z = DIM3D - DIM2D
ROWS = {"cpu": 1024}     # poses at a time, whose hidden layer stays in the cache: measured
ROWS_ELSEWHERE = 262144  # accelerators want large products

# Source: Wehrbein et al. 2021, authors' `KCSLayer`; the last three are no bones, but a triangle around the pelvis.
BONES = tuple((lifting.NET16.index(i), lifting.NET16.index(j)) for i, j in (
    ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
    ("spine", "neck"), ("neck", "jaw"), ("jaw", "head"), ("neck", "left_shoulder"), ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"), ("neck", "right_shoulder"), ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"), ("right_hip", "left_hip"), ("right_hip", "spine"), ("left_hip", "spine")))


class Rows(NamedTuple):
  """What is learned from, of B examples; zeros in place of what does not count."""
  x: jax.Array          # [B, 48]
  y: jax.Array          # [B, 32]
  condition: jax.Array  # [B, 78]
  pose3d: jax.Array     # [B, 17, 3] metres, the pelvis at the origin
  target: jax.Array     # [B, 13, 3] square metres
  unsure: jax.Array     # [B, 13] in {0, 1}
  mask: jax.Array       # [B] in {0, 1}
  labelled: jax.Array   # [B] in {0, 1}
  key: jax.Array        # [B] keys


class Draws(NamedTuple):
  """Random numbers of a network's update."""
  wanted: jax.Array  # [B, 16], what z should be like
  fake: jax.Array    # [B, 1, 16], of the pose that the critic sees
  many: jax.Array    # [B, S, 16]


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  weights, net = config.weights, config.net
  regression.check_weights(config, TERMS)
  regression.one_of("mmd", config.mmd, lift_losses.ESTIMATORS)
  regression.one_of("net.dtype", net.dtype, ("float32", "bfloat16"))
  regression.positive("net", net, ("blocks", "hidden", *(("condition_hidden", "features") if net.condition else ())))
  regression.positive("critic", config.critic, ("hidden", "chain_hidden"))
  if net.clamp <= 0:
    raise InputError(f"config.net.clamp is {net.clamp}: give a bound of the scales above 0")
  if config.critic.penalty < 0:
    raise InputError(f"config.critic.penalty is {config.critic.penalty}: give 0 or more")
  if bool(weights.generator) != (config.critic_steps > 0):
    raise InputError(f"config.weights.generator is {weights.generator} and config.critic_steps {config.critic_steps}: "
                     "both are 0, or none is")
  if config.hypotheses < 2:
    raise InputError(f"config.hypotheses is {config.hypotheses}: give 2 or more, one has no covariance")
  if not 1 <= config.top_k <= config.hypotheses:
    raise InputError(f"config.top_k is {config.top_k} of {config.hypotheses} config.hypotheses: give 1 or more of them")
  if config.get("accumulate", 1) != 1:
    raise InputError(f"config.accumulate is {config.accumulate}: give 1, a step of cinn_lifting has parts of its own")
  if config.clip < 0:
    raise InputError(f"config.clip is {config.clip}: give a bound above 0, or 0 for none")
  if config.batch_size % (parts := 2 * config.critic_steps + 1):
    raise InputError(f"config.batch_size is {config.batch_size}: give a multiple of {parts}, "
                     "the 2 config.critic_steps + 1 parts that a step learns from")


def network(fields):
  """The ConditionalInn of config.net."""
  fields = dict(fields)
  return cinn.ConditionalInn(**fields) if fields.pop("condition") else cinn.ConditionalInn(**fields | {"features": 0})


def rows_of(batch, key):
  """The Rows of a device's batch, whose keys do not depend on how many devices there are."""
  mask = batch["mask"]
  labelled = mask * batch["has_pose3d"]
  kept = lambda x, weight: jnp.where(weight.reshape(-1, *(1,) * (x.ndim - 1)) > 0, x, 0.0)
  gaussians, pose3d = kept(batch["gaussians"], mask), kept(batch["pose3d"], labelled)
  index = jax.lax.axis_index(AXIS) * len(mask) + jnp.arange(len(mask))
  return Rows(lifting.normalise3d(pose3d), lifting.normalise2d(kept(batch["pose2d"], mask)),
              lifting.condition(gaussians), pose3d, *lifting.covariance_target(gaussians), mask, labelled,
              jax.vmap(jax.random.fold_in, (None, 0))(key, index))


def apart(rows, num):
  """Rows of [B, ...] -> [num, B / num, ...]; row r is in part r modulo num, on any number of devices."""
  if len(rows.mask) % num:
    raise InputError(f"a device's {len(rows.mask)} examples do not divide into {num} parts: set config.batch_size to a "
                     f"multiple of {num} times the number of devices")
  return jax.tree.map(lambda a: jnp.swapaxes(a.reshape(-1, num, *a.shape[1:]), 0, 1), rows)


def draw(keys, num):
  """The Draws of B examples and `num` samples of each, from keys [B]."""
  z = jax.vmap(lambda key: jax.random.normal(key, (num + 2, DIM_Z)))(keys)
  return Draws(z[:, 0], z[:, 1:2], z[:, 2:])


def lifted(net, params, z, y, projected):
  """Poses of latents z [B, S, 16] and one 2D pose y [B, 32] each -> (x [B, S, 48], log|det d x / d (z, y)| [B, S])."""
  y = jnp.broadcast_to(y[:, None], (*z.shape[:2], DIM2D))
  return net.apply({"params": params}, jnp.concatenate([z, y], -1), projected, method="inverse")


def lifted_many(net, params, z, y, projected, rows=None):
  """As `lifted`, about `rows` poses at a time, those of whole images; by default so many as are fastest."""
  images = max(1, (rows or ROWS.get(jax.default_backend(), ROWS_ELSEWHERE)) // z.shape[1])
  if len(z) <= images:
    return lifted(net, params, z, y, projected)
  one = lambda image: jax.tree.map(lambda a: a[0], lifted(net, params, *(a[None] for a in image)))
  return jax.lax.map(one, (z, y, projected), batch_size=images)


def varied(x):
  """x and y, y up, of the joints [B, S, 16, 2] of poses x [B, S, 48], each centred between its hips."""
  plane = jnp.swapaxes(x.reshape(*x.shape[:2], 3, -1)[:, :, :2], 2, 3)
  return losses.centred(plane, lifting.HIPS)


# --- what learns


def critic_loss(critic, params, reals, fakes, penalty):
  """What the critic pays in one update -> [].

  Args:
    params: of the critic.  penalty: the weight of its slope.
    reals: Rows of B real poses.  fakes: (poses [B, 48], mask [B]).
  Source: Wehrbein et al. 2021, section 3.3, the objective of WGAN-GP; authors' `train.py`.
  """
  score, (made, mask) = (lambda x: critic.apply({"params": params}, x)), fakes
  share = jax.vmap(lambda key: jax.random.uniform(key, (1,)))(reals.key)
  off = lift_losses.slope_penalty(score, reals.x, made, share)
  return (losses.masked_mean(score(made), mask) - losses.masked_mean(score(reals.x), reals.labelled) +
          penalty * losses.masked_mean(off, mask * reals.labelled))


def learn_critic(tx, critic, state, reals, fakes, penalty):
  """One update of the critic after the other.

  Args:
    state: (params, opt_state) of the critic.
    reals, fakes: as in `critic_loss`, with an axis of updates before all others.
  Returns:
    (state, {name: []}, means over the updates).
  """
  def update(state, given):
    params, opt_state = state
    loss, grads = jax.value_and_grad(lambda p: critic_loss(critic, p, *given, penalty))(params)
    loss, grads = jax.lax.pmean((loss, grads), AXIS)
    updates, opt_state = tx.update(grads, opt_state, params)
    metrics = {"critic": loss, "grad_norm_critic": optax.tree.norm(grads)}
    return (optax.apply_updates(params, updates), opt_state), metrics

  state, found = jax.lax.scan(update, state, (reals, fakes))
  return state, jax.tree.map(jnp.mean, found)


def forward_terms(found, rows, wanted, estimator):
  """The losses of the way to found = [z, y], [B, 48]; wanted [B, 16] is what z should be like; {name: []}.

  Source: Wehrbein et al. 2021, Eq. 5, and Eq. 6 without its gradient of y.
  """
  z, y = found[:, :DIM_Z], found[:, DIM_Z:]
  joint = jnp.concatenate([z, jax.lax.stop_gradient(y)], -1)
  return {"keypoints2d": losses.masked_mean(lift_losses.absolute(y, rows.y), rows.labelled),
          "mmd": lift_losses.mmd(joint, jnp.concatenate([wanted, rows.y], -1), rows.labelled, estimator)}


def back_terms(x, rows, score, top_k):
  """The losses of the way back: of the poses x [B, 2 + S, 48] of the label's own z, of a random z, of S random ones.

  Args:
    score: poses [B, 48] -> [B], the critic; None without one.
  Returns:
    {name: []}; without those of many where S is 0.
  Source: Wehrbein et al. 2021, Eq. 3, 7, 8 and L_gen of Eq. 9.
  """
  mean, many = losses.masked_mean, x[:, 2:]
  terms = {"deterministic": mean(lift_losses.absolute(x[:, 0], rows.x), rows.labelled)}
  if score:
    terms["generator"] = -mean(score(x[:, 1]), rows.mask)
  if many.shape[1]:
    found = lift_losses.spread(varied(many))[:, lifting.MATCHED_3D, :]
    terms["covariance"] = mean(lift_losses.covariance(found, rows.target, rows.unsure), rows.mask)
    terms["best"] = mean(lift_losses.best_of(lifting.to_pose3d(many), rows.pose3d, top_k), rows.labelled)
  return terms


def terms_of(net, params, rows, draws, score, top_k, estimator):
  """All losses of both ways, {name: []}; their gradients meet in the parameters of the one network."""
  projected = net.apply({"params": params}, rows.condition, method="project")
  found, _ = net.apply({"params": params}, rows.x[:, None], projected, method="forward")
  own = jax.lax.stop_gradient(found[..., :DIM_Z])
  x, _ = lifted(net, params, jnp.concatenate([own, draws.fake, draws.many], 1), rows.y, projected)
  return forward_terms(found[:, 0], rows, draws.wanted, estimator) | back_terms(x, rows, score, top_k)


def clamped(grads, bound):
  """Gradients of the network, each entry cut to +-bound, but for the condition's; bound 0: as they are.

  Source: Wehrbein et al. 2021, section 4.2; authors' `train.py`, which leaves the condition's net out.
  """
  cut = lambda tree: jax.tree.map(lambda g: jnp.clip(g, -bound, bound), tree)
  return {name: cut(tree) if bound and name != "condition" else tree for name, tree in grads.items()}


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net, weights, critic_steps = network(config.net), dict(config.weights), config.critic_steps
  fields = dict(config.critic)
  penalty = fields.pop("penalty")
  critic = PoseCritic(BONES, **fields) if critic_steps else None
  many = config.hypotheses if weights["covariance"] or weights["best"] else 0
  optimizers = optim.of_run(config, critic_steps)

  @jax.jit
  def fresh(rng):
    keys = jax.random.split(rng)
    params = {"net": cinn.fresh(net, keys[0])}
    if critic:
      params["critic"] = critic.init(keys[1], jnp.zeros((1, DIM3D)))["params"]
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, stats={}, memory={},
                      opt_state={name: tx.init(params[name]) for name, tx in optimizers().items()})

  def made(params, rows):
    """(A random pose of each 2D pose, with an axis of parts before [B, 48]; mask)."""
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
    projected = net.apply({"params": params}, flat.condition, method="project")
    x, _ = lifted(net, params, draw(flat.key, 0).fake, flat.y, projected)
    return x.reshape(rows.x.shape), rows.mask

  def net_loss(params, critic_params, rows):
    score = (lambda x: critic.apply({"params": critic_params}, x)) if critic else None
    terms = terms_of(net, params, rows, draw(rows.key, many), score, config.top_k, config.mmd)
    loss = losses.weigh(weights, terms)
    return loss, {"loss": loss} | terms

  def step(state, batch, assets):
    del assets
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    rows = apart(rows_of(batch, key), 2 * critic_steps + 1)
    part = lambda index: jax.tree.map(lambda a: a[index], rows)
    params, opt_state, metrics = dict(state.params), dict(state.opt_state), {}
    if critic:
      (params["critic"], opt_state["critic"]), metrics = learn_critic(
          optimizers()["critic"], critic, (params["critic"], opt_state["critic"]), part(slice(0, -1, 2)),
          made(params["net"], part(slice(1, -1, 2))), penalty)
    grads, found = jax.grad(net_loss, has_aux=True)(params["net"], params.get("critic"), part(-1))
    grads, found = jax.lax.pmean((grads, found), AXIS)  # after grad, never before
    metrics |= found | {"grad_norm_net": optax.tree.norm(grads)}
    updates, opt_state["net"] = optimizers()["net"].update(clamped(grads, config.clip), opt_state["net"], params["net"])
    params["net"] = optax.apply_updates(params["net"], updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  def poses(state, batch, z):
    params = state.params["net"]
    projected = net.apply({"params": params}, lifting.condition(batch["gaussians"]), method="project")
    x, log_det = lifted_many(net, params, z, lifting.normalise2d(batch["pose2d"]), projected)
    return Lifted(joints=lifting.to_pose3d(x), log_prob=log_normal(z) - log_det)

  def predict(state, batch, assets):
    del assets
    return poses(state, batch, jnp.zeros((len(batch["pose2d"]), 1, DIM_Z)))

  def choose(state, batch, assets, keys, num):
    del assets
    first = 0 if config.mode_first else 1
    return poses(state, batch, sampling.noise(keys, jnp.arange(first, first + num), DIM_Z))

  return System(init=lambda rng, batch, assets: fresh(rng), step=step, predict=predict, choose=choose)
