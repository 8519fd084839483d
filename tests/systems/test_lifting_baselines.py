"""The three baselines of lifting learn, count labels, not padding, and their sets of hypotheses are what they say."""

import functools

import jax
from jhmr import lift_baselines, optim
from jhmr.errors import InputError
from jhmr.nn.lift_mlp import Mixture
from jhmr.state import Lifted
from jhmr.systems import lift_mdn, martinez, prohmr_lift
import numpy as np
import pytest
import runs
from scipy import stats as scipy_stats
from systems import hmr_config, lift_baseline_config

SYSTEMS = {"martinez": martinez, "lift_mdn": lift_mdn, "prohmr_lift": prohmr_lift}
BATCH = lift_baseline_config.get_batch()
ASSETS = lift_baseline_config.get_assets(BATCH)
MAIN = {"martinez": "pose3d", "lift_mdn": "nll", "prohmr_lift": "joints_mode"}
KEYS = jax.random.split(jax.random.key(0), len(BATCH["mask"]))


@functools.cache
def started(name, **overrides):
  system = SYSTEMS[name].build(lift_baseline_config.get_config(name, **overrides))
  return system, system.init(jax.random.key(0), BATCH, ASSETS), hmr_config.on_devices(system.step, 1)


@functools.cache
def learned(name):
  """(system, state after 100 steps, metrics of the first and of the last step)."""
  system, state, step = started(name)
  state, first = step(state, BATCH, ASSETS)
  for _ in range(100):
    state, last = step(state, BATCH, ASSETS)
  return system, state, first, last


def errors(found):
  """Mean distance of joints to the label, [B, S] metres."""
  return np.linalg.norm(found.joints - BATCH["pose3d"][:, None], axis=-1).mean(-1)


@pytest.mark.parametrize("name", SYSTEMS)
def test_it_learns_a_batch(name):
  system, state, first, last = learned(name)
  assert set(first) == {"loss", "grad_norm_net", *SYSTEMS[name].TERMS} - {"joints_exp"}
  assert last["loss"] < first["loss"] and last[MAIN[name]] < 0.7 * first[MAIN[name]]
  found = jax.jit(system.predict)(state, BATCH, ASSETS)
  assert isinstance(found, Lifted) and found.joints.shape == (32, 1, 17, 3) and found.log_prob.shape == (32, 1)
  np.testing.assert_array_equal(found.joints[:, :, 0], 0)
  half = np.linalg.norm(BATCH["pose3d"][0::2] - BATCH["pose3d"][1::2], axis=-1).mean() / 2
  if name == "martinez":
    np.testing.assert_array_equal(found.log_prob, 0)
    np.testing.assert_allclose(found.joints[0::2], found.joints[1::2], atol=1e-6)
    assert errors(found).mean() < 1.5 * half  # one pose for two labels is between them at best


