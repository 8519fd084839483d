"""The networks of GraphCMR: image to mesh, by graph convolutions or without, and mesh to a body's parameters."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr.nn import graph_conv
from jhmr.nn.graph_conv import GraphBlock, NormRelu
from jhmr.nn.regressor import axis_of, backbone_of, learns, torch_bias, torch_dense
from jhmr.nn.resnet import batch_norm

MESHES = ("graph", "fc")
STARTS = ("authors", "mean")
NUM_JOINTS = 24
_SHAPE = (64, 32)  # widths of the blocks of the shape head


class MeshNet(nn.Module):
  """Crop and template mesh -> the mesh of the person and a camera.

  Attributes:
    backbone: a key of `resnet.ARCHITECTURES`.
    mesh: "graph"; or "fc", fully connected layers on the image's features.
    layers, channels: how many blocks keep the width, and that width; a multiple of 16.
    hidden: width of the two hidden layers of "fc".
    start: initial values, see `graph_conv.initial`.
    dtype: "float32" | "bfloat16", of the backbone and of features at vertices; parameters and results are float32.
    batch_norm: of the backbone, see `regressor.ImageRegressor`.
    remat: recompute blocks in the backward pass, to save memory.
    axis_name: the mapped axis, for "sync".  precision: of matrix products.
  Source: GraphCMR, section 2.3 and figure 14; authors' `models/graph_cnn.py`, whose names of layers these are.
  """
  backbone: str = "resnet50"
  mesh: str = "graph"
  layers: int = 5
  channels: int = 256
  hidden: int = 1024
  start: str = "authors"
  dtype: str = "float32"
  batch_norm: str = "device"
  remat: bool = False
  axis_name: Any = None
  precision: Any = None

  @nn.compact
  def __call__(self, image, template, adjacency, train):
    """Normalised crops [B, S, S, 3], template [n, 3], its Adjacency -> (vertices [B, n, 3] metres, camera [B, 3])."""
    dtype, features = jnp.dtype(self.dtype), backbone_of(self)(image, learns(self, train))
    if self.mesh == "fc":
      return self._connected(features, template.shape[0])
    return self._graph(features.astype(dtype), graph_conv.inside(adjacency, template).astype(dtype), adjacency)

  def _connected(self, features, num):
    """A series of fully connected layers. Source: GraphCMR, section 2.4.3, which names no sizes."""
    x = features
    for i in range(2):
      x = nn.relu(connected(self.hidden, x.shape[-1], self.precision, f"fc_{i}")(x))
    x = connected(3 * num + 3, self.hidden, self.precision, "out")(x)
    return x[:, :-3].reshape(len(x), num, 3), x[:, -3:]

  def _graph(self, features, template, adjacency):
    block = nn.remat(GraphBlock) if self.remat else GraphBlock
    block_of = lambda size, name: block(size, self.start, self.precision, name=name)
    layer = lambda size, size_in, name: graph_conv.linear(size, size_in, self.start, features.dtype, self.precision,
                                                          name)
    x = FirstLinear(2 * self.channels, self.start, self.precision, name="gc_0")(features, template)
    for i in range(self.layers + 1):
      x = block_of(self.channels, f"gc_{i + 1}")(x, adjacency)
    shape = x
    for i, size in enumerate(_SHAPE):
      shape = block_of(size, f"shape_{i}")(shape, adjacency)
    shape = layer(3, _SHAPE[-1], "shape_4")(NormRelu(name="shape_2")(shape))
    each = nn.relu(layer(1, self.channels, "camera_2")(NormRelu(name="camera_0")(x)))
    each = graph_conv.outside(adjacency, each)[..., 0].astype(jnp.float32)
    camera = connected(3, each.shape[-1], self.precision, "camera_4")(each)
    return graph_conv.outside(adjacency, shape).astype(jnp.float32), camera


class FirstLinear(nn.Module):
  """The linear layer of [template coordinates, image features] at every vertex.

  Features are multiplied once for an image and coordinates once for a batch; the concatenation, 2,051 numbers at each
  of 1,723 vertices, is never made.
  """
  features: int
  start: str = "authors"
  precision: Any = None

  @nn.compact
  def __call__(self, image, template):
    """image [B, C], template [n, 3] -> [B, n, features]."""
    size = template.shape[-1] + image.shape[-1]
    kernel_init, bias_init = graph_conv.initial(self.start, size, self.features)
    if self.start == "mean":
      kernel_init = _in_two(template.shape[-1])
    kernel = self.param("kernel", kernel_init, (size, self.features), jnp.float32).astype(image.dtype)
    bias = self.param("bias", bias_init, (self.features,), jnp.float32).astype(image.dtype)
    of_template = jnp.matmul(template, kernel[:template.shape[-1]], precision=self.precision)
    of_image = jnp.matmul(image, kernel[template.shape[-1]:], precision=self.precision) + bias
    return of_image[:, None] + of_template[None]


def _in_two(num):
  """Initial values of a kernel whose first num inputs are as much heard as all others together.

  Three coordinates beside hundreds of features would leave all vertices nearly alike: at the end of the open
  benchmark's run graphcmr the mesh's MPJPE is 131 mm so, 146 mm with Glorot's initial values.
  """
  lecun = nn.initializers.lecun_normal()

  def init(key, shape, dtype):
    keys = jax.random.split(key)
    return jnp.concatenate([lecun(keys[0], (num, shape[1]), dtype), lecun(keys[1], (shape[0] - num, shape[1]), dtype)])
  return init


class ParameterNet(nn.Module):
  """Mesh -> matrices of the joints, not rotations yet, and shape coefficients.

  The template is an input too, the same for all; while training, batch norm takes its constant share out again.
  Source: GraphCMR, section 2.6.4, figures 15 and 16; authors' `models/smpl_param_regressor.py`.
  """
  hidden: int = 1024
  num_betas: int = 10
  batch_norm: str = "device"
  axis_name: Any = None
  precision: Any = None

  @nn.compact
  def __call__(self, vertices, template, train):
    """vertices [B, n, 3] metres, template [n, 3] -> (matrices [B, 24, 3, 3], betas [B, L]), float32."""
    train, axis_name = learns(self, train), axis_of(self)
    x = jnp.concatenate([vertices, jnp.broadcast_to(template[None], vertices.shape)], -1).reshape(len(vertices), -1)
    x = connected(self.hidden, x.shape[-1], self.precision, "fc_0")(x)
    x = nn.relu(batch_norm(train, axis_name, jnp.float32, "bn_0")(x))
    for i in (1, 2):
      x = ConnectedBlock(axis_name, self.precision, name=f"block_{i}")(x, train)
    x = connected(9 * NUM_JOINTS + self.num_betas, self.hidden, self.precision, "out")(x)
    return x[:, :9 * NUM_JOINTS].reshape(-1, NUM_JOINTS, 3, 3), x[:, 9 * NUM_JOINTS:]


class ConnectedBlock(nn.Module):
  """Linear, norm, ReLU, linear, norm; added to its input, then ReLU. Source: GraphCMR, figure 15."""
  axis_name: Any = None
  precision: Any = None

  @nn.compact
  def __call__(self, x, train):
    layer = lambda name: connected(x.shape[-1], x.shape[-1], self.precision, name)
    norm = lambda name: batch_norm(train, self.axis_name, jnp.float32, name)
    y = nn.relu(norm("bn_1")(layer("fc_0")(x)))
    return nn.relu(x + norm("bn_4")(layer("fc_3")(y)))


def connected(features, size_in, precision, name):
  """A fully connected layer with torch's initial values."""
  return nn.Dense(features, kernel_init=torch_dense, bias_init=torch_bias(size_in), precision=precision, name=name)
