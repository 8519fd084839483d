"""What the baselines of lifting share: joints in the order of their networks, z-scores, missing joints, the body.

A network's input is x0 y0 x1 y1 ... of its joints, each a z-score: minus the mean of the training split, divided by its
standard deviation (assets["lift_stats"]). A coordinate that is not finite, of a joint that no detector found, is 0
there: the mean. Its output is x0 y0 z0 x1 ... of the 16 joints that are not the pelvis, as z-scores or in metres.

Source: Martinez et al. 2017, authors' `data_utils.py`; ProHMR, authors' `skeleton_dataset.py`.
"""

from typing import NamedTuple

import jax
from jhmr import losses
from jhmr import one_loss
from jhmr import regression
from jhmr.body import joints
from jhmr.errors import InputError
from jhmr.nn import lift_mlp
from jhmr.nn.regressor import BATCH_NORM
from jhmr.state import AXIS
import jax.numpy as jnp
import numpy as np

DIM = 3 * 16  # of an output
_LIFT16 = joints.names("lift16")
_LIFT17 = joints.names("lift17")


class Layout(NamedTuple):
  """Names of "lift17", in the order of a network."""
  inputs: tuple   # K joints of 2D
  outputs: tuple  # 16 joints of 3D


# Source: Martinez et al., authors' `data_utils.py`: Human3.6M's order, no nose among the inputs; so do Li and Lee.
MARTINEZ = Layout(tuple(n for n in _LIFT17 if n != "jaw"), _LIFT17[1:])
# Source: ProHMR, authors' `skeleton_dataset.py`, keypoint_list_2d and keypoint_list_3d, and the same without the nose,
# which detectors do not find.
_PROHMR17 = joints.names("prohmr_h36m17")
PROHMR = {"lift17": Layout(_PROHMR17, tuple(n for n in _PROHMR17 if n != "pelvis")),
          "lift16": Layout(tuple(n for n in _PROHMR17 if n != "jaw"), tuple(n for n in _PROHMR17 if n != "pelvis"))}
# Joints that may be hidden. Source: Li and Lee 2019, authors' `data_utils.py:generage_missing_data`.
LIMBS = tuple(f"{side}_{part}" for part in ("knee", "ankle", "elbow", "wrist") for side in ("right", "left"))


def check(config, terms):
  """Raises InputError for a body network, missing joints or weights of losses that do not exist."""
  regression.check_weights(config, terms)
  regression.one_of("net.batch_norm", config.net.batch_norm, BATCH_NORM)
  regression.positive("net", config.net, ("hidden", "blocks"))
  if not 0 <= config.net.dropout < 1:
    raise InputError(f"config.net.dropout is {config.net.dropout}: give a share below 1, 0 for none")
  if not 0 <= config.missing <= len(LIMBS):
    raise InputError(f"config.missing is {config.missing}: at most the {len(LIMBS)} joints of limbs can be hidden")


def body(net, **fields):
  """The LiftMlp of config.net and more of its fields."""
  return lift_mlp.LiftMlp(**{n: net[n] for n in ("hidden", "blocks", "dropout", "batch_norm")}, **fields,
                          axis_name=AXIS)


def inputs(pose2d, stats, layout):
  """2D poses as a network reads them.

  Args:
    pose2d: [..., 16, 2] of "lift16" in pixels, not finite where missing.
    stats: {"mean2d", "std2d"} [16, 2].
  Returns:
    [..., 2 K] z-scores, 0 where missing. The nose, if the network wants it, is the middle of the z-scores of neck and
    head: no detector finds it.
  """
  scored = (pose2d - stats["mean2d"]) / stats["std2d"]
  scored = jnp.where(jnp.isfinite(scored), scored, 0.0)
  ends = np.array([_LIFT16.index(n) for n in ("neck", "head")])
  scored = jnp.concatenate([scored, jnp.mean(scored[..., ends, :], -2, keepdims=True)], -2)
  scored = scored[..., np.array([(*_LIFT16, "jaw").index(n) for n in layout.inputs]), :]
  return scored.reshape(*scored.shape[:-2], -1)


