"""The protocol of ambiguous crops: parts of people are hidden and the crop is made anew around what is left.

    multibodies       as the paper says: legs (knees down), arms and head, head, or nothing; the crop is around the
                      joints that remain and 5 % larger, also when nothing is hidden
    multibodies_code  as the authors' code does: legs are the six joints from the hips down, "head" hides the arms and
                      keeps the head; of detected joints, the first half, none remains; the crop is not larger, and
                      stays what it was when nothing is hidden

Legs, arms and head, and head are as likely as each other, 0.3; nothing is hidden of one in ten.

What is hidden has a confidence of 0. No pixel is painted over, neither in photographs here nor by the authors;
`data.synthetic`, which uses the same table, does paint over what would still show. NumPy alone: worker processes
read this file.

Source: 3D Multi-bodies (Biggs et al. 2020), appendix B; authors' `base_dataset.py:compute_crop_from_deletetype`.
"""

from typing import NamedTuple

import numpy as np

from jhmr.body import joints

NAMES = joints.names("spin49")
BELOW = (0.3, 0.6, 0.9)  # a uniform number below them: legs, arms and head, head; else nothing
NOTHING = len(BELOW)     # the kind that hides no joint
MIN_JOINTS = 3           # a crop needs; people with fewer left stay as they are
_STREAM = 1              # of random numbers: others are drawn from (seed, number) too

_DETECTED = tuple(name for name in NAMES if name.startswith("op_"))
_HEAD = ("nose", "eye", "ear", "head", "jaw")
_ARMS = ("shoulder", "elbow", "wrist")


class Protocol(NamedTuple):
  """What is hidden, and where the crop is then."""
  hidden: np.ndarray       # [4, 49] bool: legs, arms and head, head, nothing
  padding: float           # side of the crop over the extent of the joints that remain
  more_px: float           # that the extent reaches beyond them, right and below
  least_confidence: float  # of a joint that the crop goes around, exclusive
  recrops_all: bool        # also around those of whom nothing is hidden


def _table(*kinds):
  return np.array([[any(part in name for part in parts) for name in NAMES] for parts in kinds])


PROTOCOLS = {
    "multibodies": Protocol(
        _table(("knee", "ankle", "toe", "heel"), (*_HEAD, "neck", "thorax", *_ARMS), _HEAD, ()), 1.05, 0.0, 0.2, True),
    "multibodies_code": Protocol(
        _table(("hip", "knee", "ankle", *_DETECTED), (*_HEAD, "neck", *_ARMS, *_DETECTED), (*_ARMS, *_DETECTED), ()),
        1.0, 1.0, 0.0, False)}


def kind(seed, id):  # pylint: disable=redefined-builtin
  """Which of BELOW is hidden of an example, NOTHING of one in ten: a function of (seed, id), whatever the epoch."""
  u = np.random.default_rng((seed, _STREAM, int(id) % 2**32)).random()
  return int(np.searchsorted(BELOW, u, side="right"))


def hide(keypoints, box, variant, seed, id):  # pylint: disable=redefined-builtin
  """Hides some joints of a person and makes the crop anew.

  Args:
    keypoints: [49, 3] pixels, confidence.
    box: [3] centre x, y and side in pixels.
    variant: of PROTOCOLS.
    seed, id: 0 or more; the same ones hide the same.
  Returns:
    (keypoints [49, 3] with zeros where hidden, box [3], hidden [49] bool).
  Differs: theirs fails where no joint remains, and where nothing is to be hidden.
  """
  protocol = PROTOCOLS[variant]
  what = kind(seed, id)
  hidden = protocol.hidden[what]
  left = ~hidden & (keypoints[:, 2] > protocol.least_confidence)
  if left.sum() < MIN_JOINTS:
    return keypoints, box, np.zeros_like(hidden)
  if what < NOTHING or protocol.recrops_all:
    box = _around(keypoints[left, :2], protocol, np.asarray(box).dtype)
  return np.where(hidden[:, None], 0, keypoints).astype(keypoints.dtype), box, hidden


def _around(points, protocol, dtype):
  low, high = points.min(0), points.max(0) + protocol.more_px
  return np.array([*(low + high) / 2, max(protocol.padding * np.max(high - low), 1.0)], dtype)


def apply(example, variant, seed):
  """`hide` of an example in the form of `data.augment`, which has an "id"; nothing for an empty `variant`."""
  if not variant:
    return example
  keypoints, box, hidden = hide(example["keypoints2d"], example["box"], variant, seed, example["id"])
  seen = {"visible": example["visible"] * ~hidden} if "visible" in example else {}
  return example | {"keypoints2d": keypoints, "box": box} | seen
