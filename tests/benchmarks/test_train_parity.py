"""The training row compares like with like: same parameters, same losses, step after step."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("smplx")

from body import random_body  # pylint: disable=wrong-import-position
from jhmr.benchmarks import train  # pylint: disable=wrong-import-position

pytestmark = pytest.mark.parity


def test_hmr_in_pytorch_has_our_losses_step_after_step():
  arrays = random_body.arrays()
  step, state, data, assets = train.set_up(arrays, 2)
  ours, theirs = train.runner(step, state, data, assets), train.peer_step(arrays, state, data, assets)
  losses = np.array([[ours(), theirs()] for _ in range(3)])
  # Gradients of a network, smplx's full mesh against ours of a few vertices, Adam: equal to rounding.
  np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-5)
  assert losses[-1, 0] < losses[0, 0]
