"""A folded flow is the flow: same samples, same densities."""

import jax
import jax.numpy as jnp
from jhmr.nn import folded
from jhmr.nn.flow import ConditionalGlow
from nn.test_flow import inputs, randomised, run
import numpy as np
import pytest


@pytest.mark.parametrize("net", [ConditionalGlow(dim=6, context=5, hidden=32, depth=3),
                                 ConditionalGlow(dim=6, context=5, hidden=32, blocks=3, legacy_lu=True)])
def test_folded_inverse_is_the_inverse(net):
  variables, (z, context) = randomised(net), inputs(net)
  projected = run(net, "project", variables, context)
  x, log_det = jax.jit(folded.inverse)(run(net, "fold", variables), z, projected)
  want_x, want_log_det = run(net, "inverse", variables, z, projected)
  np.testing.assert_allclose(x, want_x, atol=1e-5)  # sums of 32 products in another order
  np.testing.assert_allclose(log_det, want_log_det, atol=1e-6)


def test_folded_kernels_have_the_nets_dtype():
  net = ConditionalGlow(dim=6, context=5, hidden=32, dtype=jnp.bfloat16)
  variables, (z, context) = randomised(net), inputs(net)
  flow, projected = run(net, "fold", variables), run(net, "project", variables, context)
  kernels = [x for n in flow.nets for x in (n.first, *n.inner, *n.outer, n.last, n.through)]
  assert {x.dtype for x in kernels} == {jnp.dtype("bfloat16")}
  x, want = folded.inverse(flow, z, projected)[0], run(net, "inverse", variables, z, projected)[0]
  assert x.dtype == jnp.float32
  np.testing.assert_allclose(x, want, atol=0.05 * np.abs(want).max())  # both are rounded, at different places
