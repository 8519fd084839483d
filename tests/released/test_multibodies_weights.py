"""Files of 3D Multi-bodies: every key is expected, M is read off them, and their hypotheses are the authors'."""

import pathlib

import jax
import jax.numpy as jnp
from jhmr import regression
from jhmr.errors import InputError
from jhmr.nn import resnet, stage_heads
from jhmr.released import multibodies
from jhmr.systems import multibodies as system
import ml_collections
import numpy as np
import pytest
from released import authors, multibodies_inputs as inputs
from systems import prohmr_inputs

TINY = resnet.Architecture(stem=7, pool=True, blocks=(1, 1, 1, 2), width=4, expansion=4)
NET = ml_collections.ConfigDict(dict(backbone="resnet_test", hidden=8, hypotheses=3))
FULL = ml_collections.ConfigDict(dict(backbone="resnet50", hidden=1024, hypotheses=inputs.HYPOTHESES))


@pytest.fixture(scope="module", autouse=True)
def tiny_backbone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(resnet.ARCHITECTURES, "resnet_test", TINY)
    yield


def backbone():
  return authors.resnet_shapes(TINY.blocks, TINY.width, bottleneck=True)


def arrays(**changes):
  """A small network's, with some arrays changed or, by None, left out."""
  shapes = {k.removeprefix("module.model.model."): s for k, s in
            inputs.shapes(3, backbone(), TINY.features, 8).items() if ".fc3." not in k}
  found = authors.numbers(shapes) | authors.spin_start() | {k.replace("__", "."): v for k, v in changes.items()}
  return {f"module.model.model.{k}": v for k, v in found.items() if v is not None}


def spin():
  return authors.numbers(authors.spin_shapes(backbone(), TINY.features, head=8)) | authors.spin_start()


def network():
  return stage_heads.StageImageRegressor("resnet_test", hidden=8, hypotheses=3)


def apply(found, net, image):
  """(rotations [B, M, 24, 3, 3], betas, camera) of converted weights."""
  start = tuple(jnp.asarray(found.start[k]) for k in ("pose", "betas", "camera"))
  variables = {"params": system.together(found.params), "batch_stats": system.together(found.stats)}
  return jax.jit(lambda v, x: regression.decode(net.apply(v, x, start, False)))(variables, image)


@pytest.mark.slow
def test_hypotheses_are_those_of_the_authors_network():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "multibodies.npz") as recorded:
    theirs, weights = dict(recorded), inputs.weights()
  prohmr_inputs.check(theirs, weights, "weights")
  found = multibodies.convert(weights, FULL, "model_epoch.pth")
  net = stage_heads.StageImageRegressor("resnet50", hypotheses=inputs.HYPOTHESES)
  for ours, name in zip(apply(found, net, prohmr_inputs.images(1, 224)), ("rotations", "betas", "camera")):
    assert np.ptp(theirs[name][0, 1:], axis=0).max() > 0.1  # they differ
    np.testing.assert_allclose(ours, theirs[name][:, 1:], atol=1e-4, err_msg=name)  # theirs begin with SPIN's answer


def test_our_network_has_these_arrays():
  found = multibodies.convert(arrays(), NET, "a.pth")
  ours = jax.eval_shape(lambda: network().init(
      jax.random.key(0), jnp.zeros((1, 32, 32, 3)), (jnp.zeros(144), jnp.zeros(10), jnp.zeros(3)), False))
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(system.together(found.params)) == shapes(dict(ours["params"]))
  assert shapes(system.together(found.stats)) == shapes(dict(ours["batch_stats"]))
  assert sorted(system.apart(system.together(found.params))) == sorted(found.params) == ["heads", "net"]


def test_every_number_that_takes_part_arrives_once():
  unused = ("fc4", "fc5", "fc6", "decflow")
  theirs = arrays()
  found = multibodies.convert(theirs, NET, "a.pth")
  used = [v for k, v in theirs.items() if v.dtype == np.float32 and not any(n in k for n in unused)]
  every = lambda leaves: np.sort(np.concatenate([np.ravel(x) for x in leaves]))
  np.testing.assert_array_equal(every(used), every(jax.tree.leaves((found.params, found.stats, found.start))))
  assert "3 hypotheses" in found.said[0] and "take no part (10)" in found.said[0]


def test_what_stands_beside_the_network_is_left_out():
  beside = {"module.model_realnvp.mask": np.zeros((2, 72)), "module.smpl_mini.weights": np.zeros(3)}
  said = multibodies.convert(arrays() | beside, NET, "a.pth").said[0]
  assert "the flow (1), the body (1)" in said


def test_a_spin_gives_its_own_answer_m_times():
  theirs = spin()
  found = multibodies.convert(theirs, NET, "model_checkpoint.pt")
  image = prohmr_inputs.images(2, 32)
  pose, betas, camera = apply(found, network(), image)
  one = regression.regressor.ImageRegressor("resnet_test", hidden=8, activation="none")
  start = tuple(jnp.asarray(found.start[k]) for k in ("pose", "betas", "camera"))
  variables = {"params": found.params["net"], "batch_stats": found.stats["net"]}
  expected = jax.jit(lambda v: regression.decode(one.apply(v, image, start, False)))(variables)
  for ours, alone in zip((pose, betas, camera), expected):
    assert ours.shape[1] == 3
    np.testing.assert_allclose(ours, jnp.broadcast_to(alone[:, -1:], ours.shape), atol=1e-5)


def test_m_is_read_off_the_file():
  theirs = {k: np.broadcast_to(np.float32(0), s) for k, s in inputs.shapes(4).items()}
  assert multibodies.settings(theirs) == ("net.hypotheses=4",) and multibodies.settings(arrays())[0][-1] == "3"
  assert multibodies.settings(spin()) == ()


@pytest.mark.parametrize("changes, said", [
    ({"layer5__1__bn3__bias": None}, "missing layer5.1.bn3.bias"),
    ({"layer5__1__conv3__weight": np.zeros((128, 32, 1, 1))}, r"conv3.weight \[128, 32, 1, 1\], not \[384, 32, 1, 1\]"),
    ({"layer4__0__conv1__weight": None}, "missing layer4.0.conv1.weight"), ({"fc7.bias": np.zeros(2)}, "fc7.bias"),
    ({"layer5__0__bn1__weight": np.full(32, np.nan)}, "not finite")])
def test_odd_files_are_refused_by_name(changes, said):
  with pytest.raises(InputError, match=said):
    multibodies.convert(arrays(**changes), NET, "a.pth")


def test_a_file_of_something_else_is_refused():
  with pytest.raises(InputError, match="holds backbone.conv1.weight, but"):
    multibodies.convert({"backbone.conv1.weight": np.zeros(3)}, NET, "a.pth")
