"""Lifting by an invertible network: both ways learn in one update, the critic before it, on any number of devices."""

import functools

import jax
import jax.numpy as jnp
from jhmr import lifting
from jhmr import losses
from jhmr.data import lift_spec
from jhmr.errors import InputError
from jhmr.nn.pose_critic import PoseCritic
from jhmr.state import AXIS
from jhmr.systems import cinn_lifting
import numpy as np
import pytest

from systems import cinn_config, hmr_config

ROWS = 20


@functools.cache
def made(**overrides):
  """(System, its state)."""
  system = cinn_lifting.build(cinn_config.get_config(**overrides))
  return system, system.init(jax.random.key(0), lift_spec.fake_batch(2), {})


@functools.cache
def mapped(devices, **overrides):
  return hmr_config.on_devices(made(**overrides)[0].step, devices)


def people(size=ROWS, seed=0):
  """Noise of the size of people."""
  batch = lift_spec.fake_batch(size, seed)
  return batch | {"pose3d": 0.3 * batch["pose3d"]}


def rows_of(batch):
  """The Rows of a batch, as a step sees them."""
  key = jax.random.key(7)
  return jax.jit(jax.vmap(cinn_lifting.rows_of, (0, None), axis_name=AXIS))(jax.tree.map(lambda a: a[None], batch), key)


def test_it_learns_a_batch_both_ways():
  """Without a critic, whose opinion changes."""
  off = {"critic_steps": 0, "batch_size": 4, "weights__generator": 0.0, "weights__covariance": 0.0,
         "optim__learning_rate": 1e-2}
  state, batch, step = made(**off)[1], people(4), mapped(1, **off)
  state, first = step(state, batch, {})
  for _ in range(200):
    state, last = step(state, batch, {})
  assert set(first) == {"loss", "grad_norm_net", *cinn_lifting.TERMS} - {"generator"}
  for name in ("keypoints2d", "deterministic", "best"):
    assert last[name] < first[name] / 3, (name, first[name], last[name])


@pytest.mark.slow
def test_gradients_are_those_of_both_ways_summed():
  """As the authors have it: one backward pass for each way and one for the critic's word, added up."""
  config, state = cinn_config.get_config(), made()[1]
  net, critic = cinn_lifting.network(config.net), PoseCritic(cinn_lifting.BONES, 8, 8)
  rows = jax.tree.map(lambda a: a[0], rows_of(people(8)))
  draws, weights = cinn_lifting.draw(rows.key, 6), dict(config.weights)
  score = lambda x: critic.apply({"params": state.params["critic"]}, x)
  alone = lambda f: jax.vmap(f, axis_name=AXIS, axis_size=1, in_axes=None, out_axes=0)
  weigh = lambda terms: sum(weights[n] * t for n, t in terms.items())

  def whole(params, rows):
    terms = cinn_lifting.terms_of(net, params, rows, draws, score, 2, "paper")
    return losses.weigh(weights, terms)

  def forward(params, rows):
    projected = net.apply({"params": params}, rows.condition, method="project")
    found, _ = net.apply({"params": params}, rows.x[:, None], projected, method="forward")
    return weigh(cinn_lifting.forward_terms(found[:, 0], rows, draws.wanted, "paper")), found[:, :, :16]

  def back(params, rows, own, kept):
    projected = net.apply({"params": params}, rows.condition, method="project")
    x, _ = cinn_lifting.lifted(net, params, jnp.concatenate([own, draws.fake, draws.many], 1), rows.y, projected)
    terms = cinn_lifting.back_terms(x, rows, score, 2)
    return weigh({n: terms[n] for n in kept})

  @jax.jit
  def both(params, rows):
    one = alone(jax.grad(whole))(params, rows)
    ahead, own = alone(jax.grad(forward, has_aux=True))(params, rows)
    parts = [ahead] + [alone(jax.grad(back))(params, rows, own[0], kept)
                       for kept in (("deterministic", "covariance", "best"), ("generator",))]
    return one, jax.tree.map(lambda *g: sum(g), *parts)

  one, parts = both(state.params["net"], rows)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max() + 1e-7), one, parts)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(one))


