"""Records what torch.optim.LBFGS does on `hilly` under ProHMR's outer loop: python tests/fitting/record_lbfgs.py"""

import pathlib

import numpy as np
import torch

import hilly


def record(seed):
  matrix, target, start = (torch.tensor(a) for a in hilly.problem(seed))
  pieces = [start[:20].clone().requires_grad_(), start[20:].clone().requires_grad_()]
  optimizer = torch.optim.LBFGS(pieces, lr=1.0, line_search_fn="strong_wolfe")
  losses = []

  def closure():
    optimizer.zero_grad()
    loss = hilly.loss(torch, torch.cat(pieces), matrix, target)
    loss.backward()
    return loss

  for i in range(30):
    losses.append(optimizer.step(closure).item())
    gain = (losses[i - 1] - losses[i]) / max(abs(losses[i - 1]), abs(losses[i]), 1)
    if (i and gain < 1e-9) or all(abs(p.grad.max().item()) < 1e-9 for p in pieces):
      break
  return torch.cat(pieces).detach().numpy(), np.array(losses)


if __name__ == "__main__":
  out = {}
  for s in (0, 1):
    out[f"x{s}"], out[f"losses{s}"] = record(s)
    print(s, len(out[f"losses{s}"]), out[f"losses{s}"][[0, -1]])
  folder = pathlib.Path(__file__).parent / "goldens"
  folder.mkdir(exist_ok=True)
  np.savez_compressed(folder / "lbfgs.npz", **out)
