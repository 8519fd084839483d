"""Pictures of lifted poses: the 2D pose, and all hypotheses from the front and from the side."""

from jhmr import sampling
from jhmr.body import draw, joints
from jhmr.data import lift_spec
import jax
import numpy as np

SIDE_PX = 224            # of a panel
SIDE_M = 2.2             # of the world, across a panel
HYPOTHESES = 50          # of a system that gives several
ON_SHEET = 8             # poses
TRUTH = (60, 150, 60)    # RGB of a labelled pose
GUESS = (0, 0, 0)        # of the best guess
LIMBS = {"left": (225, 120, 50), "right": (40, 125, 215)}  # of the others' bones
_OTHER = (130, 130, 130)
_SHARE = 0.8             # of the panel's side that a 2D pose takes


def _colors(set_name):
  """RGB of every bone: by the side of its end."""
  names = joints.names(set_name)
  return [LIMBS.get(names[j].split("_")[0], _OTHER) for _, j in joints.edges(set_name)]


def panels(pose2d, points, truth=None):
  """[2D pose, from the front, from the side] of one person.

  Args:
    pose2d: [16, 2] pixels of any scale; joints that are not finite are left out.
    points: [S, 17, 3] metres, the best guess first.  truth: [17, 3], or None.
  Returns:
    three uint8 images [SIDE_PX, SIDE_PX, 3].
  """
  blank = np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8)
  low, high = np.nanmin(pose2d, 0), np.nanmax(pose2d, 0)
  flat = (pose2d - (low + high) / 2) * _SHARE * SIDE_PX / max(float(np.max(high - low)), 1e-6) + SIDE_PX / 2
  images = [draw.skeleton(blank, flat, joints.edges(lift_spec.SET_2D), _colors(lift_spec.SET_2D))]
  edges, alpha = joints.edges(lift_spec.SET_3D), float(np.clip(6 / max(len(points) - 1, 1), 0.15, 0.6))
  for axes in ((0, 1), (2, 1)):
    place = lambda x, axes=axes: SIDE_PX / 2 + x[..., axes] * SIDE_PX / SIDE_M
    image = draw.skeletons(blank, place(points[1:]), edges, _colors(lift_spec.SET_3D), alpha)
    image = draw.skeletons(image, place(points[:1]), edges, [GUESS] * len(edges), 1.0)
    if truth is not None:
      image = draw.skeletons(image, place(truth[None]), edges, [TRUTH] * len(edges), 1.0)
    images.append(image)
  return images


def prediction_sheet(system, state, batch, assets):
  """A grid of a batch's first poses: `panels` of what a system makes of them, the label in green.

  Args:
    system: a System.  state, batch, assets: on the host.
  Returns:
    uint8 [H, W, 3].
  """
  keys = sampling.keys_of(0, [str(i) for i in batch["id"]])
  program = jax.jit(lambda *given: sampling.guess_first(system, *given, keys, HYPOTHESES if system.choose else 1))
  truth = [pose if known else None for pose, known in zip(batch["pose3d"], batch["has_pose3d"])]
  return sheet(batch["pose2d"], np.asarray(program(state, batch, assets).joints), truth)


def sheet(pose2d, points, truth=None):
  """A grid of the first poses: `panels` of pose2d [N, 16, 2], points [N, S, 17, 3] and truth, N of [17, 3] or None."""
  num = min(ON_SHEET, len(points))
  cells = [panel for i in range(num) for panel in panels(pose2d[i], points[i], truth[i] if truth else None)]
  return draw.grid(cells, columns=6, labels=["2D pose", "from the front", "from the side"] * num)
