"""What the loop puts around every system's step: updates that are not finite are left out, parameters averaged.

    step = guard.guarded(system.step, ema=0.999)
    state, metrics = step(state, batch, assets)      # metrics["skipped"]: updates left out so far

Both cost one pass over the state, but for its memory, and no communication.
"""

import jax
import jax.numpy as jnp
from jhmr import state as state_lib
from jhmr.data import lift_spec
from jhmr.data import spec
import numpy as np


def prepared(state, ema):
  """A fresh state with what `guarded` keeps in it."""
  return state.replace(skipped=jnp.zeros((), jnp.int32), ema=jax.tree.map(jnp.copy, state.params) if ema else {})


def guarded(step, ema=0.0):
  """A step that leaves the state as it was, but for its counters, when a metric is not finite.

  Args:
    step: of a System; its metrics are finite exactly when the update is.
    ema: decay of the average of the parameters, 0 for none; min(ema, (1 + t) / (10 + t)) at update t, so that the
      average does not remember the first parameters for long.
  Returns:
    a step with the metric "skipped".
  Source: the warm-up of the average is that of TensorFlow's `ExponentialMovingAverage(num_updates)`.
  """
  def guarded_step(state, batch, assets):
    new, metrics = step(state, batch, assets)
    sound = state_lib.sound(metrics)
    if ema:
      t = state.step.astype(jnp.float32)
      decay = jnp.minimum(ema, (1 + t) / (10 + t))
      new = new.replace(ema=jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, new.params))
    # Not the memory: systems write to it only when the step is sound, and in place. To choose between two tables of
    # 300,000 fits is to copy 0.1 GB each step: 49 ms on a CPU, where writing 64 rows takes 0.1 ms.
    memory, rest = new.memory, lambda state: state.replace(memory={})
    new = jax.tree.map(lambda n, o: jnp.where(sound, n, o), rest(new), rest(state)).replace(memory=memory)
    skipped = state.skipped + jnp.where(sound, 0, 1).astype(jnp.int32)
    return (new.replace(step=state.step + 1, skipped=skipped), metrics | {"skipped": skipped.astype(jnp.float32)})

  return guarded_step


def averaged(state):
  """The state to score and to predict with: averaged parameters where there are any."""
  return state.replace(params=state.ema) if state.ema else state


def bad_examples(mapper, step, on_device, state, batch, assets):
  """Which examples made a step fail, in words.

  First those whose own fields are not finite; else one is looked for by halving: the same step with the mask of half
  of the batch set to 0.

  Args:
    mapper, on_device, assets: of the run; step: the guarded step; state: from just before or just after.
    batch: the host batch of the bad step, this process's rows.
  Returns:
    one line.
  """
  state = jax.tree.map(np.asarray, state)
  local = len(next(iter(batch.values())))
  looks = mapper.rows(lambda state, batch, assets: _looks(on_device(batch, assets)))
  seen = mapper.join(looks((), mapper.to_devices(batch), assets))
  ids, odd = seen.pop("id"), {name: np.flatnonzero(~ok) for name, ok in seen.items()}
  if any(len(rows) for rows in odd.values()):
    return "; ".join(f"{name} of example {', '.join(str(ids[r]) for r in rows[:5])} is not finite"
                     for name, rows in odd.items() if len(rows))

  def masked(state, batch, assets):
    full = on_device({k: v for k, v in batch.items() if k != "keep"}, assets)
    return step(state, full | {"mask": full["mask"] * batch["keep"]}, assets)

  program = mapper.train(masked)

  def fails(first, last):
    rows = np.arange(local) + mapper.process_index * local
    keep = ((first <= rows) & (rows < last)).astype(np.float32)
    after, _ = program(mapper.replicate(state), mapper.to_devices(batch | {"keep": keep}), assets)
    return int(np.asarray(after.skipped)) > int(state.skipped)

  first, last = 0, len(ids)
  if not fails(first, last):
    return "no example alone: the step is finite when it is run again"
  while last - first > 1:
    middle = (first + last) // 2
    if fails(first, middle):
      last = middle
    elif fails(middle, last):
      first = middle
    else:
      return f"no example alone: those with ids {', '.join(map(str, ids[first:last][:8]))} together"
  return f"example {ids[first]}"


def _looks(batch):
  """{field: [B] bool, all finite} of the required fields that have no gaps, and the ids."""
  fields = spec.FIELDS | lift_spec.FIELDS
  looked_at = lambda k, v: fields[k].required and not fields[k].gaps and jnp.issubdtype(v.dtype, jnp.floating)
  floats = {k: v for k, v in batch.items() if looked_at(k, v)}
  return {"id": batch["id"]} | {k: jnp.isfinite(v).reshape(v.shape[0], -1).all(-1) for k, v in floats.items()}
