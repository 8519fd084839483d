"""What fitting gains on rendered people, whose bodies are known: tables with 95 % intervals."""

import time

from jhmr import intervals, metrics, report, sampling
from jhmr.body import camera, joints
from jhmr.data import source as source_lib
from jhmr.errors import InputError
from jhmr.fitting import latent, multiview, objectives
from jhmr.state import Prediction
import jax
import jax.numpy as jnp
import numpy as np

SHOWN = ("mpjpe_mm", "pa_mpjpe_mm")


def _made_of_labels(set_name):
  try:
    return bool(joints.mapping("spin49", set_name))
  except ValueError:
    return False


METHODS = ("mode", "fit")
SETS = tuple(name for name in joints.SETS if _made_of_labels(name))  # keypoints that labels have
VIEW_METHODS = ("single view", "rotation averaging", "refined")
COLUMNS = ("split", "method", "people", *(c for name in SHOWN for c in (name, "95 % of " + name)))


def rows_of(split, methods, order):
  """Table rows of {method: {metric: [N]}}, and what each method changes against the first, person by person."""
  def row(name, values):
    cells = {"split": split, "method": name, "people": len(values[SHOWN[0]])}
    for metric, samples in intervals.replicates({m: values[m] for m in SHOWN}).items():
      found = intervals.interval(samples)
      cells |= {metric: float(found["value"]), "95 % of " + metric: f"{found['low']:.1f}..{found['high']:.1f}"}
    return cells

  first = methods[order[0]]
  return ([row(name, methods[name]) for name in order] +
          [row(f"{name} - {order[0]}", {m: methods[name][m] - first[m] for m in SHOWN}) for name in order[1:]])


def to_prediction(pose, betas, cam):
  """One hypothesis each: pose [B, 24, 3, 3], betas [B, L], camera [B, 3]."""
  return Prediction.of(pose[:, None], betas[:, None], cam[:, None])


def noisy_keypoints(batch, set_name, noise_px, seed):
  """A batch's labelled keypoints of a joint set, in pixels of a 224-pixel crop, with normal noise: [B, K, 3]."""
  chosen = batch["keypoints2d"][:, np.array(joints.mapping("spin49", set_name))]
  keys = sampling.keys_of_ids(seed, batch["id"])
  noise = jax.vmap(lambda k: jax.random.normal(k, (chosen.shape[1], 2)))(keys)
  pixels = (chosen[..., :2] + 1) * camera.CROP_PX / 2 + noise_px * noise
  return jnp.concatenate([pixels, chosen[..., 2:]], -1)


def _target(batch, keypoints, encoded, options):
  """The camera of a fit: the crop's, or with full_frame the true one, its focal length and principal point known."""
  if not options.full_frame:
    return objectives.crop_target(keypoints), camera.weak_to_translation(encoded.camera)
  side, zoom = jnp.full_like(encoded.camera[:, :2], camera.CROP_PX), camera.CROP_PX / batch["image"].shape[1]
  return objectives.full_camera(keypoints, encoded.camera, side / 2, side[:, 0], side, batch["focal_px"] * zoom,
                                batch["center_px"] * zoom)


def batches(config, assets, name):
  """Every batch of a split on the device."""
  split = source_lib.open_split(config, assets, name)
  on_device = jax.jit(split.on_device)
  count, began = min(split.num_batches, config.eval_batches or split.num_batches), time.monotonic()
  for i in range(count):
    yield on_device(split.batch(i), assets)
    left = (time.monotonic() - began) / (i + 1) * (count - i - 1)
    report.say(f"{name}: batch {i + 1}/{count}  {report.clock(left)} left")
  split.close()


def over_split(config, assets, name, measure):
  """{method: {metric: [N]}} of all examples of a split that count.

  Args:
    measure: batch on the device -> ({method: {metric: [B]}}, [B] > 0 for those that count).
  Raises:
    InputError: when nobody counts.
  """
  parts, keep = zip(*(jax.device_get(measure(batch)) for batch in batches(config, assets, name)))
  keep = np.concatenate(keep) > 0
  if not keep.any():
    raise InputError(f"nobody in split {name!r} has a pose label: choose another --split")
  return jax.tree.map(lambda *x: np.concatenate(x)[keep], *parts)


