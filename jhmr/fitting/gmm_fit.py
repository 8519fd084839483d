"""Mixtures of Gaussians over poses: fitting one by expectation maximisation, and the files they are kept in. NumPy,
float64: determinants of 69 dimensions leave the range of float32."""

from typing import NamedTuple
import zipfile

from jhmr import errors
from jhmr import files
from jhmr.body import pickles
import numpy as np

POSE_DIM = 69  # 23 joints of the body, axis-angle
# Added to every variance, (0.05 rad)^2: joints that the data never bends alone would have no determinant.
FLOOR_RAD2 = 0.05 ** 2
_SPELLINGS = {"weights": ("weights", "weights_"), "means": ("means", "means_"),
              "covars": ("covars", "covars_", "_covars", "covariances_")}


class Mixture(NamedTuple):
  """Gaussians, in the dtype they are stored in."""
  weights: np.ndarray  # [M] shares, sum 1
  means: np.ndarray    # [M, C]
  covars: np.ndarray   # [M, C, C]


def fit_mixture(samples, num=8, seed=0, floor=FLOOR_RAD2, max_steps=300, tol=1e-4, said=None):
  """The mixture that expectation maximisation finds; the same one each time.

  Args:
    samples: [N, C], N >= num.
    num: M Gaussians; seed: of the M samples it starts from, apart from each other (k-means++).
    floor: added to every variance.
    max_steps: at most; it stops when the mean log-likelihood rises by less than `tol`.
    said: called with (step, mean log-likelihood of the samples) after every step.
  Returns:
    Mixture, float64.
  Raises:
    InputError: for too few samples, or numbers that are not finite.
  Source: Dempster, Laird and Rubin 1977; Arthur and Vassilvitskii 2007 for the start.
  Differs: with a floor, the likelihood that rises is that of samples blurred by it.
  """
  x = np.asarray(samples, np.float64)
  if x.ndim != 2 or len(x) < num or not np.all(np.isfinite(x)):
    raise errors.InputError(f"a mixture of {num} Gaussians cannot be fitted to samples {x.shape}: give at least "
                            f"{num} rows of finite numbers")
  share, last = np.eye(num)[_nearest(x, _apart(x, num, seed))], -np.inf
  for step in range(max_steps):
    mixture = _maximise(x, share, floor)
    log = _log_joint(mixture, x)
    each = _log_sum(log)
    share, mean = np.exp(log - each[:, None]), each.mean()
    if said is not None:
      said(step + 1, mean)
    if mean - last < tol:
      break
    last = mean
  return mixture


def log_likelihood(mixture, samples):
  """ln p of every sample: [N, C] -> [N]."""
  return _log_sum(_log_joint(mixture, np.asarray(samples, np.float64)))


def _apart(x, num, seed):
  """[num, C] rows, each drawn in proportion to its squared distance from those before it."""
  rng = np.random.default_rng(seed)
  rows, gap = [x[rng.integers(len(x))]], np.full(len(x), np.inf)
  for _ in range(num - 1):
    gap = np.minimum(gap, np.sum((x - rows[-1]) ** 2, 1))
    total = gap.sum()
    rows.append(x[rng.choice(len(x), p=gap / total if total > 0 else None)])
  return np.stack(rows)


def _nearest(x, rows):
  return np.argmin(np.stack([np.sum((x - row) ** 2, 1) for row in rows]), 0)


def _maximise(x, share, floor):
  """The Gaussians of samples that belong to them by share [N, M]."""
  counts = np.maximum(share.sum(0), 1e-9)  # nobody's Gaussian stays finite
  means = (share.T @ x) / counts[:, None]
  covars = np.empty((len(counts), x.shape[1], x.shape[1]))
  for k, (count, mean) in enumerate(zip(counts, means)):
    rows = (x - mean) * np.sqrt(share[:, k:k + 1])
    covars[k] = rows.T @ rows / count + floor * np.eye(x.shape[1])
  return Mixture(counts / counts.sum(), means, covars)


def _log_joint(mixture, x):
  """ln w_k N(x | mu_k, C_k): [N, M]."""
  columns = []
  for weight, mean, covar in zip(*mixture):
    root = np.linalg.cholesky(covar.astype(np.float64))
    white = np.linalg.inv(root) @ (x - mean).T
    columns.append(np.log(weight) - np.log(np.diag(root)).sum() - 0.5 * np.sum(white ** 2, 0))
  return np.stack(columns, 1) - 0.5 * x.shape[1] * np.log(2 * np.pi)


