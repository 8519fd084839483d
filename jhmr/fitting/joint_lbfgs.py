"""L-BFGS with a strong Wolfe line search that goes the way of PyTorch's, for parity with the systems that use it.

One problem, however many people are in it: one direction, one step size. `step` is one call of up to 20 iterations
that share a budget of 25 evaluations; `minimize` repeats calls until one gains next to nothing, as SMPLify-X and
ProHMR do. Everything is `lax.while_loop`s, so that a whole fit is one program.

Source: Nocedal and Wright 2006, algorithms 7.4 (two loops), 3.5 and 3.6 (line search, c1 = 1e-4, c2 = 0.9); the
budgets, tolerances, first step and safeguards are those documented for `torch.optim.LBFGS`, and a test holds every
step equal to it.
Differs: a loss that is not a number counts as infinite, and the interval is halved; in PyTorch it spreads.
"""

from typing import NamedTuple

import jax
from jax import lax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
from jhmr.fitting import descend

_ARMIJO, _CURVATURE, _MAX_SEARCH = 1e-4, 0.9, 25


class Settings(NamedTuple):
  """Defaults of torch.optim.LBFGS, with a learning rate of 1."""
  max_iter: int = 20              # of a call
  max_eval: int = 25              # evaluations of a call, seen between iterations
  history: int = 100              # pairs of steps and gradient changes that are remembered
  tolerance_grad: float = 1e-7    # largest entry of a gradient that counts as zero
  tolerance_change: float = 1e-9  # of an entry of x, of the loss, of a slope


class Point(NamedTuple):
  """A place on the line x + t d."""
  t: jax.Array      # []
  loss: jax.Array   # []
  grad: jax.Array   # [n]
  slope: jax.Array  # [] grad . d


class Search(NamedTuple):
  """A line search under way: first ever longer steps until an interval is known, then ever smaller intervals."""
  ends: Point        # [2, ...] of the interval; before it is known, the last two places
  t: jax.Array       # [] where to look next
  num: jax.Array     # [] int32, evaluations after the first
  found: jax.Array   # [] bool: an interval is known
  done: jax.Array    # [] bool: both Wolfe conditions hold at the lower end
  slow: jax.Array    # [] bool: the last step came close to an end of the interval


class State(NamedTuple):
  """What is carried from iteration to iteration and from call to call."""
  x: jax.Array       # [n]
  loss: jax.Array    # []
  grad: jax.Array    # [n]
  d: jax.Array       # [n] last direction
  t: jax.Array       # [] last step
  memory: descend.Memory
  num_iter: jax.Array  # [] int32 of all calls
  num_eval: jax.Array  # [] int32 of all calls


class Result(NamedTuple):
  x: object           # the pytree of the start
  losses: jax.Array   # [num_calls] at the start of each call; after the last one, the final loss again and again
  num_calls: jax.Array  # [] int32
  num_eval: jax.Array   # [] int32, evaluations of loss and gradient


def minimize(loss_fn, x, num_calls, settings=Settings(), ftol=1e-9, gtol=1e-9):
  """Calls of L-BFGS until one gains less than ftol, relative, or no gradient's largest entry exceeds gtol.

  Args:
    loss_fn: x -> []; x is a pytree of float arrays.
    num_calls: at most so many.
  Source: ProHMR's authors' `optimization/keypoint_fitting.py` and `optimization_task.py:rel_change`; the loss compared
    is that at the start of a call, so a rise ends the loop too.
  Differs: their gradients are those of the last evaluation of a line search, ours of the point it chose.
  """
  flat, unravel = ravel_pytree(x)
  value_and_grad = jax.value_and_grad(lambda v: loss_fn(unravel(v)))
  evaluate = lambda v: _no_nan(*value_and_grad(v))

  def body(carry):
    state, losses, call, _ = carry
    before, last = state.loss, losses[jnp.maximum(call - 1, 0)]
    state = step(evaluate, state, settings)
    gain = (last - before) / jnp.maximum(jnp.maximum(jnp.abs(last), jnp.abs(before)), 1.0)
    leaves = jax.tree.leaves(unravel(state.grad))
    flat_grad = jnp.all(jnp.stack([jnp.abs(jnp.max(g)) < gtol for g in leaves]))
    stop = ((call > 0) & (gain < ftol)) | flat_grad
    return state, losses.at[call].set(before), call + 1, stop

  first = start(evaluate, flat, settings)
  carry = (first, jnp.zeros(num_calls, first.loss.dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool))
  state, losses, call, _ = lax.while_loop(lambda c: (c[2] < num_calls) & ~c[3], body, carry)
  losses = jnp.where(jnp.arange(num_calls) < call, losses, state.loss)
  return Result(unravel(state.x), losses, call, state.num_eval)


