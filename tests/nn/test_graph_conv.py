"""Graph convolutions: every form is the same matrix, group norm by hand, and vertices have no order."""

import jax
import jax.numpy as jnp
from jhmr import sparse
from jhmr.nn import graph_conv
from jhmr.nn import graphcmr
import numpy as np
import pytest

FORMS = [f for f in graph_conv.FORMS if f != "auto"]
NUM = 50


def neighbours(seed=0):
  """A random symmetric pattern, self loops in front, rows divided by their sums: a Table and the matrix."""
  rng = np.random.default_rng(seed)
  pattern = np.eye(NUM, dtype=bool)
  places = np.sort(rng.random(NUM))  # on a line, so that there is a narrow order
  pattern |= np.abs(places[:, None] - places[None]) < 0.06
  shuffle = rng.permutation(NUM)
  pattern = pattern[shuffle][:, shuffle]
  matrix = (pattern / pattern.sum(1, keepdims=True)).astype(np.float32)
  rows, columns = np.nonzero(pattern)
  ids, weights = sparse.padded(rows, columns, matrix[rows, columns], NUM)
  _, transposed = sparse.padded(rows, columns, matrix.T[rows, columns], NUM)
  return sparse.Table(ids, weights, ids, transposed), matrix


TABLE, MATRIX = neighbours()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_matrix_and_so_is_its_gradient(form):
  rng = np.random.default_rng(1)
  x, g = (rng.normal(size=(2, NUM, 8)).astype(np.float32) for _ in range(2))
  adjacency = jax.tree.map(jnp.asarray, graph_conv.prepare(TABLE, form))

  @jax.jit
  def both(adjacency, x, g):
    f = lambda x: graph_conv.outside(adjacency, graph_conv.multiply(adjacency, graph_conv.inside(adjacency, x)))
    y, back = jax.vjp(f, x)
    return y, back(g)[0]

  y, back = both(adjacency, x, g)
  np.testing.assert_allclose(y, np.einsum("mn,bnc->bmc", MATRIX, x), atol=1e-5)
  np.testing.assert_allclose(back, np.einsum("nm,bnc->bmc", MATRIX, g), atol=1e-5)


def test_the_narrow_order_keeps_neighbours_close_and_loses_nobody():
  order = graph_conv.narrow_order(TABLE)
  assert sorted(order) == list(range(NUM))
  width = lambda m: np.abs(np.subtract(*np.nonzero(m))).max()
  assert width(MATRIX[order][:, order]) < width(MATRIX) / 2


def test_group_norm_by_hand_and_its_gradient():
  rng = np.random.default_rng(2)
  x = (rng.normal(size=(2, 7, 16)) * 3 + 5).astype(np.float32)
  scale, bias = rng.normal(size=(2, 16)).astype(np.float32)
  grouped = x.reshape(2, 7, 2, 8).astype(np.float64)
  unit = (grouped - grouped.mean((1, 3), keepdims=True)) / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
  wanted = np.maximum(unit.reshape(x.shape) * scale + bias, 0)
  np.testing.assert_allclose(jax.jit(graph_conv.norm_relu)(x, scale, bias), wanted, atol=1e-4)

  def plain(x, scale, bias):
    grouped = x.reshape(2, 7, 2, 8)
    unit = (grouped - grouped.mean((1, 3), keepdims=True)) * jax.lax.rsqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
    return jax.nn.relu(unit.reshape(x.shape) * scale + bias)

  g = rng.normal(size=x.shape).astype(np.float32)
  grads = lambda f: jax.jit(lambda *a: jax.vjp(f, *a)[1](g))(x, scale, bias)
  for found, wanted in zip(grads(graph_conv.norm_relu), grads(plain)):
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_norm_of_a_constant_field_is_its_bias():
  out = graph_conv.norm_relu(jnp.full((1, 5, 8), 1e4), jnp.ones(8), jnp.arange(8.0))
  np.testing.assert_allclose(out, np.broadcast_to(np.arange(8.0), (1, 5, 8)))


def test_a_block_whose_last_layer_is_zero_is_the_identity():
  block, adjacency = graph_conv.GraphBlock(16), graph_conv.prepare(TABLE, "dense")
  x = jnp.asarray(np.random.default_rng(3).normal(size=(2, NUM, 16)), jnp.float32)
  params = block.init(jax.random.key(0), x, adjacency)["params"]
  params = params | {"lin2": jax.tree.map(jnp.zeros_like, params["lin2"])}
  np.testing.assert_array_equal(block.apply({"params": params}, x, adjacency), x)


def test_vertices_have_no_order():
  """The same permutation of template, neighbours and the camera layer's rows permutes the mesh, and nothing else."""
  rng, net = np.random.default_rng(4), graphcmr.MeshNet(backbone="resnet_tiny", layers=1, channels=16, start="mean")
  image = jnp.asarray(rng.normal(size=(1, 32, 32, 3)), jnp.float32)
  template = rng.normal(size=(NUM, 3)).astype(np.float32)
  order = rng.permutation(NUM)
  dense = lambda matrix: graph_conv.Adjacency(dense=jnp.asarray(matrix))
  variables = jax.jit(lambda *a: net.init(jax.random.key(0), *a, False))(image, template, dense(MATRIX))
  mesh = jax.jit(lambda params, *a: net.apply(variables | {"params": params}, image, *a, False))
  vertices, camera = mesh(variables["params"], template, dense(MATRIX))
  last = variables["params"]["camera_4"]
  params = variables["params"] | {"camera_4": last | {"kernel": last["kernel"][order]}}
  shuffled, same = mesh(params, template[order], dense(MATRIX[order][:, order]))
  assert np.std(vertices, axis=1).min() > 1e-3
  np.testing.assert_allclose(shuffled, vertices[:, order], atol=1e-5)
  np.testing.assert_allclose(same, camera, atol=1e-5)


def test_the_first_layer_is_that_of_the_concatenation():
  rng, layer = np.random.default_rng(5), graphcmr.FirstLinear(8, "mean")
  image, template = rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=(NUM, 3)).astype(np.float32)
  params = layer.init(jax.random.key(0), image, template)["params"]
  stacked = np.concatenate([np.tile(template[None], (2, 1, 1)), np.tile(image[:, None], (1, NUM, 1))], -1)
  np.testing.assert_allclose(layer.apply({"params": params}, image, template),
                             stacked @ params["kernel"] + params["bias"], atol=1e-5)
