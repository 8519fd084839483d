"""HMR's critic: its size, and what each of its 25 outputs looks at."""

import jax
from jhmr.nn.critic import Critic
import numpy as np

POSE = np.random.default_rng(0).normal(size=(2, 23, 3, 3)).astype(np.float32)
BETAS = np.random.default_rng(1).normal(size=(2, 10)).astype(np.float32)


def init(net):
  return jax.jit(lambda key: net.init(key, POSE, BETAS))(jax.random.key(0))


def test_parameter_count_is_the_papers():
  shapes = jax.eval_shape(lambda: Critic().init(jax.random.key(0), POSE, BETAS))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 1_807_619


def test_each_output_sees_its_own_input():
  net = Critic(hidden=16)
  params = init(net)
  seen = jax.jit(jax.jacobian(lambda p, b: net.apply(params, p, b)[0], argnums=(0, 1)))(POSE[:1], BETAS[:1])
  by_joint = np.abs(seen[0][:, 0]).sum((2, 3)) > 0                                       # [25, 23]
  np.testing.assert_array_equal(by_joint[:23] & ~np.eye(23, dtype=bool), False)
  assert by_joint[24].all() and not by_joint[23].any()
  by_shape = np.abs(seen[1][:, 0]).sum(-1) > 0                                           # [25]
  np.testing.assert_array_equal(np.flatnonzero(by_shape), [23])


def test_whole_pose_is_flattened_channel_by_channel():
  net = Critic(hidden=4)
  params = init(net)["params"]
  layer = lambda x, name: x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])
  x = np.maximum(layer(np.maximum(layer(POSE.reshape(2, 23, 9), "D_conv1"), 0), "D_conv2"), 0)
  flat = np.stack([x[:, j, c] for c in range(32) for j in range(23)], axis=1)
  whole = layer(np.maximum(layer(np.maximum(layer(flat, "D_alljoints_fc1"), 0), "D_alljoints_fc2"), 0),
                "D_alljoints_out")
  np.testing.assert_allclose(net.apply({"params": params}, POSE, BETAS)[:, 24], whole[:, 0], atol=1e-5)
