"""Both sides of the hypothesis row make the same bodies from the same features and latents."""

import jax
import jax.numpy as jnp
from jhmr import fast_sampling
from jhmr.benchmarks import hypotheses, timing
from jhmr.nn.flow import ConditionalGlow
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("smplx")

NET = ConditionalGlow(context=20, hidden=32)


def test_the_peers_hypotheses_are_ours():
  setting, num = hypotheses.set_up(NET, 2), 6
  drawn = hypotheses.runner(NET, setting, num, seed=3)()
  z = np.asarray(fast_sampling.latents(jax.random.key(3), 0, (2, num, NET.dim)))
  theirs = hypotheses.peer(NET, setting, num, torch.tensor(z.reshape(2 * num, -1)))()
  for got, want in zip(drawn, theirs):
    # A fiftieth of a millimetre; projections magnify by 5,000 px over 50 m.
    np.testing.assert_allclose(got.reshape(want.shape), want.numpy(), atol=2e-5 * max(1, np.abs(want.numpy()).max()))


def test_the_row_has_what_the_table_needs(monkeypatch):
  monkeypatch.setattr(hypotheses, "NET", NET)
  monkeypatch.setattr(timing, "interleaved", lambda functions, seconds: {"ours": 0.5, "bfloat16": 0.25, "peer": 2.0})
  row = hypotheses.joints_of_one_image(num=8)
  assert row["ours"] == pytest.approx(16) and row["peer"] == pytest.approx(4)
  assert {"flops_per_item", "bytes_per_item", "unit", "name", "peer_name"} < set(row)
  assert "bfloat16: joints" in row["note"] and "32 hypotheses/s" in row["note"]
  assert jnp.isfinite(row["flops_per_item"])
