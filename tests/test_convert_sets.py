"""Files of GraphCMR and 3D Multi-bodies become runs that predict, of sizes that the files say themselves."""

import pathlib

import jax
import jax.numpy as jnp
from jhmr import convert, evaluate, joint_prior
from jhmr.data import spec
from jhmr.nn import resnet
import numpy as np
import pytest
from released import authors, graphcmr_inputs, multibodies_inputs

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent
TINY = resnet.Architecture(stem=7, pool=True, blocks=(1, 1, 1, 2), width=4, expansion=4)


@pytest.fixture(scope="module", autouse=True)
def tiny_backbone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(resnet.ARCHITECTURES, "resnet_test", TINY)
    yield


def backbone():
  return authors.resnet_shapes(TINY.blocks, TINY.width, bottleneck=True)


def converted(folder, kind, arrays, *flags):
  """The run of a file of arrays, and what it predicts of two images."""
  np.savez(folder / f"{kind}.npz", **arrays)
  convert.main(["convert", "--kind", kind, "--from", str(folder / f"{kind}.npz"), "--out", str(folder / kind), *flags])
  return evaluate.load_run(str(folder / kind))


def test_graphcmr_predicts_a_mesh_and_a_body_with_one_camera(tmp_path, capsys):
  shapes = graphcmr_inputs.file_shapes(num=431, channels=16, layers=2, backbone=backbone(), context=TINY.features,
                                       hidden=24)
  config, system, state, assets = converted(tmp_path, "graphcmr", authors.numbers(shapes),
                                            f"--config={ROOT}/configs/graphcmr.py:smoke",
                                            "--config.net.backbone=resnet_test")
  assert (config.net.channels, config.net.layers, config.net.hidden) == (16, 2, 24)
  assert (config.net.determinant, config.supervision) == ("negated", "code")
  said = capsys.readouterr()
  assert "mesh_downsampling.npz" in said.out + said.err and "431 vertices" in said.out
  found = jax.jit(system.predict)(state, spec.fake_batch(64, 2), assets)
  assert found.vertices.shape == (2, 1, assets["body"].template.shape[1], 3)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))
  np.testing.assert_allclose(np.linalg.det(found.body_pose), 1, atol=1e-4)


def test_multibodies_predicts_m_hypotheses_and_its_prior_weighs_them(tmp_path):
  rng, prior = np.random.default_rng(0), multibodies_inputs.prior_shapes(2, 5)
  flow = {k: (rng.uniform(-0.2, 0.2, s) if "mask" not in k else rng.integers(0, 2, s)).astype(np.float32)
          for k, s in prior.items()}
  smoke = f"--config={ROOT}/configs/{{}}.py:smoke"
  config, *_ = converted(tmp_path, "multibodies_prior", flow, smoke.format("joint_prior"))
  assert (config.net.couplings, config.net.hidden) == (2, 5)
  density = joint_prior.load(str(tmp_path / "multibodies_prior"))
  assert np.isfinite(joint_prior.log_prob(density, jnp.zeros((24, 3))))
  arrays = authors.numbers({k: s for k, s in multibodies_inputs.shapes(6, backbone(), TINY.features, 8).items()
                            if ".fc3." not in k})
  arrays |= {f"module.model.model.{k}": v for k, v in authors.spin_start().items()}
  config, system, state, assets = converted(
      tmp_path, "multibodies", arrays, smoke.format("multibodies"), "--config.net.backbone=resnet_test",
      "--config.net.hidden=8", f"--config.prior={tmp_path / 'multibodies_prior'}")
  assert (config.net.heads, config.net.hypotheses, config.quantise) == ("stage4", 6, "code")
  batch = spec.fake_batch(64, 2)
  found = jax.jit(system.predict)(state, batch, assets)
  assert found.betas.shape == (2, 6, 10) and all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))
  assert np.ptp(found.log_prob) > 0
  few = jax.jit(system.choose, static_argnums=4)(state, batch, assets, jax.random.split(jax.random.key(0)), 3)
  np.testing.assert_array_equal(few.betas[:, 0], found.betas[:, 0])
