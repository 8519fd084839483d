"""The GraphCMR row compares like with like: same parameters, same losses, step after step."""

from body import random_body
import jax
import jax.numpy as jnp
from jhmr import sparse
from jhmr.benchmarks import graphcmr, train
from jhmr.body import mesh, pyramid
from jhmr.nn import graph_conv
import ml_collections
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("smplx")
pytestmark = pytest.mark.parity


def small_mesh(body, num=60):
  """What `assets.mesh_network` makes, of a ring of a few vertices."""
  rng = np.random.default_rng(0)
  ids = rng.integers(0, num, (body.template.shape[1], 3))
  weights = rng.dirichlet(np.ones(3), len(ids)).astype(np.float32)
  levels = mesh.Pyramid(np.arange(num)[:, None], np.ones((num, 1)), ids, weights)
  edges = np.sort(np.stack([np.arange(num), (np.arange(num) + 1) % num], 1), 1)
  graph = pyramid.graph(levels, edges, np.asarray(body.template).T)
  upsampling = sparse.from_rows(ids, weights, num)
  joints = np.asarray(body.landmarks)[graphcmr.rows_of(body)] @ sparse.dense(upsampling)
  return jax.tree.map(jnp.asarray, {"graph": graph, "adjacency": graph_conv.prepare(pyramid.adjacency(graph)),
                                    "upsampling": upsampling, "mesh_joints": joints})


def test_graphcmr_in_pytorch_has_our_losses_step_after_step():
  arrays, config = random_body.arrays(), ml_collections.ConfigDict(graphcmr.CONFIG)
  config.update_from_flattened_dict({"net.channels": 32, "net.layers": 1, "net.hidden": 64})
  mesh_network = small_mesh(graphcmr.smpl.from_arrays(arrays))
  step, state, data, assets = graphcmr.set_up(config, arrays, 8, mesh_network)
  seen = [np.asarray(x) for x in graphcmr.peer(state, data, assets)()]
  predicted = jax.jit(graphcmr.graphcmr.build(config).predict)(state, jax.tree.map(lambda x: x[0], data), assets)
  for ours, theirs in ((predicted.vertices[:, 0], seen[0]), (predicted.camera[:, 0], seen[1]),
                       (predicted.body_pose[:, 0], seen[2][:, 1:]), (predicted.betas[:, 0], seen[3])):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
  ours, theirs = train.runner(step, state, data, assets), graphcmr.peer_step(config, arrays, state, data, assets)
  losses = np.array([[ours(), theirs()] for _ in range(3)])
  # Adam makes whole steps of gradients that are nothing but rounding, so that both part, ten times as far each step.
  assert (np.abs(losses[:, 0] / losses[:, 1] - 1) < [5e-6, 5e-5, 5e-4]).all(), losses
  assert losses[-1, 0] < losses[0, 0]
