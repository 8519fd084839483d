"""The step of systems that minimise one loss over all their networks, so that it is written once."""

import jax
from jhmr import losses
from jhmr import optim
from jhmr.state import AXIS, TrainState
import jax.numpy as jnp
import optax


def fresh_state(config, params, stats):
  """The TrainState before the first step; call it inside jit, or it would be a thousand small programs.

  Args:
    params: {network: tree}; config.optim is the optimiser of each.  stats: {network: tree}.
  """
  tx = optim.of_run(config)()["net"]
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, stats=stats,
                    opt_state={name: tx.init(p) for name, p in params.items()}, memory={})


def make_step(config, loss, label_weights, learns=None):
  """A System's `step`.

  Args:
    config: reads seed, accumulate and optim.
    loss: (params, stats, batch, assets, totals, key) -> (loss [], ({name: []} metrics, stats)); means are over the
      whole batch, by `losses.masked_mean` with `totals`.
    label_weights: batch -> {name: [B]}, whose sums over all devices are the totals.
    learns: (network, ..., name of a parameter) -> bool; those for which it is false stay as they are. None: all learn.
  Returns:
    (state, batch, assets) -> (state, metrics).
  """
  optimizers, num_parts = optim.of_run(config), config.get("accumulate", 1)

  def held(tree, hold):
    """The tree with `hold` done to what does not learn."""
    if learns is None:
      return tree
    return jax.tree_util.tree_map_with_path(lambda path, x: x if learns([p.key for p in path]) else hold(x), tree)

  gradient = jax.grad(lambda params, *rest: loss(held(params, jax.lax.stop_gradient), *rest), has_aux=True)

  def step(state, batch, assets):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))  # devices draw different noise
    totals = losses.totals(label_weights(batch))

    def part(stats, batch, index):
      grads, (metrics, stats) = gradient(state.params, stats, batch, assets, totals, jax.random.fold_in(key, index))
      return stats, ((grads, metrics), ())

    stats, (grads, metrics), _ = optim.accumulate(part, state.stats, batch, num_parts)
    grads, metrics, stats = jax.lax.pmean((grads, metrics, stats), AXIS)  # after grad, or it would be silently wrong
    metrics |= {f"grad_norm_{name}": optax.tree.norm(g) for name, g in grads.items()}
    updates, opt_state = {}, {}
    for name, p in state.params.items():
      updates[name], opt_state[name] = optimizers()["net"].update(grads[name], state.opt_state[name], p)
    params = optax.apply_updates(state.params, held(updates, jnp.zeros_like))  # weight decay would move them
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, stats=stats), metrics

  return step
