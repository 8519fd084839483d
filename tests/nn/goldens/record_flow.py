"""Records flow.npz: a tiny flow of the authors' package with random weights, its samples and log-probabilities.

    git clone https://github.com/nkolot/nflows && PYTHONPATH=nflows python tests/nn/goldens/record_flow.py flow.npz

The density is recorded twice: "z", "log_prob" as the package computes it, "legacy_z", "legacy_log_prob" as it did
before commit 26388ed, with that commit's two lines taken back. Weights are exact in float16, so they are stored so.
"""

import sys
import types

import numpy as np
import torch
from torch.nn import functional as F

DIM, CONTEXT, HIDDEN, BLOCKS, DEPTH = 8, 6, 16, 4, 2
IMAGES, SAMPLES = 3, 6


def package():
  """The authors' package; UMNN, which only flows of another kind need, is left out."""
  sys.modules.setdefault("UMNN", types.SimpleNamespace(NeuralIntegral=None, ParallelNeuralIntegral=None))
  from nflows.flows import ConditionalGlow
  from nflows.transforms import lu
  return ConditionalGlow, lu.LULinear


def randomise(flow, seed=0):
  """Random values everywhere, rounded to float16; initial ones leave LU, ActNorm and batch norm the identity."""
  rng, dim = np.random.default_rng(seed), flow.state_dict()["_transform._transforms.0.shift"].numel()
  for key, value in flow.state_dict().items():
    if not value.is_floating_point() or "dummy" in key:
      continue
    kind, fan = key.rsplit(".", maxsplit=1)[-1], value.shape[-1]
    normal = rng.normal(size=tuple(value.shape))
    if "transform_net" not in key:
      size = {"log_scale": 0.5, "shift": 0.5, "unconstrained_upper_diag": 0.3, "bias": 0.3}
      new = normal * size.get(kind, 0.3 * dim ** -0.5) + 0.5 * (kind == "unconstrained_upper_diag")
    elif kind == "running_var":
      new = 0.5 + rng.uniform(size=tuple(value.shape))
    elif "batch_norm" in key:
      new = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0}[kind] + 0.3 * normal
    else:
      new = normal * (fan ** -0.5 if value.ndim == 2 else 0.1)
    value.copy_(torch.from_numpy(new.astype(np.float16).astype(np.float32)))
  return flow.eval()


def legacy_forward(self, inputs, context=None):
  """`LULinear.forward_no_cache` before commit 26388ed."""
  lower, upper = self._create_lower_upper()
  outputs = F.linear(F.linear(inputs, upper.t()), lower.t(), 0 * self.bias)
  return outputs, self.logabsdet() * inputs.new_ones(outputs.shape[0])


def outputs(flow, lu_linear, z, x, context):
  """{"x", "sample_log_prob"} of z [B, S, D], {"z", "log_prob"} of x [B, S, D], and the latter as it was."""
  def density():
    log_prob, z = flow.log_prob(x.flatten(0, 1), context.repeat_interleave(x.shape[1], 0))
    return z.reshape(x.shape), log_prob.reshape(x.shape[:2])

  with torch.no_grad():
    # One sample per call: with more, the package compares the latents with too few contexts.
    samples = [flow.sample_and_log_prob(1, noise=z[:, s:s + 1], context=context)[:2] for s in range(z.shape[1])]
    found = {"x": torch.cat([x for x, _ in samples], 1), "sample_log_prob": torch.cat([p for _, p in samples], 1)}
    found["z"], found["log_prob"] = density()
    ours, lu_linear.forward_no_cache = lu_linear.forward_no_cache, legacy_forward
    found["legacy_z"], found["legacy_log_prob"] = density()
    lu_linear.forward_no_cache = ours
  return {name: value.numpy().astype(np.float32) for name, value in found.items()}


def main(path):
  glow, lu_linear = package()
  flow = randomise(glow(DIM, HIDDEN, BLOCKS, DEPTH, context_features=CONTEXT))
  rng = np.random.default_rng(1)
  inputs = {"in_z": rng.normal(size=(IMAGES, SAMPLES, DIM)), "in_x": rng.normal(size=(IMAGES, SAMPLES, DIM)),
            "in_context": rng.normal(size=(IMAGES, CONTEXT))}
  inputs["in_z"][:, 0] = 0  # the mode
  inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
  found = outputs(flow, lu_linear, *(torch.from_numpy(inputs[name]) for name in ("in_z", "in_x", "in_context")))
  state = {k: v.numpy() for k, v in flow.state_dict().items()
           if not k.endswith(("dummy_buffer", "initialized", "num_batches_tracked"))}
  # One entry for all weights: a zip's entry costs more than most of them.
  np.savez_compressed(path, keys=np.array(list(state)), shapes=np.array([repr(v.shape) for v in state.values()]),
                      values=np.concatenate([v.ravel() for v in state.values()]).astype(np.float16), **inputs, **found)


if __name__ == "__main__":
  main(sys.argv[1])