def _log_sum(log):
  top = log.max(1)
  return top + np.log(np.exp(log - top[:, None]).sum(1))


def write_mixture(path, mixture):
  """Writes a .npz, float32, the upper triangle of each covariance: 8 Gaussians over poses take 50 kB."""
  rows, columns = np.triu_indices(mixture.means.shape[1])
  with files.whole(path, "wb") as f:
    np.savez_compressed(f, weights=np.asarray(mixture.weights, np.float64), means=np.asarray(mixture.means, np.float32),
                        covars_upper=np.asarray(mixture.covars, np.float32)[:, rows, columns])


def read_mixture(path):
  """Reads `gmm_08.pkl` of SMPLify's release (a dict, or an object of scikit-learn's) or a .npz of `write_mixture`.

  Args:
    path: the file. A pickle is read by `body.pickles`, which runs nothing that it names.
  Returns:
    Mixture over [69], dtypes as stored.
  Raises:
    InputError: for a file that is missing, refused, or holds no such mixture.
  """
  try:
    with open(path, "rb") as f:
      zipped = zipfile.is_zipfile(f)
      f.seek(0)
      arrays = _from_npz(f) if zipped else _from_pickle(f)
  except Exception as error:  # NumPy, zip and pickle have their own kinds  # pylint: disable=broad-except
    said = (str(error) or type(error).__name__).splitlines()[0][:200]
    raise errors.InputError(f"{str(path)!r} is not a pose prior ({said}): give the "
                            "gmm_08.pkl of SMPLify, or a .npz of python -m jhmr.fitting.priors") from error
  if trouble := _trouble(**arrays):
    raise errors.InputError(f"{str(path)!r} holds no mixture of Gaussians over poses: {trouble}; give SMPLify's "
                            "gmm_08.pkl, or a .npz of python -m jhmr.fitting.priors")
  return Mixture(**arrays)


def _from_npz(f):
  with np.load(f, allow_pickle=False) as stored:
    found = {name: stored[name] for name in stored.files}
  if "covars_upper" in found:
    means, upper = found["means"], found.pop("covars_upper")
    if means.ndim != 2 or upper.ndim != 2:
      raise ValueError(f"means {means.shape} and covars_upper {upper.shape} are not [M, C] and [M, C (C + 1) / 2]")
    rows, columns = np.triu_indices(means.shape[-1])
    found["covars"] = np.empty((len(upper), means.shape[-1], means.shape[-1]), upper.dtype)
    found["covars"][:, rows, columns] = found["covars"][:, columns, rows] = upper
  return {name: found[name] for name in _SPELLINGS}


def _from_pickle(f):
  found = pickles.attributes(pickles.read(f))
  arrays = {}
  for name, spellings in _SPELLINGS.items():
    key = next((s for s in spellings if s in found), None)
    if key is None:
      raise KeyError(f"no {name} among {sorted(map(str, found))[:8]}")
    arrays[name] = pickles.array(found[key])
  return arrays


def _trouble(weights, means, covars):
  """What keeps arrays from being a mixture over poses; "" if nothing does."""
  num = len(weights) if weights.ndim == 1 else -1
  if num < 1 or means.shape != (num, POSE_DIM) or covars.shape != (num, POSE_DIM, POSE_DIM):
    return (f"weights {weights.shape}, means {means.shape}, covars {covars.shape} are not [M], [M, {POSE_DIM}], "
            f"[M, {POSE_DIM}, {POSE_DIM}]")
  if not all(np.issubdtype(x.dtype, np.floating) and np.all(np.isfinite(x)) for x in (weights, means, covars)):
    return "numbers that are not finite"
  if np.any(weights <= 0) or abs(weights.sum() - 1) > 1e-3:
    return f"weights that sum to {weights.sum():.4g}"
  exact = covars.astype(np.float64)
  size = np.abs(exact).max()
  if np.abs(exact - exact.swapaxes(1, 2)).max() > 1e-4 * size or np.linalg.eigvalsh(exact).min() <= 0:
    return "covariances that are not symmetric and positive"
  return ""
