"""HMR: pose, shape and camera of one person from one crop, by iterative regression and an adversarial prior.

Paper: Kanazawa, Black, Jacobs, Malik, "End-to-end Recovery of Human Shape and Pose", CVPR 2018. An image encoder and
a regressor that corrects an estimate three times minimise L = lambda (L_reproj + 1 L_3D) + L_adv (Eq. 1) against
whatever labels an image has. L_adv is a critic that has seen real poses; it is applied to the estimate of every
iteration, the other terms to the last one (section 3.2).
Predicts: one hypothesis per image, without a density.

`config.supervision` says whose reductions are used, see `regression`:
  "hmr"   The paper's weights are 60 keypoints2d, 30 keypoints3d, 28.7 pose (60 x 108/226), 1.33 betas (60 x 5/226),
          1 adversarial, 0 for the rest; learning rates 1e-5 and 1e-4 for the critic, batches of 64.
  "spin49"  SPIN's weights are 300 keypoints2d, 300 keypoints3d, 60 pose, 0.06 betas, 60 camera, 0 for the rest.
  "spin"  The same, but 2D errors are averaged over 24 keypoints, so that 147 keypoints2d are those 300.

Differs from the authors' code:
  - rotations are regressed as 6D (as SPIN does), not axis-angle; the network is a ResNet v1.5 on ImageNet-normalised
    crops, not v2 on [-1, 1], and dropout follows both hidden layers (as in their code; the paper has one).
  - the start of the iterations is constant, not learned; it may be the mean of any pose source.
  - joints are projected with SPIN's camera (f = 5000 at 224 pixels), 0.2 % away from their s (X + t) orthography.
  - 3D joint errors are weighted by confidence; there are as many real poses as images, not three times as many.
"""

import jax
import jax.numpy as jnp
from jhmr import losses
from jhmr import optim
from jhmr import regression
from jhmr.nn.critic import Critic, scores
from jhmr.state import AXIS, System, TrainState
import optax

TERMS = ("keypoints2d", "keypoints3d", "pose", "betas", "vertices", "camera", "adversarial")


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  regression.one_of("supervision", config.supervision, regression.SUPERVISION)
  regression.check(config, TERMS)


def critic_loss(critic, params, fakes, batch):
  """What the critic pays for the estimates of all iterations and for as many real poses as images -> [].

  Source: HMR, Eq. 8.
  """
  fake_scores = scores(critic, params, *jax.lax.stop_gradient(fakes))
  real_scores = critic.apply({"params": params}, batch["real_pose"], batch["real_betas"])
  return (losses.masked_mean(losses.critic_fake(fake_scores), batch["mask"]) +
          losses.masked_mean(losses.critic_real(real_scores), batch["mask"]))


def _fresh_state(network, critic, txs, rng, image, betas, mean):
  """The TrainState before the first step; inside one jit, or it would be a thousand small programs."""
  keys = jax.random.split(rng)
  variables = network.init(keys[0], image, mean)
  params = {"net": variables["params"]}
  if critic:
    params["critic"] = critic.init(keys[1], jnp.asarray(mean["pose"])[None, 1:], betas)["params"]
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, stats={"net": variables["batch_stats"]},
                    opt_state={name: txs[name].init(p) for name, p in params.items()}, memory={})


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  network, weights = regression.build(config), dict(config.weights)
  critic = Critic() if weights["adversarial"] else None
  optimizers, num_parts = optim.of_run(config, critic is not None), config.get("accumulate", 1)

  def init(rng, batch, assets):
    fresh = jax.jit(lambda *given: _fresh_state(network, critic, optimizers(), *given))
    return fresh(rng, batch["image"][:1], batch["betas"][:1], assets["mean"])

  def net_loss(params, stats, critic_params, batch, assets, totals, key):
    estimates, new = network.estimate(params, stats, batch["image"], assets["mean"], key)
    pose, betas, cam = network.decode(estimates)
    last = (x[:, -1] for x in (pose, betas, cam))
    labels = regression.weighed(batch) if config.supervision == "spin49" else batch
    terms = regression.image_terms(*last, labels, assets, weights, config.supervision, totals)
    if critic:
      fakes = losses.adversarial(scores(critic, critic_params, pose, betas))
      each = fakes.shape[1]  # the mean is over the estimates of all iterations
      terms["adversarial"] = losses.masked_mean(fakes, batch["mask"], total=each * totals["adversarial"])
    loss = losses.weigh(weights, terms)
    return loss, ({"loss": loss} | terms, new["batch_stats"], (pose, betas))

  def step(state, batch, assets):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))  # devices drop different units
    totals = losses.totals(regression.label_weights(batch, weights, config.supervision))

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

  return System(init, step, network.predict)
