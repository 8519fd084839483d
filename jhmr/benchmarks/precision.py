"""What rounding the factors of matrix products costs in millimetres, and which share of the device's speed it reaches.

Variants of one program: float32 as JAX multiplies it by default (TF32 on recent GPUs), bfloat16, and float32 at
precision HIGHEST, the one the others are held against. On a CPU the first and the last are the same. The rows' nets are
not trained: their poses are spread far wider than people's, and two columns of a rotation may be almost parallel, so
that a few joints move much more than those of a trained net.
"""

import functools

import jax
import jax.numpy as jnp
from jhmr.benchmarks import timing
import numpy as np

REFERENCE = "float32 HIGHEST"
VARIANTS = {"float32": ("float32", None), "bfloat16": ("bfloat16", None), REFERENCE: ("float32", "highest")}


def timed():
  """Names of the variants that are worth timing on this device, besides float32."""
  return ("bfloat16",) if jax.default_backend() == "cpu" else ("bfloat16", REFERENCE)


def variant(name, make):
  """make(dtype) -> a function of any arguments that is traced at each call's first; here at the variant's precision."""
  dtype, precision = VARIANTS[name]
  function = make(jnp.dtype(dtype))

  def run(*args):
    with jax.default_matmul_precision(precision):
      return function(*args)

  return run


@functools.cache
def ceiling(name):
  """Measured FLOP/s of a large product of the variant's dtype and precision."""
  size = 2048 if jax.default_backend() == "cpu" else 8192  # a call must take longer than its start
  a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(VARIANTS[name][0]))
  product = jax.jit(lambda a: jnp.matmul(a, a, precision=VARIANTS[name][1], preferred_element_type=jnp.float32))
  return 2 * size ** 3 * timing.best_rate(product, a, seconds=0.5)


def moved_mm(points, reference):
  """(mean, 99th percentile) of the distance in millimetres between points [..., 3] and the reference's, in metres."""
  distance = 1000 * np.linalg.norm(np.asarray(points) - np.asarray(reference), axis=-1)
  return float(distance.mean()), float(np.percentile(distance, 99))


def note(unit, rates, flops_per_item, moved):
  """One line for each variant.

  Args:
    rates: {variant: items/s}.
    moved: {variant: `moved_mm` from the reference}.
  """
  lines = []
  for name, (mean, most) in moved.items():
    line = f"{name}: joints {mean:.2g} mm from {REFERENCE} on average, 99 % below {most:.2g} mm"
    if name in rates:
      line += (f"; {rates[name]:,.0f} {unit}, {rates[name] * flops_per_item / ceiling(name):.0%} of the "
               f"{ceiling(name) / 1e9:,.0f} GFLOP/s that such products reach here")
    lines.append(line)
  return "\n".join(lines)
