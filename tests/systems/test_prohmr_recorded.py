"""The whole ProHMR at its full size against numbers recorded from the authors' code, both with the same weights.

    PYTHONPATH=.:tests python tests/systems/goldens/record_prohmr.py ProHMR nflows tests/systems/goldens/prohmr.npz

The training step is the real one; only what it draws is given, and no unit is dropped. Its gradients are read from
Adam's first moment. In float32 the gradient of a network with ReLUs is known no better than the ReLUs that are within
rounding of zero allow, each of which turns on or off with the order of a sum: the authors' own gradient of the encoder
is 6e-3 of its norm away from what their code gives in float64. So the norm of all of it is compared, to 1e-4, and each
array in float64, to 1e-6.
"""

import pathlib

import jax
import jax.numpy as jnp
from jhmr import optim
from jhmr.systems import prohmr
import numpy as np
import optax
import pytest
from systems import hmr_config, prohmr_full
from systems import prohmr_inputs as inputs

TERMS = {"loss": ("loss", 1), "nll": ("loss_nll", 1), "betas": ("loss_betas_mode", 1), "adversarial": ("loss_gen", 1),
         "keypoints2d_mode": ("loss_keypoints_2d_mode", 1), "keypoints2d_exp": ("loss_keypoints_2d_exp", 1),
         "keypoints3d_mode": ("loss_keypoints_3d_mode", 1), "global_orient_mode": ("loss_global_orient_mode", 1),
         "body_pose_mode": ("loss_body_pose_mode", 1), "critic": ("loss_disc", 0.0005)}


@pytest.fixture(scope="module")
def recorded():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "prohmr.npz") as f:
    return dict(f)


@pytest.fixture(scope="module")
def ours(recorded):
  return prohmr_full.load(recorded)


def error(got, want):
  """Relative to the norm of the whole."""
  return np.linalg.norm(np.asarray(got, np.float64).reshape(want.shape) - want) / np.linalg.norm(want)


def test_features_shape_and_camera(recorded, ours):
  (state, assets), nets = ours, prohmr.networks(prohmr_full.get_config().net)
  image = inputs.images(inputs.PEOPLE, inputs.PEOPLE_SIZE)
  look = jax.jit(lambda state, image, mean: prohmr.look(nets, state.params["net"], state.stats["net"], image, mean,
                                                        False)[:3])
  for name, got in zip(("features", "betas", "camera"), look(state, image, assets["mean"])):
    assert error(got, recorded[name]) < 1e-5, name


@pytest.mark.parametrize("legacy", [False, True])
def test_mode_samples_and_both_densities(recorded, ours, legacy):
  state, assets = ours
  latent = prohmr.build(prohmr_full.get_config(**{"net.flow.legacy_lu": legacy})).latent
  z, pose = inputs.latents()

  @jax.jit
  def see(state, image, z, pose, assets):
    encoded = latent.encode(state, {"image": image}, assets)
    return *latent.decode(state, z, encoded, assets), *latent.log_prob(state, pose, encoded, assets)

  found = see(state, inputs.images(inputs.PEOPLE, inputs.PEOPLE_SIZE), z, prohmr_full.matrices(pose), assets)
  prefix = "legacy_" if legacy else ""
  for name, got in zip(("pose", "six_d", "sample_log_prob", f"{prefix}log_prob", f"{prefix}z"), found):
    assert error(got, recorded[name]) < 2e-5, name
  assert error(found[0][:, 0], recorded["pose"][:, 0]) < 2e-5
  assert error(recorded["legacy_z"], recorded["z"]) > 0.1


