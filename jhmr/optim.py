"""Optimisers and durations from plain config fields, and gradients of a batch too large for the device.

A duration is text: "6000 steps" or "6000", "50 epochs", "2e6 examples"; a part of a run may also be "5 %" of it. It is
turned into steps when the batch size and the data are known, so that overriding either never leaves it stale.
"""

import copy
import functools

import jax
import jax.numpy as jnp
from jhmr.errors import InputError
import optax

DEFAULTS = {
    "name": "adam",           # "adam" | "adamw", whose decay is decoupled from the gradient
    "learning_rate": 1e-4,    # the highest one
    "schedule": "constant",   # "constant" | "cosine", which ends at 0 with the last step | "staircase" | "exponential"
    "warmup": "0 steps",      # linear from 0 before that
    "decay_every": "",        # of a staircase: after each such duration; of an exponential: over it ...
    "decay": 0.1,             # ... the rate is multiplied by this
    "weight_decay": 0.0,      # with "adam" added to the gradient, as torch's Adam does
    "clip_norm": 0.0,         # the gradient's global norm is cut to this; 0: never
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
}
DURATIONS = ("warmup", "decay_every")


def count_steps(text, name, batch_size, num_examples, num_steps=None):
  """A duration in steps.

  Args:
    text: the duration.  name: of the config field, for messages.
    num_examples: of an epoch; 0 where the data never end.
    num_steps: of the run, for a duration in percent.
  Raises:
    InputError: for text that is not a duration, or epochs of data that never end.
  """
  number, _, unit = str(text).strip().partition(" ")
  try:
    value, unit = float(number.removesuffix("%")), "%" if number.endswith("%") else unit.strip() or "steps"
  except ValueError:
    value, unit = -1.0, ""
  examples = {"steps": batch_size, "step": batch_size, "examples": 1, "epochs": num_examples, "epoch": num_examples}
  if not 0 <= value < float("inf") or unit not in (*examples, *(["%"] if num_steps is not None else [])):
    raise InputError(f"config.{name} is {text!r}: give a duration such as '6000 steps', '50 epochs' or '2e6 examples'")
  if unit == "%":
    return round(value / 100 * num_steps)
  if unit.startswith("epoch") and not num_examples:
    raise InputError(f"config.{name} is {text!r}, but rendered people never end: give steps or examples, "
                     "or set config.data.source to a data set, or config.data.examples where the config has it")
  return round(value * examples[unit] / batch_size)


def resolve(config, num_examples):
  """A copy of a run's config with `num_steps`, `num_examples`, and every duration of its optimisers as steps.

  Args:
    config: a ConfigDict with duration, batch_size and sections named *optim.
    num_examples: of an epoch; 0 where the data never end.
  """
  config = copy.deepcopy(config)
  with config.unlocked():
    config.num_examples = num_examples
    config.num_steps = count_steps(config.duration, "duration", config.batch_size, num_examples)
    for section in [k for k in config if k.endswith("optim")]:
      for field in DURATIONS:
        if config[section].get(field):
          config[section][field] = str(count_steps(config[section][field], f"{section}.{field}", config.batch_size,
                                                   num_examples, config.num_steps))
  return config


def settings(config):
  """All fields of an optimiser's config, the missing ones at their defaults; InputError for an unknown one."""
  odd = sorted(set(config) - set(DEFAULTS))
  if odd:
    raise InputError(f"optimiser fields {odd} do not exist: use {', '.join(DEFAULTS)}")
  return DEFAULTS | {name: config[name] for name in config}


