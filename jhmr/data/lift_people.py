"""Poses of rendered people for lifting, without the pictures: bodies and cameras as `data.synthetic`, a 2D detector
simulated on the 64 x 64 heatmaps of each crop, its heatmaps fitted. A pose is a function of (settings, index).

What hides a joint is decided by rule. A box in front of some people hides what it covers; so does the border of the
crop; and a joint behind a limb, which is a capsule around the bone, is often lost.
"""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jhmr import lifting
from jhmr.body import body_file
from jhmr.body import joints
from jhmr.body import landmarks
from jhmr.body import mesh
from jhmr.body import smpl
from jhmr.data import ambiguous
from jhmr.data import appearance
from jhmr.data import heatmaps
from jhmr.data import synthetic
from jhmr.errors import InputError
from jhmr.fitting import gaussians

NAMES = joints.names("lift17")
_BONES = np.array(joints.edges("lift17"))
# Of the capsule around the bone that ends at a joint, in metres.
_RADIUS = {"hip": 0.10, "knee": 0.075, "ankle": 0.05, "spine": 0.13, "neck": 0.13, "jaw": 0.07, "head": 0.09,
           "shoulder": 0.07, "elbow": 0.045, "wrist": 0.04}
_RADIUS_M = np.array([_RADIUS[NAMES[end].split("_")[-1]] for _, end in _BONES], np.float32)
_OF_BONE = (np.arange(len(NAMES))[:, None, None] == _BONES).any(-1)  # [17, bones]
_BOX_PX = 6.0, 22.0       # sides of a box in front, of 64
_SEEDS = {"train": 0, "val": 500_000_000, "val_hard": 600_000_000}  # added to the seed: nobody is in two splits
_CHUNK = 64               # people at a time
_TRIES = 100              # people looked at for each ambiguous one, at most


class Settings(NamedTuple):
  """Which poses are made."""
  people: int = 20_000          # to train on
  val: int = 2_000              # as they come
  val_hard: int = 1_000         # ambiguous ones: some sigma is above lifting.HARD_PX
  seed: int = 0
  body: str = "mannequin"
  share_occluded: float = 0.1   # of people with a box in front of them
  share_truncated: float = 0.02  # of people of whom the crop shows a part
  share_lost: float = 0.12      # of joints behind a limb that the detector loses


def sources(body):
  """The files that decide what `made` makes: code, and those of Settings.body where it is no mannequin."""
  modules = (synthetic, ambiguous, appearance, lifting, heatmaps, gaussians)  # appearance splits the draws
  code = [pathlib.Path(module.__file__) for module in modules]
  geometry = sorted(pathlib.Path(joints.__file__).parent.glob("*.py"))
  return [pathlib.Path(__file__), *code, *geometry] + ([] if body in smpl.BUILT_IN else body_file.files_of(body))


def made(settings=Settings(), report=lambda text: None):
  """{name: array} of poses, as `lift_poses.write` takes them; splits "train", "val", "val_hard".

  Args:
    report: a function of a line of text that says how far it is.
  Raises:
    InputError: for a number of people or a seed that is out of range.
  """
  counts = {"train": settings.people, "val": settings.val, "val_hard": settings.val_hard}
  if min(counts.values()) < 0 or not sum(counts.values()) or not 0 <= settings.seed < _SEEDS["val"]:
    raise InputError(f"people {settings.people}, val {settings.val}, val_hard {settings.val_hard}, seed "
                     f"{settings.seed}: give 0 or more, one at least, and a seed in 0..{_SEEDS['val'] - 1}")
  arrays = smpl.load_arrays(settings.body)
  body = landmarks.rigid_body(smpl.from_arrays(arrays), ("spin49", "lift17"))
  assets = {"body": body, "surface": mesh.surface(arrays)}
  run = jax.jit(lambda assets, seed, index: poses(assets, seed, index, settings))
  parts = {name: _some(run, assets, settings.seed + _SEEDS[name], num, name == "val_hard",
                       lambda done, name=name, num=num: report(f"{name}: {done:,}/{num:,} poses"))
           for name, num in counts.items() if num}
  found = {key: np.concatenate([part[key] for part in parts.values()]) for key in next(iter(parts.values()))}
  return found | {"split": np.repeat(list(parts), [len(part["pose2d"]) for part in parts.values()])}


