"""Lifting beside numbers of Wehrbein et al.'s `train()`, recorded by `goldens/record_lifting.py`: every loss of an
update, and the gradients of both networks."""

import pathlib

import jax
import jax.numpy as jnp
from jhmr import lift_losses, lifting
from jhmr.nn import cinn, pose_critic
from jhmr.released import wehrbein
import ml_collections
import numpy as np
import pytest
from released import lifting_inputs as inputs
from systems import prohmr_inputs

NET = ml_collections.ConfigDict(dict(blocks=8, hidden=1028, condition_hidden=256, features=56))
WEIGHTS = {"l2d": 1, "mmd": 10, "det": 4, "covariance": 750, "best": 4, "generator": 1}  # in what they log
# Source: the authors' `critic_network.py`, columns of C: bones of joints without the pelvis.
BONES = ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (7, 10), (10, 11), (11, 12), (7, 13), (13, 14),
         (14, 15), (0, 3), (0, 6), (3, 6))
PENALTY = 10
net, critic = cinn.ConditionalInn(), pose_critic.PoseCritic(BONES)


@pytest.fixture(scope="module")
def recorded():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "lifting.npz") as f:
    return dict(f)


def critic_tree(arrays):
  """Of {their key: array}, or back from a tree of ours."""
  return {name: {"kernel": arrays[f"{name}.weight"].T, "bias": arrays[f"{name}.bias"]}
          for name in {k.split(".")[0] for k in arrays}}


@pytest.fixture(scope="module")
def params(recorded):
  prohmr_inputs.check(recorded, inputs.critic_weights(), "critic")
  made = {"net": wehrbein.convert(inputs.inn_weights(), NET, "model.pt").params["net"],
          "critic": critic_tree(inputs.critic_weights())}
  return jax.tree.map(jnp.asarray, made)


@pytest.fixture(scope="module")
def given():
  return jax.tree.map(jnp.asarray, inputs.as_batch(inputs.people(inputs.BATCH)) | inputs.draws())


def inverse(tree, z, given):
  """z [B, S, 16] -> poses [B, S, 48]."""
  projected = net.apply({"params": tree}, lifting.condition(given["gaussians"]), method="project")
  y = jnp.broadcast_to(lifting.normalise2d(given["pose2d"])[:, None], (*z.shape[:2], 32))
  return net.apply({"params": tree}, jnp.concatenate([z, y], -1), projected, method="inverse")[0]


def score(tree, pose):
  return critic.apply({"params": tree}, pose)


def generator_loss(tree, critic_params, given):
  x, y = lifting.normalise3d(given["pose3d"]), lifting.normalise2d(given["pose2d"])
  projected = net.apply({"params": tree}, lifting.condition(given["gaussians"]), method="project")
  out = net.apply({"params": tree}, x[:, None], projected, method="forward")[0][:, 0]
  found = jnp.concatenate([out[:, :16], jax.lax.stop_gradient(out[:, 16:])], 1)
  wanted = jnp.concatenate([given["latent"], y], 1)
  back = inverse(tree, jax.lax.stop_gradient(out[:, None, :16]), given)[:, 0]
  guesses = inverse(tree, jnp.moveaxis(given["hypotheses"], 0, 1), given)
  posed, target = lifting.to_pose3d(guesses), lifting.to_pose3d(x)
  matched = posed[:, :, 1:][:, :, np.array(lifting.MATCHED_3D), :2] * jnp.array([1.0, -1.0])  # y up
  wrong = score(critic_params, inverse(tree, given["rand"][:, None], given)[:, 0])
  terms = {"l2d": lift_losses.absolute(out[:, 16:], y),
           "mmd": lift_losses.mmd(found, wanted, jnp.ones(len(x)), "code", None), "det": lift_losses.absolute(back, x),
           "covariance": lift_losses.covariance(matched, *lifting.covariance_target(given["gaussians"])),
           "best": lift_losses.best_of(posed, target, inputs.TOP_K), "generator": lift_losses.generator(wrong)}
  terms = {k: WEIGHTS[k] * jnp.mean(v) for k, v in terms.items()}
  return sum(terms.values()), terms


