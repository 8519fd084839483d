"""What a run is made of: the state that changes, and the three functions of a system.

    state, metrics = step(state, batch, assets)

`state` is everything that changes, `batch` everything that comes from data, `assets` everything
that never changes (body model, mesh labels, mean parameters). All three are pytrees of arrays
and `step` is pure. It is written for one device of many: the mapped axis is called `AXIS`,
gradients are averaged over it after `grad`, label counts are summed over it before dividing.
"""

from typing import Any, Callable, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

AXIS = "data"  # the mapped axis every step runs under, on one device too


@struct.dataclass
class TrainState:
  """Everything a resumed run needs. Every leaf is an array; no functions and no keys live here.

  Random numbers come from `fold_in(key(seed), state.step)`, so they are the same after a resume.
  """
  step: jax.Array            # [] int32, finished updates
  params: dict[str, Any]     # {"net": ..., "critic": ...}, one entry per network
  opt_state: dict[str, Any]  # the same keys
  stats: dict[str, Any]      # batch-norm moments, the same keys; {} when unused
  memory: dict[str, Any]     # what a system remembers between steps; {} when unused
  ema: dict[str, Any] = struct.field(default_factory=dict)  # moving average of params; {} when unused
  skipped: Any = None        # [] int32, updates left out because they were not finite; see guard.py


@struct.dataclass
class Prediction:
  """S hypotheses for each of B images, the best guess first.

  Cameras are weak-perspective (s, tx, ty) of the crop the network saw (`body.camera`).
  """
  global_orient: jax.Array  # [B, S, 1, 3, 3] camera frame: x right, y down, z forward
  body_pose: jax.Array      # [B, S, 23, 3, 3]
  betas: jax.Array          # [B, S, 10]
  camera: jax.Array         # [B, S, 3]
  log_prob: jax.Array       # [B, S]; zeros for systems without a density
  vertices: Any = None      # [B, S, N, 3] metres, camera frame: a mesh that is no posed body, where a system makes one

  @classmethod
  def of(cls, pose, betas, camera, log_prob=None, vertices=None):
    """Of whole poses [B, S, 24, 3, 3]; without a density where no log_prob is given."""
    log_prob = jnp.zeros(betas.shape[:2], jnp.float32) if log_prob is None else log_prob
    return cls(pose[:, :, :1], pose[:, :, 1:], betas, camera, log_prob, vertices)

  @property
  def pose(self):
    """[B, S, 24, 3, 3], the root first."""
    return jnp.concatenate([self.global_orient, self.body_pose], axis=-3)


@struct.dataclass
class Lifted:
  """S poses for each of B images as joints alone, the best guess first: what lifting systems predict."""
  joints: jax.Array    # [B, S, 17, 3] metres, camera frame, order of joints.names("lift17"), the pelvis at the origin
  log_prob: jax.Array  # [B, S]; zeros for systems without a density


def labelled_pose(batch):
  """The pose labels of a batch, [B, 24, 3, 3]; of an example without one, whatever stands there."""
  return jnp.concatenate([batch["global_orient"], batch["body_pose"]], axis=1)


class Encoded(NamedTuple):
  """What a system with a density keeps of B images, once, for any number of hypotheses."""
  projected: jax.Array  # [B, ...] the condition of the density, in whatever form it wants
  betas: jax.Array      # [B, 10]
  camera: jax.Array     # [B, 3]


class Latent(NamedTuple):
  """A density over poses, as functions of a latent z [B, S, dim] that is standard normal; z = 0 is the mode."""
  encode: Callable    # (state, batch, assets) -> Encoded
  decode: Callable    # (state, z, encoded, assets) -> (pose [B, S, 24, 3, 3], six_d [B, S, 24, 6], log_prob [B, S])
  log_prob: Callable  # (state, pose, encoded, assets) -> (log_prob [B, S], z)
  dim: int


class System(NamedTuple):
  """The three functions of a method; `jhmr/systems/<name>.py:build(config)` returns one."""
  init: Callable     # (rng, batch, assets) -> TrainState; sees a real batch
  # (state, batch, assets) -> (TrainState, metrics {name: [] float32}), the metrics the same on every device: the loss,
  # its terms and the norm of every gradient, so that a step is sound exactly when all of them are finite. What is not
  # sound is left out by the loop, but for the memory: only a system can leave its rows out without copying the table.
  step: Callable
  predict: Callable  # (state, batch, assets) -> Prediction, or Lifted where poses are lifted
  latent: Latent | None = None  # for systems with a density over poses
  # (state, batch, assets, keys [B], num) -> Prediction, or Lifted where poses are lifted, of num hypotheses: for
  # systems that make a set in their own way.
  choose: Callable | None = None


def sound(metrics):
  """Whether the step that gave these metrics may be applied: [] bool, true when all of them are finite."""
  return jnp.all(jnp.isfinite(jnp.stack([jnp.asarray(m, jnp.float32) for m in metrics.values()])))
