"""State dicts with the keys and shapes of the authors' files, said again here, with made-up numbers."""

import numpy as np

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet18": (2, 2, 2, 2)}


def resnet_shapes(blocks, width, bottleneck):
  """{key: shape} of torchvision's `resnet.state_dict()`, without its classifier."""
  shapes = {"conv1.weight": (width, 3, 7, 7), **_norm("bn1", width)}
  inside = width
  for stage, count in enumerate(blocks):
    w = width * 2 ** stage
    out = 4 * w if bottleneck else w
    for i in range(count):
      name = f"layer{stage + 1}.{i}"
      convs = [(w, inside, 1), (w, w, 3), (out, w, 1)] if bottleneck else [(w, inside, 3), (out, w, 3)]
      for j, (o, c, k) in enumerate(convs, 1):
        shapes |= {f"{name}.conv{j}.weight": (o, c, k, k), **_norm(f"{name}.bn{j}", o)}
      if i == 0 and (inside != out or stage > 0):
        shapes |= {f"{name}.downsample.0.weight": (out, inside, 1, 1), **_norm(f"{name}.downsample.1", out)}
      inside = out
  return shapes


def prohmr_shapes(backbone, context, head=1024, blocks=4, hidden=1024, depth=2):
  """{key: shape} of ProHMR's `state_dict`, without the SMPL model.

  Args:
    backbone: {key: shape} of its encoder.
  """
  shapes = {"initialized": (), "flow.flow._transform.dummy_buffer": ()}
  shapes |= {f"backbone.{k}": s for k, s in backbone.items()}
  for t in range(3 * blocks):
    name = f"flow.flow._transform._transforms.{t}"
    shapes[f"{name}.dummy_buffer"] = ()
    if t % 3 == 0:
      shapes |= {f"{name}.log_scale": (144,), f"{name}.shift": (144,), f"{name}.initialized": ()}
    elif t % 3 == 1:
      shapes |= {f"{name}.bias": (144,), f"{name}.unconstrained_upper_diag": (144,),
                 f"{name}.lower_entries": (10296,), f"{name}.upper_entries": (10296,)}
    else:
      net = f"{name}.transform_net"
      shapes |= {f"{name}.identity_features": (72,), f"{name}.transform_features": (72,),
                 **_linear(f"{net}.initial_layer", 72 + context, hidden), **_linear(f"{net}.final_layer", hidden, 72)}
      for i in range(depth):
        for j in range(2):
          shapes |= {**_norm(f"{net}.blocks.{i}.batch_norm_layers.{j}", hidden),
                     **_linear(f"{net}.blocks.{i}.linear_layers.{j}", hidden, hidden)}
  shapes |= {**_linear("flow.fc_head.layers.0", context, head), **_linear("flow.fc_head.layers.2", head, 13),
             "flow.fc_head.init_cam": (1, 1, 3), "flow.fc_head.init_betas": (1, 1, 10)}
  return shapes | discriminator_shapes()


def discriminator_shapes():
  d = "discriminator"
  shapes = {f"{d}.D_conv1.weight": (32, 9, 1, 1), f"{d}.D_conv1.bias": (32,),
            f"{d}.D_conv2.weight": (32, 32, 1, 1), f"{d}.D_conv2.bias": (32,)}
  for i in range(23):
    shapes |= _linear(f"{d}.pose_out.{i}", 32, 1)
  for name, inputs, outputs in (("betas_fc1", 10, 10), ("betas_fc2", 10, 5), ("betas_out", 5, 1),
                                ("D_alljoints_fc1", 736, 1024), ("D_alljoints_fc2", 1024, 1024),
                                ("D_alljoints_out", 1024, 1)):
    shapes |= _linear(f"{d}.{name}", inputs, outputs)
  return shapes


def spin_shapes(backbone, context, head=1024):
  """{key: shape} of SPIN's and EFT's `state_dict`.

  Args:
    backbone: {key: shape} of its encoder, context: its features.
  """
  return backbone | {**_linear("fc1", context + 157, head), **_linear("fc2", head, head),
                     **_linear("decpose", head, 144), **_linear("decshape", head, 10), **_linear("deccam", head, 3),
                     "init_pose": (1, 144), "init_shape": (1, 10), "init_cam": (1, 3)}


