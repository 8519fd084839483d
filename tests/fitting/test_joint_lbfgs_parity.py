"""joint_lbfgs beside torch.optim.LBFGS, call for call, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting import hilly
from jhmr.fitting import joint_lbfgs

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


def torch_calls(seed, num_calls, **settings):
  matrix, target, start = (torch.tensor(a) for a in hilly.problem(seed))
  x = start.clone().requires_grad_()
  optimizer = torch.optim.LBFGS([x], lr=1.0, line_search_fn="strong_wolfe", **settings)
  xs, losses, counts = [], [], []

  def closure():
    optimizer.zero_grad()
    loss = hilly.loss(torch, x, matrix, target)
    loss.backward()
    return loss

  for _ in range(num_calls):
    losses.append(optimizer.step(closure).item())
    xs.append(x.detach().numpy().copy())
    counts.append(optimizer.state[x]["func_evals"])
  return np.array(xs), np.array(losses), np.array(counts)


def our_calls(seed, num_calls, settings):
  matrix, target, start = hilly.problem(seed)
  evaluate = jax.value_and_grad(lambda x: hilly.loss(jnp, x, matrix, target))
  call = jax.jit(lambda s: joint_lbfgs.step(evaluate, s, settings))
  state, xs, losses, counts = jax.jit(lambda x: joint_lbfgs.start(evaluate, x, settings))(start), [], [], []
  for _ in range(num_calls):
    losses.append(float(state.loss))
    state = call(state)
    xs.append(np.asarray(state.x))
    counts.append(int(state.num_eval))
  return np.array(xs), np.array(losses), np.array(counts)


# One iteration a call shows every step; rounding grows along the way, by more where the line search interpolates.
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_iter, num_calls", [(1, 40), (20, 5)])
def test_every_step_is_torchs(seed, max_iter, num_calls):
  with jax.enable_x64(True):
    theirs = torch_calls(seed, num_calls, max_iter=max_iter, max_eval=25, history_size=7)
    ours = our_calls(seed, num_calls, joint_lbfgs.Settings(max_iter, 25, 7))
  np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
  np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
  # Calls after which there was still a way to go: at the very end, whether to stop is decided by rounding.
  before = np.flatnonzero(theirs[1][1:] > theirs[1][-1] * (1 + 1e-6))
  assert len(before)
  np.testing.assert_array_equal(ours[2][before], theirs[2][before])
  assert abs(ours[2][-1] - theirs[2][-1]) <= 3, "no more than one line search"
