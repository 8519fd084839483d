"""Bodies from a density over poses: its mode, samples that can be drawn again, densities of known poses, walks.

All functions are pure and jittable; `latent` is a `state.Latent`, `encoded` what it made of B images, and `chunk` how
many poses an image are decoded at a time, so that what a flow holds does not grow with their number: what is kept of a
hypothesis is its Samples, 1.4 kB.

Hypothesis s of an image is a function of (key of the image, s): neither the chunk, nor the batch, nor how many are
drawn changes it. Number 0 is the mode.
"""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr import quantise
from jhmr.body import smpl
from jhmr.state import Prediction

CHUNK = 256
PATHS = ("spherical", "linear")
_DRAW, _CHOOSE = 0, 1  # what an image's key is used for
_SAME_M = 1e-5         # two programs' rounding of one pose is less


class Samples(NamedTuple):
  """S poses for each of B images."""
  z: jax.Array         # [B, S, D] latents
  pose: jax.Array      # [B, S, 24, 3, 3]
  log_prob: jax.Array  # [B, S]


class Hypotheses(NamedTuple):
  """S bodies of B images, or of one without the axis B; the mode, or whatever the best guess is, first."""
  prediction: Prediction
  joints: jax.Array  # [B, S, 24, 3] metres, before the camera's translation
  shown: jax.Array   # [B, n] int32, of `representatives`
  z: jax.Array       # [B, S, D]; () without a density


def keys_of(seed, names):
  """One key for each name (a person, an image), [B]: a function of the seed and the name alone."""
  def key(name):
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[i:i + 4], "little") for i in (0, 4)]
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), words[0]), words[1])
  return jnp.stack([key(name) for name in names])


def keys_of_ids(seed, ids):
  """One key for each number of an image, [B]: a function of the seed and that number alone."""
  return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(ids)


def noise(keys, index, dim):
  """Latents [B, S, dim] of hypotheses `index` [S] of the images of keys [B]: standard normal, number 0 is zero."""
  one = lambda key, s: jax.random.normal(jax.random.fold_in(key, s), (dim,)) * (s > 0)
  return jax.vmap(lambda key: jax.vmap(lambda s: one(key, s))(index))(keys)


def sample(latent, state, encoded, assets, keys, num, chunk=CHUNK):
  """The mode and num - 1 random poses for each image.

  Args:
    keys: [B], of `keys_of`.
    num, chunk: static, at least 1.
  Returns:
    Samples of S = num.
  Raises:
    ValueError: for a num or chunk below 1.
  Source: ProHMR (Kolotouros et al. 2021), section 3.3: f(z; c) of z ~ N(0, I), and f(0; c), the mode.
  """
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _DRAW)
  chunk = min(chunk, num)
  return in_chunks(lambda first: _decoded(latent, state, noise(keys, first + jnp.arange(chunk), latent.dim), encoded,
                                           assets), num, chunk)


def mode(latent, state, encoded, assets):
  """Samples of S = 1: z = 0."""
  size = jax.tree.leaves(encoded)[0].shape[0]
  return _decoded(latent, state, jnp.zeros((size, 1, latent.dim)), encoded, assets)


def decode(latent, state, z, encoded, assets, chunk=CHUNK):
  """Samples of given latents [B, S, D], for instance those of `interpolate` or `log_prob`."""
  num = z.shape[1]
  chunk = min(chunk, num)
  padded = jnp.pad(z, ((0, 0), (0, -num % max(chunk, 1)), (0, 0)))
  piece = lambda first: jax.lax.dynamic_slice_in_dim(padded, first, chunk, axis=1)
  return in_chunks(lambda first: _decoded(latent, state, piece(first), encoded, assets), num, chunk)


def log_prob(latent, state, pose, encoded, assets):
  """Log-density [B, S] and latents [B, S, D] of poses [B, S, 24, 3, 3] given as rotation matrices.

  A density over 6D rotations takes the first two columns of each matrix. `decode` of the latents gives the same poses
  with the same log-densities. The log-density of a sample is another one: it is that of the six numbers a joint that
  the flow gave, whose columns are about, but not exactly, orthonormal.
  Raises:
    ValueError: for poses of another shape.
  Source: ProHMR, Eq. 2, the change of variables.
  """
  if pose.ndim != 5 or pose.shape[2:] != (24, 3, 3):
    raise ValueError(f"pose is {pose.shape}, not [B, S, 24, 3, 3]")
  return latent.log_prob(state, pose, encoded, assets)


