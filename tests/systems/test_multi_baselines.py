"""SMPL-MDN and SMPL-CVAE: their equations by hand, label masks, sets of hypotheses, and what they are refused for."""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr import losses
from jhmr.body import rotations
from jhmr.errors import InputError
from jhmr.nn import regressor
from jhmr.systems import smpl_cvae, smpl_mdn
import numpy as np
import pytest
from scipy import stats
from systems import multi_config

M = multi_config.HYPOTHESES


class Colours(nn.Module):
  """In place of a backbone: the mean colour of an image, so that a step compiles in no time."""

  @nn.compact
  def __call__(self, image, train):
    seen = self.variable("batch_stats", "mean", lambda: jnp.zeros(3))
    colours = jnp.mean(image, (1, 2))
    if train:
      seen.value = 0.9 * seen.value + 0.1 * jnp.mean(colours, 0)
    return nn.Dense(8)(colours)


@pytest.fixture(scope="module")
def assets():
  return multi_config.get_assets()


@pytest.fixture(scope="module")
def batch(assets):
  return multi_config.get_batch(assets)


@pytest.fixture(scope="module", autouse=True)
def no_backbone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(regressor, "ResNet", lambda *args, name=None: Colours(name=name))
    yield


def started(module, batch, assets, **overrides):
  config = multi_config.get_config(module.__name__.rsplit(".", 1)[-1], **overrides)
  system = module.build(config)
  return system, system.init(jax.random.key(0), batch, assets), multi_config.on_devices(system.step, 1)


@pytest.fixture(scope="module")
def mdn(batch, assets):
  return started(smpl_mdn, batch, assets, optim__learning_rate=1e-2)


@pytest.fixture(scope="module")
def auto(batch, assets):
  return started(smpl_cvae, batch, assets, optim__learning_rate=1e-2)


# --- SMPL-MDN


def mixture(seed=0, size=6):
  """(target [3, D], means [3, M, D], log_weights [3, M], log_variance [3, M])."""
  rng = np.random.default_rng(seed)
  log_weights = np.log(rng.dirichlet(np.ones(M), 3))
  return rng.normal(size=(3, size)), rng.normal(size=(3, M, size)), log_weights, rng.normal(size=(3, M)) - 1


def test_equation_9_by_hand():
  target, means, log_weights, log_variance = mixture()
  found = losses.mixture_log_likelihoods(target, means, log_weights, log_variance)
  each = np.array([[np.exp(log_weights[b, m]) * stats.multivariate_normal.pdf(
      target[b], means[b, m], np.exp(log_variance[b, m])) for m in range(M)] for b in range(3)])
  np.testing.assert_allclose(found, np.log(each), rtol=1e-4)
  expected = np.einsum("bm,bmd->bd", each / each.sum(1, keepdims=True), means)
  np.testing.assert_allclose(smpl_mdn.virtual(found, means), expected, rtol=1e-4, atol=1e-5)


def test_without_variance_the_nearest_mean_stands_in_and_all_alike_their_average():
  target, means, _, _ = mixture()
  even = np.full((3, M), -np.log(M))
  nearest = np.argmin(np.sum((target[:, None] - means) ** 2, -1), 1)
  sharp = losses.mixture_log_likelihoods(target, means, even, np.full((3, M), np.log(1e-4)))
  np.testing.assert_allclose(smpl_mdn.virtual(sharp, means), means[np.arange(3), nearest], atol=1e-4)
  flat = losses.mixture_log_likelihoods(target, means, even, np.full((3, M), np.log(1e6)))
  np.testing.assert_allclose(smpl_mdn.virtual(flat, means), means.mean(1), atol=1e-4)


def test_gradients_stay_finite_where_every_mean_is_far():
  target, means, log_weights, _ = mixture()

  def value(x):
    each = losses.mixture_log_likelihoods(target, x, log_weights, np.log(1e-3))
    return jnp.sum(jax.nn.logsumexp(each, -1)) + jnp.sum(smpl_mdn.virtual(each, x))

  grad = jax.jit(jax.grad(value))(jnp.asarray(100 * means, jnp.float32))
  assert np.isfinite(grad).all() and np.any(grad != 0)