def make_schedule(config, num_steps):
  """Learning rate at each step, as a function of the number of finished updates; durations are in steps here.

  Raises:
    InputError: for an unknown schedule, a warm-up that is longer than the run, or a decay without its duration.
  """
  c = settings(config)
  warmup = count_steps(c["warmup"], "optim.warmup", 1, 0, num_steps)
  if c["schedule"] not in ("constant", "cosine", "staircase", "exponential"):
    raise InputError(f"optimiser field schedule is {c['schedule']!r}: use 'constant', 'cosine', 'staircase' or "
                     "'exponential'")
  if warmup > num_steps:
    raise InputError(f"optimiser field warmup is {warmup} of {num_steps} steps: make it smaller")
  after = optax.constant_schedule(c["learning_rate"])
  if c["schedule"] == "cosine" and num_steps > warmup:
    after = optax.cosine_decay_schedule(c["learning_rate"], num_steps - warmup)
  if c["schedule"] in ("staircase", "exponential"):
    every = count_steps(c["decay_every"], "optim.decay_every", 1, 0, num_steps)
    if every < 1:
      raise InputError("optimiser field decay_every is 0: give the duration in which the rate goes down by decay")
    after = optax.exponential_decay(c["learning_rate"], every, c["decay"], staircase=c["schedule"] == "staircase")
  before = optax.linear_schedule(0.0, c["learning_rate"], warmup)
  return optax.join_schedules([before, after], [warmup]) if warmup else after


def make_optimizer(config, num_steps, updates=1):
  """The optimiser of one network.

  Args:
    config: a mapping with any of the fields of DEFAULTS, durations in steps (`resolve`).
    num_steps: of the whole run; the schedule ends there.
    updates: how often it is updated in each step; the schedule counts steps.
  Returns:
    optax.GradientTransformation.
  Raises:
    InputError: for a field or a value that does not exist.
  """
  c, of_step = settings(config), make_schedule(config, num_steps)
  schedule = of_step if updates == 1 else lambda count: of_step(count // updates)
  adam = {"b1": c["b1"], "b2": c["b2"], "eps": c["eps"]}
  clip = [optax.clip_by_global_norm(c["clip_norm"])] if c["clip_norm"] else []
  if c["name"] == "adamw":
    return optax.chain(*clip, optax.adamw(schedule, weight_decay=c["weight_decay"], **adam))
  if c["name"] == "adam":
    decay = [optax.add_decayed_weights(c["weight_decay"])] if c["weight_decay"] else []
    return optax.chain(*clip, *decay, optax.adam(schedule, **adam))
  raise InputError(f"optimiser field name is {c['name']!r}: use 'adam' or 'adamw'")


def of_run(config, critic=0):
  """A function of no arguments that gives a run's optimisers: {"net": ...}, with a critic also {"critic": ...}.

  critic is how often it is updated in each step, 0 where there is none.

  Only training needs them, and the length of the run. Where that is known they are made at once, so that wrong fields
  of config.optim and config.critic_optim are found before anything else.
  """
  fields = {"net": ("optim", 1)} | ({"critic": ("critic_optim", int(critic))} if critic else {})
  made = functools.cache(lambda: {name: make_optimizer(config[field], config.num_steps, updates)
                                  for name, (field, updates) in fields.items()})
  if "num_steps" in config:
    made()
  return made


def accumulate(part, carry, batch, num_parts):
  """Gradients of a batch in parts, one after the other, in the memory of one.

  Losses must be normalised by counts of the whole batch (`losses.totals`); then the sum over parts is the whole
  batch's loss and gradient, exactly. Batch norm sees one part at a time.

  Args:
    part: (carry, batch part, index) -> (carry, (sums, rows)); sums are added up (gradients, metrics), rows [b, ...]
      are put together, the carry is handed on (batch-norm moments).
    batch: pytree of [B, ...] of one device.
    num_parts: divides B; 1 calls `part` once.
  Returns:
    (carry, sums, rows [B, ...]).
  Raises:
    ValueError: if num_parts does not divide B.
  """
  if num_parts == 1:
    carry, (sums, rows) = part(carry, batch, jnp.zeros((), jnp.int32))
    return carry, sums, rows
  size = jax.tree.leaves(batch)[0].shape[0]
  if size % num_parts:
    raise ValueError(f"a device's batch of {size} does not divide into {num_parts} parts")
  parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), batch)

  def one(carry, inputs):
    inner, total = carry
    inner, (sums, rows) = part(inner, *inputs)
    return (inner, jax.tree.map(jnp.add, total, sums)), rows

  shapes = jax.eval_shape(part, carry, jax.tree.map(lambda x: x[0], parts), jnp.zeros((), jnp.int32))[1][0]
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  (carry, sums), rows = jax.lax.scan(one, (carry, zeros), (parts, jnp.arange(num_parts)))
  return carry, sums, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
