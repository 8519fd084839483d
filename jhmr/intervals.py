"""How far a number over a data set would move with other images of the same kind: the bootstrap, on the host, NumPy."""

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
_AT_ONCE = 50  # resamples whose counts are in memory together


def replicates(rows, num=RESAMPLES, seed=0):
  """A statistic of all images and of resampled ones.

  Args:
    rows: {name: [N, ...] of N images, whose mean is wanted; or (numerator [N, ...], denominator [N]), whose sums are
      divided}.
    num: how many times N images are drawn with replacement; the same draws for every name.
  Returns:
    {name: float64 [1 + num, ...]}, first the statistic of all images; NaN where a denominator is 0.
  Source: Efron 1979, the nonparametric bootstrap over images.
  """
  tables, places = _columns(rows)
  size = len(tables[0])
  sums = [np.zeros((1 + num, table.shape[1])) for table in tables]
  rng = np.random.default_rng(seed)
  for first in range(0, 1 + num, _AT_ONCE):
    last = min(first + _AT_ONCE, 1 + num)
    draw = lambda i: np.ones(size) if i == 0 else np.bincount(rng.integers(0, size, size), minlength=size)
    counts = np.stack([draw(i) for i in range(first, last)]).astype(np.float64)
    for total, table in zip(sums, tables):
      total[first:last] = counts @ table
  with np.errstate(invalid="ignore", divide="ignore"):
    ratio = np.where(sums[1] != 0, sums[0] / sums[1], np.nan)
  return {name: ratio[:, where].reshape(1 + num, *shape) for name, (where, shape) in places.items()}


def _columns(rows):
  """((numerators [N, M], denominators [N, M]), {name: (columns, shape of one value)})."""
  above, below, places, column = [], [], {}, 0
  for name, value in rows.items():
    numerator, denominator = value if isinstance(value, tuple) else (value, np.ones(len(value)))
    numerator = np.asarray(numerator, np.float64)
    flat = numerator.reshape(len(numerator), -1)
    above.append(flat)
    below.append(np.broadcast_to(np.asarray(denominator, np.float64)[:, None], flat.shape))
    places[name] = slice(column, column + flat.shape[1]), numerator.shape[1:]
    column += flat.shape[1]
  return (np.concatenate(above, 1), np.concatenate(below, 1)), places


def interval(samples, level=LEVEL):
  """The percentile interval of `replicates` [1 + num, ...] of one statistic.

  Returns:
    {"value", "low", "high"}: [...] each; NaN where the statistic is undefined in any resample.
  Source: Efron 1979; percentiles of the resampled statistic.
  """
  low, high = np.quantile(samples[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
  return {"value": samples[0], "low": low, "high": high}


def as_json(samples):
  """`interval` of samples [1 + num, ...] as floats or lists of them; what is undefined is None, as JSON has no NaN."""
  def plain(value):
    if np.ndim(value):
      return [plain(v) for v in value]
    return float(value) if np.isfinite(value) else None
  return {name: plain(value) for name, value in interval(samples).items()}
