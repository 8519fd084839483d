"""Scores thousands of hypotheses an image in one pass over a split: every metric of `hypotheses`, bounded memory.

Hypotheses are drawn and posed `chunk` at a time, for `IMAGES` images at a time, with the few points that joints need.
Of all S hypotheses of those images 55 joints and 6 numbers are kept, 0.7 kB each: 2.8 MB an image at S = 4096, twice
that while they are put together; measured on CPU, with the built-in body: 54 MB of temporaries at S = 4096 and chunks
of 256 (31 MB in chunks of 64), whatever the batch. What leaves the device is about 120 numbers an image.

A hypothesis is a function of (seed, the image's id, its own number): neither the chunk, nor the number of devices, nor
how many are drawn after it changes it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jhmr import hypotheses, metrics, quantise, sampling
from jhmr.body import camera, joints, landmarks, smpl
from jhmr.errors import InputError
from jhmr.state import labelled_pose
import numpy as np

CHUNK = 256                # hypotheses posed at a time
IMAGES = 4                 # images at a time on one device
SETS = ("h36m17", "coco17")  # what `body_of` must be able to make
QUANTISED = (1, 5, 10, 25)  # Source: 3D Multi-bodies (Biggs et al. 2020), table 1
ORACLES = ("mpjpe_mm", "pa_mpjpe_mm")
SEEN = 0.6                 # confidence of a keypoint that counts as visible. Source: HuManiFlow, 3DPW
_COCO = np.array(joints.mapping("spin49", "coco17"))


class Hypotheses(NamedTuple):
  """S bodies of B images, as far as metrics need them; metres."""
  joints: jax.Array     # [B, S, 14, 3] LSP joints, Human3.6M's pelvis at the origin
  keypoints: jax.Array  # [B, S, 17, 3] COCO keypoints in SMPL's frame: the root lies where betas put it
  projected: jax.Array  # [B, S, 17, 2] the same in crop coordinates
  chain: jax.Array      # [B, S, 24, 3] joints of the kinematic chain, root at the origin: what is clustered
  log_prob: jax.Array   # [B, S]


class Truth(NamedTuple):
  """The labels of B images."""
  joints: jax.Array       # [B, 14, 3] as in Hypotheses
  keypoints2d: jax.Array  # [B, 17, 2] crop coordinates
  visible: jax.Array      # [B, 17] 1 for keypoints that are seen and labelled
  log_prob: jax.Array     # [B] of the labelled pose
  z: jax.Array            # [B, D] its latent


def counts_of_first(num):
  """The n whose minimum over the first n is reported: 1, 2, 4, ..., those of QUANTISED, and num."""
  powers = [2**i for i in range(num.bit_length())]
  return tuple(sorted({n for n in (*powers, *QUANTISED, num) if n <= num}))


def counts_quantised(num):
  return tuple(n for n in QUANTISED if n <= num)


def score_hypotheses(sample, truth, keys, num, chunk=CHUNK, keep_first=True):
  """Every metric of num hypotheses for each of a few images.

  Args:
    sample: z [B, S, D] -> Hypotheses of S latents; called with S = chunk.
    truth: Truth of the B images.
    keys: [B] one key an image.
    num, chunk: static; at least two hypotheses, the first of them the mode.
    keep_first: see `quantise.quantise`.
  Returns:
    {name: [B, ...]} to average over images, or {name: (numerator [B], denominator [B])} to sum and divide. Errors
    reduce over all hypotheses; consistency, diversity and calibration describe the random ones alone, without the mode.
    "_first": [B, n] for `counts_of_first(num)`; "_medoids", "_centroids": [B, n] for `counts_quantised(num)`;
    "calibration", "latent_coverage": [B, Q]; "std_mm": [B, 3].
  Source: the functions of `hypotheses` and `quantise`.
  """
  if num < 2 or chunk < 1:
    raise ValueError(f"num {num} must be at least 2, chunk {chunk} at least 1")
  every = _measured(sample, truth, keys, num, min(chunk, num))
  random = {name: value[:, 1:] for name, value in every.items()}
  scores = {f"{m}_{how}": v for m in ORACLES for how, v in hypotheses.reduced(every[m]).items()}
  scores |= {f"{m}_first": hypotheses.best_of_first(every[m], counts_of_first(num)) for m in ORACLES}
  scores |= _quantised(every, truth, keys, counts_quantised(num), keep_first)
  scores |= {"pck_mode": every["pck"][:, 0], "pck_best": metrics.best_of(every["pck"], higher_is_better=True),
             "cps_mode": hypotheses.cps(every["worst_mm"][:, 0]),
             "cps_best": hypotheses.cps(jnp.min(every["worst_mm"], 1))}
  return scores | _of_the_set(every, random, truth) | _likelihood(random, truth)


def _measured(sample, truth, keys, num, chunk):
  """{name: [B, num, ...]} of what is kept of every hypothesis."""
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
  half_crop = camera.CROP_PX / 2

  def piece(first):
    drawn = sample(sampling.noise(keys, first + jnp.arange(chunk), truth.z.shape[-1]))
    off = hypotheses.reprojection(drawn.projected, truth.keypoints2d, truth.visible) * half_crop
    return hypotheses.errors(drawn.joints, truth.joints) | {
        "off_px": off, "joints": drawn.joints, "keypoints": drawn.keypoints, "chain": drawn.chain,
        "log_prob": drawn.log_prob}

  return sampling.in_chunks(piece, num, chunk)


def _quantised(every, truth, keys, counts, keep_first):
  """Errors of the best of n representatives, for medoids (real hypotheses) and centroids (means of joints)."""
  found = []
  for n in counts:
    seeds = jax.vmap(lambda key, n=n: jax.random.fold_in(jax.random.fold_in(key, 1), n))(keys)
    choose = functools.partial(quantise.quantise, num=n, keep_first=keep_first)
    found.append(jax.vmap(lambda p, v, k, choose=choose: choose(p, v, key=k))(every["chain"], every["joints"], seeds))
  chosen, centroids = (jnp.concatenate(parts, 1) for parts in zip(*found))                    # [B, 1 + 5 + ...]
  ends = np.cumsum(counts)
  of_centroids = hypotheses.errors(centroids, truth.joints)
  best_of_each = lambda x: jnp.stack([jnp.min(part, 1) for part in jnp.split(x, ends[:-1], 1)], -1)
  best = {f"{m}_medoids": best_of_each(jnp.take_along_axis(every[m], chosen, 1)) for m in ORACLES}
  return best | {f"{m}_centroids": best_of_each(of_centroids[m]) for m in ORACLES}


def _of_the_set(every, random, truth):
  """2D consistency, diversity and calibration."""
  spread = 1000 * hypotheses.spread(random["keypoints"])
  return {"consistency2d_px": hypotheses.consistency(random["off_px"], truth.visible),
          "consistency2d_mode_px": hypotheses.consistency(every["off_px"][:, :1], truth.visible),
          "diversity_mm": hypotheses.diversity(spread, jnp.ones_like(spread)),
          "diversity_visible_mm": hypotheses.diversity(spread, truth.visible),
          "diversity_hidden_mm": hypotheses.diversity(spread, 1 - truth.visible),
          "std_mm": 1000 * hypotheses.std_per_axis(random["keypoints"]),
          "calibration": hypotheses.calibration(random["joints"], truth.joints)}


def _likelihood(random, truth):
  return {"log_likelihood": truth.log_prob,
          "bits_per_dim": hypotheses.bits_per_dim(truth.log_prob, truth.z.shape[-1]),
          "log_prob_gap": truth.log_prob - jnp.mean(random["log_prob"], -1),
          "latent_energy": hypotheses.latent_energy(truth.z),
          "latent_coverage": hypotheses.latent_coverage(truth.z)}


def body_of(assets):
  """The part of the assets' body that these metrics need; at set-up. Raises InputError when it cannot make SETS."""
  return landmarks.rigid_body(assets["body"], SETS)


