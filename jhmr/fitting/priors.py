"""How unlikely a pose is: a mixture of Gaussians over axis-angle poses, and knees and elbows that bend the wrong way.

    python -m jhmr.fitting.priors --mocap poses.npz --out gmm.npz
    python -m jhmr.fitting.priors --samples 40000 --out jhmr/fitting/default_gmm.npz

The first line fits a mixture to mocap; the second, to the built-in pose sampler, made the one that stands in where no
`gmm_08.pkl` is given. Fits evaluate `gmm_energy` hundreds of times for every person, so value and gradient are one
matrix product. For 1,024 people on two CPU cores value and gradient take 0.9 ms; through a Cholesky factor of the
precisions (two products) 1.3 ms, as the authors write it 3.6 ms.
"""

import argparse
import functools
import pathlib

from flax import struct
import jax
import jax.numpy as jnp
from jhmr import errors
from jhmr.body import joints
from jhmr.body import poses
from jhmr.body import rotations
from jhmr.fitting import gmm_fit
import numpy as np

DEFAULT = pathlib.Path(__file__).with_name("default_gmm.npz")
_CHUNK = 500
_MAX_MOCAP = 200_000
# Joint, component of its axis-angle and the sign of the direction it does not bend to.
# Source: SMPLify's authors' `smplify-x/prior.py:SMPLifyAnglePrior`
BENDS = (("left_elbow", 1, 1.0), ("right_elbow", 1, -1.0), ("left_knee", 0, -1.0), ("right_knee", 0, -1.0))


@struct.dataclass
class Gmm:
  """M Gaussians over the axis-angle pose of 23 joints, without the root."""
  means: jax.Array        # [M, 69]
  precisions: jax.Array   # [M, 69, 69] inverse covariances
  log_weights: jax.Array  # [M] ln n_k, see `from_mixture`
  weights: jax.Array      # [M] shares, sum 1

  def mean_pose(self):
    """sum_k w_k mu_k [69]: where SMPLify starts."""
    return jnp.matmul(self.weights, self.means, precision=jax.lax.Precision.HIGHEST)


def from_mixture(mixture):
  """The Gmm of a `gmm_fit.Mixture`, with ln n_k = ln w_k - 69/2 ln 2 pi - ln d_k + min_j ln d_j, d_k = sqrt(det C_k).

  Source: SMPLify-X's authors' `prior.py:MaxMixturePrior`, nll_weights; SMPLify (Bogo et al. 2016), Eq. 4.
  Differs: logarithms of determinants, float64, of what is stored: n_k is near 1e-28, and d_k below 1e-45 would be 0 in
    float32 files. Precisions are inverted in float64, not float32.
  """
  covars = np.asarray(mixture.covars, np.float64)
  log_d = 0.5 * np.linalg.slogdet(covars)[1]
  log_n = np.log(mixture.weights.astype(np.float64)) - 0.5 * covars.shape[1] * np.log(2 * np.pi) - log_d + log_d.min()
  inverse = np.linalg.inv(covars)
  made = Gmm(mixture.means, 0.5 * (inverse + inverse.swapaxes(1, 2)), log_n, mixture.weights)
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made)


def gmm_energy(gmm, body_pose):
  """min_k 1/2 (p - mu_k)^T P_k (p - mu_k) - ln n_k: the negative logarithm of the likeliest Gaussian.

  Args:
    gmm: a Gmm; no gradient reaches it.
    body_pose: [..., 69] axis-angle, radians; the gradient is that of the likeliest Gaussian alone.
  Returns:
    [...].
  Raises:
    ValueError: if a pose has not as many numbers as the mixture.
  Source: SMPLify (Bogo et al. 2016), Eq. 4; SMPLify-X's authors' `prior.py:MaxMixturePrior`, which SPIN uses.
  """
  size = gmm.means.shape[-1]
  if body_pose.shape[-1:] != (size,):
    raise ValueError(f"body_pose {body_pose.shape} is not [..., {size}]")
  flat = _energy(jax.lax.stop_gradient(gmm), body_pose.reshape(-1, size))
  return flat.reshape(body_pose.shape[:-1])


@jax.custom_jvp
def _energy(gmm, x):
  return _energy_and_gradient(gmm, x)[0]


@_energy.defjvp
def _energy_jvp(primals, tangents):
  energy, gradient = _energy_and_gradient(*primals)
  return energy, jnp.sum(gradient * tangents[1], -1)


