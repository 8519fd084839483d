"""Parity with smplx 0.1.28 in PyTorch: vertices, joints, keypoints, gradients, and files of ours that it loads."""

import functools

from body import random_body
import jax
import jax.numpy as jnp
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body import smpl
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
smplx = pytest.importorskip("smplx")

BODIES = ("random", "mannequin")
BATCH = 4
ATOL_M = 1e-5  # float32 sums of a few hundred terms of about a metre, in another order

forward = jax.jit(smpl.forward_axis_angle)


@functools.cache
def arrays(name):
  return random_body.arrays(num_betas=10) if name == "random" else smpl.load_arrays(name)


@pytest.fixture(scope="module", params=BODIES)
def pair(request, tmp_path_factory):
  """(our body, smplx's layer), both from one file that we wrote."""
  path = tmp_path_factory.mktemp(request.param) / "SMPL_NEUTRAL.pkl"
  smpl.write_body_file(path, arrays(request.param))
  return smpl.load(path.parent), smplx.create(str(path), model_type="smpl", batch_size=BATCH)


def inputs(size=.6):
  rng = np.random.default_rng(0)
  return tuple(x.astype(np.float32) for x in (rng.normal(size=(BATCH, 10)), size * rng.normal(size=(BATCH, 72)),
                                              rng.normal(size=(BATCH, 3))))


def run_peer(layer, betas, pose, transl):
  return layer(betas=betas, global_orient=pose[:, :3], body_pose=pose[:, 3:], transl=transl)


@pytest.mark.parametrize("size", [0, 1e-4, .6, 2.])
def test_vertices_and_45_joints(pair, size):
  body, layer = pair
  posed = forward(body, *inputs(size))
  with torch.no_grad():
    peer = run_peer(layer, *map(torch.from_numpy, inputs(size)))
  np.testing.assert_allclose(posed.vertices, peer.vertices, atol=ATOL_M)
  np.testing.assert_allclose(smpl.keypoints(body, posed, "smplx45"), peer.joints, atol=ATOL_M)


def test_matrix_input(pair):
  body, layer = pair
  betas, pose, _ = inputs()
  matrices = np.array(rotations.axis_angle_to_matrix(pose.reshape(BATCH, 24, 3)))
  posed = jax.jit(smpl.forward)(body, betas, matrices)
  with torch.no_grad():
    m = torch.from_numpy(matrices)
    peer = layer(betas=torch.from_numpy(betas), global_orient=m[:, :1], body_pose=m[:, 1:], pose2rot=False)
  np.testing.assert_allclose(posed.vertices, peer.vertices, atol=ATOL_M)


def test_49_keypoints_and_their_gradients_through_a_sub_body(pair, request):
  """Against the whole mesh in PyTorch, with SPIN's nine regressed joints and its map from 54 to 49."""
  body, layer = pair
  part = smpl.sub_body(body, ("spin49",))
  extra = arrays(request.node.callspec.params["pair"])["regressor_extra9"]
  variables = [torch.from_numpy(x).requires_grad_() for x in inputs()]
  out = run_peer(layer, *variables)
  points = torch.cat([out.joints, torch.einsum("bik,ji->bjk", out.vertices, torch.tensor(extra).float())], 1)
  points = points[:, list(joints.mapping("spin54", "spin49"))]
  gradients = torch.autograd.grad((points ** 2).sum(), variables)

  posed = forward(part, *inputs())
  np.testing.assert_allclose(smpl.keypoints(part, posed, "spin49"), points.detach(), atol=ATOL_M)
  loss = lambda *x: jnp.sum(smpl.keypoints(part, smpl.forward_axis_angle(part, *x), "spin49") ** 2)
  for got, want in zip(jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs()), [g.numpy() for g in gradients]):
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def test_a_file_of_three_hundred_betas(tmp_path):
  path = tmp_path / "SMPL_FEMALE.pkl"
  smpl.write_body_file(path, random_body.arrays(num_betas=300, num_faces=4))
  layer = smplx.SMPL(str(path), num_betas=300, batch_size=1)
  body = smpl.load(tmp_path, gender="female", num_betas=300)
  betas = np.random.default_rng(0).normal(size=(1, 300)).astype(np.float32)
  pose = inputs()[1][:1]
  with torch.no_grad():
    peer = run_peer(layer, torch.from_numpy(betas), torch.from_numpy(pose), torch.zeros(1, 3))
  np.testing.assert_allclose(forward(body, betas, pose).vertices, peer.vertices, atol=ATOL_M)