def sampler(latent, state, encoded, assets, body):
  """z [B, S, D] -> Hypotheses, of a system's `Latent` and what it encoded of B images."""
  def sample(z):
    pose, _, log_prob = latent.decode(state, z, encoded, assets)
    posed = smpl.forward(body, encoded.betas[:, None], pose)
    keypoints = smpl.keypoints(body, posed, "coco17")
    chain = posed.joints - posed.joints[..., :1, :]
    return Hypotheses(metrics.centred(body, posed)[0], keypoints,
                      camera.project_crop(keypoints, encoded.camera[:, None]), chain, log_prob)
  return sample


def truth_of(latent, state, batch, encoded, assets, body):
  """The Truth of a batch."""
  pose = labelled_pose(batch)
  log_prob, z = latent.log_prob(state, pose[:, None], encoded, assets)
  scored, _ = metrics.centred(body, smpl.forward(body, batch["betas"], pose))
  return Truth(scored, *seen_keypoints(batch), log_prob[:, 0], z[:, 0])


def seen_keypoints(batch):
  """(COCO keypoints [B, 17, 2] in crop coordinates, [B, 17] float32 1 for those that are seen and labelled).

  A keypoint is seen where `visible` says so and it has a 2D label, or, in data without `visible`, where its confidence
  is above SEEN.
  """
  labels = batch["keypoints2d"][:, _COCO]
  seen = batch["visible"][:, _COCO] * (labels[..., 2] > 0) if "visible" in batch else labels[..., 2] > SEEN
  return labels[..., :2], seen.astype(jnp.float32)


