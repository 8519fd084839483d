"""Optimisers from plain config fields; their state is float32 arrays, never weakly typed."""

from jhmr.errors import InputError
import optax

DEFAULTS = {
    "name": "adam",           # "adam" | "adamw", whose decay is decoupled from the gradient
    "learning_rate": 1e-4,    # the highest one
    "schedule": "constant",   # "constant" | "cosine", which ends at 0 with the last step
    "warmup_steps": 0,        # linear from 0 before that
    "weight_decay": 0.0,      # with "adam" added to the gradient, as torch's Adam does
    "clip_norm": 0.0,         # the gradient's global norm is cut to this; 0: never
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
}


def settings(config):
  """All fields of an optimiser's config, the missing ones at their defaults; InputError for an unknown one."""
  odd = sorted(set(config) - set(DEFAULTS))
  if odd:
    raise InputError(f"optimiser fields {odd} do not exist: use {', '.join(DEFAULTS)}")
  return DEFAULTS | {name: config[name] for name in config}


def make_schedule(config, num_steps):
  """Learning rate at each step, as a function of the number of finished updates.

  Raises:
    InputError: for an unknown schedule, or a warm-up that is longer than the run.
  """
  c = settings(config)
  if c["schedule"] not in ("constant", "cosine"):
    raise InputError(f"optimiser field schedule is {c['schedule']!r}: use 'constant' or 'cosine'")
  if not 0 <= c["warmup_steps"] <= num_steps:
    raise InputError(f"optimiser field warmup_steps is {c['warmup_steps']}, of {num_steps} steps: make it smaller")
  rest = num_steps - c["warmup_steps"]
  after = (optax.constant_schedule(c["learning_rate"]) if c["schedule"] == "constant" or rest == 0
           else optax.cosine_decay_schedule(c["learning_rate"], rest))
  before = optax.linear_schedule(0.0, c["learning_rate"], c["warmup_steps"])
  return optax.join_schedules([before, after], [c["warmup_steps"]]) if c["warmup_steps"] else after


def make_optimizer(config, num_steps):
  """The optimiser of one network.

  Args:
    config: a mapping with any of the fields of DEFAULTS.
    num_steps: of the whole run; the schedule ends there.
  Returns:
    optax.GradientTransformation.
  Raises:
    InputError: for a field or a value that does not exist.
  """
  c, schedule = settings(config), make_schedule(config, num_steps)
  adam = {"b1": c["b1"], "b2": c["b2"], "eps": c["eps"]}
  clip = [optax.clip_by_global_norm(c["clip_norm"])] if c["clip_norm"] else []
  if c["name"] == "adamw":
    return optax.chain(*clip, optax.adamw(schedule, weight_decay=c["weight_decay"], **adam))
  if c["name"] == "adam":
    decay = [optax.add_decayed_weights(c["weight_decay"])] if c["weight_decay"] else []
    return optax.chain(*clip, *decay, optax.adam(schedule, **adam))
  raise InputError(f"optimiser field name is {c['name']!r}: use 'adam' or 'adamw'")
