"""A step that is not finite leaves the state as it was; averages follow their formula; the guilty example is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import guard, losses, parallel
from jhmr.data import spec
from jhmr.state import AXIS, TrainState


def system_step(state, batch, assets):
  """Gradient descent of a linear fit to the betas; an example whose image is brighter than 50 makes it infinite."""
  def loss_fn(w):
    brightness = batch["image"].mean((1, 2, 3))
    error = jnp.sum((brightness[:, None] * w - batch["betas"]) ** 2, -1)
    error = jnp.where(brightness > 50, jnp.inf, error)
    return losses.masked_mean(error, batch["mask"])
  loss, grad = jax.value_and_grad(loss_fn)(state.params["net"])
  loss, grad = jax.lax.pmean((loss, grad), AXIS)
  return state.replace(step=state.step + 1, params={"net": state.params["net"] - assets["rate"] * grad},
                       stats={"net": state.stats["net"] + 1}), {"loss": loss, "grad_norm_net": jnp.linalg.norm(grad)}


def state_of(ema=0.0):
  state = TrainState(step=jnp.zeros((), jnp.int32), params={"net": jnp.zeros(10)}, opt_state={},
                     stats={"net": jnp.zeros(())}, memory={})
  return guard.prepared(state, ema)


def batch_of(seed, bright=()):
  batch = spec.fake_batch(4, 16, seed=seed)
  batch["id"] = batch["id"] + 100
  batch["image"][list(bright)] = 99.0
  return batch


def run(bad_steps, num_steps=6, ema=0.0, kind="pmap"):
  mapper = parallel.make(kind, jax.devices()[:4])
  step = mapper.train(guard.guarded(system_step, ema))
  state, assets, path = mapper.replicate(state_of(ema)), mapper.replicate({"rate": jnp.float32(0.1)}), []
  for i in range(num_steps):
    state, metrics = step(state, mapper.to_devices(batch_of(i, bright=(3,) if i in bad_steps else ())), assets)
    path.append((jax.device_get(state), jax.device_get(metrics)))
  return path


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_a_bad_step_changes_nothing_but_the_counters(kind):
  path = run({2}, kind=kind)
  before, (after, metrics) = path[1][0], path[2]
  assert not np.isfinite(metrics["loss"]) and metrics["skipped"] == 1
  assert (int(after.step), int(after.skipped)) == (3, 1)
  for a, b in zip(jax.tree.leaves((before.params, before.stats)), jax.tree.leaves((after.params, after.stats))):
    np.testing.assert_array_equal(a, b)
  assert np.isfinite(path[-1][1]["loss"]) and path[-1][0].skipped == 1
  assert np.abs(path[-1][0].params["net"] - after.params["net"]).max() > 1e-4, "the run goes on"


def test_averages_follow_their_formula_and_miss_bad_steps():
  path = run({3}, ema=0.9)
  average = np.zeros(10)
  for t, (state, _) in enumerate(path):
    if t != 3:
      decay = min(0.9, (1 + t) / (10 + t))
      average = decay * average + (1 - decay) * state.params["net"]
    np.testing.assert_allclose(state.ema["net"], average, rtol=1e-5, atol=1e-7)
  assert guard.averaged(path[-1][0]).params is path[-1][0].ema
  assert guard.averaged(run(set())[0][0]).ema == {}


def named(batch):
  mapper = parallel.make("pmap", jax.devices()[:4])
  step = guard.guarded(system_step)
  return guard.bad_examples(mapper, step, lambda batch, assets: batch, mapper.replicate(state_of()), batch,
                            mapper.replicate({"rate": jnp.float32(0.1)}))


@pytest.mark.parametrize("row", [0, 5, 15])
def test_the_example_that_makes_the_loss_infinite_is_found(row):
  assert named(batch_of(0, bright=(row,))) == f"example {100 + row}"


def test_fields_that_are_not_finite_are_named():
  batch = batch_of(0)
  batch["betas"][7, 2] = np.nan
  batch["image"][9] = np.inf
  said = named(batch)
  assert "image of example 109 is not finite" in said and "betas of example 107 is not finite" in said


def test_a_step_that_nobody_makes_infinite_is_said_so():
  assert "no example alone" in named(batch_of(0))
