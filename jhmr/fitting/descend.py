"""Minimisation by a fixed number of steps, written for one person: callers `vmap` it.

A while-loop would wait for the slowest of a batch anyway, and fixed shapes compile once.
"""

import functools

import jax
import jax.numpy as jnp
import optax


def lbfgs(line_search_steps=6, memory=20):
  """L-BFGS with a zoom line search (strong Wolfe conditions) of at most so many evaluations a step."""
  search = optax.scale_by_zoom_linesearch(max_linesearch_steps=line_search_steps, initial_guess_strategy="one")
  return optax.lbfgs(memory_size=memory, linesearch=search)


def descend(loss_fn, x, tx, num_steps):
  """Runs num_steps of an optimiser and returns the best point it came by.

  Args:
    loss_fn: x -> [].
    x: a pytree of float arrays, where to start.
    tx: an optax transformation, Adam or L-BFGS; what its line search evaluated last is not evaluated again.
  Returns:
    (x, losses [num_steps + 1]): the point with the lowest loss, which is never above the start's, and the loss at the
    start and after every step. A loss that is not finite is never the lowest.
  Differs: the last iterate is what the authors of the systems here keep; Adam and a line search that fails can end
    above their start.
  """
  tx, value_and_grad = optax.with_extra_args_support(tx), jax.value_and_grad(loss_fn)

  def evaluate(x, opt):
    known = optax.tree.get(opt, "value"), optax.tree.get(opt, "grad")  # of a line search, at the step it took
    return value_and_grad(x) if any(k is None for k in known) else known

  def body(carry, _):
    x, loss, grad, opt, best = carry
    updates, opt = tx.update(grad, opt, x, value=loss, grad=grad, value_fn=loss_fn)
    x = optax.apply_updates(x, updates)
    loss, grad = evaluate(x, opt)
    best = jax.tree.map(functools.partial(jnp.where, loss < best[0]), (loss, x), best)
    return (x, loss, grad, opt, best), loss

  loss, grad = value_and_grad(x)
  carry = (x, loss, grad, tx.init(x), (loss, x))
  (*_, (_, x)), losses = jax.lax.scan(body, carry, length=num_steps)
  return x, jnp.concatenate([loss[None], losses])
