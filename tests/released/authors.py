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


def numbers(shapes, seed=0):
  """{key: array} of small random numbers; flags, counters and index buffers hold what training would have left."""
  rng = np.random.default_rng(seed)
  arrays = {}
  for key, shape in shapes.items():
    value = rng.normal(scale=0.05, size=shape).astype(np.float32)
    if key.endswith("running_var"):
      value = np.exp(value)
    elif key.endswith("initialized"):
      value = np.array(True)
    elif key.endswith("num_batches_tracked"):
      value = np.array(7)
    elif key.endswith("_features"):
      odd = (int(key.split(".")[4]) // 3 + key.endswith("transform_features")) % 2
      value = np.arange(odd, 144, 2)
    arrays[key] = value
  if "flow.fc_head.init_cam" in arrays:
    arrays |= {"flow.fc_head.init_cam": np.array([[[0.9, 0.0, 0.0]]], np.float32),
               "flow.fc_head.init_betas": np.zeros((1, 1, 10), np.float32)}
  return arrays


def _linear(name, inputs, outputs):
  return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name, channels):
  return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")} | {
      f"{name}.num_batches_tracked": ()}
