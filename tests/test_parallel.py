"""Both mappers run the same per-device step, and a masked mean over devices is the global one."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import parallel
from jhmr.errors import InputError
from jhmr.state import AXIS


@contextlib.contextmanager
def count_compilations():
  """A list that grows by one for each program handed to the compiler inside the block."""
  events = []

  def listen(name, seconds, **kwargs):
    if name == "/jax/core/compile/backend_compile_duration":
      events.append(kwargs.get("fun_name", name))
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield events
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def step(state, batch, assets):
  """Least squares with masked rows: gradients pmean'ed after grad, counts psum'ed before dividing."""
  devices = jax.lax.psum(1.0, AXIS)
  count = jax.lax.psum(batch["weight"].sum(), AXIS)

  def loss_fn(w):
    error = (batch["x"] @ w - batch["y"]) ** 2 * batch["weight"]
    return error.sum() / count * devices
  loss, grad = jax.value_and_grad(loss_fn)(state["w"])
  grad, loss = jax.lax.pmean((grad, loss), AXIS)
  return {"w": state["w"] - assets["rate"] * grad}, {"loss": loss}


def batch_of(seed):
  rng = np.random.default_rng(seed)
  return {"x": rng.normal(size=(16, 3)).astype(np.float32), "y": rng.normal(size=16).astype(np.float32),
          "weight": (rng.random(16) < 0.4).astype(np.float32)}


def run(kind, num_devices):
  mapper = parallel.make(kind, jax.devices()[:num_devices])
  f = mapper.train(step)
  state = mapper.replicate({"w": jnp.zeros(3)})
  assets = mapper.replicate({"rate": jnp.float32(0.1)})
  losses = []
  for i in range(5):
    with count_compilations() as compiled:
      state, metrics = f(state, mapper.to_devices(batch_of(i)), assets)
    losses.append(float(metrics["loss"]))
    assert (len(compiled) > 0) == (i == 0), f"step {i} compiled {compiled}"
  return np.asarray(state["w"]), losses


def closed_form():
  w, losses = np.zeros(3), []
  for i in range(5):
    b = {k: v.astype(np.float64) for k, v in batch_of(i).items()}
    residual = b["x"] @ w - b["y"]
    losses.append((b["weight"] * residual**2).sum() / b["weight"].sum())
    w = w - 0.1 * 2 * b["x"].T @ (b["weight"] * residual) / b["weight"].sum()
  return w, losses


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_any_mapper_and_device_count_gives_the_global_masked_mean(kind, num_devices):
  w, losses = run(kind, num_devices)
  expected_w, expected_losses = closed_form()
  np.testing.assert_allclose(w, expected_w, atol=1e-6)
  np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_rows_come_back_in_the_order_they_were_given(kind):
  mapper = parallel.make(kind, jax.devices()[:4])
  f = mapper.rows(lambda state, batch, assets: {"z": batch["x"].sum(-1) * state})
  batch = batch_of(0)
  out = f(mapper.replicate(jnp.float32(2)), mapper.to_devices(batch), mapper.replicate({}))
  np.testing.assert_allclose(mapper.join(out)["z"], 2 * batch["x"].sum(-1), rtol=1e-6)


def test_a_batch_that_does_not_divide_is_refused():
  mapper = parallel.make("pmap", jax.devices()[:3])
  with pytest.raises(InputError, match="multiple of 3"):
    mapper.to_devices(batch_of(0))


def test_another_mapper_is_refused():
  with pytest.raises(InputError, match="pmap.*shard_map"):
    parallel.make("pjit")