def _some(run, assets, seed, num, hard_only, report):
  """{name: array} of `num` people, or of that many ambiguous ones."""
  rows, have = [], 0
  for first in range(0, (_TRIES if hard_only else 1) * num, _CHUNK):
    part = jax.tree.map(np.asarray, run(assets, seed, np.arange(first, first + _CHUNK, dtype=np.int32)))
    part = {key: value[part["hard"] > 0] for key, value in part.items()} if hard_only else part
    rows.append(part)
    have += len(part["pose2d"])
    if first // _CHUNK % 64 == 63:
      report(min(have, num))
    if have >= num:
      break
  return {key: np.concatenate([row[key] for row in rows])[:num] for key in rows[0]}


def poses(assets, seed, index, settings):
  """Poses of people index [B] of the stream `seed`: {"pose2d", "gaussians", "pose3d", "hard"}, see `lift_spec`.

  Args:
    assets: "body", which makes the points of "spin49" and "lift17", and "surface".
    settings: Settings, static; of them the shares matter.
  """
  crop = synthetic.Settings(image_size=heatmaps.SIZE, share_2d_only=0.0, scale_jitter=0.1, shift_jitter=0.04,
                            share_truncated=settings.share_truncated)
  seen = synthetic.examples(assets, seed, index, crop)  # of its fields, those that need the picture are never made
  pose = jnp.concatenate([seen["global_orient"], seen["body_pose"]], 1)
  points = smpl.keypoints(assets["body"], smpl.forward(assets["body"], seen["betas"], pose), "lift17")
  cam = points + seen["transl"][:, None]
  focal = seen["focal_px"]
  px = cam[..., :2] / cam[..., 2:] * focal[:, None, None] + seen["center_px"][:, None]
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(index)
  maps = jax.vmap(lambda *a: _detector(*a, settings))(keys, px, cam[..., 2], focal)
  params, pose2d, _ = heatmaps.fit(maps, jnp.full((*maps.shape[:2], 2), jnp.nan))
  return {"pose2d": pose2d, "gaussians": params, "pose3d": points - points[:, :1],
          "hard": lifting.hard(params).astype(jnp.float32)}


def _detector(key, px, depth_m, focal_px, settings):
  """Heatmaps [16, 64, 64] of one person's joints [17, 2] in pixels of the crop, at depth_m [17]."""
  box_key, lost_key, map_key = jax.random.split(jax.random.fold_in(key, 1), 3)
  inside = jnp.all((px >= 0) & (px < heatmaps.SIZE), -1)
  u = jax.random.uniform(box_key, (6,))
  center = px[(len(NAMES) * u[0]).astype(int)] + 8 * (u[1:3] - 0.5)
  half = (_BOX_PX[0] + (_BOX_PX[1] - _BOX_PX[0]) * u[3:5]) / 2
  boxed = jnp.all(jnp.abs(px - center) < half, -1) & (u[5] < settings.share_occluded)
  lost = jax.random.uniform(lost_key, (len(NAMES),)) < settings.share_lost
  visible = inside & ~boxed & ~(_behind(px, depth_m, focal_px) & lost)
  order = np.array(joints.mapping("lift17", "lift16"))
  return heatmaps.simulate(map_key, px[order], visible[order].astype(jnp.float32))


def _behind(px, depth_m, focal_px):
  """Which joints [17] lie behind a limb that they are not an end of."""
  start, end = px[_BONES[:, 0]], px[_BONES[:, 1]]
  along = end - start
  gap = px[:, None] - start
  share = jnp.clip(jnp.sum(gap * along, -1) / jnp.maximum(jnp.sum(along**2, -1), 1e-6), 0, 1)  # [17, bones]
  depth = depth_m[_BONES[:, 0]] * (1 - share) + depth_m[_BONES[:, 1]] * share
  apart = jnp.sqrt(jnp.sum((gap - share[..., None] * along) ** 2, -1))
  covers = (apart < _RADIUS_M * focal_px / depth) & (depth + _RADIUS_M < depth_m[:, None])
  return jnp.any(covers & ~_OF_BONE, 1)
