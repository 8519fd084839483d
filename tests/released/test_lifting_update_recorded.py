"""Lifting beside numbers of Wehrbein et al.'s `train()`, recorded by `goldens/record_lifting.py`: every loss of an
update, and the gradients of both networks."""

import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
from jhmr import lift_losses, lifting, losses
from jhmr.nn import pose_critic
from jhmr.released import wehrbein
from jhmr.state import AXIS
from jhmr.systems import cinn_lifting
import ml_collections
import numpy as np
import pytest
from released import lifting_inputs as inputs
from systems import prohmr_inputs

NET = ml_collections.ConfigDict(dict(blocks=8, hidden=1028, condition_hidden=256, features=56))
WEIGHTS = {"keypoints2d": 1.0, "mmd": 10.0, "deterministic": 4.0, "covariance": 750.0, "best": 4.0, "generator": 1.0}
THEIRS = {"keypoints2d": "l2d", "deterministic": "det"}  # where names differ; theirs have the weight in them
PENALTY, CLIP = 10.0, 15.0
net = cinn_lifting.network({**NET, "condition": True, "clamp": 2.0, "dtype": "float32"})
critic = pose_critic.PoseCritic(cinn_lifting.BONES)


@pytest.fixture(scope="module")
def recorded():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "lifting.npz") as f:
    return dict(f)


def critic_tree(arrays):
  """A tree of ours of {their key: array}."""
  return {name: {"kernel": arrays[f"{name}.weight"].T, "bias": arrays[f"{name}.bias"]}
          for name in {k.split(".")[0] for k in arrays}}


@pytest.fixture(scope="module")
def params(recorded):
  prohmr_inputs.check(recorded, inputs.critic_weights(), "critic")
  made = {"net": wehrbein.convert(inputs.inn_weights(), NET, "model.pt").params["net"],
          "critic": critic_tree(inputs.critic_weights())}
  return jax.tree.map(jnp.asarray, made)


@pytest.fixture(scope="module")
def rows():
  """Rows of the people; in place of keys, what is drawn between a real pose and another."""
  given = jax.tree.map(jnp.asarray, inputs.as_batch(inputs.people(inputs.BATCH)))
  ones, x = jnp.ones(inputs.BATCH), lifting.normalise3d(given["pose3d"])
  centred = lifting.to_pose3d(x)  # they compare hypotheses with the label as if its pelvis were between its hips
  return cinn_lifting.Rows(
      x, lifting.normalise2d(given["pose2d"]), lifting.condition(given["gaussians"]), centred,
      *lifting.covariance_target(given["gaussians"]), ones, ones, jnp.asarray(inputs.draws()["alpha"]))


def on_one_device(function):
  """A function jitted as on a mapped axis of one device."""
  add, take = (lambda tree: jax.tree.map(lambda x: x[None], tree)), (lambda tree: jax.tree.map(lambda x: x[0], tree))
  return jax.jit(lambda *args: take(jax.vmap(function, axis_name=AXIS)(*add(args))))


@pytest.fixture(scope="module")
def generated(params, rows):
  """(terms, gradients) of the network's update."""
  z = {k: jnp.asarray(v) for k, v in inputs.draws().items()}
  draws = cinn_lifting.Draws(z["latent"], z["rand"][:, None], jnp.moveaxis(z["hypotheses"], 0, 1))

  def loss(tree, critic_params, rows, draws):
    score = lambda x: critic.apply({"params": critic_params}, x)
    terms = cinn_lifting.terms_of(net, tree, rows, draws, score, inputs.TOP_K, "code")
    return losses.weigh(WEIGHTS, terms), terms

  grads, terms = on_one_device(jax.grad(loss, has_aux=True))(params["net"], params["critic"], rows, draws)
  return terms, cinn_lifting.clamped(grads, CLIP)


@pytest.fixture(scope="module")
def criticised(params, rows):
  """The critic's loss, and its gradients, between real poses and fakes; likewise the penalty; scores."""
  score = lambda tree, x: critic.apply({"params": tree}, x)

  def both(params, rows, z):
    behind = jax.tree.map(lambda x: x[::-1], rows)  # another part of the batch
    projected = net.apply({"params": params["net"]}, behind.condition, method="project")
    fake = cinn_lifting.lifted(net, params["net"], z[:, None], behind.y, projected)[0][:, 0]
    loss = lambda tree: cinn_lifting.critic_loss(critic, tree, rows, (fake, rows.mask), PENALTY)
    alone = lambda tree: PENALTY * jnp.mean(lift_losses.slope_penalty(
        lambda x: score(tree, x), rows.x, behind.x, rows.key))
    tree = params["critic"]
    return jax.value_and_grad(loss)(tree), jax.value_and_grad(alone)(tree), score(tree, rows.x)

  # Initial values, whose shapes are looked at, are drawn within limits.
  with mock.patch("jax.random.uniform", lambda share, shape, *limits: jnp.zeros(shape) if limits else share):
    return on_one_device(both)(params, rows, jnp.asarray(inputs.draws()["fake"]))


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
  assert generated[0].keys() == WEIGHTS.keys()
  for name, value in generated[0].items():
    np.testing.assert_allclose(WEIGHTS[name] * value, recorded[f"loss_{THEIRS.get(name, name)}"], rtol=3e-5,
                               err_msg=name)


@pytest.mark.slow
def test_gradients_of_the_network_are_theirs(recorded, generated):
  grads = their_inn(generated[1])
  assert sum(np.any(np.abs(g) == CLIP) for g in grads.values()) > 1  # cut
  check_gradients(grads, recorded, "net", inputs.inn_shapes())


def test_the_critic_and_its_penalty_are_theirs(recorded, criticised):
  (loss, grads), (penalty, penalty_grads), scores = criticised
  np.testing.assert_allclose(scores, recorded["critic_real"][:, 0], atol=1e-5)
  np.testing.assert_allclose(loss, recorded["loss_critic"], rtol=2e-5)
  np.testing.assert_allclose(penalty, recorded["penalty"], rtol=1e-4)
  check_gradients(their_critic(grads), recorded, "critic", inputs.critic_weights())
  check_gradients(their_critic(penalty_grads), recorded, "penalty", inputs.critic_weights())