def step(ours, dtype, monkeypatch):
  """(metrics, gradients, moments of batch norm) of a training step; both trees as TrainStates have them."""
  monkeypatch.setitem(prohmr.CHOICES, "dtype", ("float32", "float64"))
  cast = lambda tree: jax.tree.map(lambda x: np.asarray(x, dtype) if np.asarray(x).dtype.kind == "f" else x, tree)
  monkeypatch.setattr(prohmr, "draw", lambda key, size, num: prohmr.Draws(
      *map(jnp.asarray, cast(inputs.draws())), jax.random.split(key, 3)))
  config = prohmr_full.get_config(**{"net.dtype": dtype, "net.flow.dtype": dtype})
  state, assets = map(cast, ours)
  assets["keypoint_body"] = jax.tree.map(jnp.asarray, assets["keypoint_body"])
  zeros = lambda tree: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)
  txs = {"net": config.optim, "critic": config.critic_optim}
  state = state.replace(opt_state={n: zeros(jax.eval_shape(optim.make_optimizer(c, 100).init, state.params[n]))
                                   for n, c in txs.items()})
  after, metrics = hmr_config.on_devices(prohmr.build(config).step, 1)(state, cast(prohmr_full.batch()), assets)
  moments = {n: optax.tree.get(after.opt_state[n], "mu") for n in txs}
  grads = jax.tree.map(lambda m: np.asarray(m, np.float64) / (1 - prohmr_full.BETA1), moments)
  return {k: float(v) for k, v in metrics.items()}, grads, after.stats


def check_terms(metrics, recorded, prefix, rtol):
  theirs = dict(zip(recorded["loss_names"], recorded[f"{prefix}losses"]))
  theirs["loss"] += 0.0005 * theirs["loss_gen"]  # which they add to it later
  for name, (key, weight) in TERMS.items():
    np.testing.assert_allclose(metrics[name], weight * theirs[key], rtol=rtol, err_msg=name)
  both = theirs["loss_pose_6d_mode"] + theirs["loss_pose_6d_exp"]
  np.testing.assert_allclose(metrics["orthogonal"], both, rtol=rtol)
  assert set(metrics) == {*TERMS, "orthogonal", "grad_norm_net", "grad_norm_critic"}


def compared(grads, recorded, prefix):
  """{names: (norm of theirs, error of the norm, error along the probe)}, the errors relative to the norm.

  An error in no particular direction has the second size on average, of the whole array.
  """
  row = {name: i for i, name in enumerate(recorded["grad_names"])}
  assert len(row) == sum(len(names) for names in prohmr_full.probed({"params": grads}))
  found = {}
  for names, (norm, dot) in prohmr_full.probed({"params": grads}).items():
    rows = [row[n] for n in names]
    size, along = np.linalg.norm(recorded[f"{prefix}grad_norms"][rows]), recorded[f"{prefix}grad_dots"][rows].sum()
    found[names[0]] = size, abs(norm - size) / size, 3 ** 0.5 * abs(dot - along) / size  # entries of probes: 3^-1/2
  return found


@pytest.mark.long
def test_a_training_step(recorded, ours, monkeypatch):
  metrics, grads, _ = step(ours, "float32", monkeypatch)
  check_terms(metrics, recorded, "", 2e-5)
  found = compared(grads, recorded, "exact_")
  for part, bound in (("backbone", 2e-2), ("flow.flow", 5e-3), ("flow.fc_head", 5e-3), ("discriminator", 1e-5)):
    size, _, along = np.transpose([v for k, v in found.items() if k.startswith(part)])
    assert np.linalg.norm(size * along) < bound * np.linalg.norm(size), part
  for name, part in (("grad_norm_net", ("backbone", "flow")), ("grad_norm_critic", ("discriminator",))):
    size = np.linalg.norm([v[0] for k, v in found.items() if k.startswith(part)])
    np.testing.assert_allclose(metrics[name], size, rtol=1e-4)


@pytest.mark.long
def test_a_training_step_in_float64(recorded, ours, monkeypatch):
  with jax.enable_x64(True):
    metrics, grads, stats = step(ours, "float64", monkeypatch)
  check_terms(metrics, recorded, "exact_", 1e-6)
  for name, (size, of_norm, along) in compared(grads, recorded, "exact_").items():
    if name.endswith("linear_layers.0.bias"):  # before a batch norm: its gradient is rounding
      assert size < 1e-12
    else:
      assert of_norm < 1e-6 and along < 1e-6, name
  theirs = dict(zip(recorded["stat_names"], recorded["exact_stat_dots"]))
  for (name,), (norm, dot) in prohmr_full.probed({"stats": stats}).items():
    if not name.startswith("backbone.") or name.endswith("mean"):  # flax keeps the biased variance
      assert abs(dot - theirs[name]) < 1e-5 * norm, name
