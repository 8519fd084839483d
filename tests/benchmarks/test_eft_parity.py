"""The EFT row compares like with like: twenty updates of our network and of the same in PyTorch, person by person."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("smplx")

from body import random_body  # pylint: disable=wrong-import-position
import jax  # pylint: disable=wrong-import-position
from jhmr.benchmarks import eft  # pylint: disable=wrong-import-position
from jhmr.fitting import eft as fitting  # pylint: disable=wrong-import-position

pytestmark = pytest.mark.parity


def test_twenty_evaluations_with_torchs_adam_have_our_losses(monkeypatch):
  monkeypatch.setattr(eft, "SETTINGS", fitting.Settings(threshold=0.0, learning_rate=1e-4))
  arrays = random_body.arrays()
  problem, params = eft.set_up(arrays, 2, image_size=32)
  found = jax.jit(eft.ours)(params, *problem)
  theirs = eft.peer(arrays, problem, params)
  for i in range(2):
    losses = theirs(i)
    # Convolutions, smplx's full mesh against a few points, Adam: equal to rounding that twenty steps carry on.
    np.testing.assert_allclose(found.loss[i], [losses[0], losses[-1]], rtol=1e-4)
    assert losses[-1] < 0.95 * losses[0]
  assert np.all(np.diff(found.history, axis=1) < 0)
