"""The flow against numbers recorded from the authors' package, weights read by their names.

    git clone https://github.com/nkolot/nflows
    PYTHONPATH=nflows python tests/nn/goldens/record_flow.py tests/nn/goldens/flow.npz
"""

import ast
import pathlib
import re

import jax
from jhmr.nn.flow import ConditionalGlow
import numpy as np
import pytest

# float32 sums in another order, through four blocks: 6e-7 measured, 9e-6 at full size.
TOLERANCE = 1e-4


def from_theirs(state, template):
  """Fills our tree from their {key: array} by names alone; every entry of both must be used."""
  left = {k for k in state if not k.endswith("_features")}

  def fill(path, leaf):
    part, *rest, kind = [p.key for p in path[1:]]
    name, block = part.split("_")
    layer = 3 * int(block) + ("actnorm", "lu", "coupling").index(name)
    key = f"_transform._transforms.{layer}."
    if rest:
      residual = re.fullmatch(r"block_(\d+)_(bn|linear)_(\d+)", rest[0])
      key += "transform_net." + (rest[0] if not residual else "blocks.{}.{}_layers.{}".format(
          residual[1], {"bn": "batch_norm", "linear": "linear"}[residual[2]], residual[3])) + "."
      kind = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(kind, kind)
    value = state[key + kind]
    left.remove(key + kind)
    value = value.T if value.ndim == 2 else value
    assert value.shape == leaf.shape, key
    return value

  filled = jax.tree_util.tree_map_with_path(fill, template)
  assert not left, left
  return filled


@pytest.fixture(scope="module")
def recorded():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "flow.npz") as f:
    data = dict(f)
  shapes = [ast.literal_eval(s) for s in data.pop("shapes")]
  parts = np.split(data.pop("values").astype(np.float32), np.cumsum([int(np.prod(s)) for s in shapes])[:-1])
  return data | {"state": {str(k): v.reshape(s) for k, v, s in zip(data.pop("keys"), parts, shapes)}}


@pytest.fixture(scope="module")
def ours(recorded):
  net = ConditionalGlow(dim=8, context=6, hidden=16)
  template = jax.eval_shape(lambda: net.init(jax.random.key(0), recorded["in_x"], recorded["in_context"]))
  return net, from_theirs(recorded["state"], template)


def close(got, want):
  np.testing.assert_allclose(got, want, atol=TOLERANCE * np.abs(want).max())


def test_samples_and_mode(recorded, ours):
  net, variables = ours
  x, log_prob = jax.jit(lambda v, z, c: net.apply(v, z, c, method="sample"))(
      variables, recorded["in_z"], recorded["in_context"])
  close(x, recorded["x"])
  close(x[:, 0], recorded["x"][:, 0])  # z = 0
  close(log_prob, recorded["sample_log_prob"])


@pytest.mark.parametrize("legacy", [False, True])
def test_density_in_both_conventions(recorded, ours, legacy):
  net, variables = ours
  net, prefix = net.clone(legacy_lu=legacy), "legacy_" if legacy else ""
  log_prob, z = jax.jit(net.apply)(variables, recorded["in_x"], recorded["in_context"])
  close(z, recorded[f"{prefix}z"])
  close(log_prob, recorded[f"{prefix}log_prob"])
  other = recorded["z" if legacy else "legacy_z"]
  assert np.abs(z - other).max() > 0.1 * np.abs(other).max()  # the conventions differ


def test_the_same_entries_are_transformed(recorded):
  for block in range(4):
    key = f"_transform._transforms.{3 * block + 2}."
    np.testing.assert_array_equal(recorded["state"][key + "identity_features"], np.arange(8)[block % 2::2])
    np.testing.assert_array_equal(recorded["state"][key + "transform_features"], np.arange(8)[(block + 1) % 2::2])
