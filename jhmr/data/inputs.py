"""What networks are shown, `config.data.input`: photographs, or what another network made of them.

    rgb    the picture
    parts  which of the 24 body parts is at each pixel, as a colour
    iuv    the part and the two surface coordinates at each pixel, as the three channels

All are three channels of bytes that are normalised like a photograph, so systems never know which it is; where nobody
is seen, they are 0. Source: GraphCMR, section 2.3.5, inputs of body parts and DensePose.

A colour of PALETTE has three levels in each channel, and that of a right part is that of the left one with red and
blue exchanged: red rules on the left, blue on the right, both are equal in the middle. So every two parts are at least
half a channel apart, and a mirrored person has the colours of a mirrored picture after the exchange.
"""

from jhmr.body import joints
import numpy as np

KINDS = ("rgb", "parts", "iuv")
PART_STEP = 10  # between the bytes of part i and i + 1 in the first channel of "iuv": 10, 20, ..., 240

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
      what `kind` speaks of is read.
  Returns:
    [..., 3] in 0..255.
  """
  import jax.numpy as jnp
  if kind == "parts":
    return jnp.asarray(PALETTE).at[seen["parts"]].get(mode="clip")
  if kind == "iuv":
    return seen["iuv"] * jnp.array([PART_STEP, 1, 1], jnp.uint8)
  return seen["image"]
