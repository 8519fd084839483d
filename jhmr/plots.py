"""Plots of curves, drawn with OpenCV on the host: what an evaluation shows without a plotting library."""

import math
from typing import NamedTuple

import cv2
import numpy as np

SIZE = (360, 480)                # height, width in pixels
MARGINS = (34, 16, 46, 60)       # top, right, bottom, left
COLORS = ((31, 110, 180), (214, 92, 30), (44, 140, 70), (150, 60, 150), (120, 120, 120), (200, 160, 0), (0, 160, 170))
INK, GRID = (50, 50, 50), (225, 225, 225)
_SHIFT = 4                       # OpenCV's coordinates are in 1/16 pixels


class Curve(NamedTuple):
  """One line of a plot; low and high, where given, are drawn as a band."""
  label: str
  x: np.ndarray   # [n]
  y: np.ndarray   # [n]
  low: object = None
  high: object = None


def ticks(low, high, most=6):
  """Round numbers within [low, high], about `most` of them, 1, 2 or 5 times a power of ten apart."""
  raw = max(high - low, 1e-12) / most
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
  return np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step


def log_marks(values):
  """Of positive values those to write below a logarithmic axis: far enough apart, from the least one on."""
  values = np.unique(np.asarray(values, float))
  marks, apart = values[:1].tolist(), (values[-1] / values[0]) ** (1 / 8) * (1 - 1e-9)
  for value in values[1:]:
    marks += [float(value)] if value >= apart * marks[-1] else []
  return marks


def plot(curves, title, x_label, y_label, log_x=False, diagonal=False, size=SIZE):
  """Curves over common axes.

  Args:
    curves: list of Curve; points that are not finite are left out.
    log_x: x on a logarithmic axis, marked at its own values, `log_marks`.
    diagonal: also the line y = x, over axes from 0 to 1.
  Returns:
    uint8 RGB [*size, 3].
  """
  image = np.full((*size, 3), 255, np.uint8)
  scale_x = np.log2 if log_x else np.asarray
  box = ((0, 1), (0, 1)) if diagonal else (_range([scale_x(c.x) for c in curves], 0), _range(
      [v for c in curves for v in (c.y, c.low, c.high) if v is not None], 0.06))
  place = lambda x, y: _pixels(scale_x(np.asarray(x, float)), np.asarray(y, float), box, size)
  marks = log_marks(np.concatenate([c.x for c in curves])) if log_x else ticks(*box[0])
  _axes(image, place, marks, ticks(*box[1]), box, (title, x_label, y_label), log_x)
  if diagonal:
    _line(image, place([0, 1], [0, 1]), (170, 170, 170))
  for i, curve in enumerate(curves):
    _curve(image, curve, place, COLORS[i % len(COLORS)])
  _legend(image, curves, size[0] - MARGINS[2] - 16 * len(curves) if diagonal else MARGINS[0] + 12)
  return image


def _range(arrays, margin):
  values = np.concatenate([np.ravel(np.asarray(a, float)) for a in arrays])
  values = values[np.isfinite(values)]
  low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
  wide = (high - low) or abs(high) or 1.0
  return low - margin * wide, high + (margin * wide if high > low else wide)


def _pixels(x, y, box, size):
  top, right, bottom, left = MARGINS
  (x0, x1), (y0, y1) = box
  u = left + (x - x0) / (x1 - x0) * (size[1] - left - right)
  v = size[0] - bottom - (y - y0) / (y1 - y0) * (size[0] - top - bottom)
  return np.stack([u, v], -1)


def _line(image, points, color, thickness=2):
  kept = points[np.isfinite(points).all(-1)]
  if len(kept):
    sixteenths = np.round(kept * 2**_SHIFT).astype(np.int32)
    cv2.polylines(image, [sixteenths], False, color, thickness, cv2.LINE_AA, _SHIFT)


def _text(image, text, at, scale=0.38):
  cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA)


def _axes(image, place, x_marks, y_marks, box, labels, log_x):
  (x0, x1), (y0, y1) = box
  ends = lambda v: 2.0 ** np.asarray(v) if log_x else np.asarray(v)
  for x in x_marks:
    line = place([x, x], [y0, y1])
    _line(image, line, GRID, 1)
    _text(image, f"{x:g}", (int(line[0, 0]) - 4 * len(f"{x:g}"), int(line[0, 1]) + 15))
  for y in y_marks:
    line = place(ends([x0, x1]), [y, y])
    _line(image, line, GRID, 1)
    _text(image, f"{y:g}", (int(line[0, 0]) - 6 - 8 * len(f"{y:g}"), int(line[0, 1]) + 4))
  _line(image, place(ends([x0, x0, x1]), [y1, y0, y0]), INK, 1)
  title, x_label, y_label = labels
  _text(image, title, (MARGINS[3], 18), 0.45)
  _text(image, x_label, (image.shape[1] // 2 - 3 * len(x_label), image.shape[0] - 10))
  _text(image, y_label, (6, 30), 0.36)


def _curve(image, curve, place, color):
  if curve.low is not None:
    edge = np.concatenate([place(curve.x, curve.low), place(curve.x, curve.high)[::-1]])
    edge = edge[np.isfinite(edge).all(-1)]
    band = image.copy()
    if len(edge):
      cv2.fillPoly(band, [np.round(edge * 2**_SHIFT).astype(np.int32)], color, cv2.LINE_AA, _SHIFT)
    image[:] = cv2.addWeighted(band, 0.2, image, 0.8, 0)
  _line(image, place(curve.x, curve.y), color)


def _legend(image, curves, top):
  """In a right corner: curves of errors fall away from the upper one, calibration curves rise away from the lower."""
  right = image.shape[1] - MARGINS[1]
  wide = max((len(c.label) for c in curves), default=0) * 7 + 30
  for i, curve in enumerate(curves):
    y = top + 16 * i
    _line(image, np.array([[right - wide, y - 4], [right - wide + 18, y - 4]], float), COLORS[i % len(COLORS)])
    _text(image, curve.label, (right - wide + 24, y))
