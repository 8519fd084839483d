"""Exemplar fine-tuning: the network that regresses a body is trained on for one person, until it fits the keypoints.

EFT (Joo, Neverova, Vedaldi, "Exemplar Fine-Tuning for 3D Human Model Fitting Towards In-the-Wild 3D Human Pose
Estimation", 3DV 2021). What the network has learnt is the prior. Every person starts from the same weights; those that
fit one are thrown away with it. In the loss

    300 keypoints2d + 60 camera + 0.3 legs + 0.06 betas (+ 300 keypoints3d)

only the annotated half of "spin49" counts, without hips and pelvis; of ankles only where the shin points. Batch norm
is as at inference and not trained, and no unit is dropped.

People are done one after another or in small chunks: each needs its own weights, gradients and two moments of them,
432 MB for a ResNet-50. `fine_tune` wants the network as a function. When only layers of the head are trained, give it
features in place of images (`HEAD_ONLY`).
"""

from typing import NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
from jhmr.body import camera as camera_lib
from jhmr.body import joints
from jhmr.fitting import objectives
import numpy as np
import optax

SET = "spin49"
# Thresholds on keypoints2d. Source: EFT's authors, `train/eftFitter.py` and `demo/`: fits of data sets, 3DPW, the demo.
DATA_SET, TEST, DEMO = 1e-4, 2e-4, 2e-5
PROJECTIONS = ("perspective", "weak")
_DECODERS = ("decpose", "decshape", "deccam")
_HEAD = ("fc", *_DECODERS)
_STAGES = ("layer1", "layer2", "layer3", "layer4", "where")  # `where` is resnet_tiny's, after its last stage
# Names of layers that are trained; a parameter is when one of these is in its path, and batch norm never is.
# Source: EFT's authors, the switches `ablation_layerteset_*` of `train/eftFitter.py`.
SUBSETS = {
    "all": ("conv1", *_STAGES, *_HEAD), "onlyLayer4": ("layer4",), "onlyAfterRes": _HEAD,
    **{f"Layer{i + 1}Later": (*_STAGES[i:], *_HEAD) for i in range(4)},
    "onlyRes": _STAGES, "onlyRes_withconv1": ("conv1", *_STAGES), "decOnly": _DECODERS, "fc2Later": ("fc2", *_DECODERS),
    "onlyRes50LastConv": ("layer4_2/conv3",)}
HEAD_ONLY = ("onlyAfterRes", "decOnly", "fc2Later")  # the image's features stay as they are


class Settings(NamedTuple):
  """How a network is fine-tuned. Source: EFT's authors, `utils/train_options.py`."""
  learning_rate: float = 5e-6
  max_iter: int = 20              # evaluations; the last one is the result, so there is one update less
  threshold: float = DATA_SET     # of keypoints2d, below which a person is finished
  subset: str = "all"             # of SUBSETS
  use_hips: bool = False          # whether annotated hips and pelvis count
  projection: str = "perspective"  # as SPIN's networks were trained; "weak", s (x + t), as EFT's were


class Weights(NamedTuple):
  """Source: EFT's authors, `train/eftFitter.py:run_eft_step`: 60 (5, 0.001, 1, 0.005, 5)."""
  keypoints2d: float = 300.0
  betas: float = 0.06
  camera: float = 60.0
  legs: float = 0.3
  keypoints3d: float = 300.0


class Fit(NamedTuple):
  """P people before (0) and after (1)."""
  pose: jax.Array        # [P, 2, 24, 3, 3]
  betas: jax.Array       # [P, 2, L]
  camera: jax.Array      # [P, 2, 3] as the network's function gives it, s (x + t)
  loss: jax.Array        # [P, 2]
  terms: dict            # {name: [P, 2]} before their weights
  iterations: jax.Array  # [P] int32, evaluations made, 1 for who fits already
  history: jax.Array     # [P, max_iter] keypoints2d of every evaluation; NaN where none was made


def annotated(keypoints, set_name):
  """Keypoints [..., K, C] of a joint set in the places of the annotated joints: [..., 49, C], zeros elsewhere.

  Of detectors' sets (OpenPose's) the twelve joints of the limbs and the five of the face, whose names agree.
  Source: EFT's authors keep detections out of the loss (`openpose_train_weight` 0) and fit to annotations; detections
  that are to be fitted must therefore stand in the place of annotations.
  """
  have = {name: i for i, name in reversed(list(enumerate(joints.names(set_name))))}
  limbs_and_face = joints.names("gt24")[:12] + joints.names("gt24")[19:]
  pairs = []
  for name in joints.names("gt24"):
    source = have.get(name, have.get(f"op_{name}") if name in limbs_and_face else None)
    if source is not None:
      pairs.append((joints.index(SET, name), source))
  to, source = map(np.array, zip(*pairs))
  keypoints = jnp.asarray(keypoints)
  return jnp.zeros((*keypoints.shape[:-2], len(joints.names(SET)), keypoints.shape[-1]), keypoints.dtype).at[
      ..., to, :].set(keypoints[..., source, :])


