"""A trained or converted pose VAE as a prior: body poses <-> latents that are standard normal where poses are natural.

    prior = pose_prior.load("runs/pose_vae")
    latent, _ = pose_prior.encode(prior, body_pose)     # where a fit starts
    body_pose = pose_prior.decode(prior, latent)        # what it decodes at every step, beside |latent|^2

The prior is a pytree, so that a jitted fit takes its weights as arguments.
"""

from flax import struct
import jax
from jhmr import checkpoint
from jhmr import command
from jhmr.body import rotations
from jhmr.errors import InputError
from jhmr.nn import pose_vae
import jax.numpy as jnp

SYSTEM, NET = "pose_vae", "net"


@struct.dataclass
class PosePrior:
  """A pose VAE and its weights."""
  params: dict
  stats: dict
  net: pose_vae.PoseVae = struct.field(pytree_node=False)


def load(workdir, step=None):
  """The prior that `train` or `convert` left in a workdir.

  Args:
    step: which checkpoint; None is the best.
  Returns:
    PosePrior, for matrix products of highest precision.
  Raises:
    InputError: when there is no run, or one of another system.
  """
  config = command.read_config(workdir)
  if config.system != SYSTEM:
    raise InputError(f"{workdir!r} is a run of {config.system!r}, not a pose prior: give one of {SYSTEM!r}, trained "
                     "with configs/pose_vae.py or converted from VPoser")
  loaded, _ = checkpoint.load_for_inference(workdir, step)
  net = pose_vae.PoseVae(**config.net, precision=jax.lax.Precision.HIGHEST)
  return PosePrior(*(jax.tree.map(jnp.asarray, loaded[kind][NET]) for kind in ("params", "stats")), net)


def features(body_pose):
  """What the encoder sees of body_pose [..., 23, 3, 3], root and hands left out: axis-angle [..., 63]."""
  axis_angle = rotations.matrix_to_axis_angle(body_pose[..., :pose_vae.NUM_JOINTS, :, :])
  return axis_angle.reshape(*axis_angle.shape[:-2], -1)


def body_pose_of(six_d):
  """Rotations [..., 23, 3, 3] of the decoder's six_d [..., 21, 6]; hands do not turn."""
  body = rotations.six_d_to_matrix(six_d, "spin")
  hands = jnp.broadcast_to(jnp.eye(3, dtype=body.dtype), (*body.shape[:-3], 2, 3, 3))
  return jnp.concatenate([body, hands], axis=-3)


def encode(prior, body_pose):
  """Latents of poses.

  Args:
    body_pose: [..., 23, 3, 3] rotation matrices; the hands, the last two, do not matter.
  Returns:
    (mean [..., latent], std [..., latent]).
  """
  return prior.net.apply(_variables(prior), features(body_pose), method="encode")


def decode(prior, latent):
  """Poses of latents [..., latent] -> [..., 23, 3, 3] rotation matrices; hands do not turn."""
  return body_pose_of(prior.net.apply(_variables(prior), latent, method="decode"))


def _variables(prior):
  return {"params": prior.params, "batch_stats": prior.stats}