def keypoint_errors(config, system, state, assets, body, name, noise_px, options):
  """{one of METHODS: {metric: [N]}} of the people of one split: the mode, and its fit to their keypoints.

  Args:
    noise_px: standard deviation of what is added to the labelled keypoints, in pixels of a 224-pixel crop.
    options: fit_files.Options.
  """
  @jax.jit
  def measure(state, batch, assets, body):
    encoded = system.latent.encode(state, batch, assets)
    decode = latent.decoder(system.latent, state, assets)
    targets, start = _target(batch, noisy_keypoints(batch, options.joint_set, noise_px, config.seed), encoded, options)
    fit = latent.fit_keypoints(decode, encoded, body, targets, start, dim=system.latent.dim,
                               set_name=options.joint_set, use_hips=options.use_hips, mode=options.mode,
                               num_steps=options.num_steps or None, weights=latent.weights_for(options.noise_px))
    mode = decode(jnp.zeros_like(fit.z)[:, None], encoded)[:, 0]
    score = lambda pose, betas: metrics.per_example(to_prediction(pose, betas, encoded.camera), batch, assets)
    return {"mode": score(mode, encoded.betas), "fit": score(fit.pose, fit.betas)}, batch["mask"] * batch["has_pose"]

  return over_split(config, assets, name, lambda batch: measure(state, batch, assets, body))


def by_person(person, keep):
  """Positions [P, V] of each person's views among N examples, and the mask [P, V] of views that exist."""
  ids = [np.flatnonzero((person == p) & (keep > 0)) for p in np.unique(person[keep > 0])]
  if not ids:
    raise InputError("nobody in this split has a pose label: choose another --split")
  width = max(map(len, ids))
  return (np.stack([np.pad(i, (0, width - len(i)), mode="edge") for i in ids]),
          np.stack([np.arange(width) < len(i) for i in ids]).astype(np.float32))


def view_errors(config, system, state, assets, name, mode, num_steps):
  """{one of VIEW_METHODS: {metric: [P]}} of people seen several times, means over views.

  Raises:
    InputError: when the split does not say who is who.
  """
  def need(batch):
    if "person" not in batch:
      raise InputError(f"split {name!r} does not say which images show one person: use --split multiview")
    return {k: batch[k] for k in ("global_orient", "body_pose", "betas", "person", "mask", "has_pose")}

  look = jax.jit(lambda state, batch, assets: system.latent.encode(state, batch, assets))
  parts = [jax.device_get((need(batch), look(state, batch, assets))) for batch in batches(config, assets, name)]
  labels, encoded = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  ids, mask = by_person(labels["person"], labels["mask"] * labels["has_pose"])

  @jax.jit
  def measure(state, labels, encoded, mask, assets):
    decode, views = latent.decoder(system.latent, state, assets), mask.shape[1]
    refined = multiview.refine(decode, encoded, mask, dim=system.latent.dim, mode=mode, num_steps=num_steps or None)
    flat = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
    single = decode(jnp.zeros((mask.size, 1, system.latent.dim)), flat(encoded))[:, 0].reshape(refined.pose.shape)
    betas = jnp.repeat(refined.betas, views, 0)
    score = lambda pose, betas: jax.tree.map(lambda v: multiview.mean_over_views(v.reshape(-1, views), mask), (
        metrics.per_example(to_prediction(*flat((pose,)), betas, flat(encoded).camera), flat(labels), assets)))
    return {"single view": score(single, flat(encoded).betas),
            "rotation averaging": score(multiview.average_pose(single, mask), betas),
            "refined": score(refined.pose, betas)}

  pick = lambda tree, i: jax.tree.map(lambda x: x[ids[i:i + 16]], tree)
  parts = [jax.device_get(measure(state, pick(labels, i), pick(encoded, i), mask[i:i + 16], assets))
           for i in range(0, len(ids), 16)]
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)
