"""What networks are shown, `config.data.input`: photographs, or what another network made of them.

    rgb    the picture
    parts  which of the 24 body parts is at each pixel, as a colour
    iuv    the part and the two surface coordinates at each pixel, as the three channels

All are three channels of bytes that are normalised like a photograph, so systems never know which it is; where nobody
is seen, they are 0. Source: GraphCMR, section 2.3.5, inputs of body parts and DensePose.

A colour of PALETTE has three levels in each channel, and that of a right part is that of the left one with red and
blue exchanged: red rules on the left, blue on the right, both are equal in the middle. So every two parts are at least
half a channel apart, and a mirrored person has the colours of a mirrored picture after the exchange.

A flip of labels exchanges sides too (GraphCMR's authors, nkolot/GraphCMR #28). Charts say how: in that of a `body`,
made by code, U runs about the bone and is mirrored; of `densepose` only the parts are exchanged.
"""

import os

import cv2
from jhmr.body import joints
from jhmr.data import images
from jhmr.errors import InputError
import numpy as np

KINDS = ("rgb", "parts", "iuv")
PART_STEP = 10  # between the bytes of part i and i + 1 in the first channel of "iuv": 10, 20, ..., 240

NUM_PARTS = 24
CHARTS = ("body", "densepose")
_FLIPS = {  # of label 0..24
    "body": np.array([0, *(j + 1 for j in joints.flip("smpl24"))], np.uint8),  # label = joint + 1
    # Source: DensePose's parts: back and front, hands, feet, legs, arms, head. Differs: its table of symmetries, which
    # moves U and V a little too, is not part of it.
    "densepose": np.array([0, 1, 2, *(i + s for i in range(3, 25, 2) for s in (1, 0))], np.uint8)}

_LEVELS = (0, 127, 255)


def _palette():
  colors = np.zeros((25, 3), np.uint8)  # of label 0..24, label = joint + 1
  flip, names = joints.flip("smpl24"), joints.names("smpl24")
  middle = iter([(a, g, a) for g in _LEVELS for a in _LEVELS][1:])
  left = iter([(r, g, b) for g in _LEVELS for r, b in ((255, 0), (255, 127), (127, 0))])
  for j, name in enumerate(names):
    if flip[j] == j:
      colors[j + 1] = next(middle)
    elif name.startswith("left"):
      colors[j + 1] = next(left)
      colors[flip[j] + 1] = colors[j + 1, ::-1]
  return colors


PALETTE = _palette()


def encode_iuv(iuv):
  """(I in 0..24, U and V in 0..1) [..., 3] -> bytes, U and V times 255, as DensePose writes them."""
  import jax.numpy as jnp  # as in `images`: worker processes read this file
  return jnp.round(iuv * jnp.array([1.0, 255.0, 255.0])).astype(jnp.uint8)


def picture(kind, seen):
  """What a network sees, before normalisation.

  Args:
    kind: one of KINDS.
    seen: {"image": [..., 3] in 0..255, "parts": [...] uint8 in 0..24, "iuv": [..., 3] of `encode_iuv`}, of which only
      what `kind` speaks of is read. NumPy or JAX.
  Returns:
    [..., 3] in 0..255.
  """
  if kind == "rgb":
    return seen["image"]
  xp = seen[kind].__array_namespace__()
  if kind == "parts":
    return xp.take(xp.asarray(PALETTE), seen["parts"], axis=0, mode="clip")
  return seen["iuv"] * xp.asarray(np.array([PART_STEP, 1, 1], np.uint8))


def mirrored(kind, labels, chart="body"):
  """Labels of a picture that is already mirrored, with sides exchanged.

  Args:
    kind: "parts", labels [...], or "iuv", labels [..., 3]; uint8, NumPy.
    chart: of CHARTS, of "iuv".
  """
  if kind == "parts":
    return _FLIPS["body"][np.minimum(labels, NUM_PARTS)]
  part, u, v = np.moveaxis(labels, -1, 0)
  u = np.where(part > 0, 255 - u, 0).astype(np.uint8) if chart == "body" else u
  return np.stack([_FLIPS[chart][np.minimum(part, NUM_PARTS)], u, v], -1)


def kind_of(config):
  """config.data.input, "rgb" where nothing is said; InputError when there is none of that name."""
  kind = config.get("data", {}).get("input", "rgb")
  if kind not in KINDS:
    raise InputError(f"config.data.input is {kind!r}: one of {', '.join(KINDS)}")
  return kind


# --- files of labels

def name_of(name, kind):
  """The label image that belongs to a photograph's name, in a folder of its own: a PNG of that name."""
  return name if kind == "rgb" else os.path.splitext(name)[0] + ".png"


def read(path, kind):
  """Labels of a file: parts [H, W] or iuv [H, W, 3], uint8.

  Args:
    path: of a PNG. Parts: one channel of labels 0..24, or colours of PALETTE. IUV: three channels as DensePose's files
      have them, which OpenCV reads as I, U, V; I is 0..24.
    kind: "parts" or "iuv".
  Raises:
    InputError: when it is missing, damaged, or holds something else.
  """
  try:
    with open(path, "rb") as f:
      labels = images.decode(f.read(), color=False)[0]
    return (_parts if kind == "parts" else _iuv)(labels)
  except (OSError, ValueError, cv2.error) as error:
    said = getattr(error, "strerror", None) or getattr(error, "err", None) or str(error)
    raise InputError(f"{kind} image {path!r} cannot be used: {' '.join(str(said).split())[:150]}") from error


def _parts(labels):
  if labels.ndim == 3:
    bgr = labels[..., :3].astype(np.int64)
    if (bgr[..., :1] == bgr).all() and bgr.max() <= NUM_PARTS:
      return bgr[..., 0].astype(np.uint8)
    code = bgr @ [1, 256, 65536]
    known = PALETTE[:, ::-1].astype(np.int64) @ [1, 256, 65536]
    order = np.argsort(known)
    found = order[np.minimum(np.searchsorted(known[order], code), NUM_PARTS)]
    if not np.array_equal(known[found], code):
      raise ValueError("its colours are not those of jhmr's parts: give one channel of labels 0 to 24")
    return found.astype(np.uint8)
  return _in_range(labels, "it")


def _iuv(labels):
  if labels.ndim != 3 or labels.shape[2] != 3 or labels.dtype != np.uint8:
    raise ValueError(f"it is {labels.dtype} of shape {labels.shape}, not three channels of bytes I, U, V")
  _in_range(labels[..., 0], "its first channel, I,")
  return labels


def _in_range(labels, what):
  if labels.max() > NUM_PARTS:
    raise ValueError(f"{what} holds {labels.max()}, not parts 0 to {NUM_PARTS}")
  return labels.astype(np.uint8)


def crop(labels, kind, center_px, side_px, size):
  """What a network sees [size, size, 3] uint8 of a box of `read`'s labels, by the nearest pixel."""
  return picture(kind, {kind: images.warp_labels(labels, images.crop_affine(center_px, side_px, size), size)})
