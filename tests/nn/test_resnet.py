"""The backbones: sizes, precision, batch-norm modes."""

import jax
import jax.numpy as jnp
from jhmr.nn.resnet import ARCHITECTURES, ResNet, batch_norm
import numpy as np
import pytest


def abstract(architecture, size=64, **kwargs):
  net = ResNet(architecture, **kwargs)
  image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), image)
  return variables, jax.eval_shape(lambda v, x: net.apply(v, x, False), variables, image)


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def tiny():
  """A small net with its variables and a batch, initialised once."""
  net = ResNet("resnet_tiny")
  images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
  return jax.jit(lambda x: net.init(jax.random.key(0), x, False))(images), images


@pytest.mark.parametrize("name, params, features", [
    ("resnet50", 23_508_032, 2048), ("resnet18", 11_176_512, 512)])
def test_large_backbones_have_torchvisions_parameter_counts(name, params, features):
  variables, out = abstract(name)
  assert count(variables["params"]) == params
  assert out.shape == (2, features) == (2, ARCHITECTURES[name].features)


def test_names_map_onto_torchvisions_keys():
  params = abstract("resnet50")[0]["params"]
  assert set(params) == {"conv1", "bn1"} | {f"layer{i + 1}_{j}" for i, n in enumerate((3, 4, 6, 3)) for j in range(n)}
  assert set(params["layer2_0"]) == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample_0", "downsample_1"}
  assert params["layer2_0"]["downsample_0"]["kernel"].shape == (1, 1, 256, 512)


@pytest.mark.parametrize("name", ["resnet50", "resnet_tiny"])
def test_remat_changes_no_name(name):
  same = jax.tree.map(lambda a, b: a.shape == b.shape, abstract(name)[0], abstract(name, remat=True)[0])
  assert all(jax.tree.leaves(same))


def test_bfloat16_keeps_parameters_statistics_and_features_in_float32():
  variables, out = abstract("resnet50", dtype=jnp.bfloat16)
  assert out.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_bfloat16_features_are_near_float32_ones(tiny):
  variables, images = tiny
  run = lambda dtype: jax.jit(lambda v, x: ResNet("resnet_tiny", dtype=dtype).apply(v, x, False))(variables, images)
  exact, coarse = run(jnp.float32), run(jnp.bfloat16)
  # Ten layers with 8 bits of mantissa each.
  np.testing.assert_allclose(coarse, exact, atol=0.03 * float(jnp.abs(exact).max()))
  assert np.abs(coarse - exact).max() > 0


def test_synchronised_statistics_over_devices_are_those_of_the_whole_batch(tiny):
  variables, images = tiny
  apply = lambda axis: lambda v, x: ResNet("resnet_tiny", axis_name=axis).apply(v, x, True, mutable=["batch_stats"])
  one, stats_one = jax.jit(apply(None))(variables, images)
  mapped = jax.pmap(apply("data"), "data", in_axes=(None, 0), out_axes=(0, None))
  eight, stats_eight = mapped(variables, images[:, None])
  np.testing.assert_allclose(eight[:, 0], one, atol=2e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), stats_one, stats_eight)


def test_features_at_initialisation_are_neither_dead_nor_huge(tiny):
  variables, images = tiny
  apply = jax.jit(lambda v, x: ResNet("resnet_tiny").apply(v, x, True, mutable=["batch_stats"]))
  features, _ = apply(variables, images)
  assert 0.05 < float(features.std()) < 20


def test_running_statistics_use_momentum_nine_tenths():
  net = batch_norm(True, None, jnp.float32, "bn")  # what torch calls momentum 0.1
  x = jnp.full((4, 1), 2.0)
  _, new = net.apply(net.init(jax.random.key(0), x), x, mutable=["batch_stats"])
  np.testing.assert_allclose(new["batch_stats"]["mean"], 0.2, rtol=1e-6)
