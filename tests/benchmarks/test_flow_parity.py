"""Both sides of the flow rows compute the same thing from the same parameters, or their ratio would mean nothing."""

import jax
from jhmr.benchmarks import flow
from jhmr.benchmarks import timing
from jhmr.nn.flow import ConditionalGlow
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("torch")


@pytest.mark.parametrize("method", ["sample", "log_prob"])
def test_the_peers_results_are_ours(method):
  net = ConditionalGlow(dim=12, context=20, hidden=32)
  variables, x, context = flow.set_up(net, 50)
  variables["params"]["lu_1"]["lower_entries"] *= 10
  ours = jax.jit(lambda *args: net.apply(*args, method=method))(variables, x, context)
  ours = ours if method == "sample" else ours[::-1]
  for got, want in zip(ours, flow.peer(net, method, variables, x, context)()):
    np.testing.assert_allclose(got[0], want.numpy(), atol=2e-5 * np.abs(want.numpy()).max())


def test_rows_have_what_the_table_needs(monkeypatch):
  monkeypatch.setattr(timing, "interleaved", lambda functions, seconds: {"ours": 0.5, "bfloat16": 0.25, "peer": 2.0})
  monkeypatch.setattr(flow, "_NET", ConditionalGlow(context=20, hidden=32))
  for row in (flow.samples(batch=8), flow.log_prob(batch=8)):
    assert row["ours"] == pytest.approx(16) and row["peer"] == pytest.approx(4)
    assert set(row) == {"name", "unit", "ours", "peer", "peer_name", "flops_per_item", "bytes_per_item",
                        "note"}
    assert "32 " in row["note"]
