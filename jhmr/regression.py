"""What systems that regress one body per image share: their network and its start, decoding, and the losses of labels.

`supervision` says whose reductions are used:
  "hmr"   2D: absolute error, mean over visible keypoints, the 19 of the paper. 3D: its 14 joints.
  "spin"  2D: squared error times confidence, mean over all, 3D likewise; both on SPIN's 24 annotated joints.
  "spin49"  the same, but the 2D mean is over all 49 joints, as in SPIN's code. The 25 detected ones weigh nothing there
          unless a system says otherwise (`weighed`), so the 2D loss is 24/49 of that of "spin".
"""

import functools
from typing import Callable, NamedTuple

import jax.numpy as jnp
from jhmr import losses
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.errors import InputError
from jhmr.nn import regressor
from jhmr.nn import resnet
from jhmr.state import AXIS, labelled_pose, Prediction
import numpy as np

SUPERVISION = ("hmr", "spin", "spin49")
CAMERAS = ("spin", "eft")   # what a network's (s, tx, ty) mean: s (X + t), as everywhere else here, or s X + t
_LEAST_SCALE = 1e-6         # below it, no t is the same in both
_NET = {"backbone": resnet.ARCHITECTURES, "activation": ("relu", "none"), "dtype": ("float32", "bfloat16"),
        "batch_norm": regressor.BATCH_NORM}
NUM_DETECTED = len(joints.names("openpose25"))  # the first of spin49; the others are annotated


def _labelled(set_name, *names):
  """Positions among spin49 of a set's joints, and of more named ones of it."""
  return np.array([*joints.mapping("spin49", set_name), *(joints.index("spin49", n) for n in names)])


FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
JOINTS_2D = {"hmr": _labelled("lsp_annotated14", *FACE), "spin": _labelled("gt24"), "spin49": _labelled("spin49")}
JOINTS_3D = {"hmr": _labelled("lsp_annotated14"), "spin": _labelled("gt24"), "spin49": _labelled("gt24")}
HIPS = tuple(joints.index("gt24", f"{side}_hip") for side in ("right", "left"))  # and in the 14, which begin alike


class Network(NamedTuple):
  """The network of a config, as functions."""
  init: Callable      # (rng, image [1, S, S, 3], mean) -> its variables
  estimate: Callable  # (params, stats, image, mean, key) -> (estimates of all iterations, {"batch_stats"}), in training
  decode: Callable    # of this network's cameras, see `decode`
  predict: Callable   # (state, batch, assets) -> Prediction


def check(config, terms):
  """Raises InputError for a network, cameras or weights of losses that do not exist; terms: names of the losses."""
  for field, choices in _NET.items():
    one_of(f"net.{field}", config.net[field], choices)
  one_of("camera_convention", convention(config), CAMERAS)
  check_weights(config, terms)


def check_weights(config, terms):
  """Raises InputError unless config.weights names each loss once."""
  if odd := sorted(set(config.weights) ^ set(terms)):
    raise InputError(f"config.weights must name each loss of {config.system} ({', '.join(terms)}) once, 0 to leave it "
                     f"out: look at {', '.join(odd)}")


def convention(config):
  """One of CAMERAS, what the cameras of a config's network mean; older runs do not say it."""
  return config.get("camera_convention", "spin")


def one_of(name, value, choices):
  """Raises InputError when config.<name> is none of the choices."""
  if value not in choices:
    raise InputError(f"config.{name} is {value!r}: use one of {', '.join(choices)}")


def positive(where, fields, names):
  """Raises InputError when one of the named numbers of config.<where> is below 1."""
  if odd := [name for name in names if fields[name] < 1]:
    raise InputError(f"config.{where}.{odd[0]} is {fields[odd[0]]}: give 1 or more")


def build(config):
  """The Network of a config that `check` let pass."""
  net = regressor.ImageRegressor(**config.net, axis_name=AXIS)
  decoded = functools.partial(decode, convention=convention(config))

  def init(rng, image, mean):
    return net.init(rng, image, start_values(mean), False)

  def estimate(params, stats, image, mean, key):
    return net.apply({"params": params, "batch_stats": stats}, image, start_values(mean), True, rngs={"dropout": key},
                     mutable=["batch_stats"])

  def predict(state, batch, assets):
    variables = {"params": state.params["net"], "batch_stats": state.stats["net"]}
    return prediction(decoded(net.apply(variables, batch["image"], start_values(assets["mean"]), False)))

  return Network(init, estimate, decoded, predict)


def start_values(mean):
  """assets["mean"] as the regressor wants it: pose_six_d [144] in SPIN's layout, betas [L], camera [3]."""
  return rotations.matrix_to_six_d(mean["pose"], "spin").reshape(-1), mean["betas"], mean["camera"]


