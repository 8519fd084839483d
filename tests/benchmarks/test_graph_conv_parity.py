"""All forms of the graph convolution row and its peers compute the same layer and the same gradients."""

import jax.numpy as jnp
from jhmr import sparse
from jhmr.benchmarks import graph_conv
from jhmr.benchmarks import timing
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("torch")


def ring(num):
  """The adjacency of a ring."""
  ids = ((np.arange(num)[:, None] + np.array([0, 1, -1])) % num).astype(np.int32)
  third = np.full(ids.shape, 1 / 3, np.float32)
  return sparse.Table(ids, third, ids, third)


TABLE = ring(50)
NUMBERS = graph_conv.inputs(50, batch=2, channels=8)


def test_every_form_and_peer_gives_the_same_output_and_gradients():
  kernel, bias, x, gradient = (n.astype(np.float64) for n in NUMBERS)
  around = lambda x: (x + np.roll(x, 1, 1) + np.roll(x, -1, 1)) / 3
  wanted = (around(x @ kernel) + bias, (np.einsum("bnc,bnd->cd", x, around(gradient)), gradient.sum((0, 1)),
                                        around(gradient) @ kernel.T))
  found = {name: (graph_conv.ours(form, *NUMBERS)(), form.back) for name, form in graph_conv.forms(TABLE).items()}
  found |= {name: (run(), lambda x: jnp.swapaxes(x.numpy(), 0, 1))
            for name, run in graph_conv.peers(TABLE, *NUMBERS).items()}
  assert len(found) == 10
  for name, ((y, (of_kernel, of_bias, of_x)), back) in found.items():
    for value, want in ((back(y), wanted[0]), (of_kernel, wanted[1][0]), (of_bias, wanted[1][1]),
                        (back(of_x), wanted[1][2])):
      np.testing.assert_allclose(value, want, atol=1e-4, err_msg=name)


def test_the_row_has_what_the_table_needs(monkeypatch):
  took = {name: 1.0 for name in graph_conv.forms(TABLE)} | {"torch dense": 4.0, "torch sparse": 2.0}
  took["dense"] = 0.5
  monkeypatch.setattr(timing, "interleaved", lambda functions, seconds: {name: took[name] for name in functions})
  monkeypatch.setattr(graph_conv, "adjacency_of", lambda body: TABLE)
  row = graph_conv.layer(batch=2, channels=8)
  assert set(row) == {"name", "unit", "ours", "peer", "peer_name", "flops_per_item", "bytes_per_item", "note"}
  assert graph_conv.chosen(TABLE) == "dense" and graph_conv.chosen(ring(431)) == "blocks"
  assert row["ours"] == 4 and row["peer"] == 1 and row["peer_name"] == "torch sparse"
  assert "chosen: dense" in row["note"] and "blocks: 1000.0 ms, 0.50 x dense" in row["note"]