def hide(x, key, count, layout):
  """Inputs [B, 2 K] with `count` random limb joints of each row at 0, the mean.

  Source: Li and Lee 2019, authors' `data_utils.py:generage_missing_data`, where it is 1 or 2.
  """
  if not count:
    return x
  _, gone = jax.lax.top_k(jax.random.uniform(key, (len(x), len(LIMBS))), count)                       # [B, count]
  place = jnp.array([layout.inputs.index(n) for n in LIMBS])
  hidden = jnp.any(place[gone][..., None] == jnp.arange(len(layout.inputs)), 1)                        # [B, K]
  return jnp.where(jnp.repeat(hidden, 2, -1), 0.0, x)


def outputs(pose3d, layout, stats=None):
  """3D poses [..., 17, 3] of "lift17" in metres -> [..., 48], z-scores with stats {"mean3d", "std3d"} [17, 3]."""
  if stats is not None:
    pose3d = (pose3d - stats["mean3d"]) / stats["std3d"]
  x = pose3d[..., np.array([_LIFT17.index(n) for n in layout.outputs]), :]
  return x.reshape(*x.shape[:-2], DIM)


def to_joints(x, layout, stats=None):
  """Back from `outputs`: [..., 48] -> [..., 17, 3] metres, the pelvis at the origin."""
  points = x.reshape(*x.shape[:-1], -1, 3)
  place = np.array([layout.outputs.index(n) for n in _LIFT17[1:]])
  points = jnp.concatenate([jnp.zeros_like(points[..., :1, :]), points[..., place, :]], -2)
  if stats is not None:
    points = (points * stats["std3d"] + stats["mean3d"]).at[..., 0, :].set(0.0)
  return points


def log_volume(layout, stats):
  """[] what the log-density of z-scores is more than that of metres."""
  return jnp.sum(jnp.log(outputs(stats["std3d"], layout)))


def make_init(config, net):
  """The `init` of a System whose one network reads MARTINEZ's inputs alone."""
  @jax.jit
  def fresh(rng):
    variables = net.init(rng, jnp.zeros((1, 2 * len(MARTINEZ.inputs))))
    return one_loss.fresh_state(config, {"net": variables["params"]}, {"net": variables["batch_stats"]})

  return lambda rng, batch, assets: fresh(rng)


def train(net, count, params, stats, batch, assets, key):
  """What such a network makes of a batch with `count` joints hidden: (its output, new stats)."""
  hidden, dropped = jax.random.split(key)
  x = hide(inputs(batch["pose2d"], assets["lift_stats"], MARTINEZ), hidden, count, MARTINEZ)
  found, new = net.apply({"params": params["net"], "batch_stats": stats["net"]}, x, True, batch["mask"],
                         rngs={"dropout": dropped}, mutable=["batch_stats"])
  return found, {"net": new["batch_stats"]}


def infer(net, state, batch, assets):
  """What such a network makes of a batch after training."""
  x = inputs(batch["pose2d"], assets["lift_stats"], MARTINEZ)
  return net.apply({"params": state.params["net"], "batch_stats": state.stats["net"]}, x)


def labelled(batch):
  """[B] 1 where a row counts and has a label."""
  return batch["mask"] * batch["has_pose3d"]


def label_weights(batch):
  """What the terms of all baselines weigh, for `one_loss.make_step`."""
  return {"labelled": labelled(batch)}


def weighed(weights, errors, batch, totals):
  """(The loss, {name: []} of it and its terms) of errors {name: [B]}, which are means over labelled poses."""
  terms = {name: losses.masked_mean(error, labelled(batch), total=totals["labelled"])
           for name, error in errors.items()}
  total = losses.weigh(weights, terms)
  return total, {"loss": total} | terms


def targets(batch, layout, stats=None):
  """`outputs` of a batch's labels [B, 48]; zeros where there is none, so that nothing unlabelled reaches a gradient."""
  return jnp.where(labelled(batch)[:, None] > 0, outputs(batch["pose3d"], layout, stats), 0.0)
