"""Every key of VPoser's files goes to one place of ours, and what comes out is their network."""

import jax
import jax.numpy as jnp
from jhmr import convert, pose_prior
from jhmr.body import rotations
from jhmr.errors import InputError
from jhmr.nn import pose_vae
from jhmr.released import vposer
import ml_collections
import numpy as np
import pytest
from released import vposer_files

SMALL = dict(hidden=12, latent=5)


def net(version, **sizes):
  return ml_collections.ConfigDict(dict(version=version, **(SMALL | sizes)))


@pytest.fixture(scope="module", params=[1, 2])
def release(request, tmp_path_factory):
  """(version, their arrays, the run they were turned into)."""
  version, folder = request.param, tmp_path_factory.mktemp("vposer")
  arrays = vposer_files.arrays(version, **SMALL)
  np.savez(folder / "weights.npz", **arrays)
  sizes = [f"--config.net.{name}={size}" for name, size in SMALL.items()]
  convert.main(["convert", "--kind", f"vposer{version}", "--from", str(folder / "weights.npz"), "--out",
                str(folder / "run"), "--config.body=mannequin_small", *sizes])
  return version, arrays, str(folder / "run")


@pytest.mark.parametrize("version", [1, 2])
def test_full_sizes_are_the_authors(version):
  theirs = vposer_files.shapes(version)
  named = {name: e.shape for e in vposer.entries(version) for name in e.names}
  theirs = {k.removeprefix("vp_model."): s for k, s in theirs.items() if not k.startswith("bm_train")}
  assert named == {k: s for k, s in theirs.items() if not k.endswith("tracked")}
  found = vposer.convert(vposer_files.arrays(version), net(version, hidden=512, latent=32), "a.pt")
  ours = jax.eval_shape(lambda: pose_vae.PoseVae(version=version).init(
      jax.random.key(0), jnp.zeros((1, 63)), jnp.zeros((1, 32))))
  same = lambda a, b: jax.tree.map(lambda x: x.shape, a) == jax.tree.map(lambda x: x.shape, b)
  assert same(found.params["net"], ours["params"]) and same(found.stats["net"], ours["batch_stats"])


def test_poses_and_latents_are_the_authors(release):
  version, arrays, workdir = release
  prior = pose_prior.load(workdir)
  rng = np.random.default_rng(0)
  pose = (0.5 * rng.normal(size=(7, 23, 3))).astype(np.float32)  # angles below pi
  mean, std = jax.jit(pose_prior.encode)(prior, rotations.axis_angle_to_matrix(pose))
  slow_mean, slow_std = vposer_files.encode(arrays, version, pose[:, :21].reshape(7, 63).astype(np.float64))
  np.testing.assert_allclose(mean, slow_mean, atol=2e-5)
  np.testing.assert_allclose(std, slow_std, atol=2e-5)
  latent = rng.normal(size=(7, SMALL["latent"])).astype(np.float32)
  made = jax.jit(pose_prior.decode)(prior, latent)
  np.testing.assert_allclose(made[:, :21], vposer_files.decode(arrays, version, latent.astype(np.float64)), atol=2e-5)
  np.testing.assert_array_equal(made[:, 21:], np.broadcast_to(np.eye(3), (7, 2, 3, 3)))


def test_what_is_left_out_is_counted():
  said = vposer.convert(vposer_files.arrays(2, **SMALL), net(2), "a.ckpt").said[0]
  assert "num_batches_tracked (2)" in said and "body model (2)" in said


@pytest.mark.parametrize("version, key", [(1, "bodyprior_enc_bn2.running_var"), (2, "encoder_net.8.logvar.bias")])
def test_a_key_that_is_missing_extra_misshaped_or_not_finite_is_named(version, key):
  arrays = {k.removeprefix("vp_model."): v for k, v in vposer_files.arrays(version, **SMALL).items()}
  value = arrays.pop(key)
  with pytest.raises(InputError, match=f"release {version} of VPoser: missing {key}"):
    vposer.convert(arrays, net(version), "a.pt")
  with pytest.raises(InputError, match="unexpected extra"):
    vposer.convert(arrays | {key: value, "extra": value}, net(version), "a.pt")
  with pytest.raises(InputError, match=f"of another shape {key}"):
    vposer.convert(arrays | {key: value[None]}, net(version), "a.pt")
  with pytest.raises(InputError, match=f"not finite: in {key}"):
    vposer.convert(arrays | {key: np.full_like(value, np.nan)}, net(version), "a.pt")


@pytest.mark.parametrize("version", [1, 2])
def test_the_other_release_is_said_to_be_that(version):
  with pytest.raises(InputError, match=f"holds release {3 - version} .* --kind vposer{3 - version}"):
    vposer.convert(vposer_files.arrays(3 - version, **SMALL), net(version), "a.pt")