def start(evaluate, x, settings):
  """The State before the first call; evaluate: x [n] -> (loss, gradient)."""
  loss, grad = evaluate(x)
  zero, memory = jnp.zeros((), jnp.int32), descend.empty_memory(x, settings.history)
  return State(x, loss, grad, -grad, jnp.zeros_like(loss), memory, zero, zero)


def step(evaluate, state, settings):
  """One call: iterations until a tolerance or the budget is met.

  PyTorch evaluates again where the last call ended; that evaluation is counted but not made.
  """
  def iterate(carry):
    state, num, evals, _ = carry
    before = state
    state = _direction(state)
    slope = jnp.vdot(state.grad, state.d)
    flat = slope > -settings.tolerance_change
    state, used = lax.cond(flat, lambda: (state, jnp.zeros((), jnp.int32)), lambda: _move(evaluate, state, slope))
    num, evals = num + 1, evals + used
    stop = (flat | (num == settings.max_iter) | (evals >= settings.max_eval) |
            (jnp.max(jnp.abs(state.grad)) <= settings.tolerance_grad) |
            (jnp.max(jnp.abs(state.d * state.t)) <= settings.tolerance_change) |
            (jnp.abs(state.loss - before.loss) < settings.tolerance_change))
    return state, num, evals, stop

  zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
  done = jnp.max(jnp.abs(state.grad)) <= settings.tolerance_grad
  state, _, evals, _ = lax.while_loop(lambda c: ~c[3], iterate, (state, zero, one, done))
  return state._replace(num_eval=state.num_eval + evals)


def _direction(state):
  """Remembers the last step and chooses the next direction and first step size."""
  first = state.num_iter == 0
  memory = descend.remember(state.memory, state.d * state.t, state.grad - state.memory.grad, ~first)
  t = jnp.where(first, jnp.minimum(1.0, 1 / jnp.sum(jnp.abs(state.grad))), 1.0).astype(state.t.dtype)
  return state._replace(d=descend.two_loops(memory, state.grad), t=t, num_iter=state.num_iter + 1,
                        memory=memory._replace(x=state.x, grad=state.grad))


def _move(evaluate, state, slope):
  """Searches along d and goes there: (State, evaluations made)."""
  best, used = line_search(evaluate, state.x, state.d, state.t, Point(jnp.zeros_like(state.t), state.loss, state.grad,
                                                                      slope))
  return state._replace(x=state.x + best.t * state.d, loss=best.loss, grad=best.grad, t=best.t), used


def line_search(evaluate, x, d, t, origin):
  """A Point on x + t d where both strong Wolfe conditions hold, or the best one found: (Point, evaluations made)."""
  longest = jnp.max(jnp.abs(d))

  def at(t):
    loss, grad = evaluate(x + t * d)
    return Point(t, loss, grad, jnp.vdot(grad, d))

  def unfinished(search):
    wide = jnp.abs(search.ends.t[1] - search.ends.t[0]) * longest >= 1e-9
    return ~search.done & (search.num < _MAX_SEARCH) & (~search.found | wide)

  def body(search):
    t, slow = lax.cond(search.found, _inside, lambda s: (s.t, s.slow), search)
    new = at(t)
    search = search._replace(slow=slow)
    return lax.cond(search.found, _narrow, _widen, search, new, origin)

  # The first evaluation is not counted against the limit of the search.
  ends = jax.tree.map(lambda a: jnp.stack([a, a]), origin)
  no = jnp.zeros((), bool)
  search = lax.while_loop(unfinished, body, Search(ends, t, jnp.full((), -1, jnp.int32), no, no, no))
  # Never bracketed: the start or the last place, whichever is lower.
  ends = jax.tree.map(lambda e, o: jnp.where(search.found | search.done, e, e.at[0].set(o)), search.ends, origin)
  return jax.tree.map(lambda e: e[_lower(ends)], ends), search.num + 1


