"""The pose VAE: its losses by hand, and that it learns poses without looking at an image."""

import jax
import jax.numpy as jnp
from jhmr import losses
from jhmr import metrics
from jhmr.body import rotations
from jhmr.errors import InputError
from jhmr.nn import pose_vae as net_vae
from jhmr.systems import pose_vae
import ml_collections
import numpy as np
import pytest
from systems import hmr_config


def get_config(**overrides):
  config = ml_collections.ConfigDict({
      "system": "pose_vae", "seed": 0, "num_steps": 300, "jitter_rad": 0.0, "accumulate": 1,
      "net": {"version": 2, "hidden": 64, "latent": 8, "dropout": 0.0},
      "optim": {"name": "adam", "learning_rate": 3e-3},
      "weights": {"kl": 1e-5, "rotations": 2.0, "joints": 2.0, "vertices": 4.0}})
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config.lock()


@pytest.fixture(scope="module")
def assets():
  return hmr_config.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  return hmr_config.get_batch(assets, batch_size=16)


def seen(batch):
  """What a training step may look at."""
  return {name: batch[name] for name in ("real_pose", "mask")}


def first(config, batch, assets):
  system = pose_vae.build(config)
  return system, system.init(jax.random.key(0), batch, assets)


def test_the_divergence_by_hand():
  assert float(losses.kl_divergence(jnp.zeros(32), jnp.ones(32))) == 0
  assert float(losses.kl_divergence(jnp.array([1.0, 2.0]), jnp.ones(2))) == pytest.approx(2.5)
  assert float(losses.kl_divergence(jnp.zeros(1), jnp.array([2.0]))) == pytest.approx(1.5 - np.log(2))
  assert np.isfinite(jax.grad(lambda s: losses.kl_divergence(jnp.zeros(1), s))(jnp.zeros(1))).all()
  # The mean of log q - log p over samples of q.
  rng, mean, std = np.random.default_rng(0), np.array([0.5, -1.0]), np.array([0.3, 1.5])
  x = mean + std * rng.normal(size=(200_000, 2))
  log = lambda x, m, s: np.sum(-0.5 * ((x - m) / s) ** 2 - np.log(s), -1)
  sampled = np.mean(log(x, mean, std) - log(x, 0 * mean, 1 + 0 * std))
  assert float(losses.kl_divergence(jnp.asarray(mean), jnp.asarray(std))) == pytest.approx(sampled, rel=0.01)


def test_a_perfect_reconstruction_costs_nothing_and_a_turned_elbow_its_angle(assets, batch):
  pose = jnp.asarray(batch["real_pose"])
  weights = {"kl": 1, "rotations": 1, "joints": 1, "vertices": 1}
  at = jax.jit(lambda made: pose_vae.terms_of(rotations.matrix_to_six_d(made[:, :21], "spin"), jnp.zeros((16, 8)),
                                              jnp.ones((16, 8)), pose, assets, weights))
  for name, value in at(pose).items():
    np.testing.assert_allclose(value, 0, atol=1e-3 if name == "rotations" else 1e-5, err_msg=name)
  found = at(pose.at[:, 17].set(pose[:, 17] @ rotations.rotation_about("y", 0.6)))
  np.testing.assert_allclose(found["rotations"], 0.6 / 21, atol=1e-3)
  assert np.all(found["joints"] > 1e-4) and np.all(found["vertices"] > 0)


def test_terms_of_weight_zero_are_left_out(assets, batch):
  weights = {"kl": 1, "rotations": 0, "joints": 0, "vertices": 0}
  found = pose_vae.terms_of(jnp.ones((16, 21, 6)), jnp.zeros((16, 8)), jnp.ones((16, 8)),
                            jnp.asarray(batch["real_pose"]), assets, weights)
  assert list(found) == ["kl"]


def test_it_learns_a_batch_without_images(assets, batch):
  """The loss falls tenfold, and poses come back through the latents of their labels."""
  config = get_config()
  system, state = first(config, batch, assets)
  step, start = hmr_config.on_devices(system.step, 1), None
  for _ in range(300):
    state, found = step(state, seen(batch), assets)
    start = float(found["loss"]) if start is None else start
  assert float(found["loss"]) < 0.1 * start
  assert set(found) == {"loss", "kl", "rotations", "joints", "vertices", "grad_norm_net"} and int(state.step) == 300
  labelled = batch | {"body_pose": batch["real_pose"]}
  measure = jax.jit(lambda state, b: (system.predict(state, b, assets), metrics.per_example(
      system.predict(state, b, assets), b, assets)))
  prediction, errors = measure(state, labelled)
  assert prediction.body_pose.shape == (16, 1, 23, 3, 3) and prediction.log_prob.shape == (16, 1)
  np.testing.assert_array_equal(prediction.global_orient[:, 0], batch["global_orient"])
  np.testing.assert_array_equal(prediction.betas[:, 0], batch["betas"])
  assert np.median(pose_vae.turned(prediction.body_pose[:, 0, :21], labelled["body_pose"][:, :21])) < 0.2
  assert np.all(np.isfinite(errors["mpjpe_mm"]))


@pytest.fixture(scope="module")
def alone(assets, batch):
  """One step on one device, without noise: (system's config, start, result)."""
  system, state = first(get_config(), batch, assets)
  # The noise differs between devices; a deviation of almost nothing leaves it out.
  state.params["net"]["enc_std"]["bias"] = state.params["net"]["enc_std"]["bias"] - 40.0
  return state, hmr_config.on_devices(system.step, 1)(state, seen(batch), assets)


def test_devices_share_a_batch(assets, batch, alone):
  state, (want, told) = alone
  got, said = hmr_config.on_devices(pose_vae.build(get_config()).step, 4)(state, seen(batch), assets)
  for name in ("rotations", "joints", "vertices"):
    assert float(said[name]) == pytest.approx(float(told[name]), rel=1e-4)
  for a, b in zip(jax.tree.leaves(got.stats), jax.tree.leaves(want.stats)):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_padding_counts_for_nothing(assets, batch, alone):
  state, (_, told) = alone
  mask = np.ones(16, np.float32)
  mask[8:] = 0
  step = hmr_config.on_devices(pose_vae.build(get_config()).step, 1)
  _, half = step(state, seen(batch) | {"mask": mask}, assets)
  _, none = step(state, seen(batch) | {"mask": 0 * mask}, assets)
  assert float(half["joints"]) != pytest.approx(float(told["joints"]), rel=1e-6)
  assert float(none["loss"]) == 0 and float(none["grad_norm_net"]) == 0


def test_both_releases_have_the_layers_of_theirs():
  shapes = {}
  for version in (1, 2):
    net = net_vae.PoseVae(version=version)
    made = jax.eval_shape(lambda net=net: net.init(jax.random.key(0), jnp.zeros((1, 63)), jnp.zeros((1, 32))))
    shapes[version] = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(made["params"]))
  assert shapes[2] - shapes[1] == 512 * 512 + 512
  assert shapes[2] == 936_252


def test_odd_configs_are_refused(batch, assets):
  with pytest.raises(InputError, match="version is 3"):
    pose_vae.build(get_config(net__version=3))
  config = get_config().copy_and_resolve_references()
  with config.unlocked():
    config.weights.extra = 1.0
  with pytest.raises(InputError, match="look at extra"):
    pose_vae.build(config)
  system, state = first(get_config(), batch, assets)
  with pytest.raises(InputError, match="sees no images"):
    system.predict(state, {"image": batch["image"]}, assets)
