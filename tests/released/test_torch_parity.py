"""What torch saves and computes, against what we read and compute."""

import collections

import jax
import jax.numpy as jnp
from flax import linen as nn
from jhmr.nn.critic import Critic
from jhmr.nn import resnet as net_resnet
from jhmr.released import keys, prohmr, torch_file
import numpy as np
import pytest
from released import authors, tensors

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "lightning.pt"])
def test_files_are_read_as_torch_reads_them(tmp_path, name):
  tensors.write(tmp_path)
  kept = ("state_dict",) if name == "lightning.pt" else ()
  ours = torch_file.read(tmp_path / name, kept)
  theirs = torch.load(tmp_path / name, weights_only=name != "lightning.pt")  # which names a class
  theirs = theirs["state_dict"] if kept else theirs
  assert list(ours) == list(theirs)
  for key, value in theirs.items():
    value = value.detach()
    np.testing.assert_array_equal(ours[key], (value.float() if value.dtype == torch.bfloat16 else value).numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_random_views_are_read_as_torch_reads_them(tmp_path, zipped):
  rng, path = np.random.default_rng(0), tmp_path / "a.pt"
  state = collections.OrderedDict()
  for i in range(40):
    base = torch.randn(*rng.integers(1, 6, size=3))
    if i % 2:
      base = base.permute(*rng.permutation(3).tolist())
    state[f"{i}.base"], state[f"{i}.part"] = base, base[:, ::2, rng.integers(base.shape[2])]
  torch.save({"model": state}, path, _use_new_zipfile_serialization=zipped)
  ours = torch_file.read(path, ("state_dict", "model"))
  for key, value in torch.load(path, weights_only=True)["model"].items():
    np.testing.assert_array_equal(ours[key], value.numpy())


def module_arrays(module, name):
  return {f"{name}.{k}": v.numpy() for k, v in module.state_dict().items() if k != "num_batches_tracked"}


def test_layouts_of_linear_convolution_and_batch_norm_are_torchs():
  rng = np.random.default_rng(0)
  linear, conv, norm = torch.nn.Linear(5, 3), torch.nn.Conv2d(5, 4, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(5).eval()
  for x in (norm.weight.data, norm.bias.data, norm.running_mean):
    x.normal_()
  norm.running_var.uniform_(0.5, 2)
  entries = [*keys.dense(("params", "linear"), "linear", 5, 3), keys.conv(("params", "conv"), "conv", 5, 4, 3),
             *keys.batch_norm(("norm",), "norm", 5)]
  arrays = module_arrays(linear, "linear") | module_arrays(conv, "conv") | module_arrays(norm, "norm")
  tree = keys.fill(arrays, entries, "a.pt", "a test")
  x = rng.normal(size=(2, 7, 6, 5)).astype(np.float32)
  to_torch, close = lambda v: torch.from_numpy(v.transpose(0, 3, 1, 2).copy()), dict(atol=1e-5)
  with torch.no_grad():
    ours = nn.Dense(3).apply({"params": tree["params"]["linear"]}, x)
    np.testing.assert_allclose(ours, linear(torch.from_numpy(x)).numpy(), **close)
    ours = net_resnet.conv(4, 3, 2, jnp.float32, None).apply({"params": tree["params"]["conv"]}, x)
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), conv(to_torch(x)).numpy(), **close)
    ours = net_resnet.batch_norm(False, None, jnp.float32, None).apply(
        {"params": tree["params"]["norm"], "batch_stats": tree["stats"]["norm"]}, x)
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), norm(to_torch(x)).numpy(), **close)


def test_the_critic_scores_as_the_discriminator_does():
  """Their forward said again: ProHMR, `models/discriminator.py`."""
  arrays = authors.numbers(authors.discriminator_shapes())
  params = keys.fill(arrays, prohmr.critic_entries(), "a.pt", "a test")["params"]["critic"]
  rng = np.random.default_rng(1)
  pose = rng.normal(size=(4, 23, 3, 3)).astype(np.float32)
  betas = rng.normal(size=(4, 10)).astype(np.float32)
  t = {k.removeprefix("discriminator."): torch.from_numpy(v) for k, v in arrays.items()}
  layer = lambda x, name: torch.nn.functional.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])
  point = lambda x, name: torch.nn.functional.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"])
  x = torch.from_numpy(pose).reshape(-1, 23, 1, 9).permute(0, 3, 1, 2)
  x = torch.relu(point(torch.relu(point(x, "D_conv1")), "D_conv2"))
  joints = torch.cat([layer(x[:, :, i, 0], f"pose_out.{i}") for i in range(23)], 1)
  shape = layer(torch.relu(layer(torch.relu(layer(torch.from_numpy(betas), "betas_fc1")), "betas_fc2")), "betas_out")
  whole = torch.relu(layer(x.reshape(4, -1), "D_alljoints_fc1"))
  whole = layer(torch.relu(layer(whole, "D_alljoints_fc2")), "D_alljoints_out")
  ours = jax.jit(lambda p: Critic().apply({"params": p}, pose, betas))(params)
  np.testing.assert_allclose(ours, torch.cat([joints, shape, whole], 1).numpy(), atol=1e-5)