# --- the loss, of one person

_HIPS = ("right_hip", "left_hip", "pelvis")
LEGS = tuple((joints.index(SET, f"{side}_knee"), joints.index(SET, f"{side}_ankle")) for side in ("left", "right"))
_SHORTEST = 0.0089  # of an annotated shin, in the crop's -1 to 1


def counted(use_hips):
  """[49] float32, 1 for joints whose positions count: annotated ones but ankles, and but hips unless use_hips."""
  left_out = ("right_ankle", "left_ankle") + (() if use_hips else _HIPS)
  return np.array([name in joints.names("gt24") and name not in left_out for name in joints.names(SET)], np.float32)


def loss_terms(points, betas, camera, keypoints, settings=Settings(), joints3d=None):
  """What EFT's loss is the sum of, before weights.

  Args:
    points: [49, 3] metres; betas: [L]; camera: [3] (s, tx, ty) of s (x + t).
    keypoints: [49, 3] in the crop's -1 to 1, and confidence.
    joints3d: [24, 4] metres and confidence of "gt24"; None leaves the term out.
  Returns:
    {"keypoints2d", "betas", "camera", "legs"[, "keypoints3d"]}: [] each.
  Source: EFT's authors, `train/eftFitter.py:run_eft_step`.
  Differs: a predicted shin without length has no direction and costs 1, where theirs is NaN; what has no confidence, or
    no finite coordinates, adds nothing.
  """
  detected, confidence = objectives.known(keypoints)
  seen = project(points, camera, settings.projection)
  weight = (confidence * counted(settings.use_hips))[:, None]
  terms = {"keypoints2d": jnp.mean(weight * (seen - detected) ** 2), "betas": jnp.mean(betas ** 2),
           "camera": jnp.exp(-10.0 * camera[0]) ** 2, "legs": sum(_leg(seen, detected, confidence, *l) for l in LEGS)}
  if joints3d is not None:
    terms["keypoints3d"] = _keypoints3d(points, joints3d)
  return terms


def project(points, camera, projection):
  """Points [K, 3] -> [K, 2] in the crop's -1 to 1; see Settings.projection."""
  if projection not in PROJECTIONS:
    raise ValueError(f"projection {projection!r} is not one of {PROJECTIONS}")
  if projection == "perspective":
    return camera_lib.project_crop(points, camera)
  return camera[0] * (points[:, :2] + camera[1:])


def _direction(bone):
  """(unit vector or zeros, length) of bone [2], with finite gradients."""
  square = jnp.sum(bone ** 2)
  has_length = square > 1e-16
  length = jnp.sqrt(jnp.where(has_length, square, 1.0))
  return bone / length, jnp.where(has_length, length, 0.0)


def _leg(seen, detected, confidence, knee, ankle):
  """1 - cos of the angle between the seen and the annotated shin, times both confidences -> []."""
  (wanted, length), (ours, _) = _direction(detected[ankle] - detected[knee]), _direction(seen[ankle] - seen[knee])
  valid = jnp.where(length > _SHORTEST, confidence[knee] * confidence[ankle], 0.0)
  return valid * (1 - jnp.vdot(wanted, ours))


def _keypoints3d(points, joints3d):
  """Squared error of annotated joints but the hips, both sides centred at the nose; mean over 24 x 3 -> []."""
  finite = jnp.all(jnp.isfinite(joints3d), -1, keepdims=True)
  joints3d = jnp.where(finite, joints3d, 0.0)  # the nose counts as the centre whatever its confidence, as theirs does
  index = np.array(joints.mapping(SET, "gt24"))
  nose = joints.index("gt24", "nose")
  weight = joints3d[:, 3] * np.array([name not in _HIPS[:2] for name in joints.names("gt24")], np.float32)
  off = (points[index] - points[index[nose]]) - (joints3d[:, :3] - joints3d[nose, :3])
  return jnp.mean(weight[:, None] * off ** 2)


# --- which parameters are trained

