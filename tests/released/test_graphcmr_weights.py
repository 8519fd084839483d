"""GraphCMR's files: every key is expected, sizes are read off them, and our networks have these very arrays."""

import jax
import jax.numpy as jnp
from jhmr.errors import InputError
from jhmr.nn import graph_conv, graphcmr as nets, resnet
from jhmr import sparse
from jhmr.released import graphcmr
import ml_collections
import numpy as np
import pytest
from released import authors, graphcmr_inputs

TINY = resnet.Architecture(stem=7, pool=True, blocks=(1, 1, 1, 1), width=4, expansion=4)
NUM, CHANNELS, LAYERS, HIDDEN = 12, 16, 1, 8
NET = ml_collections.ConfigDict(dict(backbone="resnet_test", layers=LAYERS, channels=CHANNELS, hidden=HIDDEN))


@pytest.fixture(scope="module", autouse=True)
def tiny_backbone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(resnet.ARCHITECTURES, "resnet_test", TINY)
    yield


def arrays(**changes):
  """Small networks', with some arrays changed or, by None, left out."""
  backbone = authors.resnet_shapes(TINY.blocks, TINY.width, bottleneck=True)
  shapes = graphcmr_inputs.file_shapes(num=NUM, channels=CHANNELS, layers=LAYERS, backbone=backbone,
                                       context=TINY.features, hidden=HIDDEN)
  found = authors.numbers(shapes) | {k.replace("__", "."): v for k, v in changes.items()}
  return {k: v for k, v in found.items() if v is not None}


def test_the_published_number_of_keys_and_parameters():
  theirs = graphcmr_inputs.file_shapes()
  entries, unused = graphcmr.entries("resnet50", 5, 256, 1024, 1723)
  named = {name: e.shape for e in entries for name in e.names}
  assert {k: theirs[k] for k in named} == named
  graph = {k: s for k, s in theirs.items() if k.startswith("graph_cnn.") and ".resnet." not in k}
  size = lambda shapes: sum(int(np.prod(s)) for s in shapes.values())
  assert len(graph) == 124 and size(graph) == 2_083_640
  assert size({k: s for k, s in theirs.items() if k.startswith("smpl") and "running" not in k and s}) == 15_027_426
  rest = set(theirs) - set(named)
  assert sum(bool(unused.fullmatch(k)) for k in rest) == 10
  assert {k.rsplit(".", 1)[-1] for k in rest if not unused.fullmatch(k)} == {"num_batches_tracked", "weight", "bias"}


def test_our_networks_have_these_arrays():
  found = graphcmr.convert(arrays(), NET, "a.pt")
  ids = np.stack([np.arange(NUM), (np.arange(NUM) + 1) % NUM], 1)
  adjacency = graph_conv.prepare(sparse.from_rows(ids, np.full(ids.shape, 0.5), NUM), "dense")
  template = jnp.zeros((NUM, 3))
  mesh = nets.MeshNet("resnet_test", layers=LAYERS, channels=CHANNELS)
  body = nets.ParameterNet(HIDDEN)
  ours = jax.eval_shape(lambda: {
      "net": mesh.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), template, adjacency, False),
      "smpl": body.init(jax.random.key(0), template[None], template, False)})
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  for name, variables in ours.items():
    assert shapes(found.params[name]) == shapes(variables["params"]), name
    assert shapes(found.stats[name]) == shapes(variables["batch_stats"]), name


def test_every_number_that_is_used_arrives_once():
  theirs = arrays()
  found = graphcmr.convert(theirs, NET, "a.pt")
  used = [v for k, v in theirs.items() if v.dtype == np.float32 and ".fc." not in k and "gc.2.skip" not in k]
  every = lambda leaves: np.sort(np.concatenate([np.ravel(x) for x in leaves]))
  np.testing.assert_array_equal(every(used), every(jax.tree.leaves((found.params, found.stats))))
  assert "classifier fc (2)" in found.said[0] and "do not use (2)" in found.said[0] and "12 vertices" in found.said[0]


def test_sizes_are_read_off_the_file():
  assert graphcmr.settings(arrays()) == (f"net.channels={CHANNELS}", f"net.layers={LAYERS}", f"net.hidden={HIDDEN}")
  assert graphcmr.settings({"a": np.zeros(3), "graph_cnn.gc.0.W": np.array(1.0)}) == ()


@pytest.mark.parametrize("changes, said", [
    ({"graph_cnn__gc__1__conv__bias": None}, "missing graph_cnn.gc.1.conv.bias"),
    ({"graph_cnn__gc__9__lin1__W": np.zeros((2, 2))}, "unexpected graph_cnn.gc.9.lin1.W"),
    ({"graph_cnn__gc__1__skip_conv__W": None}, "missing graph_cnn.gc.1.skip_conv.W"),
    ({"smpl_param_regressor__layers__3__bias": np.zeros(7)}, r"layers.3.bias \[7\], not \[226\]"),
    ({"graph_cnn__shape__4__b": np.full(3, np.nan)}, "not finite")])
def test_odd_files_are_refused_by_name(changes, said):
  with pytest.raises(InputError, match=said):
    graphcmr.convert(arrays(**changes), NET, "a.pt")


@pytest.mark.parametrize("part", ["graph_cnn", "smpl_param_regressor"])
def test_a_file_of_one_network_is_refused(part):
  with pytest.raises(InputError, match=f"'a.pt' holds no {part}"):
    graphcmr.convert({k: v for k, v in arrays().items() if not k.startswith(part)}, NET, "a.pt")
