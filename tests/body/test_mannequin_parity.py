"""The smplx package loads the mannequin's file unchanged and agrees on every vertex and joint."""

import jax
import jax.numpy as jnp
from jhmr.body import body_file, mannequin, smpl
import numpy as np
import pytest

pytestmark = pytest.mark.parity
smplx = pytest.importorskip("smplx")
torch = pytest.importorskip("torch")


def test_smplx_agrees_on_the_mannequin(tmp_path):
  made = mannequin.arrays("full")
  body_file.write_body_file(tmp_path / "SMPL_NEUTRAL.pkl", made)
  theirs = smplx.SMPL(str(tmp_path), batch_size=3)
  rng = np.random.default_rng(0)
  pose = rng.normal(scale=0.4, size=(3, 72)).astype(np.float32)
  betas = rng.normal(size=(3, 10)).astype(np.float32)
  out = theirs(betas=torch.tensor(betas), global_orient=torch.tensor(pose[:, :3]), body_pose=torch.tensor(pose[:, 3:]))
  body = smpl.from_arrays(made)
  posed = jax.jit(smpl.forward_axis_angle)(body, jnp.asarray(betas), jnp.asarray(pose))
  ours45 = smpl.keypoints(body, posed, "smplx45")
  # float32 through nine levels of products: a few micrometres.
  np.testing.assert_allclose(posed.vertices, out.vertices.detach().numpy(), atol=1e-5)
  np.testing.assert_allclose(ours45, out.joints.detach().numpy(), atol=1e-5)
