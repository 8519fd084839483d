"""Fits bodies to 2D keypoints in the latent space of a density over poses.

ProHMR (Kolotouros, Pavlakos, Jayaraman, Daniilidis, ICCV 2021), Eq. 11 with the pose decoded from z, so that the prior
-ln p(pose | image) becomes ||z||^2 up to a constant:

    E(z, betas, t) = keypoints2d + 16 ||z||^2 + 36 ||betas||^2

Starts at z = 0, the most likely pose, and at the betas and the camera that the network sees.
Differs: by default every person is a problem of their own, in variables of like size, with a fixed number of L-BFGS
steps. The authors make one problem of all images of a batch, so what is found for one depends on the others;
mode="joint" does as they do: with a whole flow of random weights, joints are 1e-6 mm from theirs after five calls in
float64. Such a fit magnifies rounding: in float32 it follows theirs to a millimetre for one call, and after five their
own float32 and float64 are 5 mm apart on average. With a smooth density in place of the flow it ended 0.6 mm from
theirs on average in float32, 1.1 mm at most, while the default ended 0.7 % lower.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr.body import camera
from jhmr.fitting import descend
from jhmr.fitting import joint_lbfgs
from jhmr.fitting import objectives

NUM_STEPS = 120         # evaluations of L-BFGS for each person
JOINT_CALLS = 30        # Source: ProHMR's authors' `eval_keypoint_fitting.py`; their demo makes 10
MODES = ("vmap", "joint")


class Weights(NamedTuple):
  """Source: ProHMR's authors' `optimization/losses.py`."""
  latent: float = 16.0
  betas: float = 36.0
  sigma_px: float = objectives.SIGMA_PX


def weights_for(noise_px):
  """Weights that suit keypoints with normal noise of noise_px in the 224 pixels of a crop; of 0, the authors'.

  A keypoint e pixels off costs (1000 / 224)^2 e^2, its likelihood under such noise e^2 / (2 noise_px^2), and a latent's
  ||z||^2 / 2: in proportion, ||z||^2 weighs (1000 noise_px / 224)^2. The authors' 16 suits 0.9 pixels.
  Source: ours; the ratio of the latents' weight to that of the betas is the authors'.
  """
  authors = Weights()
  latent = (objectives.REFERENCE_PX / camera.CROP_PX * noise_px) ** 2 if noise_px else authors.latent
  return authors._replace(latent=latent, betas=latent * authors.betas / authors.latent)


class Fit(NamedTuple):
  """P fitted people."""
  z: jax.Array            # [P, D]
  betas: jax.Array        # [P, L]
  translation: jax.Array  # [P, 3] metres, in the camera of the target
  pose: jax.Array         # [P, 24, 3, 3]
  losses: jax.Array       # [P, steps] of each person; joint: [P, 2], at the start and at the end
  pixels: jax.Array       # [P, 2] mean reprojection error before and after, in pixels of the target's camera


def energy(decode, body, set_name, weights):
  """E(variables {"z" [D], "betas" [L], "translation" [3]}, encoded, target) -> [] of one person."""
  def total(x, encoded, target):
    points = objectives.body_points(body, x["betas"], pose_of(decode, x["z"], encoded), set_name)
    return (objectives.keypoints2d(points, x["translation"], target, weights.sigma_px) +
            weights.latent * jnp.sum(x["z"]**2) + weights.betas * jnp.sum(x["betas"]**2))
  return total


def decoder(latent, state, assets):
  """decode(z, encoded) -> pose, as the functions here want it, of a system's `state.Latent`."""
  return lambda z, encoded: latent.decode(state, z, encoded, assets)[0]


def pose_of(decode, z, encoded):
  """Pose [24, 3, 3] of one person's z [D]; decode works on batches."""
  return decode(z[None, None], jax.tree.map(lambda e: e[None], encoded))[0, 0]


def units(start, target):
  """Sizes of steps in a translation [3] that move or scale the picture of a person about alike, in metres.

  Source: ours. In metres the energy is ten thousand times flatter in depth than across, and L-BFGS takes hundreds of
  steps to find that out.
  """
  across = start[2] / target.focal_px * jnp.max(target.image_size) / 100
  return jnp.stack([across, across, start[2] / 20])


def fit_keypoints(decode, encoded, body, targets, translation, *, dim, set_name, weights=Weights(), use_hips=False,
                  num_steps=None, mode="vmap", tx=None):
  """Fits P people.

  Args:
    decode: (z [B, S, dim], encoded) -> pose [B, S, 24, 3, 3].
    encoded: pytree with leading axis P, and the field betas [P, L] to start from.
    body: the part of a body that makes `set_name` (`body.landmarks.rigid_body`).
    targets: objectives.Target, leaves [P, ...]; a person without any keypoint stays near where they are.
    translation: [P, 3] metres, to start from; see `objectives.crop_camera` and `full_camera`.
    use_hips: whether detected hips and pelvis count.
    num_steps: of L-BFGS, one evaluation each; in mode "joint" calls of up to 20 steps; None is NUM_STEPS or
      JOINT_CALLS.
    mode: "vmap", every person alone, or "joint", one problem with one line search, as the authors do.
    tx: optimiser of mode "vmap"; None is `descend.lbfgs()`.
  Returns:
    Fit.
  Raises:
    ValueError: for a mode that does not exist.
  """
  if mode not in MODES:
    raise ValueError(f"mode {mode!r} is not one of {MODES}")
  if not use_hips:
    pixels, confidence = objectives.known(targets.keypoints)
    confidence = confidence * objectives.hips_left_out(set_name)
    targets = targets._replace(keypoints=jnp.concatenate([pixels, confidence[..., None]], -1))
  start = {"z": jnp.zeros((translation.shape[0], dim), translation.dtype), "betas": encoded.betas,
           "translation": translation}
  total = energy(decode, body, set_name, weights)
  if mode == "joint":
    x, losses = _together(total, start, encoded, targets, num_steps or JOINT_CALLS)
  else:
    one = lambda *a: _alone(total, *a, tx or descend.lbfgs(), num_steps or NUM_STEPS)
    x, losses = jax.vmap(one)(start, encoded, targets)
  pose = decode(x["z"][:, None], encoded)[:, 0]
  pixels = [_pixels(body, x_["betas"], p, x_["translation"], targets, set_name)
            for x_, p in ((start, decode(start["z"][:, None], encoded)[:, 0]), (x, pose))]
  return Fit(x["z"], x["betas"], x["translation"], pose, losses, jnp.stack(pixels, -1))


def _alone(total, start, encoded, target, tx, num_steps):
  """One person, the translation in `units` around its start."""
  unit = units(start["translation"], target)
  metres = lambda x: x | {"translation": start["translation"] + unit * x["translation"]}
  x = start | {"translation": jnp.zeros_like(unit)}
  x, losses = descend.descend(lambda x: total(metres(x), encoded, target), x, tx, num_steps)
  return metres(x), losses


def _together(total, start, encoded, targets, num_calls):
  """All people as one problem."""
  each = lambda x: jax.vmap(total)(x, encoded, targets)
  x = joint_lbfgs.minimize(lambda x: jnp.sum(each(x)), start, num_calls).x
  return x, jnp.stack([each(start), each(x)], -1)


def _pixels(body, betas, pose, translation, targets, set_name):
  points = objectives.body_points(body, betas, pose, set_name)
  return jax.vmap(objectives.mean_reprojection_px)(points, translation, targets)