def critic_loss(tree, real, fake, share):
  difference, penalty = lift_losses.critic(lambda x: score(tree, x), real, fake, share)
  return jnp.mean(difference) + PENALTY * jnp.mean(penalty), PENALTY * jnp.mean(penalty)


@pytest.fixture(scope="module")
def generated(params, given):
  """((total, terms), gradients) of the generator's update."""
  return jax.jit(jax.value_and_grad(generator_loss, has_aux=True))(params["net"], params["critic"], given)


@pytest.fixture(scope="module")
def criticised(params, given):
  """The critic's loss, and its gradients, between real poses and fakes; likewise the penalty, and its gradients."""

  @jax.jit
  def both(params, given):
    real = lifting.normalise3d(given["pose3d"])
    behind = {k: v[::-1] for k, v in given.items() if k in ("pose2d", "gaussians")}  # another part of the batch
    fake = inverse(params["net"], given["fake"][:, None], behind)[:, 0]
    loss = jax.value_and_grad(critic_loss, has_aux=True)(params["critic"], real, fake, given["alpha"])
    alone = lambda tree: critic_loss(tree, real, real[::-1], given["alpha"])[1]
    return loss, jax.value_and_grad(alone)(params["critic"]), score(params["critic"], real)

  return both(params, given)


def check_gradients(grads, recorded, name, keys):
  """{their key: gradient} beside norms and products with random directions, in the order of the keys."""
  for i, key in enumerate(keys):
    grad, norm = np.asarray(grads[key], np.float64), recorded[f"{name}_norms"][i]
    floor = 1e-4 * recorded[f"{name}_norms"].max()
    np.testing.assert_allclose(np.linalg.norm(grad), norm, rtol=1e-4, atol=floor, err_msg=key)
    along = np.vdot(prohmr_inputs.probe(key, grad.shape), grad)
    assert abs(along - recorded[f"{name}_dots"][i]) < 2e-4 * norm + floor, key


def their_critic(grads):
  leaves = {"weight": lambda leaf: leaf["kernel"].T, "bias": lambda leaf: leaf["bias"]}
  return {k: leaves[k.split(".")[1]](grads[k.split(".")[0]]) for k in inputs.critic_weights()}


def their_inn(grads):
  """Our gradients by their keys: what our entries say of each."""
  found = {}
  for entry in wehrbein.entries(*NET.values()):
    leaf = grads
    for name in entry.path[2:]:
      leaf = leaf[name]
    found[entry.names[0]] = leaf.T
  return found


@pytest.mark.slow
def test_every_term_is_theirs(recorded, generated):
  for name, value in generated[0][1].items():
    np.testing.assert_allclose(value, recorded[f"loss_{name}"], rtol=3e-5, err_msg=name)


@pytest.mark.slow
def test_gradients_of_the_network_are_theirs(recorded, generated):
  # What they cut are the couplings' alone.
  grads = {k: v if k.startswith("cond") else jnp.clip(v, -15, 15) for k, v in their_inn(generated[1]).items()}
  assert np.abs(grads["inn.module_list.1.s2.2.bias"]).max() <= 15
  check_gradients(grads, recorded, "net", inputs.inn_shapes())


def test_the_critic_and_its_penalty_are_theirs(recorded, criticised):
  ((loss, _), grads), (penalty, penalty_grads), scores = criticised
  np.testing.assert_allclose(scores, recorded["critic_real"][:, 0], atol=1e-5)
  np.testing.assert_allclose(loss, recorded["loss_critic"], rtol=2e-5)
  np.testing.assert_allclose(penalty, recorded["penalty"], rtol=1e-4)
  check_gradients(their_critic(grads), recorded, "critic", inputs.critic_weights())
  check_gradients(their_critic(penalty_grads), recorded, "penalty", inputs.critic_weights())
