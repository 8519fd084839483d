"""A conditional invertible network between a 3D pose x and (z, y): what its 2D pose leaves open, and that 2D pose.

x and the output v = [z, y] are two names of one point: `forward` takes x to v, through the blocks 0, 1, ...; `inverse`
takes v to x, through ..., 1, 0, so that each z is another 3D pose of the same y. A block is, towards v,

    a <- exp(k(s2)) a + t2     with (s2, t2) of the net "s2" of [b, c]
    b <- exp(k(s1)) b + t1     with (s1, t1) of the net "s1" of [a, c], the new a
    x <- [a, b] permuted       by a permutation that is fixed, and the block's own

where x = [a, b] are halves, c are features of the condition, k(s) = clamp 0.636 arctan(s / clamp), whose 0.636 stands
for 2 / pi, and log|det dv/dx| is the sum of all k(s). Every net is one hidden layer.

Source: Wehrbein, Rudolph, Rosenhahn, Wandt, "Probabilistic Monocular 3D Human Pose Estimation with Normalizing Flows",
ICCV 2021, section 3.1; authors' `models/model.py`, with the coupling and the permutation of FrEIA as of December 2020.
"""

import functools
from typing import Callable

import distrax
from flax import linen as nn
import jax
import jax.numpy as jnp
from jhmr.nn.coupling import Linear
from jhmr.nn.regressor import torch_bias, torch_dense
import numpy as np

_init = nn.initializers.normal(0.05)  # of all weights and biases but the condition's


def soft_clamp(s, clamp):
  """k(s), within 0.999 clamp of zero and of slope 0.636 there. Source: Wehrbein et al. 2021, Eq. 2."""
  return clamp * 0.636 * jnp.arctan(s / clamp)


def permutation(block, dim):
  """The order [dim] of a block: entry i after it is entry order[i] before. Source: FrEIA's `PermuteRandom`, seed k."""
  return np.random.RandomState(block).permutation(dim)


class Permutation(distrax.Bijector):
  """y_i = x_order[i]; its log-determinant is 0."""

  def __init__(self, order):
    super().__init__(event_ndims_in=1, is_constant_log_det=True)
    # As a product, exact with factors of 0 and 1 and a hundredth of a block's arithmetic: the gradient of gathered
    # columns would be scattered, one number after the other.
    self.matrix = jnp.asarray(np.eye(len(order), dtype=np.float32)[order])

  def forward_and_log_det(self, x):
    return jnp.matmul(x, self.matrix.T, precision=jax.lax.Precision.HIGHEST), jnp.zeros(x.shape[:-1], x.dtype)

  def inverse_and_log_det(self, y):
    return jnp.matmul(y, self.matrix, precision=jax.lax.Precision.HIGHEST), jnp.zeros(y.shape[:-1], y.dtype)


class TwoSided(distrax.Bijector):
  """a <- exp(s) a + t of b, then b <- exp(s) b + t of the new a; the nets give (s, already clamped, and t)."""

  def __init__(self, net_of_a, net_of_b):
    super().__init__(event_ndims_in=1)
    self.net_of_a, self.net_of_b = net_of_a, net_of_b

  def forward_and_log_det(self, x):
    a, b = jnp.split(x, 2, -1)
    scale2, shift2 = self.net_of_b(b)
    a = jnp.exp(scale2) * a + shift2
    scale1, shift1 = self.net_of_a(a)
    b = jnp.exp(scale1) * b + shift1
    return jnp.concatenate([a, b], -1), jnp.sum(scale1, -1) + jnp.sum(scale2, -1)

  def inverse_and_log_det(self, y):
    a, b = jnp.split(y, 2, -1)
    scale1, shift1 = self.net_of_a(a)
    b = (b - shift1) * jnp.exp(-scale1)
    scale2, shift2 = self.net_of_b(b)
    a = (a - shift2) * jnp.exp(-scale2)
    return jnp.concatenate([a, b], -1), -jnp.sum(scale1, -1) - jnp.sum(scale2, -1)


class Net(nn.Module):
  """s1 or s2 of a coupling; its inputs are a half of x, then the features of the condition."""
  half: int
  features: int
  hidden: int
  clamp: float
  dtype: str

  def setup(self):
    linear = lambda inputs, outputs: Linear(inputs, outputs, _init, _init, jnp.dtype(self.dtype))
    self.fc0 = linear(self.half + self.features, self.hidden)
    self.fc2 = linear(self.hidden, 2 * self.half)

  def project(self, features):
    """[B, features] -> [B, hidden], their share of the first layer and its bias."""
    return self.fc0.product(features, slice(self.half, None)) + self.fc0.bias

  def __call__(self, x, projected):
    """x [B, S, half], projected [B, hidden] -> (k(s), t), each [B, S, half]."""
    h = nn.relu(self.fc0.product(x, slice(None, self.half)) + projected[:, None])
    s, t = jnp.split(self.fc2(h), 2, -1)
    return soft_clamp(s, self.clamp), t