@pytest.mark.slow
def test_the_mixture_learns_a_batch_and_its_labels_may_be_missing(mdn, batch, assets):
  _, state, step = mdn
  hidden = multi_config.hide_labels(batch)
  junk = dict(hidden)
  for name, flag in (("body_pose", "has_pose"), ("betas", "has_betas")):
    gone = hidden[flag].reshape(-1, *[1] * (hidden[name].ndim - 1)) == 0
    other = rotations.rotation_about("x", 2.0) if name == "body_pose" else 7.0
    junk[name] = np.where(gone, np.asarray(other, np.float32), hidden[name])
  jax.tree.map(np.testing.assert_array_equal, *(step(state, b, assets)[0].params for b in (hidden, junk)))
  unlabelled = batch | {"has_pose": np.zeros(8, np.float32)}
  assert step(state, unlabelled, assets)[1]["nll"] == 0
  state, first = step(state, batch, assets)
  for _ in range(60):
    state, last = step(state, batch, assets)
  for name in ("loss", "pose", "nll"):
    assert last[name] < first[name], name
  assert set(first) == {"loss", "grad_norm_net", *smpl_mdn.TERMS} - {"vertices"}


def test_sets_of_the_mixture_are_different_means_at_random(mdn, batch, assets):
  system, state, _ = mdn
  both = jax.jit(lambda s, b, a, k: (system.predict(s, b, a), system.choose(s, b, a, k, 3)))
  found, few = both(state, batch, assets, jax.random.split(jax.random.key(0), 8))
  _, other = both(state, batch, assets, jax.random.split(jax.random.key(1), 8))
  assert found.body_pose.shape == (8, M, 23, 3, 3) and few.body_pose.shape == (8, 3, 23, 3, 3)
  np.testing.assert_array_equal(found.betas, np.repeat(found.betas[:, :1], M, 1))  # one shape, root and camera
  np.testing.assert_array_equal(found.global_orient, np.repeat(found.global_orient[:, :1], M, 1))
  for b in range(8):
    same = lambda pose: np.flatnonzero(np.abs(np.asarray(found.body_pose[b] - pose)).max((1, 2, 3)) < 1e-6)
    ids = [int(same(pose)[0]) for pose in few.body_pose[b]]
    assert len(set(ids)) == 3
  assert np.any(few.body_pose != other.body_pose)
  np.testing.assert_array_equal(found.log_prob, 0)
  with pytest.raises(InputError, match="6 hypotheses asked for, but the mixture has 5: ask for 5 or fewer"):
    jax.eval_shape(lambda *args: system.choose(*args, M + 1), state, batch, assets, jax.random.split(
        jax.random.key(0), 8))


@pytest.mark.slow
@pytest.mark.parametrize("learn", smpl_mdn.LEARN[1:])
def test_weights_and_variances_learn_where_asked(learn, batch, assets):
  _, state, step = started(smpl_mdn, batch, assets, mixture__learn=learn, optim__learning_rate=1e-2)
  state, first = step(state, batch, assets)
  for _ in range(30):
    state, last = step(state, batch, assets)
  assert last["nll"] < first["nll"] and all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


# --- SMPL-CVAE


def encoder(state, mean, std):
  """The state with an encoder that says the same of every body."""
  net = jax.tree.map(jnp.asarray, dict(state.params["net"]))
  for name, value in (("enc_mean", mean), ("enc_std", np.log(np.expm1(std)))):
    net[name] = {"kernel": jnp.zeros_like(net[name]["kernel"]), "bias": jnp.full_like(net[name]["bias"], value)}
  return state.replace(params={"net": net})