def split(params, subset):
  """Parameters -> ({path: array} that are trained, {path: array} that are not).

  Args:
    params: nested dicts, as of `nn.regressor.ImageRegressor`.
    subset: a name in SUBSETS.
  Raises:
    ValueError: when there is no such subset, or this network has nothing of it.
  """
  if subset not in SUBSETS:
    raise ValueError(f"subset {subset!r} is not one of {', '.join(SUBSETS)}")
  flat = traverse_util.flatten_dict(params, sep="/")
  free = {path: x for path, x in flat.items() if is_trained(path, subset)}
  if not free:
    raise ValueError(f"this network has no parameter in {subset!r}")
  return free, {path: x for path, x in flat.items() if path not in free}


def is_trained(path, subset):
  """Whether a parameter, "backbone/layer4_0/conv1/kernel", belongs to a subset."""
  norm = any(part.startswith("bn") or part == "downsample_1" for part in path.split("/"))
  return not norm and any(name in path for name in SUBSETS[subset])


# --- the optimisation

def fine_tune(forward, params, inputs, keypoints, body, settings=Settings(), *, weights=Weights(), joints3d=None,
              chunk=1):
  """Fits P people, each from the same parameters.

  Args:
    forward: (params, input of one person) -> (pose [24, 3, 3], betas [L], camera [3] of s (x + t)), as at inference.
    params: nested dicts; inputs: pytree of [P, ...], crops or their features.
    keypoints: [P, 49, 3] of "spin49" in the crops' -1 to 1, and confidence.
    body: the part of a body that makes "spin49".
    joints3d: [P, 24, 4] of "gt24" in metres, with confidence, or None.
    chunk: how many people are done at once, in as much more memory; all of them wait for the slowest. On a CPU 1 is the
      fastest: 8 people with a resnet_tiny took 4.8 s of CPU time one by one, 9.4 s four at a time. Who is finished at
      once costs one evaluation, 0.01 s in place of 0.6 s.
  Returns:
    Fit. A person's does not depend on who else is there.
  Source: EFT's authors, `train/eftFitter.py`: outputs are those from before the last update.
  Differs: whose loss is no longer finite keeps the last one that was.
  """
  free, frozen = split(params, settings.subset)

  def one(row):
    inputs, keypoints, joints3d = row

    def predict(free):
      pose, betas, camera = forward(traverse_util.unflatten_dict(free | frozen, sep="/"), inputs)
      points = objectives.body_points(body, betas, pose, SET)
      terms = loss_terms(points, betas, camera, keypoints, settings, joints3d)
      loss = sum(getattr(weights, name) * term for name, term in terms.items())
      return loss, (pose, betas, camera, loss, terms)

    return _descend(predict, free, settings)

  rows = (inputs, keypoints, joints3d)
  chunk = min(chunk, len(keypoints))
  first, last, count, history = jax.lax.map(one, rows) if chunk <= 1 else jax.lax.map(one, rows, batch_size=chunk)
  both = jax.tree.map(lambda a, b: jnp.stack([a, b], 1), first, last)
  return Fit(*both, count, history)


def _descend(predict, free, settings):
  """(outputs of the first evaluation, of the last sound one, how many there were, keypoints2d of each).

  An early end of one person saves the rest of its evaluations; under vmap, of those of the whole chunk.
  """
  tx = optax.adam(settings.learning_rate)
  shapes = jax.eval_shape(predict, free)[1]
  blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  history = jnp.full((settings.max_iter,), jnp.nan, shapes[3].dtype)

  def body(carry):
    i, free, opt, first, last, history, _ = carry
    loss, pull, outputs = jax.vjp(predict, free, has_aux=True)
    error = outputs[4]["keypoints2d"]
    sound = jnp.isfinite(loss)
    choose = lambda when, a, b: jax.tree.map(lambda p, q: jnp.where(when, p, q), a, b)
    first = choose(i == 0, outputs, first)
    last = choose(sound | (i == 0), outputs, last)
    end = (error < settings.threshold) | (i + 1 >= settings.max_iter) | ~sound

    def update(free, opt):
      updates, opt = tx.update(pull(jnp.ones_like(loss))[0], opt, free)
      return optax.apply_updates(free, updates), opt

    # The gradient of the last evaluation is not needed; it costs twice as much as the evaluation.
    free, opt = jax.lax.cond(end, lambda free, opt: (free, opt), update, free, opt)
    return i + 1, free, opt, first, last, history.at[i].set(error), end

  start = (jnp.zeros((), jnp.int32), free, tx.init(free), blank, blank, history, jnp.zeros((), bool))
  count, _, _, first, last, history, _ = jax.lax.while_loop(lambda carry: ~carry[-1], body, start)
  return first, last, count, history