class Coupling(nn.Module):
  """The two nets of a block, each of which `make` makes."""
  make: Callable

  def setup(self):
    self.s1, self.s2 = self.make(), self.make()

  def project(self, features):
    """[B, features] -> [B, 2, hidden], for s1 and s2."""
    return jnp.stack([net.project(features) for net in (self.s1, self.s2)], 1)

  def bijector(self, projected):
    """The TwoSided of B images and any number of poses for each."""
    return TwoSided(functools.partial(self.s1, projected=projected[:, 0]),
                    functools.partial(self.s2, projected=projected[:, 1]))


class ConditionNet(nn.Module):
  """Condition [B, C] -> features [B, features]."""
  inputs: int
  hidden: int
  features: int

  @nn.compact
  def __call__(self, condition):
    linear = lambda n, m, name: Linear(n, m, torch_dense, torch_bias(n), jnp.float32, name=name)
    h = nn.relu(linear(self.inputs, self.hidden, "fc0")(condition))
    return linear(self.hidden, self.features, "fc2")(h)


class ConditionalInn(nn.Module):
  """The network; all methods are for `apply(..., method="inverse")`.

  Attributes:
    dim: D, even.
    inputs: C, numbers of a condition.
    condition_hidden, features: sizes of the condition's net; features = 0: poses are found without a condition.
    blocks: couplings, each with a permutation after it.
    hidden: width of the nets; 1024 in the paper, 1028 in the authors' code.
    clamp: of the scales.
    dtype: of the factors in the nets' products; sums and everything else are float32.
  Differs: the condition meets the first layers once per image, not once per hypothesis. Results are the authors'.
  """
  dim: int = 48
  inputs: int = 78
  condition_hidden: int = 256
  features: int = 56
  blocks: int = 8
  hidden: int = 1028
  clamp: float = 2.0
  dtype: str = "float32"

  def setup(self):
    if self.dim % 2:
      raise ValueError(f"dim is {self.dim}, not even")
    if self.features:
      self.condition = ConditionNet(self.inputs, self.condition_hidden, self.features)
    make = functools.partial(Net, self.dim // 2, self.features, self.hidden, self.clamp, self.dtype)
    self.coupling = [Coupling(make) for _ in range(self.blocks)]

  def __call__(self, x, condition):
    """`forward` of poses [B, S, D] and conditions [B, C]; initialise with this, it touches every parameter."""
    return self.forward(x, self.project(condition))

  def project(self, condition):
    """What of the nets' first layers does not depend on the pose: [B, C] -> [B, blocks, 2, hidden]."""
    features = self.condition(condition) if self.features else condition[:, :0]
    return jnp.stack([coupling.project(features) for coupling in self.coupling], 1)

  def forward(self, x, projected):
    """x [B, S, D], projected [B, blocks, 2, hidden] -> (v [B, S, D], log|det dv/dx| [B, S]); v = [z, y]."""
    return self._chain(x, projected).forward_and_log_det(x)

  def inverse(self, v, projected):
    """v [B, S, D], projected as in `forward` -> (x [B, S, D], log|det dx/dv| [B, S])."""
    return self._chain(v, projected).inverse_and_log_det(v)

  def _chain(self, x, projected):
    if x.ndim != 3 or projected.ndim != 4 or x.shape[0] != projected.shape[0] or x.shape[-1] != self.dim:
      raise ValueError(f"poses are {x.shape}, not [B, S, {self.dim}] for projected conditions {projected.shape}")
    steps = []  # in a scan over the blocks a gradient takes 12 % less time, but compiles a third slower
    for i, coupling in enumerate(self.coupling):
      steps += [coupling.bijector(projected[:, i]), Permutation(permutation(i, self.dim))]
    return distrax.Chain(steps[::-1])  # a chain applies its last element first


def fresh(net, key):
  """New parameters of a ConditionalInn; its blocks, which are alike, are drawn by one program."""
  draw = lambda key: net.clone(blocks=1).init(key, jnp.zeros((1, 1, net.dim)), jnp.zeros((1, net.inputs)))["params"]
  drawn = jax.vmap(draw)(jax.random.split(key, net.blocks))
  parts = {f"coupling_{k}": jax.tree.map(lambda a, k=k: a[k], drawn["coupling_0"]) for k in range(net.blocks)}
  return parts | ({"condition": jax.tree.map(lambda a: a[0], drawn["condition"])} if net.features else {})
