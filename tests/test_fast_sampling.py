"""Many hypotheses drawn fast are the flow's and the body's, in whatever pieces."""

import jax
import jax.numpy as jnp
from jhmr import fast_sampling
from jhmr.body import camera, rotations, smpl
from jhmr.nn.flow import ConditionalGlow
from nn.test_flow import inputs, randomised, run
import numpy as np
import pytest

NET = ConditionalGlow(context=5, hidden=32, blocks=2)


def test_hypotheses_are_the_flows_poses_on_the_body():
  body, variables = smpl.load("mannequin_small"), randomised(NET)
  z, context = inputs(NET, images=2, samples=3)
  betas, cam = jnp.asarray([[0.5] * 10, [-1.0] * 10]), jnp.asarray([[0.9, 0, 0], [0.8, 0.1, -0.1]])
  sampler, projected = fast_sampling.prepare(NET, variables, body), run(NET, "project", variables, context)
  drawn = jax.jit(fast_sampling.decode)(sampler, z, projected, betas, cam)
  six_d, log_prob = run(NET, "sample", variables, z, context)
  posed = smpl.forward(body, betas[:, None], rotations.six_d_to_matrix(six_d.reshape(2, 3, 24, 6), "prohmr"))
  points = smpl.keypoints(body, posed, "prohmr44")
  np.testing.assert_allclose(drawn.keypoints, points, atol=2e-5)  # metres, behind two orders of float32 sums
  np.testing.assert_allclose(drawn.projected, camera.project_crop(points, cam[:, None]), atol=1e-4)
  np.testing.assert_allclose(drawn.log_prob, log_prob, atol=1e-4)


def test_pieces_are_put_together_image_by_image():
  body, variables = smpl.load("mannequin_small"), randomised(NET)
  _, context = inputs(NET, images=2)
  projected, betas, cam = run(NET, "project", variables, context), jnp.zeros((2, 10)), jnp.asarray([[0.9, 0, 0]] * 2)
  sampler, key = fast_sampling.prepare(NET, variables, body), jax.random.key(0)
  draw = jax.jit(fast_sampling.draw, static_argnames=("num", "rows"))
  drawn = draw(sampler, projected, betas, cam, key, num=6, rows=4)
  assert drawn.keypoints.shape == (2, 6, 44, 3) and drawn.projected.shape == (2, 6, 44, 2)
  for piece in range(3):
    z = fast_sampling.latents(key, piece, (2, 2, NET.dim))
    want = jax.jit(fast_sampling.decode)(sampler, z, projected, betas, cam)
    np.testing.assert_allclose(drawn.keypoints[:, 2 * piece:2 * piece + 2], want.keypoints, atol=1e-6)


@pytest.mark.parametrize("images, num, rows, size", [(1, 4096, 512, 512), (1, 7, 512, 7), (64, 16, 512, 8),
                                                     (1, 6, 4, 3), (64, 4, 8, 1), (1, 7, 3, 3), (1, 4099, 512, 456)])
def test_pieces_are_nearly_equal(images, num, rows, size):
  assert fast_sampling.piece_size(images, num, rows) == size
