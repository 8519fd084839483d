"""The prior over joints learns bodies without looking at an image, and what a run leaves is a prior."""

import jax
import jax.numpy as jnp
from jhmr import joint_prior, train
from jhmr.errors import InputError
from jhmr.systems import joint_prior as system_lib
import ml_collections
import numpy as np
import pytest
import runs
from systems import multi_config

SEEN = ("real_pose", "real_betas", "mask")
CONFIG = runs.ROOT / "configs" / "joint_prior.py"


def get_config(**overrides):
  config = ml_collections.ConfigDict({
      "system": "joint_prior", "seed": 0, "num_steps": 200, "accumulate": 1, "jitter_m": 0.01,
      "net": {"dim": 72, "couplings": 4, "hidden": 32, "dropout": 0.0},
      "optim": {"name": "adam", "learning_rate": 1e-2}, "weights": {"nll": 1.0}})
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config.lock()


@pytest.fixture(scope="module")
def assets():
  return multi_config.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  return multi_config.get_batch(assets, 16)


def test_it_learns_a_batch_without_images_and_finds_it_likely(batch, assets):
  system = system_lib.build(get_config())
  state = system.init(jax.random.key(0), batch, assets)
  step, seen = multi_config.on_devices(system.step, 1), {name: batch[name] for name in SEEN}
  masks = jax.device_get(state.stats["net"])
  state, first = step(state, seen, assets)
  for _ in range(200):
    state, last = step(state, seen, assets)
  assert set(first) == {"loss", "nll", "grad_norm_net"}
  assert last["nll"] < first["nll"] - 40  # nats
  jax.tree.map(np.testing.assert_array_equal, state.stats["net"], masks)
  learned = batch | {"body_pose": batch["real_pose"], "betas": batch["real_betas"]}
  others = learned | {"body_pose": np.swapaxes(batch["real_pose"], -1, -2)}  # turned the other way
  density = jax.jit(lambda state, b: system.predict(state, b, assets).log_prob)
  known, odd = density(state, learned), density(state, others)
  assert known.shape == (16, 1) and np.median(known) > np.median(odd) + 10
  nothing, padding = {"mask": np.zeros(16, np.float32)}, dict(seen)
  assert step(state, padding | nothing, assets)[1]["nll"] == 0
  with pytest.raises(InputError, match="a joint_prior sees no images: name its workdir as config.prior"):
    system.predict(state, {"image": batch["image"]}, assets)


def test_one_and_eight_devices_agree_and_padding_counts_for_nothing(batch, assets):
  system = system_lib.build(get_config(jitter_m=0.0))  # noise differs between devices
  state = system.init(jax.random.key(0), batch, assets)
  seen = {name: batch[name] for name in SEEN} | {"mask": np.float32(np.arange(16) < 11)}
  junk = seen | {"real_betas": np.where(seen["mask"][:, None] > 0, seen["real_betas"], np.float32(3))}
  ends = [multi_config.on_devices(system.step, n)(state, b, assets) for n, b in ((1, seen), (8, junk))]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), *(m for _, m in ends))


@pytest.mark.parametrize("change, said", [
    ({"net.dim": 69}, "config.net.dim is 69: the prior is over 72 numbers"),
    ({"net.couplings": 0}, "config.net.couplings is 0: give 1 or more"),
    ({"net.hidden": 0}, "config.net.hidden is 0: give 1 or more"),
    ({"weights": {"nll": 1.0, "x": 1.0}}, "config.weights must name the loss of joint_prior, nll, and no other")])
def test_odd_configs_are_refused_in_one_line(change, said):
  config = get_config().copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict({k: v for k, v in change.items() if k != "weights"})
    config.weights = change.get("weights", config.weights)
  with pytest.raises(InputError, match=said) as error:
    system_lib.build(config)
  assert "\n" not in str(error.value)


@pytest.mark.long
def test_a_run_leaves_a_prior(tmp_path, monkeypatch):
  """Which is loaded with the density of the run; no image is rendered to train it."""
  config = runs.config_of(config=f"{CONFIG}:smoke")
  state = train.train(config, str(tmp_path / "run"))
  prior = joint_prior.load(str(tmp_path / "run"))
  points = 0.3 * jax.random.normal(jax.random.key(0), (2, 3, 24, 3))
  found = joint_prior.log_prob(prior, points)
  assert found.shape == (2, 3) and np.isfinite(found).all()
  expected = prior.replace(params=jax.tree.map(jnp.asarray, state.params["net"]))
  np.testing.assert_allclose(joint_prior.log_prob(expected, points), found, rtol=1e-6)
