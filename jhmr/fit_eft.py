"""Exemplar fine-tuning (`fitting.eft`) of a trained regressor: people in pictures, and what it gains on a split.

    python -m jhmr.fit --method eft --workdir runs/spin_released --images photos --keypoints keypoints --out out
    python -m jhmr.fit --method eft --workdir runs/hmr --split val --keypoint-noise-px 3

For runs of systems that regress one body with an iterative head, and for the weights of SPIN and EFT
(`python -m jhmr.convert`), each with its own camera.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr import fit_scores, metrics, regression
from jhmr.body import camera
from jhmr.data import images as images_lib
from jhmr.errors import InputError
from jhmr.fitting import eft, objectives
from jhmr.nn import regressor, resnet
import numpy as np

SYSTEMS = ("hmr", "spin")
METHODS = ("mode", "eft")


class Options(NamedTuple):
  """What decides the result, besides the run; written with it."""
  joint_set: str = "openpose25"
  full_frame: bool = False           # the camera written; the fit is the crop's either way
  focal_px: float = camera.FOCAL_PX  # of whole images
  use_hips: bool = False
  mode: str = "one by one"           # people are never one problem
  num_steps: int = 0                 # evaluations; 0: the authors' 20
  threshold: float = eft.TEST
  subset: str = "all"
  chunk: int = 1                     # people at once; the result is the same
  method: str = "eft"


def check(config, options, where):
  """Raises InputError where a run cannot be fine-tuned this way."""
  if config.system not in SYSTEMS:
    raise InputError(f"--method eft fine-tunes a regressor, but {where!r} is a run of {config.system!r}: give a run of "
                     f"{' or '.join(SYSTEMS)}")
  if options.subset == "onlyRes50LastConv" and config.net.backbone != "resnet50":
    raise InputError(f"subset {options.subset!r} is a layer of resnet50, but {where!r} has {config.net.backbone}")


def too_little(keypoints, options):
  """Why EFT cannot fit a person [K, 3], in a few words; "" when it can."""
  confidence = np.asarray(eft.annotated(keypoints, options.joint_set))[:, 2]
  return "" if np.any(confidence * eft.counted(options.use_hips) > 0) else "EFT counts none of the keypoints seen"


def settings_of(config, options):
  """eft.Settings of a run: a network is fine-tuned under the camera it was trained with."""
  weak = regression.convention(config) == "eft"
  return eft.Settings(max_iter=options.num_steps or eft.Settings().max_iter, threshold=options.threshold,
                      subset=options.subset, use_hips=options.use_hips, projection="weak" if weak else "perspective")


def fit_people(config, settings, state, images, keypoints, assets, chunk=1):
  """Fits P people: normalised crops [P, S, S, 3], keypoints [P, 49, 3] in -1 to 1 -> eft.Fit.

  In float32 whatever the run's dtype: bfloat16 tells weights of 0.02 apart by 1.2e-4, an update is 5e-6. When no
  convolution is trained, features are computed once, of everybody together.
  """
  net, stats, params = config.net, state.stats["net"], state.params["net"]
  start = regression.start_values(assets["mean"])
  backbone = resnet.ResNet(net.backbone)
  head = regressor.Regressor(net.iterations, net.hidden, net.dropout, net.activation)
  look = lambda params, image: backbone.apply(
      {"params": params["backbone"], "batch_stats": stats["backbone"]}, image, False)

  def regress(params, features):
    estimates = head.apply({"params": params["head"]}, features[None], start, False)
    return tuple(x[0, -1] for x in regression.decode(estimates, regression.convention(config)))

  with jax.default_matmul_precision("highest"):  # shorter products on accelerators would not see the updates either
    head_only = settings.subset in eft.HEAD_ONLY
    inputs = look(params, images) if head_only else images
    forward = regress if head_only else lambda params, image: regress(params, look(params, image[None])[0])
    return eft.fine_tune(forward, params, inputs, keypoints, assets["keypoint_body"], settings, chunk=chunk)


def fit_program(config, options):
  """run(state, people, assets, body) -> {name: [P, 2, ...]}, as `fit_files.fit_program`: before and after.

  people: {"crop" [P, S, S, 3] uint8, "keypoints" [P, K, 3], "box_center_px", "box_size_px", "image_size"}.
  Differs: crops begin where the box does and keypoints stay exact; EFT's and SPIN's code has whole pixels of both.
  """
  settings = settings_of(config, options)

  @jax.jit
  def run(state, people, assets, body):
    center, size = people["box_center_px"], people["box_size_px"]
    keypoints = people["keypoints"]
    placed = 2 * (keypoints[..., :2] - center[:, None]) / size[:, None, None]
    placed = eft.annotated(jnp.concatenate([placed, keypoints[..., 2:]], -1), options.joint_set)
    fit = fit_people(config, settings, state, images_lib.normalize(people["crop"]), placed, assets, options.chunk)
    both = lambda x: jnp.stack([x, x], 1)
    if options.full_frame:
      focal = jnp.full(size.shape, options.focal_px)
      principal = people["image_size"] / 2
      transl = camera.crop_to_full(fit.camera, both(center), both(size), both(people["image_size"]), both(focal))
    else:
      focal, principal, transl = camera.FOCAL_PX * size / camera.CROP_PX, center, camera.weak_to_translation(fit.camera)
    target = objectives.Target(_without_hips(keypoints, options), focal, principal, people["image_size"])
    pixels = lambda i: jax.vmap(objectives.mean_reprojection_px)(
        objectives.body_points(body, fit.betas[:, i], fit.pose[:, i], options.joint_set), transl[:, i], target)
    return {"pose": fit.pose, "betas": fit.betas, "transl_m": transl, "focal_px": focal, "center_px": principal,
            "objective": fit.loss, "keypoints2d_loss": fit.terms["keypoints2d"], "evaluations": fit.iterations,
            "reprojection_px": jnp.stack([pixels(0), pixels(1)], 1)}

  return run


def _without_hips(keypoints, options):
  """Keypoints as errors are told of them: those that detectors and bodies place differently left out."""
  keep = 1.0 if options.use_hips else objectives.hips_left_out(options.joint_set)
  return jnp.concatenate([keypoints[..., :2], keypoints[..., 2:] * jnp.reshape(keep, (-1, 1))], -1)


def keypoint_errors(config, state, assets, name, noise_px, options):
  """{one of METHODS: {metric: [N]}} of the people of one split, as `fit_scores.keypoint_errors`."""
  settings = settings_of(config, options)

  @jax.jit
  def measure(state, batch, assets):
    pixels = fit_scores.noisy_keypoints(batch, options.joint_set, noise_px, config.seed)
    placed = jnp.concatenate([pixels[..., :2] / (camera.CROP_PX / 2) - 1, pixels[..., 2:]], -1)
    fit = fit_people(config, settings, state, batch["image"], eft.annotated(placed, options.joint_set), assets,
                     options.chunk)
    score = lambda i: metrics.per_example(
        fit_scores.to_prediction(fit.pose[:, i], fit.betas[:, i], fit.camera[:, i]), batch, assets)
    return {method: score(i) for i, method in enumerate(METHODS)}, batch["mask"] * batch["has_pose"]

  return fit_scores.over_split(config, assets, name, lambda batch: measure(state, batch, assets))