def interpolate(z0, z1, num, path="spherical"):
  """num latents between z0 and z1, evenly along a path, and both ends: [..., D] twice -> [..., num + 2, D].

  Args:
    num: static, at least 0.
    path: "linear", or "spherical": the direction turns at an even pace and the length changes evenly. Where one end is
      the mode, z = 0, and has no direction, both are the same straight line; so they are for opposite directions.
  Spherical is the default because the base is normal in many dimensions: samples of 144 are 12.0 long, give or take
  0.7, and nearly orthogonal, so the middle of a straight line between two is 8.5 long, a length that is never drawn.
  Raises:
    ValueError: for another path or a negative num.
  Source: White 2016, "Sampling Generative Networks"; that lengths matter for flows, Fadel et al. 2021,
    "Principled Interpolation in Normalizing Flows", who also interpolate them.
  Differs: White turns the vectors themselves, so that two of different lengths do not change evenly between them.
  """
  if path not in PATHS or num < 0:
    raise ValueError(f"path is {path!r}, not one of {PATHS}, or num is {num}, below 0")
  z0, z1 = (jnp.asarray(z)[..., None, :] for z in (z0, z1))
  t = jnp.linspace(0.0, 1.0, num + 2)[:, None]
  straight = (1 - t) * z0 + t * z1
  if path == "linear":
    return straight
  lengths = [_length(z) for z in (z0, z1)]
  a, b = (z / jnp.where(n > 0, n, 1.0) for z, n in zip((z0, z1), lengths))
  angle = 2 * jnp.arctan2(_length(a - b), _length(a + b))  # exact near 0 too, where arccos is not
  sine = jnp.sin(angle)
  turns = (lengths[0] > 0) & (lengths[1] > 0) & (sine > 1e-4)
  sine = jnp.where(turns, sine, 1.0)
  direction = jnp.sin((1 - t) * angle) / sine * a + jnp.sin(t * angle) / sine * b
  return jnp.where(turns, ((1 - t) * lengths[0] + t * lengths[1]) * direction, straight)


def _length(x):
  """Norms [..., 1] of [..., D], their gradient 0 at 0."""
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def walk(z, num, path="spherical"):
  """From the first of z [B, S, D] to the second, to the third, ...: [B, S - 1, num + 2, D], num between any two."""
  return interpolate(z[:, :-1], z[:, 1:], num, path)


def joints_of(body, betas, pose):
  """Joints [B, S, 24, 3] in metres of betas [B, 10] or [B, S, 10], pose [B, S, 24, 3, 3]; `body_of`'s will do."""
  return smpl.forward(body, betas if betas.ndim == 3 else betas[:, None], pose).joints


def representatives(joints, keys, num):
  """Which few hypotheses to look at: [B, min(num, S)] int32, the mode first.

  Of more than num, the medoids of num - 1 clusters of the others: real hypotheses, as different as there are. Otherwise
  all, in the order drawn.
  Args:
    joints: [B, S, 24, 3] metres; distances are those of joints relative to the root.
    keys: [B], of `keys_of`.
    num: static.
  Source: 3D Multi-bodies (Biggs et al. 2020), Eq. 3; see `quantise`.
  """
  size, count = joints.shape[:2]
  if count <= num:
    return jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (size, count))
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _CHOOSE)
  points = joints - joints[:, :, :1]
  return jax.vmap(lambda p, key: quantise.quantise(p, p, num, key)[0])(points, keys)


def body_of(assets):
  """The assets' body without vertices, which has joints all the same; at set-up."""
  return smpl.sub_body(assets["body"], ("smpl24",))


def hypotheses(latent, state, encoded, assets, keys, num, num_shown):
  """num Hypotheses of each image, num_shown of them chosen; assets["joints_body"] is that of `body_of`."""
  found = sample(latent, state, encoded, assets, keys, num)
  joints = joints_of(assets["joints_body"], encoded.betas, found.pose)
  return Hypotheses(as_prediction(found, encoded), joints, representatives(joints, keys, num_shown), found.z)


def of_set(prediction, assets, keys, num_shown):
  """Hypotheses of a Prediction [B, S] without a density; assets and keys as `hypotheses` takes them."""
  joints = joints_of(assets["joints_body"], prediction.betas, prediction.pose)
  return Hypotheses(prediction, joints, representatives(joints, keys, num_shown), ())


def of_system(system, state, batch, assets, keys, num, num_shown):
  """num Hypotheses of each image of a batch, of a system with a density or one that makes sets of hypotheses."""
  if system.latent is None:
    return of_set(system.choose(state, batch, assets, keys, num), assets, keys, num_shown)
  encoded = system.latent.encode(state, batch, assets)
  return hypotheses(system.latent, state, encoded, assets, keys, num, num_shown)


def guess_first(system, state, batch, assets, keys, num):
  """Lifted of num poses [B, num]: the one of `system.predict`, then those of `system.choose`, which may begin with it.

  A pose that both give is there once; num is static, and 1 for a system that gives one alone.
  """
  guess = jax.tree.map(lambda x: x[:, :1], system.predict(state, batch, assets))
  if num == 1:
    return guess
  others = system.choose(state, batch, assets, keys, num)
  same = jnp.max(jnp.abs(others.joints[:, 0] - guess.joints[:, 0]), (1, 2)) < _SAME_M         # [B]

  def behind(first, x):
    return jnp.concatenate([first, jnp.where(same.reshape(-1, *[1] * (x.ndim - 1)), x[:, 1:], x[:, :-1])], 1)

  return jax.tree.map(behind, guess, others)


def as_prediction(found, encoded):
  """Samples [B, S] with the shape and camera of their images: a Prediction."""
  repeat = lambda x: jnp.broadcast_to(x[:, None], (*found.log_prob.shape, x.shape[-1]))
  return Prediction.of(found.pose, repeat(encoded.betas), repeat(encoded.camera), found.log_prob)


def _decoded(latent, state, z, encoded, assets):
  pose, _, density = latent.decode(state, z, encoded, assets)
  return Samples(z, pose, density)


def in_chunks(piece, num, chunk):
  """piece(0), piece(chunk), ..., one after the other, joined along axis 1: leaves [B, chunk, ...] -> [B, num, ...]."""
  if num < 1 or chunk < 1:
    raise ValueError(f"num {num} and chunk {chunk} must be at least 1")
  pieces = jax.lax.map(piece, jnp.arange(0, num, chunk))
  return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :num], pieces)