@pytest.mark.parametrize("rows", (1, 12, 13, 1000))
def test_a_few_images_at_a_time_are_all_of_them(rows):
  config, params = cinn_config.get_config(), made()[1].params["net"]
  net, batch = cinn_lifting.network(config.net), people(5)
  projected = net.apply({"params": params}, lifting.condition(batch["gaussians"]), method="project")
  given = net, params, jax.random.normal(jax.random.key(1), (5, 6, cinn_lifting.DIM_Z)), lifting.normalise2d(
      batch["pose2d"]), projected
  few, log_det = jax.jit(lambda *a: cinn_lifting.lifted_many(net, *a, rows))(*given[1:])
  want, want_log_det = cinn_lifting.lifted(*given)
  np.testing.assert_allclose(few, want, atol=1e-5)
  np.testing.assert_allclose(log_det, want_log_det, atol=1e-4)


def partly_labelled():
  """(A batch with padding and without all labels, the same with junk where nothing counts)."""
  batch = people() | {"mask": np.float32(np.arange(ROWS) != 7), "has_pose3d": np.float32(np.arange(ROWS) % 4 != 1)}
  junk = {name: array.copy() for name, array in batch.items()}
  for name in ("pose2d", "gaussians", "pose3d"):
    junk[name][7] = np.nan
  junk["pose3d"][batch["has_pose3d"] == 0] = np.inf
  return batch, junk


def test_padding_counts_for_nothing_and_the_critic_has_its_own_steps():
  (state, metrics), (other, again) = (mapped(1)(made()[1], batch, {}) for batch in partly_labelled())
  assert set(metrics) == {"loss", "critic", "grad_norm_net", "grad_norm_critic", *cinn_lifting.TERMS}
  assert np.isfinite(list(metrics.values())).all() and metrics == again
  jax.tree.map(np.testing.assert_array_equal, state.params, other.params)
  updates = {name: {int(x) for x in jax.tree.leaves(tree) if x.dtype == jnp.int32}
             for name, tree in state.opt_state.items()}
  assert updates == {"net": {1}, "critic": {2}} and int(state.step) == 1


@pytest.mark.slow
def test_one_and_two_devices_agree():
  batch = partly_labelled()[0]
  (state, metrics), (other, again) = (mapped(n)(made()[1], batch, {}) for n in (1, 2))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), metrics, again)
  # Adam's first updates are signs of gradients: rounding may turn those that are nearly zero.
  params, others = (jax.tree.leaves(jax.device_get(s.params)) for s in (state, other))
  assert np.mean(np.concatenate([np.abs(a - b).ravel() for a, b in zip(params, others)]) > 1e-5) < 0.01


def test_parts_are_the_same_examples_on_any_number_of_devices():
  rows = lambda low, high: cinn_lifting.Rows(*[np.arange(low, high)] * len(cinn_lifting.Rows._fields))
  whole, *halves = (cinn_lifting.apart(rows(*ends), 5).x for ends in ((0, 20), (0, 10), (10, 20)))
  np.testing.assert_array_equal(whole, np.concatenate(halves, 1))
  np.testing.assert_array_equal(whole[3], np.arange(20)[3::5])
  with pytest.raises(InputError, match="a device's 20 examples do not divide into 3 parts"):
    cinn_lifting.apart(rows(0, 20), 3)


def test_gradients_are_clamped_but_for_the_condition():
  grads = {"coupling_0": {"kernel": np.float32([20, -3, -99])}, "condition": {"kernel": np.float32([20, -3])}}
  found = cinn_lifting.clamped(grads, 15.0)
  np.testing.assert_array_equal(found["coupling_0"]["kernel"], [15, -3, -15])
  np.testing.assert_array_equal(found["condition"]["kernel"], [20, -3])
  np.testing.assert_array_equal(cinn_lifting.clamped(grads, 0.0)["coupling_0"]["kernel"], [20, -3, -99])


def test_hypotheses_vary_in_the_plane_of_the_picture_y_up():
  pose = people(3)["pose3d"]
  found = cinn_lifting.varied(lifting.normalise3d(pose)[:, None])[:, 0]
  hips = pose[:, [1, 4]].mean(1, keepdims=True)
  np.testing.assert_allclose(found, (pose - hips)[:, 1:, :2] * [1, -1], atol=1e-5)


