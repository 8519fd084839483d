"""Programs that run once, such as those that draw initial values: compiled quickly rather than well."""

import jax


def jit(f):
  """jax.jit of a function whose compiling takes longer than its run.

  A network's initial values are hundreds of small loops over random bits. On a CPU, LLVM's first level instead of its
  last compiles GraphCMR's in 6.9 s of CPU time instead of 11, and they are the same to the bit; level 0, at 4.8 s,
  rounds otherwise, since it multiplies and adds in two instructions.
  """
  quick = jax.default_backend() == "cpu" and not jax.config.read("jax_disable_most_optimizations")
  return jax.jit(f, compiler_options={"xla_backend_optimization_level": 1} if quick else None)
