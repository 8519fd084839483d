"""The rows of lifting compare like with like: the same poses, and of the same random numbers the same losses."""

import jax
from jhmr import lifting
from jhmr.benchmarks import lifting as rows
from jhmr.state import AXIS
from jhmr.systems import cinn_lifting
import ml_collections
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def config():
  made = ml_collections.ConfigDict(rows.CONFIG)
  made.update_from_flattened_dict({"net.blocks": 2, "net.hidden": 32, "net.condition_hidden": 16, "net.features": 8,
                                   "critic.hidden": 16, "critic.chain_hidden": 16, "critic_steps": 2, "batch_size": 30,
                                   "hypotheses": 7, "top_k": 3})
  return made


def test_hypotheses_in_pytorch_are_ours(config):
  params, batch, z = rows.set_up(config, 3, 5)
  theirs = rows.peer(config, params, batch, z)().numpy().swapaxes(0, 1)
  np.testing.assert_allclose(jax.jit(rows.sampler(config))(params, batch, z), lifting.to_pose3d(theirs), atol=1e-5)


def drawn(config, data):
  """What the first step draws, in the peer's order."""
  parts = 2 * config.critic_steps + 1

  def numbers(batch):
    keys = cinn_lifting.rows_of(batch, jax.random.fold_in(jax.random.key(config.seed), 0)).key
    share = jax.vmap(lambda key: jax.random.uniform(key, (1,)))(keys)
    return cinn_lifting.draw(keys, config.hypotheses), cinn_lifting.draw(keys, 0).fake[:, 0], share

  found, fake, share = jax.tree.map(lambda a: np.asarray(a[0]), jax.jit(jax.vmap(numbers, axis_name=AXIS))(data))
  for i in range(config.critic_steps):
    yield fake[2 * i + 1::parts]
    yield share[2 * i::parts]
  yield from (found.wanted[parts - 1::parts], found.fake[parts - 1::parts, 0],
              found.many[parts - 1::parts].swapaxes(0, 1))


def test_an_update_in_pytorch_has_our_losses(config):
  step, state, data = rows.set_up_update(config)
  peer = rows.peer_update(config, state, data)
  theirs = peer(drawn(config, data))
  _, metrics = step(state, data, {})
  # Gradients of the critic, twice with Adam, then everything the network pays: equal to rounding.
  np.testing.assert_allclose(theirs, [metrics["loss"], metrics["critic"]], rtol=1e-4)
