"""Files that torch wrote of VPoser's two releases become priors whose poses and latents are torch's."""

import jax
from jhmr import convert, pose_prior
from jhmr.body import rotations
import numpy as np
import pytest
from released import vposer_files

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
functional = torch.nn.functional


class Six(torch.nn.Module):
  """6D numbers to rotations."""

  def forward(self, x):
    x = x.view(-1, 3, 2)
    first = functional.normalize(x[:, :, 0], dim=1)
    second = functional.normalize(x[:, :, 1] - (first * x[:, :, 1]).sum(1, keepdim=True) * first, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


class Release1(torch.nn.Module):
  """The table of the first release's layers, as a module."""

  def __init__(self):
    super().__init__()
    for name, shape in (("bn1", 63), ("bn2", 512)):
      setattr(self, f"bodyprior_enc_{name}", torch.nn.BatchNorm1d(shape))
    for name, inputs, outputs in (("enc_fc1", 63, 512), ("enc_fc2", 512, 512), ("enc_mu", 512, 32),
                                  ("enc_logvar", 512, 32), ("dec_fc1", 32, 512), ("dec_fc2", 512, 512),
                                  ("dec_out", 512, 126)):
      setattr(self, f"bodyprior_{name}", torch.nn.Linear(inputs, outputs))

  def encode(self, x):
    x = functional.leaky_relu(self.bodyprior_enc_fc1(self.bodyprior_enc_bn1(x)), 0.2)
    x = functional.leaky_relu(self.bodyprior_enc_fc2(self.bodyprior_enc_bn2(x)), 0.2)
    return self.bodyprior_enc_mu(x), functional.softplus(self.bodyprior_enc_logvar(x))

  def decode(self, z):
    x = functional.leaky_relu(self.bodyprior_dec_fc1(z), 0.2)
    return Six()(self.bodyprior_dec_out(functional.leaky_relu(self.bodyprior_dec_fc2(x), 0.2)))


class Head(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.mu, self.logvar = torch.nn.Linear(512, 32), torch.nn.Linear(512, 32)

  def forward(self, x):
    return self.mu(x), functional.softplus(self.logvar(x))


class Release2(torch.nn.Module):
  """The table of the second release's layers, as a module."""

  def __init__(self):
    super().__init__()
    nn = torch.nn
    self.encoder_net = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(63), nn.Linear(63, 512), nn.LeakyReLU(), nn.BatchNorm1d(512), nn.Dropout(0.1),
        nn.Linear(512, 512), nn.Linear(512, 512), Head())
    self.decoder_net = nn.Sequential(nn.Linear(32, 512), nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(512, 512),
                                     nn.LeakyReLU(), nn.Linear(512, 126), Six())

  def encode(self, x):
    return self.encoder_net(x)

  def decode(self, z):
    return self.decoder_net(z)


def saved(version, path):
  """A module with made-up weights, and its file as its release has it."""
  model = (Release1 if version == 1 else Release2)()
  arrays = {k.removeprefix("vp_model."): torch.tensor(v) for k, v in vposer_files.arrays(version).items()
            if not k.startswith("bm_train")}
  model.load_state_dict(arrays)
  if version == 1:
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
  else:
    lightning = {f"vp_model.{k}": v for k, v in model.state_dict().items()} | {"bm_train.f": torch.zeros(4, 3)}
    torch.save({"epoch": 13, "state_dict": lightning, "hyper_parameters": {"a": 1}}, path)
  return model.eval()


def told(model, pose, z, dtype):
  """What torch says, in a precision."""
  model = model.to(dtype)
  with torch.no_grad():
    mean, std = model.encode(torch.tensor(pose.reshape(len(pose), 63), dtype=dtype))
    made = model.decode(torch.tensor(z, dtype=dtype)).view(len(z), 21, 3, 3)
  return {"mean": mean.numpy(), "std": std.numpy(), "pose": made.numpy()}


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_torch_becomes_the_same_network(tmp_path, version):
  model = saved(version, tmp_path / "weights.pt")
  convert.main(["convert", "--kind", f"vposer{version}", "--from", str(tmp_path / "weights.pt"),
                "--out", str(tmp_path / "run"), "--config.body=mannequin_small"])
  prior, rng = pose_prior.load(tmp_path / "run"), np.random.default_rng(0)
  pose = (0.5 * rng.normal(size=(20, 23, 3))).astype(np.float32)
  z = rng.normal(size=(20, 32)).astype(np.float32)
  mean, std = jax.jit(pose_prior.encode)(prior, rotations.axis_angle_to_matrix(pose))
  ours = {"mean": mean, "std": std, "pose": jax.jit(pose_prior.decode)(prior, z)[:, :21]}
  theirs, exact = told(model, pose[:, :21], z, torch.float32), told(model, pose[:, :21], z, torch.float64)
  for name, value in ours.items():
    # Made-up 6D numbers have short columns here and there, which magnify rounding, theirs too.
    limit = 1e-5 + np.abs(theirs[name] - exact[name]).max()
    assert np.abs(value - exact[name]).max() < limit < 3e-5, name
