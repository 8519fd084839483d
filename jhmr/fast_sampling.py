"""Thousands of hypotheses of an image, fast: keypoints and their projections from the features of images.

What depends on parameters alone is worked out once (`prepare`): triangular systems become one matrix, batch norms go
into kernels, and keypoints come from a few dozen points that each follow one joint. What depends on the image alone is
worked out once per image, by `ConditionalGlow.project`. The rest is done for `ROWS` hypotheses at a time, which fit
into the cache.
"""

import functools
from typing import NamedTuple

from flax import struct
import jax
from jhmr import sampling
from jhmr.body import camera, landmarks, rotations, smpl
from jhmr.nn import folded
from jhmr.nn.flow import log_normal

ROWS = {"cpu": 512}      # hypotheses at a time: measured, 256 and 2,048 are slower
ROWS_ELSEWHERE = 65536   # accelerators want large products, and have the memory


@struct.dataclass
class Sampler:
  """A trained flow and a body, ready to sample."""
  flow: folded.Folded
  body: smpl.Smpl                                       # of `landmarks.rigid_body`
  set_name: str = struct.field(pytree_node=False)
  num_keypoints: int = struct.field(pytree_node=False)  # the first so many of the set


class Drawn(NamedTuple):
  """S hypotheses of B images."""
  keypoints: jax.Array  # [B, S, K, 3] metres
  projected: jax.Array  # [B, S, K, 2] crop coordinates
  log_prob: jax.Array   # [B, S]


def prepare(net, variables, body, set_name="prohmr44", num_keypoints=44):
  """The Sampler of a `ConditionalGlow` over 24 rotations in 6D, its variables, and a whole body; at set-up."""
  fold = jax.jit(functools.partial(net.apply, method="fold"))
  return Sampler(fold(variables), landmarks.rigid_body(body, (set_name,)), set_name, num_keypoints)


def decode(sampler, z, projected, betas, cam):
  """Hypotheses of latents, all at once.

  Args:
    z: [B, S, D].
    projected: [B, blocks, hidden], of `ConditionalGlow.project`.
    betas: [B, 10]; cam: [B, 3] weak cameras.
  Returns:
    Drawn.
  """
  six_d, log_det = folded.inverse(sampler.flow, z, projected)
  pose = rotations.six_d_to_matrix(six_d.reshape(*z.shape[:2], -1, 6), "prohmr")
  posed = smpl.forward(sampler.body, betas[:, None], pose)
  points = smpl.keypoints(sampler.body, posed, sampler.set_name)[..., :sampler.num_keypoints, :]
  return Drawn(points, camera.project_crop(points, cam[:, None]), log_normal(z) - log_det)


def piece_size(num_images, num, rows=None):
  """Hypotheses of each image in one piece: at most `rows` in all, pieces of about equal size."""
  rows = rows or ROWS.get(jax.default_backend(), ROWS_ELSEWHERE)
  return -(-num // min(-(-num_images * num // rows), num))


def latents(key, piece, shape):
  """Standard normal latents of one piece."""
  return jax.random.normal(jax.random.fold_in(key, piece), shape)


def draw(sampler, projected, betas, cam, key, num, rows=None):
  """`decode` of num random hypotheses of each image; num and rows are static, rows as in `piece_size`."""
  size, dim = piece_size(len(betas), num, rows), sampler.flow.shifts[0].shape[0]
  one = lambda piece: decode(sampler, latents(key, piece, (len(betas), size, dim)), projected, betas, cam)
  return sampling.in_chunks(lambda first: one(first // size), num, size)
