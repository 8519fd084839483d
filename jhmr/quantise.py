"""Few hypotheses that stand for many: weighted K-means in fixed shapes, for jit and vmap.

Nothing larger than [S, n] is made of S points and n clusters. One example at a time, `jax.vmap` for more.
"""

import jax
import jax.numpy as jnp

STEPS = 30  # of Lloyd's iteration. Source: 3D Multi-bodies, authors' `kmeans.py`, at most 30
TIE = 1e-4  # distances to a centre closer than this share are equal
_EXACT = jax.lax.Precision.HIGHEST


def quantise(points, values, num, key, log_weights=None, keep_first=True, steps=STEPS,
             even_start=False):
  """Chooses num hypotheses that represent all of them.

  Args:
    points: [S, ...] what distances are measured in: root-relative joints in metres; the first is the mode.
    values: [S, ...] what the centroids are wanted of, for instance the joints that are scored.
    num: how many, static. One is the mode, whatever else is asked for.
    key: of the start, see `start`.
    log_weights: [S], -inf for hypotheses that do not count; within a cluster they act through a softmax. None: equal.
    keep_first: the mode is one of the num, and num - 1 clusters stand for the others (3D Multi-bodies); otherwise num
      clusters of all hypotheses, of which the mode is one (what ProHMR's text says of n > 1 fits both).
    even_start: the start takes all hypotheses that count for equally likely. Weights of a density over many joints
      are e^50 apart: by them, the start would be the num likeliest ones, however near to each other.
  Returns:
    medoids [num] int32, real hypotheses; centroids [num, ...], means of `values` that need not be bodies.
  Raises:
    ValueError: when there are fewer than num hypotheses.
  Source: 3D Multi-bodies (Biggs et al. 2020), Eq. 3, n-quantized-best-of-M; ProHMR (Kolotouros et al. 2021), table 2.
  Differs: seeded; an empty cluster stays where it is instead of taking a random point; a medoid belongs to its cluster.
  """
  if not 1 <= num <= points.shape[0]:
    raise ValueError(f"cannot choose {num} of {points.shape[0]} hypotheses")
  mode = jnp.zeros((1,), jnp.int32)
  if num == 1:
    return mode, values[:1]
  log_weights = jnp.zeros(points.shape[:1], jnp.float32) if log_weights is None else jnp.asarray(log_weights)
  if keep_first:
    log_weights = log_weights.at[0].set(-jnp.inf)
  points = jnp.asarray(points).reshape(points.shape[0], -1)
  evenly = jnp.where(log_weights > -jnp.inf, 0.0, -jnp.inf)
  first = points[start(points, num - keep_first, key, evenly if even_start else log_weights)]
  centres, labels = lloyd(points, first, log_weights, steps)
  chosen = medoids(points, centres, labels, log_weights)
  centroids = averages(values, labels, values[chosen], log_weights)
  if keep_first:
    chosen, centroids = jnp.concatenate([mode, chosen]), jnp.concatenate([values[:1], centroids])
  return chosen, centroids


def start(points, num, key, log_weights):
  """Indices [num] of the first centres of points [S, F]: k-means++, seeded.

  The first is drawn by weight, each next one by weight times the squared distance to the nearest centre so far; by
  weight alone once no other point is left, so that there may be equal centres.
  Source: Arthur and Vassilvitskii 2007, k-means++.
  """
  points, log_weights = jnp.asarray(points), jnp.asarray(log_weights)

  def add(i, carry):
    chosen, nearest = carry
    logits = log_weights + jnp.log(nearest)
    logits = jnp.where(jnp.any(logits > -jnp.inf), logits, log_weights)
    new = jax.random.categorical(jax.random.fold_in(key, i), logits)
    square = jnp.sum((points - points[new]) ** 2, -1)  # exactly 0 for the point itself and its equals
    return chosen.at[i].set(new.astype(jnp.int32)), jnp.minimum(jnp.where(i == 0, jnp.inf, nearest), square)

  return jax.lax.fori_loop(0, num, add, (jnp.zeros((num,), jnp.int32), jnp.ones(points.shape[:1], points.dtype)))[0]


def squared_distances(points, centres):
  """[S, F] and [n, F] -> [S, n], by one matrix product. Source: |x|^2 - 2 x.c + |c|^2."""
  middle = jnp.mean(points, 0)  # near the origin less is lost in the difference
  points, centres = points - middle, centres - middle
  product = jnp.matmul(points, centres.T, precision=_EXACT)
  return jnp.maximum(jnp.sum(points**2, -1)[:, None] - 2 * product + jnp.sum(centres**2, -1), 0.0)


def lloyd(points, centres, log_weights, steps=STEPS):
  """Lloyd's iteration.

  Args:
    points: [S, F]; centres: [n, F] to start from; log_weights: [S].
  Returns:
    centres [n, F] after so many steps, and labels [S] int32: the nearest of them, the first of equals. It ends earlier
    once no label changes, since nothing would.
  Source: Lloyd 1982; 3D Multi-bodies' weights.
  """
  points, log_weights = jnp.asarray(points), jnp.asarray(log_weights)
  assign = lambda centres: jnp.argmin(squared_distances(points, centres), -1).astype(jnp.int32)

  def step(carry):
    i, centres, labels, _ = carry
    centres = averages(points, labels, centres, log_weights)
    found = assign(centres)
    return i + 1, centres, found, jnp.any(found != labels)

  going = lambda carry: (carry[0] < steps) & carry[3]
  return jax.lax.while_loop(going, step, (0, centres, assign(centres), jnp.asarray(True)))[1:3]


def averages(values, labels, empty, log_weights):
  """Weighted mean of values [S, ...] in each cluster, that of `empty` [n, ...] where a cluster has no weight.

  Source: 3D Multi-bodies, authors' `kmeans.py`: a softmax of the log-weights over the members of a cluster.
  """
  num = empty.shape[0]
  member = labels[:, None] == jnp.arange(num)                                                # [S, n]
  highest = jnp.max(jnp.where(member, log_weights[:, None], -jnp.inf), 0)                    # [n]
  counts = log_weights > -jnp.inf
  weights = jnp.where(counts, jnp.exp(jnp.where(counts, log_weights - highest[labels], 0.0)), 0.0)
  weights = member * weights[:, None]
  total = jnp.sum(weights, 0)[:, None]
  flat = values.reshape(values.shape[0], -1)
  middle = jnp.mean(flat, 0)
  mean = middle + jnp.matmul(weights.T, flat - middle, precision=_EXACT) / jnp.where(total > 0, total, 1.0)
  return jnp.where(total > 0, mean, empty.reshape(num, -1)).reshape(empty.shape)


def medoids(points, centres, labels, log_weights):
  """Indices [n] int32 of the member nearest to each centre; of an empty cluster, of the nearest point that counts.

  Of equally near ones (the members of every pair are) the first, so that rounding does not choose.
  For squared distances the member nearest to the mean is the medoid: sum_j w_j |x - x_j|^2 = W |x - mean|^2 + const.
  Source: 3D Multi-bodies, authors' `kmeans.py`, representatives.
  """
  square = jnp.where(log_weights[:, None] > -jnp.inf, squared_distances(points, centres), jnp.inf)
  mine = jnp.where(labels[:, None] == jnp.arange(centres.shape[0]), square, jnp.inf)
  inhabited = jnp.any(jnp.isfinite(mine), 0)
  candidates = jnp.where(inhabited, mine, square)
  return jnp.argmax(candidates <= jnp.min(candidates, 0) * (1 + TIE) + TIE**2, 0).astype(jnp.int32)