def _widen(search, new, origin):
  """Takes a new place beyond the last one: an interval, an end, or a longer step.

  Source: Nocedal and Wright 2006, algorithm 3.5.
  """
  last, num = jax.tree.map(lambda e: e[1], search.ends), search.num + 1
  good = jnp.abs(new.slope) <= -_CURVATURE * origin.slope
  too_high = ~_decreases(new, origin) | ((num > 1) & (new.loss >= last.loss))
  done = ~too_high & good
  found = too_high | (~good & (new.slope >= 0))
  # An accepted place is both ends of its interval.
  first = jax.tree.map(lambda a, b: jnp.where(done, a, b), new, last)
  ends = jax.tree.map(lambda a, b: jnp.stack([a, b]), first, new)
  longer = _cubic(last, new, new.t + 0.01 * (new.t - last.t), 10 * new.t)
  return Search(ends, longer, num, found, done, search.slow)


def _inside(search):
  """Where in the interval to look next, and whether that is close to one of its ends."""
  a, b = (jax.tree.map(lambda e: e[i], search.ends) for i in (0, 1))
  low, high = jnp.minimum(a.t, b.t), jnp.maximum(a.t, b.t)
  t, margin = _cubic(a, b, low, high), 0.1 * (high - low)
  close = jnp.minimum(high - t, t - low) < margin
  inward = jnp.where(jnp.abs(t - high) < jnp.abs(t - low), high - margin, low + margin)
  moved = close & (search.slow | (t >= high) | (t <= low))  # twice too close, or on an end: go a tenth inside
  return jnp.where(moved, inward, t), close & ~moved


def _narrow(search, new, origin):
  """Puts a new place from inside the interval in the stead of one of its ends.

  Source: Nocedal and Wright 2006, algorithm 3.6.
  """
  ends, low = search.ends, _lower(search.ends)
  high = 1 - low
  best = jax.tree.map(lambda e: e[low], ends)
  worse = ~_decreases(new, origin) | (new.loss >= best.loss)
  done = ~worse & (jnp.abs(new.slope) <= -_CURVATURE * origin.slope)
  turned = ~worse & ~done & (new.slope * (ends.t[high] - ends.t[low]) >= 0)
  at_high = jax.tree.map(lambda e, n, b: jnp.where(worse, n, jnp.where(turned, b, e[high])), ends, new, best)
  at_low = jax.tree.map(lambda n, b: jnp.where(worse, b, n), new, best)
  ends = jax.tree.map(lambda e, l, h: e.at[low].set(l).at[high].set(h), ends, at_low, at_high)
  return search._replace(ends=ends, num=search.num + 1, done=done)


def _lower(ends):
  """Which end of an interval is the lower one."""
  return jnp.where(ends.loss[0] <= ends.loss[1], 0, 1)


def _decreases(new, origin):
  """Armijo's condition."""
  return new.loss <= origin.loss + _ARMIJO * new.t * origin.slope


def _cubic(a, b, low, high):
  """Where the cubic with the values and slopes of two places is lowest, kept in low..high; the middle without one.

  Source: Nocedal and Wright 2006, Eq. 3.59.
  """
  a, b = (jax.tree.map(lambda p, q: jnp.where(keep, p, q), a._replace(grad=0.), b._replace(grad=0.))
          for keep in (a.t <= b.t, a.t > b.t))  # in order of t
  d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / jnp.where(a.t == b.t, 1.0, a.t - b.t)
  square = d1**2 - a.slope * b.slope
  d2 = jnp.sqrt(jnp.maximum(square, 0.0))
  lowest = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
  return jnp.where((square >= 0) & jnp.isfinite(lowest), jnp.clip(lowest, low, high), (low + high) / 2)


def _no_nan(loss, grad):
  return jnp.where(jnp.isnan(loss), jnp.inf, loss), grad
