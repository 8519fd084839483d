"""A small density over poses that needs no network: z moves the 6D pose by a fixed smooth map."""

from typing import NamedTuple

import jax.numpy as jnp
from jhmr.body import rotations
from jhmr.body import smpl
import numpy as np
from body import random_body

DIM = 144


class Encoded(NamedTuple):
  projected: jnp.ndarray  # [B, 144] shift of the mode
  betas: jnp.ndarray      # [B, 10]
  camera: jnp.ndarray     # [B, 3]


def decode(z, encoded):
  """z [B, S, 144] -> pose [B, S, 24, 3, 3]; bends a little, so that the problem is not quadratic."""
  rng = np.random.default_rng(3)
  linear = jnp.asarray(rng.normal(size=(DIM, DIM)) * 0.3 / np.sqrt(DIM), jnp.float32)
  moved = z @ linear + encoded.projected[:, None]
  upright = jnp.asarray(rotations.matrix_to_six_d(jnp.eye(3), "prohmr"))
  six_d = upright + (jnp.tanh(moved)).reshape(*z.shape[:-1], 24, 6)
  return rotations.six_d_to_matrix(six_d, "prohmr")


def encoded(num, seed=0, spread=0.1):
  rng = np.random.default_rng(seed)
  camera = np.stack([rng.uniform(0.7, 0.9, num), *rng.uniform(-.1, .1, (2, num))], -1)
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  return Encoded(f32(spread * rng.normal(size=(num, DIM))), f32(0.3 * rng.normal(size=(num, 10))), f32(camera))


def body(set_name, num_vertices=300):
  return smpl.sub_body(smpl.from_arrays(random_body.arrays(num_vertices, num_faces=100)), (set_name,))