def decode(estimates, convention="spin"):
  """Network outputs of all T iterations -> (pose [B, T, 24, 3, 3], betas [B, T, L], camera [B, T, 3]).

  The network goes on from its own numbers; here they become rotations, and cameras of `body.camera`.

  Args:
    estimates: 6D poses [B, T, 144] in SPIN's layout, betas, cameras.
    convention: one of CAMERAS, what the cameras of this network mean.
  """
  six_d, betas, cam = estimates
  pose = rotations.six_d_to_matrix(six_d.reshape(*six_d.shape[:-1], -1, 6), "spin")
  return pose, betas, from_eft(cam) if convention == "eft" else cam


def from_eft(cam):
  """(s, tx, ty) [..., 3] of s X + t, without a unit -> that of s (X + t), metres; where s is 0, t stays as it is.

  Source: EFT (Joo et al. 2020), authors' `train/eftFitter.py`, against SPIN's `train/trainer.py`: t_eft = s t_spin.
  """
  scale = cam[..., :1]
  return jnp.concatenate([scale, cam[..., 1:] / jnp.where(jnp.abs(scale) < _LEAST_SCALE, 1.0, scale)], -1)


def prediction(decoded):
  """What `decode` makes of all iterations -> the Prediction of the last one, S = 1."""
  return Prediction.of(*(x[:, -1:] for x in decoded))


def weighed(batch, detected=0.0, annotated=1.0):
  """The batch with the confidences of detected and of annotated 2D keypoints times a weight each, for the losses.

  Source: SPIN, authors' `train/trainer.py:keypoint_loss`, openpose_weight and gt_weight, and their default options.
  """
  each = np.where(np.arange(batch["keypoints2d"].shape[-2]) < NUM_DETECTED, detected, annotated).astype(np.float32)
  return batch | {"keypoints2d": batch["keypoints2d"].at[..., 2].multiply(each)}


def label_weights(batch, weights, supervision):
  """What each example weighs in each loss's mean: {name: [B]}, of the batch alone.

  Args:
    weights: {name: number} of the losses; those of weight 0 are left out.
  """
  visible = losses.visible_count(batch["keypoints2d"][:, JOINTS_2D[supervision], 2])
  everyone = jnp.ones_like(batch["mask"])
  labelled = {"keypoints2d": visible if supervision == "hmr" else everyone, "keypoints3d": batch["has_keypoints3d"],
              "pose": batch["has_pose"], "betas": batch["has_betas"], "camera": everyone,
              "vertices": batch["has_pose"] * batch["has_betas"], "adversarial": everyone}
  return {name: batch["mask"] * weight for name, weight in labelled.items() if weights.get(name)}


def image_terms(pose, betas, cam, batch, assets, weights, supervision, totals=None):
  """The losses of the last estimate, each averaged over those examples of all devices that have its label.

  Args:
    pose: [B, 24, 3, 3], betas: [B, L], cam: [B, 3].
    batch: its labels; `vertex_betas`, where there are any, are those of the target's mesh in place of `betas`.
    weights: {name: number}; terms of weight 0 are left out.
    totals: of `label_weights` over the whole batch, when this one is a part of it.
  Returns:
    {name: []}.
  Source: HMR, Eq. 3 to 6; SPIN, authors' `train/trainer.py` for the camera and vertex terms.
  """
  two, three = JOINTS_2D[supervision], JOINTS_3D[supervision]
  body = assets["keypoint_body"]
  points = smpl.keypoints(body, smpl.forward(body, betas, pose), "spin49")
  projected, labels2d = camera.project_crop(points, cam)[:, two], batch["keypoints2d"][:, two]
  error2d = losses.keypoints2d if supervision == "hmr" else losses.keypoints2d_squared
  labels = labelled_pose(batch)
  errors = {"keypoints2d": error2d(projected, labels2d),
            "keypoints3d": losses.keypoints3d(points[:, three], batch["keypoints3d"][:, three], HIPS),
            "pose": losses.pose(pose, labels), "betas": losses.betas(betas, batch["betas"]),
            "camera": losses.camera(cam)}
  if weights["vertices"]:  # the only term that needs the full mesh
    mesh = lambda b, p: smpl.forward(assets["body"], b, p).vertices
    errors["vertices"] = losses.vertices(mesh(betas, pose), mesh(batch.get("vertex_betas", batch["betas"]), labels))
  counted = label_weights(batch, weights, supervision)
  totals = totals or losses.totals(counted)
  return {n: losses.masked_mean(error, counted[n], total=totals[n]) for n, error in errors.items() if weights[n]}
