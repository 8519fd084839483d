"""The 3D Multi-bodies row compares like with like: same parameters, same losses, step after step."""

from body import random_body
import jax
from jhmr.benchmarks import multibodies, train
from jhmr.body import smpl
import ml_collections
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def test_multibodies_in_pytorch_has_our_losses_step_after_step():
  arrays, config = random_body.arrays(500, num_faces=100), ml_collections.ConfigDict(multibodies.CONFIG)
  config.update_from_flattened_dict({"net.hypotheses": 5, "net.hidden": 64})
  step, state, data, assets = multibodies.set_up(config, arrays, 4)
  pose, betas, camera, points = multibodies.peer(config, arrays, state, data, assets)()
  posed = smpl.forward(assets["keypoint_body"], betas.numpy(), pose.numpy())
  np.testing.assert_allclose(smpl.keypoints(assets["keypoint_body"], posed, "spin49"), points.numpy(), atol=1e-5)
  ours = jax.jit(multibodies.multibodies.build(config).predict)(state, jax.tree.map(lambda x: x[0], data), assets)
  by_scale = lambda camera: np.sort(np.asarray(camera)[..., 1], -1)  # ours has its best guess in front
  np.testing.assert_allclose(by_scale(ours.camera), by_scale(camera.numpy()), atol=1e-5)
  ours, theirs = train.runner(step, state, data, assets), multibodies.peer_step(config, arrays, state, data, assets)
  losses = np.array([[ours(), theirs()] for _ in range(3)])
  # Gradients of a network, joints from many vertices against ours from a few, Adam: equal to rounding.
  np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=2e-5)
  assert losses[-1, 0] < losses[0, 0]