def make_scorer(mapper, system, num, chunk=CHUNK, seed=0, keep_first=True):
  """score(state, batches, assets) -> {name: NumPy [N, ...] or (numerator [N], denominator [N])} of the labelled images.

  Args:
    batches, assets: as `evaluate.make_scorer` takes them; assets["hypothesis_body"] is that of `body_of`.
  Raises:
    InputError: for a system without a density, or too few hypotheses.
  """
  latent = system.latent
  if latent is None:
    raise InputError("--hypotheses needs a system with a density over poses, such as prohmr: this run has none")
  if num < 2 or chunk < 1:
    raise InputError(f"--hypotheses {num} --chunk {chunk}: draw at least 2 hypotheses, at least 1 at a time")

  def measure(state, batch, assets):
    body, encoded = assets["hypothesis_body"], latent.encode(state, batch, assets)
    keys = sampling.keys_of_ids(seed, batch["id"])

    def some(part):
      batch, encoded, keys = part
      truth = truth_of(latent, state, batch, encoded, assets, body)
      return score_hypotheses(sampler(latent, state, encoded, assets, body), truth, keys, num, chunk, keep_first)

    labels = {k: v for k, v in batch.items() if k != "image"}
    return _in_groups(some, (labels, encoded, keys)), batch["mask"] * batch["has_pose"]

  return over_images(mapper, measure)


def over_images(mapper, measure):
  """score(state, batches, assets) -> {name: [N, ...]} of the images that count, from
  measure(state, batch, assets) -> ({name: [B, ...]}, [B] > 0 for those)."""
  program = mapper.rows(measure)

  def score(state, batches, assets):
    parts = []
    for batch in batches(assets):
      values, weight = mapper.join(program(state, batch, assets))
      parts.append(jax.tree.map(lambda x, kept=weight > 0: x[kept], values))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

  return score


def _in_groups(f, tree):
  """f of a few rows at a time, [B, ...] -> [B, ...]: what f holds does not grow with the batch."""
  size = jax.tree.leaves(tree)[0].shape[0]
  group = max(n for n in range(1, IMAGES + 1) if size % n == 0)
  split = jax.tree.map(lambda x: x.reshape(size // group, group, *x.shape[1:]), tree)
  return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), jax.lax.map(f, split))
