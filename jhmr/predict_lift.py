"""3D poses from 2D ones with a trained system: `python -m jhmr.predict --workdir RUN --poses poses.npz --out out`.

Writes `lifted.npz`, joints [N, S, 17, 3] in metres, the pelvis at the origin and the best guess first, in the order of
joints.names("lift17"), and log_prob [N, S]; and `all.png` of the first few. `--num-samples S` asks for several
hypotheses; a set depends on the 2D pose and (--seed, its place in the file) alone.
"""

import os

from jhmr import files, lift_pictures, pictures, report, sampling, task
from jhmr.data import lift_poses, lift_source
from jhmr.errors import InputError
import jax
import numpy as np

BATCH = 64
FILE = "lifted.npz"
_OF_IMAGES = ("boxes", "body", "focal", "prior", "interpolate", "no_meshes")


def check(args, config):
  """Raises InputError when the run and --poses do not go together, or options are of images."""
  if not task.lifts(config):
    raise InputError(f"--poses needs a run that lifts 2D poses, but {args.workdir!r} sees images: give --images")
  if odd := [name for name in _OF_IMAGES if getattr(args, name)]:
    raise InputError(f"--{odd[0].replace('_', '-')} is of images: leave it out with --poses")


def write(args, config, system, state, assets):
  """Lifts every pose of the file args.poses into args.out."""
  rows = lift_poses.read(args.poses)
  lift_source.check(config, rows, f"--poses {args.poses!r}")
  num, several = len(rows["pose2d"]), args.num_samples

  @jax.jit
  def lift(state, batch, assets, keys):
    return sampling.guess_first(system, state, batch, assets, keys, several or 1)

  parts = []
  for first in range(0, num, BATCH):
    index = np.minimum(np.arange(first, first + BATCH), num - 1)
    batch = {k: rows[k][index] for k in ("pose2d", "gaussians")}
    found = jax.device_get(lift(state, batch, assets, sampling.keys_of_ids(args.seed, index)))
    parts.append(jax.tree.map(lambda x, first=first: x[:num - first], found))
    report.say(f"{min(first + BATCH, num):,}/{num:,} poses")
  found = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  os.makedirs(args.out, exist_ok=True)
  with files.whole(os.path.join(args.out, FILE), "wb") as f:
    np.savez(f, joints=found.joints, log_prob=found.log_prob)
  if not args.no_pictures:
    pictures.write(os.path.join(args.out, "all.png"), lift_pictures.sheet(rows["pose2d"], found.joints))
  report.say(f"{FILE} and pictures are in {args.out}")
