"""The large backbones against the same networks said again in torch, with the same random weights."""

import jax
import jax.numpy as jnp
from jhmr.nn.resnet import ARCHITECTURES, ResNet
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


class Residual(torch.nn.Module):
  """He et al. 2016 figure 5, with torchvision's names and the stride in the 3x3 convolution."""

  def __init__(self, inside, width, stride, expansion):
    super().__init__()
    out = width * expansion
    shapes = [(width, 1, 1), (width, 3, stride), (out, 1, 1)] if expansion > 1 else [(width, 3, stride), (out, 3, 1)]
    self.depth, channels = len(shapes), inside
    for i, (features, size, step) in enumerate(shapes, 1):
      setattr(self, f"conv{i}", torch.nn.Conv2d(channels, features, size, step, size // 2, bias=False))
      setattr(self, f"bn{i}", torch.nn.BatchNorm2d(features))
      channels = features
    self.downsample = None
    if stride != 1 or inside != out:
      self.downsample = torch.nn.Sequential(torch.nn.Conv2d(inside, out, 1, stride, bias=False),
                                            torch.nn.BatchNorm2d(out))

  def forward(self, x):
    y = x
    for i in range(1, self.depth + 1):
      y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
      y = torch.relu(y) if i < self.depth else y
    return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(torch.nn.Module):

  def __init__(self, blocks, expansion):
    super().__init__()
    self.conv1, self.bn1 = torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(64)
    self.stages, inside = len(blocks), 64
    for s, count in enumerate(blocks):
      layers = []
      for i in range(count):
        layers.append(Residual(inside, 64 * 2 ** s, 2 if s > 0 and i == 0 else 1, expansion))
        inside = 64 * 2 ** s * expansion
      setattr(self, f"layer{s + 1}", torch.nn.Sequential(*layers))

  def forward(self, x):
    x = torch.nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    for s in range(self.stages):
      x = getattr(self, f"layer{s + 1}")(x)
    return x.mean((2, 3))


def from_torch(state, variables):
  """Fills our tree from torch's by names alone; every entry of both must be used."""
  left = {k for k in state if not k.endswith("num_batches_tracked")}

  def fill(path, leaf):
    *modules, kind = [p.key for p in path[1:]]
    key = ".".join(m.replace("_", ".") for m in modules) + "." + {
        "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}[kind]
    left.remove(key)
    value = state[key].numpy()
    value = value.transpose(2, 3, 1, 0) if kind == "kernel" else value
    assert value.shape == leaf.shape, key
    return jnp.asarray(value)

  filled = jax.tree_util.tree_map_with_path(fill, variables)
  assert not left, left
  return filled


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_equal_torchs(name):
  arch, rng = ARCHITECTURES[name], np.random.default_rng(0)
  theirs = TorchResNet(arch.blocks, arch.expansion).eval()
  for module in theirs.modules():  # random statistics, or they would test nothing; the scale keeps 50 layers in range
    if isinstance(module, torch.nn.BatchNorm2d):
      for tensor, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
                                (module.weight.data, 0.5, 1.0), (module.bias.data, -0.2, 0.2)):
        tensor.copy_(torch.from_numpy(rng.uniform(low, high, tensor.shape).astype(np.float32)))

  image = rng.normal(size=(2, 70, 61, 3)).astype(np.float32)  # odd sizes: "SAME" padding would show
  net = ResNet(name)
  variables = from_torch(theirs.state_dict(), jax.eval_shape(lambda: net.init(jax.random.key(0), image, False)))
  ours = jax.jit(lambda v, x: net.apply(v, x, False))(variables, image)
  with torch.no_grad():
    expected = theirs(torch.from_numpy(image.transpose(0, 3, 1, 2))).numpy()
  # Relative to the largest feature: 50 layers of float32 sums in another order, 1e-6 to 1e-5 measured.
  np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
  assert expected.std() > 0.01 * np.abs(expected).max()