def test_the_divergence_is_that_of_labelled_bodies(auto, batch, assets):
  _, state, step = auto
  for mean, std in ((0.0, 1.0), (0.5, 0.3)):
    expected = 4 * 0.5 * (mean ** 2 + std ** 2 - 1 - 2 * np.log(std))
    np.testing.assert_allclose(losses.kl_divergence(jnp.full(4, mean), jnp.full(4, std)), expected, atol=1e-6)
    told = step(encoder(state, mean, std), batch, assets)[1]
    np.testing.assert_allclose(told["kl"], expected, atol=1e-5)
    half = batch | {"has_betas": np.float32(np.arange(8) % 2)}
    np.testing.assert_allclose(step(encoder(state, mean, std), half, assets)[1]["kl"], expected, atol=1e-5)
  assert step(state, batch | {"has_pose": np.zeros(8, np.float32)}, assets)[1]["kl"] == 0


def test_the_encoder_never_sees_bodies_without_a_label(auto, batch, assets):
  _, state, step = auto
  hidden = batch | {"has_betas": np.float32(np.arange(8) % 2), "betas": np.array(batch["betas"])}
  junk = hidden | {"betas": np.where(hidden["has_betas"][:, None] > 0, hidden["betas"], np.float32(3))}
  jax.tree.map(np.testing.assert_array_equal, *(step(state, b, assets)[0].params for b in (hidden, junk)))


def test_the_autoencoder_learns_a_batch(auto, batch, assets):
  _, state, step = auto
  state, first = step(state, batch, assets)
  for _ in range(100):
    state, last = step(state, batch, assets)
  for name in ("loss", "pose", "keypoints3d"):
    assert last[name] < 0.7 * first[name], name
  assert set(first) == {"loss", "grad_norm_net", *smpl_cvae.TERMS} - {"vertices"}


def test_sets_begin_with_the_middle_of_the_latents_and_follow_their_keys(auto, batch, assets):
  system, state, _ = auto
  both = jax.jit(lambda s, b, a, k: (system.predict(s, b, a), system.choose(s, b, a, k, 3)))
  keys = jax.random.split(jax.random.key(0), 8)
  found, few = both(state, batch, assets, keys)
  assert found.betas.shape == (8, 1, 10) and few.body_pose.shape == (8, 3, 23, 3, 3)
  np.testing.assert_allclose(few.body_pose[:, :1], found.body_pose, atol=1e-5)
  assert np.ptp(few.body_pose, axis=1).max() > 1e-4
  _, again = both(state, batch, assets, keys)
  np.testing.assert_array_equal(again.body_pose, few.body_pose)
  _, other = both(state, batch, assets, jax.random.split(jax.random.key(1), 8))
  assert np.all(np.any(other.body_pose[:, 1:] != few.body_pose[:, 1:], (1, 2, 3, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("module", [smpl_mdn, smpl_cvae])
def test_one_and_eight_devices_agree_but_for_noise(module, batch, assets):
  system, state, one = started(module, batch, assets)
  if module is smpl_cvae:  # noise differs between devices
    state = encoder(state, 0.3, 1e-6)
  hidden = multi_config.hide_labels(batch) | {k: np.ones(8, np.float32) for k in ("has_pose", "has_betas")}
  told = [step(state, hidden, assets)[1] for step in (one, multi_config.on_devices(system.step, 8))]
  for name in told[0]:
    np.testing.assert_allclose(told[0][name], told[1][name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("module, change, said", [
    (smpl_mdn, {"mixture.learn": "x"}, "config.mixture.learn is 'x': use one of"),
    (smpl_mdn, {"mixture.components": 0}, "config.mixture.components must be 1 or more"),
    (smpl_mdn, {"mixture.variance": 0.0}, "config.mixture.variance above 0"),
    (smpl_mdn, {"supervision": "x"}, "config.supervision is 'x'"),
    (smpl_cvae, {"net.latent": 0}, "config.net.latent is 0: give 1 or more"),
    (smpl_cvae, {"net.encoder_hidden": 0}, "config.net.encoder_hidden is 0: give 1 or more"),
    (smpl_cvae, {"net.dtype": "x"}, "config.net.dtype is 'x'")])
def test_odd_configs_are_refused_in_one_line(module, change, said):
  with pytest.raises(InputError, match=said) as error:
    module.build(multi_config.get_config(module.__name__.rsplit(".", 1)[-1], **change))
  assert "\n" not in str(error.value)
