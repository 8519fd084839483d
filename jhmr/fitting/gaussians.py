"""Gaussians that fit the heatmaps of a 2D joint detector: where a joint is, and how sure that is.

The model of a heatmap, with y downward, is

    g(x, y) = A exp(-(a dx^2 + 2 b dx dy + c dy^2)),   dx = x - mu_x, dy = y - mu_y,
    a = cos^2 t / 2 sx^2 + sin^2 t / 2 sy^2,   b = sin 2t / 4 sy^2 - sin 2t / 4 sx^2,
    c = sin^2 t / 2 sx^2 + cos^2 t / 2 sy^2,

and the six parameters (A, mu_x, mu_y, sx, t, sy) are those of least squares over the pixels, by Levenberg-Marquardt
from the heatmap's maximum. Source: Wehrbein et al. 2021, section 3.2; authors' `fit_gaussians.py`.

A step moves the amplitude, the mean and the covariance matrix, which stays positive whatever the step, and which no
symmetry leaves undetermined as it does t where sx = sy. All derivatives are the Gaussian times monomials in dx and dy
up to degree two, so the normal equations are moments, of maps that are fitted together one product with the monomials
of all pixels. Those are about the middle of the pixels; what comes of them is moved to the mean. Most maps are fitted
within a window, outside of which the Gaussian is nothing. The others, together, first on every second pixel of every
second row, then on all.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIGMA_PX = 2.0       # the fit starts from it. Source: Wehrbein et al. 2021, that of the detector's training
WINDOW = 32          # pixels a side, around the start
_REACH = 4.5         # sigmas that lie in the window, or the whole map is looked at
_STEPS = 6           # at most, within the window
_CHUNK = 256         # maps that are fitted together, until the last of them has converged
_ROUNDS = (128, 6, 3), (64, 16, 8), (4, 0, 40)  # chunk and steps, of every second row and column and of whole maps
_STEP = 3e-5         # of the mean, in sigmas, and of amplitude and covariance, relative: smaller is converged,
_NEAR = 3e-3         # on every second pixel
_ROUNDING = 3e-7     # by so much of a map's sum of squares may that of what is left grow
_FIRST, _LEAST, _MOST = 1e-3, 1e-6, 1e6  # damping; the next one is a tenth or ten times it
_FLAT = 10.0         # a sigma of that many maps is as flat as any
_UNIT = 8.0          # pixels, of moments
# Powers of x and y: of the six derivatives, then those of their other products.
_MOMENTS = np.array([(i - j, j) for i in range(5) for j in range(i + 1)])
_PRODUCTS = np.array([[_MOMENTS.tolist().index((p + q).tolist()) for p in _MOMENTS[:6]] for q in _MOMENTS[:6]])
_HIGHEST = jax.lax.Precision.HIGHEST


class Gaussians(NamedTuple):
  """What fits heatmaps [..., H, H]."""
  params: jax.Array  # [..., 6] amplitude, mean x, mean y, sigma x, theta in (-pi/4, pi/4], sigma y; pixels
  failed: jax.Array  # [...] bool, the start is returned


class _State(NamedTuple):
  """Of B maps, in pixels."""
  amplitude: jax.Array  # [B]
  mean: jax.Array       # [B, 2]
  cov: jax.Array        # [B, 2, 2]


class _Normal(NamedTuple):
  """The normal equations at a state: `matrix` @ step = `vector`, with dx and dy in units of `scale`."""
  matrix: jax.Array  # [B, 6, 6]
  vector: jax.Array  # [B, 6]
  cost: jax.Array    # [B] sum of squares
  scale: jax.Array   # [B, 2] pixels


def draw(params, size=64):
  """Heatmaps of Gaussians: [..., 6] -> [..., size, size], the model at the top of this file."""
  amplitude, x, y, sigma_x, theta, sigma_y = (p[..., None, None] for p in jnp.moveaxis(params, -1, 0))
  grid = jnp.arange(size, dtype=params.dtype)
  dx, dy = grid - x, grid[:, None] - y
  # Along the axes of the Gaussian: the exponent above, factored.
  along, across = jnp.cos(theta) * dx - jnp.sin(theta) * dy, jnp.sin(theta) * dx + jnp.cos(theta) * dy
  return amplitude * jnp.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))


def fit(heatmaps, start=None):
  """Fits a Gaussian to each heatmap.

  A Gaussian has several names: sigmas change places when theta turns by a quarter, and their signs do not matter. The
  one with positive sigmas and the smaller turn is returned.

  Args:
    heatmaps: [..., H, H], clipped to 0..1, rows are y.
    start: [..., 2] x and y in pixels of the heatmap, where a detector found the joint; default the maximum.
  Returns:
    Gaussians. A map without anything above zero, one with a number that is not finite, and one that needs more steps
    than there are have failed: the start, with sigmas of 2 px, is returned. Meant to be jitted. A map without any
    slope, or whose slope is outside of it, ends with sigmas of hundreds of pixels.
  Raises:
    ValueError: for maps that are not square, or a start of another shape.
  Source: Wehrbein et al. 2021, section 3.2; authors' `fit_single_gaussian`: SciPy's `curve_fit`, MINPACK's
    Levenberg-Marquardt with numerical derivatives, from the same start.
  Differs: SciPy may return negative sigmas, which the authors then clip to the smallest.
  """
  lead, size = heatmaps.shape[:-2], heatmaps.shape[-1]
  if heatmaps.shape[-2:] != (size, size) or start is not None and start.shape != (*lead, 2):
    raise ValueError(f"heatmaps {heatmaps.shape}, start {getattr(start, 'shape', None)}: give [..., H, H] and [..., 2]")
  maps = jnp.asarray(heatmaps, jnp.float32).reshape(-1, size, size)
  finite = jnp.all(jnp.isfinite(maps), (1, 2), keepdims=True)
  maps = jnp.where(finite, jnp.clip(maps, 0.0, 1.0), 0.0)
  top, where = _maximum(maps)
  if start is not None:
    where = jnp.where(jnp.isfinite(start), start, where.reshape(start.shape)).astype(jnp.float32).reshape(-1, 2)
  first = _State(top, where, jnp.tile(SIGMA_PX**2 * jnp.eye(2), (len(maps), 1, 1)))
  found = _in_windows(maps, first)
  state, done = _on_whole_maps(maps, first, found, top > 0)
  found = Gaussians(_named(state), ~done)
  return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), found)


def _maximum(maps):
  """(value [B], x and y [B, 2] float) of the first largest pixel; by rows, much faster than of flat maps."""
  rows = jnp.max(maps, -1)
  y = jnp.argmax(rows, -1)
  x = jnp.argmax(jnp.take_along_axis(maps, y[:, None, None], 1)[:, 0], -1)
  return jnp.max(rows, -1), jnp.stack([x, y], -1).astype(jnp.float32)


def _in_windows(maps, first):
  """Fits all maps in windows around their starts: (state, whether that is the answer)."""
  size, window = maps.shape[-1], min(WINDOW, maps.shape[-1])
  most = window / 2 / _REACH if window < size else _FLAT * size

  def some(rows):
    maps, first = rows
    origin = jnp.clip(jnp.round(first.mean).astype(int) - window // 2, 0, size - window)
    seen = jax.vmap(lambda m, o: jax.lax.dynamic_slice(m, (o[1], o[0]), (window, window)))(maps, origin)
    state, done = _descend(seen, origin, 1, first, _STEPS, first.amplitude > 0, most)
    reach = _REACH * _sigmas(state.cov)
    low, high = state.mean - reach >= origin, state.mean + reach <= origin + window - 1
    inside = jnp.all((low | (origin == 0)) & (high | (origin == size - window)), -1)
    return state, done & inside & jnp.all(_sigmas(state.cov) <= most, -1)

  return _by_chunks(some, (maps, first), _CHUNK)


def _by_chunks(function, rows, chunk):
  """function(rows), of `chunk` rows at a time."""
  count = jax.tree.leaves(rows)[0].shape[0]
  chunks = -(-count // chunk)
  index = jnp.minimum(jnp.arange(chunks * chunk), count - 1).reshape(chunks, chunk)
  made = jax.lax.map(lambda i: function(jax.tree.map(lambda x: x[i], rows)), index)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], made)


def _on_whole_maps(maps, first, found, possible):
  """Replaces what was found, (state, done), of `possible` maps [B] that are not done.

  At first with few steps from what fits every second pixel of every second row, then with many from the start.
  """
  flat = _FLAT * maps.shape[-1]
  descend = lambda maps, stride, *rest: _descend(maps, jnp.zeros((len(maps), 2), int), stride, *rest)
  for chunk, coarse, fine in _ROUNDS:
    chunk, left = min(chunk, len(maps)), possible & ~found[-1]
    order = jnp.argsort(~left, stable=True)

    def some(j, found, chunk=chunk, coarse=coarse, fine=fine, left=left, order=order):
      rows = jax.lax.dynamic_slice(order, (j * chunk,), (chunk,))
      seen, begin, active = jax.tree.map(lambda x: x[rows], (maps, first, left))
      near, there = descend(seen[:, ::2, ::2], 2, begin, coarse, active, flat, _NEAR)
      state, done = descend(seen, 1, jax.tree.map(functools.partial(_where, there), near, begin), fine, active, flat)
      new = jax.tree.map(functools.partial(_where, done), state, begin), done
      return jax.tree.map(lambda old, x: old.at[rows].set(_where(active, x, old[rows])), found, new)

    found = jax.lax.fori_loop(0, (jnp.sum(left) + chunk - 1) // chunk, some, found)
  return found


def _descend(maps, origin, stride, first, steps, active, most, tolerance=_STEP):
  """Levenberg-Marquardt from `first`; rows that are not active stay where they are.

  Args:
    maps: [B, H, H], origin: [B, 2] int, where their first pixel is; stride: from it to the next.
    most: a larger sigma ends the descent; tolerance: a smaller step is converged.
  Returns:
    (state, converged or ended [B] bool).
  """
  total = jnp.sum(maps**2, (1, 2))
  normal_of = functools.partial(_normal, maps, total, origin, stride)
  start = normal_of(first)

  def update(carry):
    count, state, normal, damping, going = carry
    new, size = _step(state, normal, damping)
    new_normal = normal_of(new)
    better = going & (new_normal.cost <= normal.cost + _ROUNDING * total)  # not so where it is not a number
    keep = lambda new, old: jax.tree.map(lambda x, y: _where(better, x, y), new, old)
    state, normal = keep(new, state), keep(new_normal, normal)
    converged = (size < tolerance) & (damping <= 1) | (damping > _MOST)
    flat = jnp.any(_sigmas(state.cov) > most, -1)
    damping = jnp.where(better, jnp.maximum(damping / 10, _LEAST), damping * 10)
    return count + 1, state, normal, damping, going & ~converged & ~flat

  begin = 0, first, start, jnp.full(len(maps), _FIRST), active & jnp.isfinite(start.cost)
  _, state, _, _, going = jax.lax.while_loop(lambda c: (c[0] < steps) & jnp.any(c[-1]), update, begin)
  return state, begin[-1] & ~going


def _normal(maps, total, origin, stride, state):
  """The normal equations of a state; total [B] is the sum of maps squared, the rest as for `_descend`."""
  size = maps.shape[-1]
  offset = (origin - state.mean)[..., None] + stride * jnp.arange(size)
  dx, dy = offset[:, 0, None, :], offset[:, 1, :, None]
  inverse = _inverse(state.cov)[..., None, None]
  square = inverse[:, 0, 0] * dx**2 + inverse[:, 1, 1] * dy**2 + 2 * inverse[:, 0, 1] * dx * dy
  # Once: XLA would find it anew for each of its uses.
  shape = jax.lax.optimization_barrier(jnp.exp(-0.5 * square))
  residual = maps - state.amplitude[:, None, None] * shape
  grid = stride * (np.arange(size) - (size - 1) / 2)
  x, y = np.meshgrid(grid / _UNIT, grid / _UNIT)
  monomials = (x[..., None] ** _MOMENTS[:, 0] * y[..., None] ** _MOMENTS[:, 1]).reshape(size**2, -1).astype(np.float32)
  moments = lambda weights, monomials: jnp.matmul(weights.reshape(len(maps), -1), monomials, precision=_HIGHEST)
  matrix, vector = moments(shape**2, monomials), moments(shape * residual, monomials[:, :6])
  cost = total - state.amplitude * (2 * vector[:, 0] + state.amplitude * matrix[:, 0])
  scale = jnp.minimum(_sigmas(state.cov), WINDOW)
  turn = _about((state.mean - origin + grid[0]) / scale, _UNIT / scale)
  matrix = _product(turn, matrix[:, _PRODUCTS], jnp.swapaxes(turn, 1, 2))
  return _Normal(matrix, _product(turn, vector[..., None])[..., 0], cost, scale)


def _about(mean, unit):
  """[B, 6, 6], from the powers of (x, y) to those of unit (x, y) - mean, each [B, 2]."""
  (x, y), (s, t), one, no = -mean.T, unit.T, jnp.ones(len(mean)), jnp.zeros(len(mean))
  rows = ((one, no, no, no, no, no), (x, s, no, no, no, no), (y, no, t, no, no, no),
          (x * x, 2 * s * x, no, s * s, no, no), (x * y, s * y, t * x, no, s * t, no),
          (y * y, no, 2 * t * y, no, no, t * t))
  return jnp.stack([jnp.stack(row, -1) for row in rows], 1)


def _step(state, normal, damping):
  """The next state, and how long a step that is: the largest relative change.

  The logarithm of the model changes by beta . d + d . gamma d, with d = (dx, dy): to first order that is what moving
  the mean by R beta and the covariance R by K = 2 R gamma R does. Of the covariance the next term is kept: the
  result, R + K + K R^-1 K / 2, has no negative eigenvalue.
  """
  size = jnp.sqrt(jnp.maximum(jnp.diagonal(normal.matrix, axis1=1, axis2=2), 1e-30))
  matrix = normal.matrix / (size[:, :, None] * size[:, None, :])
  step = _solve(matrix + damping[:, None, None] * jnp.eye(6), normal.vector / size) / size
  amplitude, relative = step[:, 0], step[:, 1:] / state.amplitude[:, None]
  gamma = jnp.stack([relative[:, 2], relative[:, 3] / 2, relative[:, 3] / 2, relative[:, 4]], -1).reshape(-1, 2, 2)
  spread = _relative(state.cov, normal.scale)
  growth = 2 * _product(spread, gamma, spread)
  cov = spread + growth + _product(growth, gamma, spread)
  shift = jnp.sum(spread * relative[:, None, :2], -1)
  lengths = [amplitude[:, None] / state.amplitude[:, None], shift / _sigmas(spread),
             growth.reshape(-1, 4) / jnp.trace(spread, axis1=1, axis2=2)[:, None]]
  new = _State(state.amplitude + amplitude, state.mean + normal.scale * shift,
               cov * normal.scale[:, :, None] * normal.scale[:, None, :])
  return new, jnp.max(jnp.abs(jnp.concatenate(lengths, -1)), -1)


def _product(*matrices):
  """Of small matrices [B, n, n]; ten times as fast as products one by one."""
  return functools.reduce(lambda a, b: sum(a[:, :, k, None] * b[:, None, k] for k in range(b.shape[1])), matrices)


def _solve(matrix, vector):
  """Gauss and Jordan, without pivots: positive matrices [B, 6, 6] need none. 6 times as fast as LAPACK one by one."""
  rows = jnp.concatenate([matrix, vector[..., None]], -1)
  for k in range(6):
    row = rows[:, k:k + 1] / rows[:, k:k + 1, k:k + 1]
    rows = jnp.where((np.arange(6) == k)[:, None], row, rows - rows[:, :, k:k + 1] * row)
  return rows[..., -1]


def _relative(cov, scale):
  """A covariance in units of scale [B, 2]."""
  return cov / (scale[:, :, None] * scale[:, None, :])


def _inverse(cov):
  """Of symmetric matrices [B, 2, 2]."""
  (xx, xy), (_, yy) = jnp.moveaxis(cov, (1, 2), (0, 1))
  return jnp.stack([yy, -xy, -xy, xx], -1).reshape(-1, 2, 2) / (xx * yy - xy**2)[:, None, None]


def _sigmas(cov):
  """Along x and y, [B, 2, 2] -> [B, 2]."""
  return jnp.sqrt(jnp.diagonal(cov, axis1=1, axis2=2))


def _where(mask, x, y):
  """x where mask [B], else y, of any number of axes."""
  return jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, y)


def _named(state):
  """The parameters [B, 6] of a state: those with the smaller turn."""
  (xx, xy), (_, yy) = jnp.moveaxis(state.cov, (1, 2), (0, 1))
  half = jnp.hypot((xx - yy) / 2, xy)
  large = (xx + yy) / 2 + half
  small = jnp.maximum((xx * yy - xy**2) / large, 0.0)
  theta = 0.5 * jnp.arctan2(-2 * xy, xx - yy)  # of the long axis
  quarter = jnp.where(theta > np.pi / 4, np.pi / 2, jnp.where(theta <= -np.pi / 4, -np.pi / 2, 0.0))
  one, two = jnp.sqrt(jnp.where(quarter == 0, large, small)), jnp.sqrt(jnp.where(quarter == 0, small, large))
  return jnp.stack([state.amplitude, *state.mean.T, one, theta - quarter, two], -1)
