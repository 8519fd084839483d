"""Li and Lee's multiple hypotheses: a 2D pose in, a mixture of Gaussians over 3D poses out.

Paper: Li and Lee, "Generating Multiple Hypotheses for 3D Human Pose Estimation with Mixture Density Network", CVPR
2019. The network of Martinez et al. ends in K = 5 means, deviations and weights, over z-scores. Training minimises the
mixture's negative log-likelihood (`nll`), and a Dirichlet prior of the weights (`prior`), whose concentration is one
more than config.weights.prior, so that no component takes all; 0 is their model without a prior.
Predicts: the mean of the likeliest component. `choose` with config.sets
  "means": means, the likeliest first; beyond K of them, samples of the mixture.
  "samples": that mean, then samples, as others have compared the mixture; sets of a few are much worse.
Log-densities are those of the 48 coordinates in metres.

With `config.missing`, so many joints of limbs are hidden in every training pose; a joint of a batch that is not finite
is missing too, in training and after.

Differs from the authors' code:
  - batch norm counts no padding, and an unlabelled pose is no part of a mean.
"""

import jax
from jhmr import lift_baselines, losses, one_loss, regression
from jhmr.errors import InputError
from jhmr.lift_baselines import DIM, MARTINEZ
from jhmr.nn import lift_mlp
from jhmr.state import Lifted, System
import jax.numpy as jnp

TERMS = ("nll", "prior")
SETS = ("means", "samples")
_CHUNK = 256  # hypotheses of each pose whose density is worked out at a time


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  lift_baselines.check(config, TERMS)
  regression.one_of("sets", config.sets, SETS)
  if config.components < 1:
    raise InputError(f"config.components is {config.components}: give 1 or more")
  if config.weights.prior < 0:
    raise InputError(f"config.weights.prior is {config.weights.prior}: give 0, for no prior, or more")


def nll(mixture, target):
  """-log p(target) of a lift_mlp.Mixture at [B, 48] -> [B] nats. Source: Li and Lee, `mean_log_Gaussian_like`."""
  return -jax.nn.logsumexp(losses.mixture_log_likelihoods(target, mixture.means, mixture.log_weights,
                                                          2 * mixture.log_sigma), -1)


def prior(mixture):
  """-log of a Dirichlet's density of concentration 2, but for a constant -> [B]. Source: Li and Lee, `Dirichlet_loss`.

  Of concentration p it is p - 1 times that.
  """
  return -jnp.sum(mixture.log_weights, -1)


def by_weight(mixture):
  """The mixture with its components in order, the likeliest first."""
  order = jnp.argsort(-mixture.log_weights, -1)
  return jax.tree.map(lambda x: jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), 1), mixture)


def samples(mixture, keys, first, count):
  """Hypotheses first, first + 1, ... [B, count, 48] of the mixture, each a function of (keys [B], its number)."""
  def one(mixture, key):
    component, noise = jax.random.split(key)
    k = jax.random.categorical(component, mixture.log_weights)
    return mixture.means[k] + jnp.exp(mixture.log_sigma[k]) * jax.random.normal(noise, mixture.means.shape[-1:])

  number = first + jnp.arange(count)
  each = lambda mixture, key: jax.vmap(lambda s: one(mixture, jax.random.fold_in(key, s)))(number)
  return jax.vmap(each)(mixture, keys)


def density(mixture, x):
  """log p of the mixture at x [B, S, 48] -> [B, S] nats."""
  each = jax.lax.map(lambda point: -nll(mixture, point), jnp.moveaxis(x, 1, 0), batch_size=min(_CHUNK, x.shape[1]))
  return jnp.moveaxis(each, 0, 1)


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  net = lift_mlp.MixtureDensity(lift_baselines.body(config.net, max_norm=config.net.max_norm), config.components, DIM)
  weights = dict(config.weights)

  def loss(params, stats, batch, assets, totals, key):
    found, stats = lift_baselines.train(net, config.missing, params, stats, batch, assets, key)
    errors = {"nll": nll(found, lift_baselines.targets(batch, MARTINEZ, assets["lift_stats"])), "prior": prior(found)}
    total, metrics = lift_baselines.weighed(weights, errors, batch, totals)
    return total, (metrics, stats)

  def lifted(mixture, x, assets):
    stats = assets["lift_stats"]
    return Lifted(lift_baselines.to_joints(x, MARTINEZ, stats),
                  density(mixture, x) - lift_baselines.log_volume(MARTINEZ, stats))

  def predict(state, batch, assets):
    mixture = by_weight(lift_baselines.infer(net, state, batch, assets))
    return lifted(mixture, mixture.means[:, :1], assets)

  def choose(state, batch, assets, keys, num):
    mixture = by_weight(lift_baselines.infer(net, state, batch, assets))
    x = mixture.means[:, :min(num, config.components if config.sets == "means" else 1)]
    if (first := x.shape[1]) < num:
      x = jnp.concatenate([x, samples(mixture, keys, first, num - first)], 1)
    return lifted(mixture, x, assets)

  step = one_loss.make_step(config, loss, lift_baselines.label_weights)
  return System(lift_baselines.make_init(config, net), step, predict, choose=choose)