def test_the_best_guess_comes_first_and_a_set_does_not_depend_on_its_size():
  (system, state), batch = made(), people(2)
  keys = jax.random.split(jax.random.key(3), 2)
  guess = jax.jit(system.predict)(state, batch, {})
  assert guess.joints.shape == (2, 1, 17, 3) and guess.log_prob.shape == (2, 1)
  np.testing.assert_array_equal(guess.joints[:, :, 0], 0)
  choose = jax.jit(system.choose, static_argnums=4)
  many = choose(state, batch, {}, keys, 5)
  np.testing.assert_allclose(many.joints[:, :1], guess.joints, atol=1e-5)
  np.testing.assert_allclose(choose(state, batch, {}, keys, 2).joints, many.joints[:, :2], atol=1e-5)
  assert np.abs(np.diff(many.joints, axis=1)).max((2, 3)).min() > 1e-3
  samples = jax.jit(made(mode_first=False)[0].choose, static_argnums=4)(state, batch, {}, keys, 4)
  np.testing.assert_allclose(samples.joints, many.joints[:, 1:], atol=1e-5)
  np.testing.assert_allclose(samples.log_prob, many.log_prob[:, 1:], atol=1e-3)


def traced(**overrides):
  """(State, names of metrics) of a step that is not run."""
  system, batch = cinn_lifting.build(cinn_config.get_config(**overrides)), people()
  state = jax.eval_shape(lambda: system.init(jax.random.key(0), batch, {}))
  step = jax.vmap(system.step, (None, 0, None), axis_name=AXIS)
  return state, set(jax.eval_shape(step, state, jax.tree.map(lambda a: a[None], batch), {})[1])


@pytest.mark.parametrize("change", cinn_config.ABLATIONS.values(), ids=cinn_config.ABLATIONS)
def test_every_ablation_leaves_out_what_it_says(change):
  state, metrics = traced(**change)
  of_critic = {"critic", "grad_norm_critic", "generator"} if change.get("critic_steps", 2) else set()
  # While one of the two is there, so are the hypotheses that both are of.
  assert metrics == {"loss", "grad_norm_net", *cinn_lifting.TERMS} - {"generator"} | of_critic
  assert ("condition" in state.params["net"]) == change.get("net.condition", True)
  assert ("critic" in state.params) == bool(of_critic)


def test_what_no_loss_needs_is_not_made():
  state, metrics = traced(**{"weights.covariance": 0.0, "weights.best": 0.0, "weights.generator": 0.0,
                             "critic_steps": 0, "net.condition": False})
  assert metrics == {"loss", "keypoints2d", "mmd", "deterministic", "grad_norm_net"}
  assert set(state.params) == {"net"} and "condition" not in state.params["net"]


@pytest.mark.parametrize("change, said", [
    ({"mmd": "mean"}, "config.mmd is 'mean': use one of paper, code"),
    ({"net.hidden": 0}, "config.net.hidden is 0: give 1 or more"),
    ({"net.features": -3}, "config.net.features is -3: give 1 or more"),
    ({"critic.chain_hidden": 0}, "config.critic.chain_hidden is 0: give 1 or more"),
    ({"critic.penalty": -1.0}, "config.critic.penalty is -1.0: give 0 or more"),
    ({"net.clamp": 0.0}, "config.net.clamp is 0.0: give a bound of the scales above 0"),
    ({"net.dtype": "floaty"}, "config.net.dtype is 'floaty': use one of float32, bfloat16"),
    ({"weights.generator": 0.0}, "config.weights.generator is 0.0 and config.critic_steps 2: both are 0, or none is"),
    ({"critic_steps": 0}, "config.weights.generator is 1.0 and config.critic_steps 0: both are 0, or none is"),
    ({"hypotheses": 1}, "config.hypotheses is 1: give 2 or more"),
    ({"top_k": 7}, "config.top_k is 7 of 6 config.hypotheses"),
    ({"clip": -1.0}, "config.clip is -1.0: give a bound above 0, or 0 for none"),
    ({"batch_size": 21}, "config.batch_size is 21: give a multiple of 5"),
    ({"weights": {"mmd": 1.0}}, "config.weights must name each loss of cinn_lifting")])
def test_odd_configs_are_refused_in_one_line(change, said):
  config = cinn_config.get_config().copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict({k: v for k, v in change.items() if k != "weights"})
    config.weights = change.get("weights", config.weights)
  with pytest.raises(InputError, match=said) as error:
    cinn_lifting.build(config)
  assert "\n" not in str(error.value)


def test_bones_are_the_authors():
  assert cinn_lifting.BONES == ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (7, 10), (10, 11), (11, 12),
                                (7, 13), (13, 14), (14, 15), (0, 3), (0, 6), (3, 6))