@pytest.mark.parametrize("name", ["martinez", *(pytest.param(n, marks=pytest.mark.slow) for n in list(SYSTEMS)[1:])])
def test_two_devices_do_as_one(name):
  _, state, step = started(name)
  hidden = BATCH | {"mask": np.float32(np.arange(32) != 31), "has_pose3d": np.float32(np.arange(32) % 5 < 3)}
  one, metrics = step(state, hidden, ASSETS)
  two, same = hmr_config.on_devices(started(name)[0].step, 2)(state, hidden, ASSETS)
  for key in metrics:
    np.testing.assert_allclose(metrics[key], same[key], rtol=1e-3, atol=1e-4, err_msg=key)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one.stats, two.stats)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_takes_a_missing_joint_for_the_mean(name):
  _, state, step = started(name)
  gone, there = BATCH["pose2d"].copy(), BATCH["pose2d"].copy()
  gone[3, 5], there[3, 5] = np.nan, ASSETS["lift_stats"]["mean2d"][5]
  (one, metrics), (other, same) = (step(state, BATCH | {"pose2d": x}, ASSETS) for x in (gone, there))
  assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm_net"])
  jax.tree.map(np.testing.assert_array_equal, (one.params, metrics), (other.params, same))


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_padding_and_unlabelled_rows_hold_changes_nothing(name):
  """And neither does how many there are: losses are means over rows with a label."""
  _, state, step = started(name)
  mask, known = np.float32(np.arange(32) < 24), np.float32(np.arange(32) < 16)
  hidden = BATCH | {"mask": mask, "has_pose3d": known}
  junk = {name: np.array(BATCH[name]) for name in ("pose2d", "pose3d")}
  junk["pose2d"][24:], junk["pose3d"][16:] = 1e6, np.nan
  (one, metrics), (other, same) = (step(state, b, ASSETS) for b in (hidden, hidden | junk))
  jax.tree.map(np.testing.assert_array_equal, (one.params, metrics), (other.params, same))
  none, metrics = step(state, BATCH | {"has_pose3d": np.zeros(32, np.float32)}, ASSETS)
  assert metrics["loss"] == 0 and metrics["grad_norm_net"] == 0
  # Twice each label of the first half, against the first half alone, whose batch statistics are the same.
  whole = {name: np.concatenate([value[:16], value[:16]]) for name, value in BATCH.items()}
  twice, of_all = step(state, whole, ASSETS)
  _, of_half = step(state, whole | {"mask": np.float32(np.arange(32) < 16)}, ASSETS)
  for key in of_all:
    np.testing.assert_allclose(of_half[key], of_all[key], rtol=1e-3, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", SYSTEMS)
def test_missing_joints_are_finite_all_the_way(name):
  system, state, _, _ = learned(name)
  gone = np.array(BATCH["pose2d"])
  gone[0, 3] = np.nan
  found, whole = (jax.jit(system.predict)(state, BATCH | {"pose2d": p}, ASSETS) for p in (gone, BATCH["pose2d"]))
  assert np.isfinite(found.joints).all()
  np.testing.assert_allclose(found.joints[1:], whole.joints[1:], atol=1e-6)
  assert np.abs(found.joints[0] - whole.joints[0]).max() > 1e-4


# --- Li and Lee


def test_losses_of_a_mixture_are_the_published_values():
  """All means at the label, deviations of 1 and weights of 1/5."""
  target = np.random.default_rng(0).normal(size=(4, 48)).astype(np.float32)
  ones = np.ones((4, 5), np.float32)
  even = Mixture(np.repeat(target[:, None], 5, 1), -np.log(5) * ones, 0 * ones)
  np.testing.assert_allclose(lift_mdn.nll(even, target), 44.109050, rtol=1e-6)
  np.testing.assert_allclose(lift_mdn.prior(even), 8.047190, rtol=1e-6)
  np.testing.assert_allclose(lift_mdn.nll(even, target) + lift_mdn.prior(even), 52.156240, rtol=1e-6)


def mixture(size=2, count=3, dim=4):
  rng = np.random.default_rng(1)
  return Mixture(rng.normal(size=(size, count, dim)).astype(np.float32),
                 np.log(rng.dirichlet(np.ones(count), size)).astype(np.float32),
                 rng.normal(size=(size, count)).astype(np.float32) - 0.5)


def test_densities_are_those_of_the_mixture():
  found, x = mixture(), np.random.default_rng(2).normal(size=(2, 7, 4)).astype(np.float32)
  expected = [[np.log(sum(np.exp(found.log_weights[b, k]) * scipy_stats.multivariate_normal.pdf(
      x[b, s], found.means[b, k], np.exp(2 * found.log_sigma[b, k])) for k in range(3))) for s in range(7)]
              for b in range(2)]
  np.testing.assert_allclose(jax.jit(lift_mdn.density)(found, x), expected, rtol=1e-4)


def test_samples_have_the_mixtures_moments_and_are_their_keys_and_numbers():
  found, keys = mixture(), jax.random.split(jax.random.key(3), 2)
  draw = jax.jit(lift_mdn.samples, static_argnums=(2, 3))
  x = np.asarray(draw(found, keys, 0, 4000))
  weights = np.exp(found.log_weights)[..., None]
  mean = np.sum(weights * found.means, 1)
  var = np.sum(weights * (found.means ** 2 + np.exp(2 * found.log_sigma)[..., None]), 1) - mean ** 2
  np.testing.assert_allclose(x.mean(1), mean, atol=5 * np.sqrt(var.max() / 4000))
  np.testing.assert_allclose(x.var(1), var, rtol=0.15)
  np.testing.assert_allclose(draw(found, keys, 5, 3), x[:, 5:8], atol=1e-6)


def test_sets_of_a_mixture_are_means_in_order_of_weight_then_samples():
  system, state, _, _ = learned("lift_mdn")
  one = jax.jit(system.predict)(state, BATCH, ASSETS)
  choose = jax.jit(system.choose, static_argnums=(4,))
  two, five, other = (choose(state, BATCH, ASSETS, k, n) for k, n in ((KEYS, 2), (KEYS, 5), (KEYS[::-1], 5)))
  np.testing.assert_allclose(two.joints[:, :1], one.joints, atol=1e-6)
  np.testing.assert_allclose(five.joints[:, :2], two.joints, atol=1e-6)
  np.testing.assert_allclose(five.joints[:, :3], other.joints[:, :3], atol=1e-6)  # means know no key
  assert np.abs(five.joints - other.joints)[:, 3:].max() > 1e-3
  np.testing.assert_allclose(five.log_prob[:, :1], one.log_prob, rtol=1e-4)
  ordered = lift_mdn.by_weight(mixture(4, 3))
  assert (np.diff(ordered.log_weights, axis=1) <= 0).all()
  # Two labels share each input: the best of three means is nearer than the likeliest one.
  assert errors(five)[:, :3].min(1).mean() < 0.9 * errors(one).mean()


@pytest.mark.slow
def test_sets_of_samples_begin_with_the_likeliest_mean_alone():
  _, state, _, _ = learned("lift_mdn")
  system = lift_mdn.build(lift_baseline_config.get_config("lift_mdn", sets="samples"))
  found = jax.jit(system.choose, static_argnums=(4,))(state, BATCH, ASSETS, KEYS, 3)
  one = jax.jit(system.predict)(state, BATCH, ASSETS)
  np.testing.assert_allclose(found.joints[:, :1], one.joints, atol=1e-6)
  spread = np.linalg.norm(found.joints[:, 1:] - one.joints, axis=-1).mean()
  assert spread > 1e-3


def test_densities_of_lifted_poses_are_in_metres():
  """Of the same mixture, with deviations twice as large, 48 log 2 nats less."""
  system, state, _, _ = learned("lift_mdn")
  stats = ASSETS["lift_stats"]
  twice = {"lift_stats": stats | {"std3d": 2 * stats["std3d"]}}
  predict = jax.jit(system.predict)
  one, other = (predict(state, BATCH, a).log_prob for a in (ASSETS, twice))
  np.testing.assert_allclose(one - other, 48 * np.log(2), rtol=1e-3)


# --- ProHMR on skeletons


def test_sets_of_the_flow_are_the_mode_then_samples():
  system, state, _, _ = learned("prohmr_lift")
  one = jax.jit(system.predict)(state, BATCH, ASSETS)
  choose = jax.jit(system.choose, static_argnums=(4,))
  few, many = (choose(state, BATCH, ASSETS, KEYS, n) for n in (2, 6))
  np.testing.assert_allclose(few.joints[:, :1], one.joints, atol=1e-5)
  np.testing.assert_allclose(many.joints[:, :2], few.joints, atol=1e-4)
  np.testing.assert_allclose(many.log_prob[:, :2], few.log_prob, rtol=1e-4, atol=1e-3)
  assert (many.log_prob[:, 1:] < many.log_prob[:, :1]).all()  # the mode is the likeliest
  assert np.abs(many.joints[:, 1:] - many.joints[:, :1]).max() > 1e-3
  assert errors(many).min(1).mean() <= errors(one).mean()


def test_the_flow_begins_with_the_statistics_of_labelled_poses():
  system, _, _ = started("prohmr_lift")
  hidden = BATCH | {"has_pose3d": np.float32(np.arange(32) % 2)}
  start = system.init(jax.random.key(0), hidden, ASSETS).params["net"]["flow"]["actnorm_0"]
  x = np.asarray(lift_baselines.outputs(BATCH["pose3d"][1::2], lift_baselines.PROHMR["lift16"]))
  np.testing.assert_allclose(np.exp(-start["log_scale"]), x.std(0, ddof=1), rtol=1e-3)
  np.testing.assert_allclose(start["shift"], -(x / x.std(0, ddof=1)).mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_samples_noise_and_hidden_joints_take_part_where_asked():
  _, state, step = started("prohmr_lift", train_samples=2, noise_m=0.05, missing=2, inputs="lift17",
                           weights__joints_exp=0.1, net__dropout=0.1)
  state, first = step(state, BATCH, ASSETS)
  for _ in range(60):
    state, last = step(state, BATCH, ASSETS)
  assert last["loss"] < first["loss"] and last["joints_exp"] < first["joints_exp"]


# --- configs


@functools.cache
def configs():
  scope, path = {}, runs.ROOT / "configs" / "lifting_baselines.py"
  exec(compile(path.read_text(), path, "exec"), scope)  # pylint: disable=exec-used
  return scope


@pytest.mark.parametrize("mode", ["martinez", "mdn", "prohmr,released", pytest.param("prohmr", marks=pytest.mark.slow)])
def test_configs_build_networks_of_the_authors_sizes(mode):
  config = optim.resolve(configs()["get_config"](mode), 0)
  state = jax.eval_shape(SYSTEMS[config.system].build(config).init, jax.random.key(0), BATCH, ASSETS)
  flow, columns = 21_231_264, 1024
  expected = {"martinez": 4_291_632, "mdn": 4_498_682, "prohmr": flow + 4_244_480 - 2 * columns,
              "prohmr,released": flow + 4_244_480}
  assert sum(x.size for x in jax.tree.leaves(state.params)) == expected[mode]


@pytest.mark.parametrize("mode", ["sample", "martinez,mdn", "mdn,released"])
def test_modes_that_do_not_exist_are_refused(mode):
  with pytest.raises(ValueError, match="no mode"):
    configs()["get_config"](mode)


# --- refusals


@pytest.mark.parametrize("name,overrides,message", [
    ("martinez", {"net__hidden": 0}, "config.net.hidden is 0"),
    ("martinez", {"net__batch_norm": "group"}, "config.net.batch_norm is 'group'"),
    ("martinez", {"net__dropout": 1.5}, "config.net.dropout is 1.5: give a share below 1"),
    ("martinez", {"missing": 9}, "config.missing is 9: at most the 8"),
    ("lift_mdn", {"components": 0}, "config.components is 0"),
    ("lift_mdn", {"sets": "modes"}, "config.sets is 'modes': use one of means, samples"),
    ("lift_mdn", {"weights__prior": -1.0}, "config.weights.prior is -1.0"),
    ("prohmr_lift", {"inputs": "coco17"}, "config.inputs is 'coco17'"),
    ("prohmr_lift", {"net__flow__depth": 0}, "config.net.flow.depth is 0"),
    ("prohmr_lift", {"net__flow__dropout": 2.0}, "config.net.flow.dropout is 2.0: give a share below 1"),
    ("prohmr_lift", {"noise_m": -1.0}, "config.noise_m is -1.0: give metres"),
    ("prohmr_lift", {"train_samples": 0}, "config.train_samples is 0"),
    ("prohmr_lift", {"weights__joints_exp": 0.1}, "config.weights.joints_exp needs random samples")])
def test_what_does_not_exist_is_refused(name, overrides, message):
  with pytest.raises(InputError, match=message):
    SYSTEMS[name].build(lift_baseline_config.get_config(name, **overrides))


def test_a_weight_without_a_loss_is_refused():
  config = lift_baseline_config.get_config("martinez").copy_and_resolve_references()
  config.weights = {"pose2d": 1.0}
  with pytest.raises(InputError, match="config.weights must name each loss of martinez"):
    martinez.build(config)
