"""ProHMR's training row compares like with like: same parameters, same random numbers, same losses."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("smplx")

from body import random_body  # pylint: disable=wrong-import-position
from jhmr.benchmarks import train, train_prohmr  # pylint: disable=wrong-import-position
import ml_collections  # pylint: disable=wrong-import-position

pytestmark = pytest.mark.parity


def test_prohmr_in_pytorch_has_our_losses_step_after_step():
  config, batch = ml_collections.ConfigDict(train_prohmr.CONFIG), 4
  config.net.flow.hidden, config.net.hidden = 32, 32
  arrays = random_body.arrays()
  step, state, data, assets = train_prohmr.set_up(config, arrays, batch)
  numbers = functools.partial(train_prohmr.our_numbers, config.seed, batch=batch)
  theirs = train_prohmr.peer_step(config, arrays, state, data, assets, numbers)
  ours = train.runner(step, state, data, assets)
  losses = np.array([[ours(), theirs()] for _ in range(3)])
  np.testing.assert_allclose(losses[0, 0], losses[0, 1], rtol=1e-5)
  # Adam's first steps are signs of gradients, and a batch norm of four rows makes small ones uncertain.
  np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-3)
