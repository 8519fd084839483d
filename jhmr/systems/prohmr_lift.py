"""ProHMR on skeletons: a 2D pose in, a distribution over 3D poses out, by a conditional normalizing flow.

Paper: Kolotouros, Pavlakos, Jayaraman, Daniilidis, "Probabilistic Modeling for Human Mesh Recovery", ICCV 2021, "2D
pose lifting" and Table 6; authors' `models/proskeleton.py`. The body of Martinez et al. maps a 2D pose, as
z-scores, to a context c; a flow maps z ~ N(0, I) to 16 joints in metres from the pelvis, given c. Training minimises
the negative log-likelihood of the label with noise (`nll`), the absolute error of the mode z = 0 (`joints_mode`) and
that of random samples (`joints_exp`, weight 0 in their code), both sums over 48 coordinates, means over poses.
Predicts: the mode. `choose`: the mode, then samples.

Variants of the authors' code:
  - config.inputs = "lift17": with the nose among the inputs, which the released weights want and detectors do not find;
    see `lift_baselines.inputs`. "lift16": detected joints, as in the paper.
  - config.net.flow.legacy_lu: the flow's density as their package had it before its correction.
  - config.train_samples = 2: one random sample a pose goes through the flow too, which moves its batch norm's averages
    even where its weight is 0.
Differs from the authors' code:
  - the encoder's first context, from which ActNorm starts, is that of evaluation, with nothing dropped.
  - batch norm counts no padding, the density no pose without a label.
  - config.missing hides joints of limbs in training, as in Li and Lee 2019; theirs never does.
"""

import functools
from typing import NamedTuple

import jax
from jhmr import lift_baselines, one_loss, regression, sampling
from jhmr.errors import InputError
from jhmr.lift_baselines import DIM, PROHMR
from jhmr.nn import flow as flow_lib
from jhmr.nn import lift_mlp
from jhmr.nn.regressor import axis_of
from jhmr.state import Lifted, System
import jax.numpy as jnp

TERMS = ("nll", "joints_mode", "joints_exp")
INPUTS = tuple(PROHMR)


class Networks(NamedTuple):
  """The modules of a config."""
  encoder: lift_mlp.LiftMlp
  flow: flow_lib.ConditionalGlow


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  lift_baselines.check(config, TERMS)
  regression.one_of("inputs", config.inputs, INPUTS)
  regression.positive("net.flow", config.net.flow, ("blocks", "hidden", "depth"))
  if not 0 <= config.net.flow.dropout < 1:
    raise InputError(f"config.net.flow.dropout is {config.net.flow.dropout}: give a share below 1, 0 for none")
  if config.noise_m < 0:
    raise InputError(f"config.noise_m is {config.noise_m}: give metres, 0 for none")
  if config.train_samples < 1:
    raise InputError(f"config.train_samples is {config.train_samples}: give 1 (the mode alone) or more")
  if config.train_samples == 1 and config.weights.joints_exp:
    raise InputError("config.weights.joints_exp needs random samples: set it to 0 or config.train_samples to 2")


def networks(net):
  """The Networks of config.net."""
  encoder = lift_baselines.body(net, convention="torch", max_norm=False)
  return Networks(encoder, flow_lib.ConditionalGlow(dim=DIM, context=net.hidden, **net.flow,
                                                    batch_norm=net.batch_norm, axis_name=axis_of(encoder)))


def variables_of(params, stats, name):
  """Variables of one of the Networks."""
  return {"params": params["net"][name], "batch_stats": stats["net"][name]}