def _energy_and_gradient(gmm, x):
  """([P], [P, 69]) of poses [P, 69]. P_k (x - mu_k) is half of the quadratic form and all of its gradient."""
  high = jax.lax.Precision.HIGHEST
  pull = jnp.einsum("pi,mji->pmj", x, gmm.precisions, precision=high)
  pull -= jnp.einsum("mij,mj->mi", gmm.precisions, gmm.means, precision=high)
  energy = 0.5 * jnp.sum((x[:, None] - gmm.means) * pull, -1) - gmm.log_weights
  best = jnp.argmin(energy, -1)
  return jnp.min(energy, -1), jnp.take_along_axis(pull, best[:, None, None], 1)[:, 0]


def angle_energy(body_pose):
  """sum_j exp(s_j theta_j)^2 over elbows and knees: large where they bend the wrong way, 4 at the zero pose.

  Args:
    body_pose: [..., 69] axis-angle, radians, without the root.
  Returns:
    [...].
  Source: SMPLify (Bogo et al. 2016), E_a; SPIN's authors' `smplify/losses.py:angle_prior`.
  """
  places = [3 * joints.index("smpl24", name) + axis - 3 for name, axis, _ in BENDS]
  signs = np.array([sign for *_, sign in BENDS], np.float32)
  return jnp.sum(jnp.exp(2 * signs * body_pose[..., np.array(places)]), -1)


def read_gmm(path):
  """The Gmm of `gmm_08.pkl` or of a .npz that this file's command wrote; see `gmm_fit.read_mixture`.

  Raises:
    InputError: for a file that is missing, refused, or holds no such mixture.
  """
  return from_mixture(gmm_fit.read_mixture(path))


def fit_gmm(body_pose, num=8, seed=0, said=None):
  """The Gmm that expectation maximisation finds for poses [N, 69]; see `gmm_fit.fit_mixture`."""
  return from_mixture(gmm_fit.fit_mixture(body_pose, num, seed, said=said))


def default_gmm():
  """The Gmm of the built-in pose sampler, kept beside this file: 40,000 poses, a minute's work."""
  return from_mixture(_default_mixture())


@functools.cache
def _default_mixture():
  return gmm_fit.read_mixture(DEFAULT)


def sampled_poses(num, seed=0):
  """[num, 69] axis-angle poses of `body.poses.sample`, without the root."""
  draw = jax.jit(jax.vmap(lambda key: rotations.matrix_to_axis_angle(poses.sample(key)[1:]).ravel()))
  keys = jax.random.split(jax.random.key(seed), -(-num // _CHUNK) * _CHUNK)
  return np.concatenate([draw(keys[i:i + _CHUNK]) for i in range(0, num, _CHUNK)])[:num]


def mocap_poses(path):
  """[N, 69] axis-angle poses of a mocap file, angles at most pi, evenly thinned to 200,000."""
  pose = poses.read_mocap(path)[0]
  pose = pose[np.unique(np.linspace(0, len(pose) - 1, min(_MAX_MOCAP, len(pose))).astype(int))]
  wrap = lambda x: rotations.matrix_to_axis_angle(rotations.axis_angle_to_matrix(x))
  return np.asarray(jax.jit(wrap)(pose[:, 3:].reshape(-1, 23, 3))).reshape(-1, gmm_fit.POSE_DIM)


def main():
  parser = argparse.ArgumentParser(prog="python -m jhmr.fitting.priors", description=__doc__.split("\n", 1)[0])
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--mocap", help=".npz of poses, as for config.data.mocap")
  source.add_argument("--samples", type=int, help="how many poses of the built-in sampler")
  parser.add_argument("--out", required=True, help="file to write, .npz")
  parser.add_argument("--num", type=int, default=8, help="Gaussians")
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  if args.num < 1 or (args.samples is not None and args.samples < args.num):
    parser.error(f"--num {args.num} of --samples {args.samples}: give at least one Gaussian, and as many samples")
  if not pathlib.Path(args.out).absolute().parent.is_dir():
    parser.error(f"the folder of --out {args.out!r} does not exist: make it first")
  try:
    body_pose = mocap_poses(args.mocap) if args.mocap else sampled_poses(args.samples, args.seed)
    said = lambda step, mean: print(f"step {step}: mean log-likelihood {mean:.4f}", flush=True)
    gmm_fit.write_mixture(args.out, gmm_fit.fit_mixture(body_pose, args.num, args.seed, said=said))
  except (errors.InputError, OSError) as error:
    parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
  main()
