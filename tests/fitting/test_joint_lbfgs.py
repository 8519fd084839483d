"""joint_lbfgs against numbers recorded from torch.optim.LBFGS, and its stop rules.

`goldens/lbfgs.npz`: `python tests/fitting/record_lbfgs.py` in an environment with torch (2.13).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting import hilly
from jhmr.fitting import joint_lbfgs

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "lbfgs.npz"


def test_the_authors_loop_ends_where_torchs_does():
  golden = np.load(GOLDEN)
  with jax.enable_x64(True):
    for seed in (0, 1):
      matrix, target, start = hilly.problem(seed)
      loss = lambda x, matrix=matrix, target=target: hilly.loss(jnp, jnp.concatenate(x), matrix, target)
      pieces = [jnp.asarray(start[:20]), jnp.asarray(start[20:])]
      result = jax.jit(lambda x, loss=loss: joint_lbfgs.minimize(loss, x, 30))(pieces)
      calls = int(result.num_calls)
      assert calls == len(golden[f"losses{seed}"])
      np.testing.assert_allclose(result.losses[:calls], golden[f"losses{seed}"], rtol=1e-6)
      np.testing.assert_allclose(np.concatenate(result.x), golden[f"x{seed}"], atol=1e-5)


def test_float32_reaches_the_valley_too():
  matrix, target, start = (jnp.asarray(a, jnp.float32) for a in hilly.problem(2))
  result = jax.jit(lambda x: joint_lbfgs.minimize(lambda x: hilly.loss(jnp, x, matrix, target), x, 10))(start)
  losses = np.asarray(result.losses)
  assert np.all(np.diff(losses) <= 1e-4 * losses[0]) and losses[-1] < 0.5 * losses[0]


def test_at_the_minimum_it_stays_and_stops_at_once():
  result = jax.jit(lambda x: joint_lbfgs.minimize(lambda x: jnp.sum(x**2), x, 30))(jnp.zeros(5))
  assert int(result.num_calls) == 1 and int(result.num_eval) == 1
  np.testing.assert_array_equal(result.x, 0)


def test_a_place_without_a_number_is_stepped_back_from():
  f = lambda x: jnp.where(x[0] > 3, jnp.nan, (x[0] - 2.9) ** 2 + 1)
  result = jax.jit(lambda x: joint_lbfgs.minimize(f, x, 5))(jnp.array([-50.0]))
  assert np.isfinite(result.losses).all() and float(result.x[0]) == pytest.approx(2.9, abs=1e-2)