def train(nets, params, stats, x, target, weights, num_random, noise_m, key):
  """A training pass: (points [B, 1 + N, 48] metres, the mode first; log_prob [B] of the noisy labels; new stats).

  Args:
    x: [B, 2 K] inputs.  target: [B, 48] metres.
    weights: {"all", "labelled"} [B] in {0, 1}: rows that count in batch norm, of inputs and of the density.
    num_random: N.  noise_m: deviation of the labels' noise, metres.
  Source: ProHMR, authors' `models/proskeleton.py`; their order of the flow's calls, each of which moves its averages.
  """
  keys = jax.random.split(key, 6)
  context, new = nets.encoder.apply(variables_of(params, stats, "encoder"), x, True, weights["all"],
                                    rngs={"dropout": keys[0]}, mutable=["batch_stats"])
  run = functools.partial(flow_lib.training_call, nets.flow, params["net"]["flow"])
  moments, made = stats["net"]["flow"], []
  if num_random:
    z = jax.random.normal(keys[1], (len(x), num_random, DIM))
    made, moments = run(moments, z, context, keys[2], "sample", weight=weights["all"])
    made = [made]
  mode, moments = run(moments, jnp.zeros((len(x), 1, DIM)), context, keys[3], "sample", weight=weights["all"])
  noisy = target + noise_m * jax.random.normal(keys[4], target.shape)
  log_prob, moments = run(moments, noisy[:, None], context, keys[5], "log_prob", weight=weights["labelled"])
  return (jnp.concatenate([mode, *made], 1), log_prob[:, 0],
          {"net": {"encoder": new["batch_stats"], "flow": moments}})


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  nets, weights, layout = networks(config.net), dict(config.weights), PROHMR[config.inputs]
  read = lambda batch, assets: lift_baselines.inputs(batch["pose2d"], assets["lift_stats"], layout)

  @jax.jit
  def fresh(rng, batch, assets):
    keys, x = jax.random.split(rng), read(batch, assets)
    encoder = nets.encoder.init(keys[0], x[:1])
    context, target = nets.encoder.apply(encoder, x), lift_baselines.targets(batch, layout)
    flow = nets.flow.init(keys[1], target[:1, None], context[:1])
    start = flow_lib.actnorm_from_data(nets.flow, flow, target, lift_baselines.labelled(batch), context)
    params = {"net": {"encoder": encoder["params"], "flow": start}}
    stats = {"net": {"encoder": encoder["batch_stats"], "flow": flow["batch_stats"]}}
    return one_loss.fresh_state(config, params, stats)

  def init(rng, batch, assets):
    seen = {name: batch[name] for name in ("pose2d", "pose3d", "mask", "has_pose3d")}
    return fresh(rng, seen, {"lift_stats": assets["lift_stats"]})

  def loss(params, stats, batch, assets, totals, key):
    hidden, key = jax.random.split(key)
    x = lift_baselines.hide(read(batch, assets), hidden, config.missing, layout)
    target, counted = lift_baselines.targets(batch, layout), lift_baselines.label_weights(batch)
    made, log_prob, stats = train(nets, params, stats, x, target, {"all": batch["mask"]} | counted,
                                  config.train_samples - 1, config.noise_m, key)
    off = jnp.sum(jnp.abs(made - target[:, None]), -1)                                                # [B, 1 + N]
    errors = {"nll": -log_prob, "joints_mode": off[:, 0]}
    if weights["joints_exp"]:
      errors["joints_exp"] = jnp.mean(off[:, 1:], 1)
    total, metrics = lift_baselines.weighed(weights, errors, batch, totals)
    return total, (metrics, stats)

  def decoder(state, batch, assets):
    """z [B, S, 48] -> Lifted of a batch."""
    context = nets.encoder.apply(variables_of(state.params, state.stats, "encoder"), read(batch, assets))
    flow = variables_of(state.params, state.stats, "flow")
    projected = nets.flow.apply(flow, context, method="project")

    def decode(z):
      x, log_det = flow_lib.decode(nets.flow, flow, z, projected)
      return Lifted(lift_baselines.to_joints(x, layout), flow_lib.log_normal(z) - log_det)

    return decode

  def predict(state, batch, assets):
    return decoder(state, batch, assets)(jnp.zeros((len(batch["pose2d"]), 1, DIM)))

  def choose(state, batch, assets, keys, num):
    decode, chunk = decoder(state, batch, assets), min(num, sampling.CHUNK)
    return sampling.in_chunks(lambda first: decode(sampling.noise(keys, first + jnp.arange(chunk), DIM)), num, chunk)

  return System(init, one_loss.make_step(config, loss, lift_baselines.label_weights), predict, choose=choose)
