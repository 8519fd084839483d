"""Crops as SPIN's own code makes them, pixel by pixel, and labels of a crop pasted back into the photograph.

The released weights were trained on these crops and the published numbers measured on them. They differ from
`images.crop` in three ways: the box ends at whole pixels, a triangle as wide as two pixels of the crop averages what
shrinks, and the values of each crop are stretched to 0..255. Without Pillow and `scipy.misc`, but to the same bits.

Source: SPIN, authors' `utils/imutils.py`; scipy 1.0's `bytescale` and `imresize`; Pillow's resampling.
"""

import functools

import numpy as np
from scipy import sparse

_FRACTION_BITS = 22  # of Pillow's weights: what is left of 32 after 8 of the pixel and 2 of overshoot


def corners(center_px, scale, size):
  """The whole pixels a box spans.

  Args:
    center_px: (x, y) of the box.
    scale: its side in units of 200 pixels.
    size: side of the crop in pixels.
  Returns:
    int64 [2] first column and row, int64 [2] those after the last.
  Source: SPIN, `transform` with `invert`: a numerical inverse, then truncation towards zero, so that centre (100, 120)
    and scale 1 begin in row 19, not 20.
  """
  side = 200 * scale
  forward = np.array([[size / side, 0, size * (-float(center_px[0]) / side + 0.5)],
                      [0, size / side, size * (-float(center_px[1]) / side + 0.5)], [0, 0, 1]])
  back = np.linalg.inv(forward)
  return tuple((back @ [edge, edge, 1.0])[:2].astype(np.int64) for edge in (0, size))


def crop(image, center_px, scale, size):
  """Square crop of a box, in the authors' bytes.

  Args:
    image: [H, W, 3] uint8.
    center_px, scale: as in `corners`.
    size: side of the crop in pixels.
  Returns:
    [size, size, 3] uint8; what lies outside the image was zero before the stretch.
  Raises:
    ValueError: when the box holds less than a pixel.
  Source: SPIN, `crop` without rotation: bilinear and stretched, because `imresize` stretches whatever is not bytes.
  """
  low, high = corners(center_px, scale, size)
  if np.any(high <= low):
    raise ValueError(f"its box of {200 * scale:.3g} pixels holds no pixel")
  canvas = np.zeros((high[1] - low[1], high[0] - low[0], 3), np.uint8)
  (rows, seen_rows), (columns, seen_columns) = (_overlap(low[i], high[i], image.shape[1 - i]) for i in (1, 0))
  canvas[rows, columns] = image[seen_rows, seen_columns]
  return resize_bilinear(stretch(canvas), size)


def _overlap(low, high, length):
  """Where pixels low..high-1 meet an image of that length: (slice of the box, slice of the image)."""
  first, last = max(0, low), max(min(high, length), max(0, low))
  return slice(first - low, last - low), slice(first, last)


def stretch(values):
  """uint8 [...] -> uint8 with the least at 0 and the largest at 255. Source: scipy 1.0, `bytescale`, of floats."""
  low, high = float(values.min()), float(values.max())
  table = (np.arange(256) - low) * (255.0 / ((high - low) or 1))
  return (table.clip(0, 255) + 0.5).astype(np.uint8)[values]


def resize_bilinear(image, size):
  """[H, W, C] uint8 -> [size, size, C] uint8, along rows and then along columns, rounded each time.

  Source: Pillow, `Resample.c`. Differs: lately it takes columns first of pictures much taller than wide; boxes are not.
  """
  for axis in (1, 0):
    turned = np.moveaxis(image, axis, 0)
    sums = _weights(turned.shape[0], size) @ turned.reshape(turned.shape[0], -1).astype(np.int32)
    rounded = (sums + (1 << (_FRACTION_BITS - 1))) >> _FRACTION_BITS  # below 2^31: 255 times 2^22 and a little
    image = np.moveaxis(np.minimum(rounded, 255).astype(np.uint8).reshape(size, *turned.shape[1:]), 0, axis)
  return image


@functools.lru_cache(maxsize=512)
def _weights(old, new):
  """Sparse [new, old] of whole numbers: a triangle around each new pixel's middle, 2^22 in sum."""
  step = old / new
  reach = max(step, 1.0)
  rows, columns, values = [], [], []
  for i in range(new):
    middle = (i + 0.5) * step
    source = np.arange(max(int(middle - reach + 0.5), 0), min(int(middle + reach + 0.5), old))
    weight = np.maximum(1 - np.abs((source - middle + 0.5) * (1.0 / reach)), 0)
    total = np.cumsum(weight)[-1]  # one after the other, as Pillow adds them
    rows.append(np.full(len(source), i))
    columns.append(source)
    values.append(np.floor(0.5 + weight / total * 2**_FRACTION_BITS).astype(np.int32))
  places = np.concatenate(rows), np.concatenate(columns)
  return sparse.csr_array((np.concatenate(values), places), shape=(new, old))


def uncrop(labels, center_px, scale, size_hw):
  """Labels of a crop in the photograph, by the nearest pixel; 0 outside the box.

  Args:
    labels: [S, S] uint8.
    center_px, scale: of the box the crop shows.
    size_hw: height and width of the photograph.
  Returns:
    [H, W] uint8.
  Source: SPIN, `uncrop`, and Pillow's nearest resampling.
  Differs: theirs stretches masks as it does images, so one that fills the crop becomes empty.
  """
  low, high = corners(center_px, scale, len(labels))
  out = np.zeros(size_hw, np.uint8)
  (rows, seen_rows), (columns, seen_columns) = (_overlap(low[i], high[i], size_hw[1 - i]) for i in (1, 0))
  row, column = (_nearest(len(labels), high[i] - low[i]) for i in (1, 0))
  out[seen_rows, seen_columns] = labels[np.ix_(row[rows], column[columns])]
  return out


def _nearest(old, new):
  """Which of `old` pixels each of `new` shows; positions are added up, as Pillow does, which matters at ties."""
  step = np.full(max(int(new), 0), old / max(new, 1))
  step[:1] *= 0.5
  return np.minimum(np.cumsum(step).astype(np.int64), old - 1)
