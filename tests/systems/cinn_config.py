"""A config of lifting by an invertible network, small enough for seconds on a CPU, and what turns parts of it off."""

import ml_collections

WEIGHTS = {"keypoints2d": 1.0, "mmd": 10.0, "deterministic": 4.0, "best": 4.0, "covariance": 750.0, "generator": 1.0}

# Source: Wehrbein et al. 2021, Table 4.
ABLATIONS = {
    "no condition": {"net.condition": False}, "no L_HM": {"weights.covariance": 0.0}, "no L_MB": {"weights.best": 0.0},
    "no L_gen": {"weights.generator": 0.0, "critic_steps": 0}, "k=1": {"top_k": 1}, "k=6": {"top_k": 6},
    "mmd as coded": {"mmd": "code"}, "no clamp": {"clip": 0.0}}


def get_config(**overrides):
  """Overrides as {"net.hidden": 4}, with "__" for "." too."""
  config = ml_collections.ConfigDict({
      "system": "cinn_lifting", "seed": 0, "num_steps": 100, "batch_size": 20, "hypotheses": 6, "top_k": 2,
      "critic_steps": 2, "mmd": "paper", "clip": 15.0, "mode_first": True,
      "net": {"blocks": 1, "hidden": 16, "condition_hidden": 8, "features": 4, "condition": True, "clamp": 2.0,
              "dtype": "float32"},
      "critic": {"hidden": 8, "chain_hidden": 8, "penalty": 10.0},
      "optim": {"name": "adam", "learning_rate": 1e-3, "b1": 0.5, "b2": 0.9},
      "critic_optim": {"name": "adam", "learning_rate": 1e-3, "b1": 0.5, "b2": 0.9}, "weights": WEIGHTS})
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config.lock()