def spin_start():
  """What SPIN's iterations start from, {key: array}: joints turned about z, the root about x by a half turn."""
  angle = np.linspace(-1, 1, 24)
  six_d = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle), 0 * angle, 0 * angle], -1)
  six_d[0] = [1, 0, 0, -1, 0, 0]
  return {"init_pose": six_d.reshape(1, 144).astype(np.float32),
          "init_shape": np.linspace(-0.5, 0.5, 10, dtype=np.float32)[None],
          "init_cam": np.array([[0.9, 0.1, -0.2]], np.float32)}


def spin_trained(seed=0):
  """{key: array} of a SPIN of full size, of the size training leaves."""
  arrays = trained({f"backbone.{k}": s for k, s in resnet_shapes(BLOCKS["resnet50"], 64, True).items()}, seed)
  head = {k: s for k, s in spin_shapes({}, 2048).items() if not k.startswith("init_")}
  arrays = {k.removeprefix("backbone."): v for k, v in arrays.items()} | trained(head, seed + 1)
  # The decoders' corrections are small, as in training: rotations stay far from where 6D has no meaning.
  return {k: 0.2 * v if k.startswith("dec") else v for k, v in arrays.items()} | spin_start()


def numbers(shapes, seed=0):
  """{key: array} of small random numbers; flags, counters and index buffers hold what training would have left."""
  rng = np.random.default_rng(seed)
  arrays = {}
  for key, shape in shapes.items():
    value = rng.normal(scale=0.05, size=shape).astype(np.float32)
    if key.endswith("running_var"):
      value = np.exp(value)
    arrays[key] = _constant(key, value)
  return arrays


def trained(shapes, seed=0):
  """{key: array} of numbers of the size training leaves: activations neither vanish nor explode, the flow's poses lie
  about the rest pose. From a stream that NumPy promises never to change, so that what was recorded with them holds."""
  rng, arrays = np.random.RandomState(seed), {}
  for key, shape in shapes.items():
    middle, size = _range(key, shape)
    arrays[key] = _constant(key, (middle + size * rng.uniform(-1, 1, shape)).astype(np.float32))
  first = "flow.flow._transform._transforms.0"
  if f"{first}.shift" not in arrays:
    return arrays
  rest = np.tile(np.array([1, 0, 0, 0, 1, 0], np.float32), 24)
  arrays[f"{first}.shift"] -= np.exp(arrays[f"{first}.log_scale"]) * rest
  return arrays


def _range(key, shape):
  """(middle, half width) of the random numbers of a key."""
  layer, kind = key.split(".")[-2:] if "." in key else ("", key)
  if kind == "weight" and len(shape) > 1:
    gain = 6.0 if key.startswith("backbone.") else 0.02 if "fc_head.layers.2" in key else 1.5
    return 0.0, (gain / np.prod(shape[1:])) ** 0.5
  if kind == "weight":  # of a batch norm; the last one of a block is small, or sixteen blocks would add up
    return (0.2, 0.1) if layer == "bn3" else (1.0, 0.3)
  first = key.endswith("_transforms.0.log_scale")  # poses lie within 1 / e of the middle, latents within 1
  return {"running_var": (1.0, 0.5), "log_scale": (float(first), 0.3), "unconstrained_upper_diag": (0.5, 0.3),
          "lower_entries": (0.0, 0.04), "upper_entries": (0.0, 0.04)}.get(kind, (0.0, 0.1 if "fc_head" in key else 0.3))


def _constant(key, value):
  """The value of a key that is not random, else `value`."""
  if key.endswith("initialized"):
    return np.array(True)
  if key.endswith("num_batches_tracked"):
    return np.array(7)
  if key.endswith("_features"):
    odd = (int(key.split(".")[4]) // 3 + key.endswith("transform_features")) % 2
    return np.arange(odd, 144, 2)
  return {"flow.fc_head.init_cam": np.array([[[0.9, 0.0, 0.0]]], np.float32),
          "flow.fc_head.init_betas": np.zeros((1, 1, 10), np.float32)}.get(key, value)


def _linear(name, inputs, outputs):
  return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name, channels):
  return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")} | {
      f"{name}.num_batches_tracked": ()}
