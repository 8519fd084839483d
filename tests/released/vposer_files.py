"""State dicts with the keys and shapes of VPoser's two releases, and their networks in slow NumPy, float64."""

import numpy as np
from released import authors

V1 = {"bodyprior_enc_bn1": 63, "bodyprior_enc_fc1": ("hidden", 63), "bodyprior_enc_bn2": "hidden",
      "bodyprior_enc_fc2": ("hidden", "hidden"), "bodyprior_enc_mu": ("latent", "hidden"),
      "bodyprior_enc_logvar": ("latent", "hidden"), "bodyprior_dec_fc1": ("hidden", "latent"),
      "bodyprior_dec_fc2": ("hidden", "hidden"), "bodyprior_dec_out": (126, "hidden")}
V2 = {"encoder_net.1": 63, "encoder_net.2": ("hidden", 63), "encoder_net.4": "hidden",
      "encoder_net.6": ("hidden", "hidden"), "encoder_net.7": ("hidden", "hidden"),
      "encoder_net.8.mu": ("latent", "hidden"), "encoder_net.8.logvar": ("latent", "hidden"),
      "decoder_net.0": ("hidden", "latent"), "decoder_net.3": ("hidden", "hidden"), "decoder_net.5": (126, "hidden")}
LAYERS = {1: list(V1), 2: list(V2)}


def shapes(version, hidden=512, latent=32):
  """{key: shape}; of 2 as in its file, with two arrays of the trainer's body model."""
  sizes, found = {"hidden": hidden, "latent": latent}, {}
  for name, size in (V1 if version == 1 else V2).items():
    size = tuple(sizes.get(n, n) for n in (size if isinstance(size, tuple) else (size,)))
    found |= authors._linear(name, *size[::-1]) if len(size) == 2 else authors._norm(name, *size)
  if version == 1:
    return found
  return {f"vp_model.{k}": s for k, s in found.items()} | {"bm_train.init_trans": (1, 3), "bm_train.f": (4, 3)}


def arrays(version, hidden=512, latent=32, seed=0):
  """{key: array}, of the size that keeps activations alive."""
  rng, found = np.random.default_rng(seed), {}
  for key, shape in shapes(version, hidden, latent).items():
    value = rng.normal(size=shape) * (1.5 / np.sqrt(shape[-1]) if len(shape) == 2 else 0.3)
    value = np.exp(value) if key.endswith("running_var") else value
    found[key] = np.array(7) if key.endswith("num_batches_tracked") else value.astype(np.float32)
  return found


def encode(found, version, x):
  """(mean, std) of axis-angle [B, 63]."""
  layer, bend = _layers(found, version)
  bn1, fc1, bn2, fc2, *fc3, mean, log = LAYERS[version][:-3]
  x = layer(bn2, bend(layer(fc1, layer(bn1, x))))
  x = layer(fc3[0], layer(fc2, x)) if fc3 else bend(layer(fc2, x))
  return layer(mean, x), np.log1p(np.exp(layer(log, x)))


def decode(found, version, latent):
  """Rotations [B, 21, 3, 3] by Gram and Schmidt."""
  layer, bend = _layers(found, version)
  fc1, fc2, out = LAYERS[version][-3:]
  x = layer(out, bend(layer(fc2, bend(layer(fc1, latent))))).reshape(len(latent), 21, 3, 2)
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
  first = unit(x[..., 0])
  second = unit(x[..., 1] - np.sum(first * x[..., 1], -1, keepdims=True) * first)
  return np.stack([first, second, np.cross(first, second)], -1)


def _layers(found, version):
  found = {k.removeprefix("vp_model."): v.astype(np.float64) for k, v in found.items()}
  slope = {1: 0.2, 2: 0.01}[version]

  def layer(name, x):
    if f"{name}.running_mean" in found:
      x = (x - found[f"{name}.running_mean"]) / np.sqrt(found[f"{name}.running_var"] + 1e-5)
      return x * found[f"{name}.weight"] + found[f"{name}.bias"]
    return x @ found[f"{name}.weight"].T + found[f"{name}.bias"]

  return layer, lambda x: np.where(x > 0, x, slope * x)
