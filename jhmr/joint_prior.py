"""A density over 3D joints of people: which of several hypotheses is the more likely one.

    prior = joint_prior.load("runs/joint_prior")
    log_prob = joint_prior.log_prob(prior, joint_prior.upright(body, body_pose, betas))

Joints are the 24 annotated ones, the middle of the hips at the origin, in metres, of a body whose root does not turn:
how somebody stands in front of a camera says nothing. The prior is a pytree, so that jitted functions take its weights
as arguments.

Source: 3D Multi-bodies (Biggs et al. 2020), section 4.1, Eq. 4; authors' code for joints, centre and root.
"""

from flax import struct
import jax
from jhmr import checkpoint
from jhmr import command
from jhmr import losses
from jhmr import regression
from jhmr.body import joints
from jhmr.body import smpl
from jhmr.errors import InputError
from jhmr.nn import realnvp
import jax.numpy as jnp
import numpy as np

SYSTEM, NET = "joint_prior", "net"
_JOINTS = np.array(joints.mapping("spin49", "gt24"))


@struct.dataclass
class JointPrior:
  """A flow over 72 numbers and its weights."""
  params: dict
  masks: dict
  net: realnvp.RealNvp = struct.field(pytree_node=False)


def load(workdir, step=None):
  """The prior that `train` or `convert` left in a workdir.

  Args:
    step: which checkpoint; None is the best.
  Returns:
    JointPrior.
  Raises:
    InputError: when there is no run, or one of another system.
  """
  config = command.read_config(workdir)
  if config.system != SYSTEM:
    raise InputError(f"{workdir!r} is a run of {config.system!r}, not a prior of joints: give one of {SYSTEM!r}, "
                     "trained with configs/joint_prior.py")
  loaded, _ = checkpoint.load_for_inference(workdir, step)
  return JointPrior(*(jax.tree.map(jnp.asarray, loaded[kind][NET]) for kind in ("params", "stats")),
                    realnvp.RealNvp(**config.net))


def given(workdir, system):
  """{"joint_prior": JointPrior} of a workdir to add to the assets of a run, {} without one.

  Raises:
    InputError: when the run's system makes no sets of hypotheses that a prior could weigh.
  """
  if not workdir:
    return {}
  if system.choose is None:
    raise InputError(f"--prior {workdir!r} weighs sets of hypotheses, of which this run has none: leave it out")
  return {"joint_prior": load(workdir)}


def upright(body, body_pose, betas):
  """What the prior is over: joints [..., 24, 3] of bodies whose root does not turn.

  Args:
    body: that makes "spin49".  body_pose: [..., 23, 3, 3].  betas: [..., L].
  """
  root = jnp.broadcast_to(jnp.eye(3, dtype=body_pose.dtype), (*body_pose.shape[:-3], 1, 3, 3))
  posed = smpl.forward(body, betas, jnp.concatenate([root, body_pose], -3))
  return losses.centred(smpl.keypoints(body, posed, "spin49")[..., _JOINTS, :], regression.HIPS)


def log_prob(prior, points):
  """Log-density in nats of joints [..., 24, 3] as `upright` makes them -> [...]."""
  variables = {"params": prior.params, realnvp.MASKS: prior.masks}
  return prior.net.apply(variables, points.reshape(*points.shape[:-2], -1))
