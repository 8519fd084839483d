"""Every key of the authors' files goes to one place of ours, or the file is refused and says why."""

import jax
import jax.numpy as jnp
from jhmr.errors import InputError
from jhmr.nn import resnet as net_resnet
from jhmr.nn.critic import Critic
from jhmr.released import prohmr, resnet
import ml_collections
import numpy as np
import pytest
from released import authors

TINY = net_resnet.Architecture(stem=7, pool=True, blocks=(1, 2, 1, 1), width=4, expansion=4)
NET = ml_collections.ConfigDict(dict(backbone="resnet_test", hidden=8, flow=dict(blocks=2, hidden=8, depth=2)))
FLOW = "flow.flow._transform._transforms"


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
  monkeypatch.setitem(net_resnet.ARCHITECTURES, "resnet_test", TINY)


def tiny_prohmr(seed=0):
  backbone = authors.resnet_shapes(TINY.blocks, TINY.width, bottleneck=True)
  return authors.numbers(authors.prohmr_shapes(backbone, TINY.features, head=8, blocks=2, hidden=8), seed)


def shapes_of(tree):
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_the_released_file_has_564_keys_and_each_is_known():
  theirs = authors.prohmr_shapes(authors.resnet_shapes((3, 4, 6, 3), 64, bottleneck=True), 2048)
  assert len(theirs) == 564 and sum(k.startswith("backbone.") for k in theirs) == 318
  assert sum(k.startswith("flow.flow.") for k in theirs) == 177
  entries = prohmr.entries(prohmr.Sizes()) + prohmr.critic_entries()
  named = {name: e.shape for e in entries for name in e.names}
  assert {k: theirs[k] for k in named} == named
  rest = {k.rsplit(".", 1)[-1] for k in set(theirs) - set(named)}
  assert rest == {"num_batches_tracked", "dummy_buffer", "initialized", "identity_features", "transform_features",
                  "init_cam", "init_betas"}
  assert len({e.path for e in entries}) == len(entries)


def test_parameter_counts_are_the_published_ones():
  sizes = {}
  for entry in prohmr.entries(prohmr.Sizes()) + prohmr.critic_entries():
    if entry.path[0] == "params":
      part = entry.path[2] if entry.path[1] == "net" else entry.path[1]
      sizes[part] = sizes.get(part, 0) + len(entry.names) * int(np.prod(entry.shape))
  assert sizes == {"backbone": 23_508_032, "flow": 25_893_856, "head": 2_111_501, "critic": 1_807_619}


def test_backbone_and_critic_fill_our_modules():
  found = prohmr.convert(tiny_prohmr(), NET, "a.pt")
  image = jnp.zeros((1, 32, 32, 3))
  ours = jax.eval_shape(lambda: net_resnet.ResNet("resnet_test").init(jax.random.key(0), image, False))
  assert shapes_of(found.params["net"]["backbone"]) == shapes_of(ours["params"])
  assert shapes_of(found.stats["net"]["backbone"]) == shapes_of(ours["batch_stats"])
  ours = jax.eval_shape(lambda: Critic().init(jax.random.key(0), jnp.zeros((1, 23, 3, 3)), jnp.zeros((1, 10))))
  assert shapes_of(found.params["critic"]) == shapes_of(ours["params"])
  assert all(x.dtype == np.float32 and x.flags.c_contiguous for x in jax.tree.leaves((found.params, found.stats)))


def test_every_number_arrives_once():
  arrays = tiny_prohmr()
  found = prohmr.convert(arrays, NET, "a.pt")
  learnt = {k: v for k, v in arrays.items() if v.dtype == np.float32 and "dummy" not in k and "init_" not in k}
  every = lambda leaves: np.sort(np.concatenate([x.ravel() for x in leaves]))
  np.testing.assert_array_equal(every(learnt.values()), every(jax.tree.leaves((found.params, found.stats))))


def test_half_precision_and_stripped_files_are_taken():
  arrays = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in tiny_prohmr().items()}
  for ending in ("num_batches_tracked", "dummy_buffer", "initialized", "_features"):
    arrays = {k: v for k, v in arrays.items() if not k.endswith(ending)}
  found = prohmr.convert(arrays, NET, "a.pt")
  assert found.params["net"]["head"]["fc1"]["kernel"].dtype == np.float32
  without = {k: v for k, v in arrays.items() if not k.startswith("discriminator.")}
  found = prohmr.convert(without, NET, "a.pt")
  assert list(found.params) == ["net"] and any("no discriminator" in line for line in found.said)


def test_what_is_left_out_is_counted():
  arrays = tiny_prohmr() | {"smpl.faces_tensor": np.zeros((4, 3)), "smpl.joint_map": np.zeros(25)}
  said = prohmr.convert(arrays, NET, "a.pt").said[0]
  assert "the SMPL model (2), dummy_buffer (7), num_batches_tracked" in said


@pytest.mark.parametrize("key", ["backbone.layer2.1.bn3.running_var", f"{FLOW}.1.lower_entries", f"{FLOW}.3.shift",
                                 f"{FLOW}.5.transform_net.blocks.1.linear_layers.0.weight",
                                 "discriminator.pose_out.22.bias", "flow.fc_head.layers.2.weight",
                                 "flow.fc_head.init_cam"])
def test_a_key_that_is_missing_extra_misshaped_or_not_finite_is_named(key):
  arrays = tiny_prohmr()
  value = arrays.pop(key)
  with pytest.raises(InputError, match=f"missing {key}"):
    prohmr.convert(arrays, NET, "a.pt")
  with pytest.raises(InputError, match=f"missing {key}; unexpected {key}2"):
    prohmr.convert(arrays | {f"{key}2": value}, NET, "a.pt")
  with pytest.raises(InputError, match=f"of another shape {key} .*, not"):
    prohmr.convert(arrays | {key: value[..., None]}, NET, "a.pt")
  with pytest.raises(InputError, match=f"not finite: in {key}"):
    prohmr.convert(arrays | {key: np.full_like(value, np.nan)}, NET, "a.pt")


def test_many_odd_keys_are_counted():
  arrays = {k: v for k, v in tiny_prohmr().items() if not k.startswith("flow.flow")}
  with pytest.raises(InputError, match=r"missing flow.*log_scale, .* and \d+ more"):
    prohmr.convert(arrays, NET, "a.pt")


def test_couplings_of_other_halves_are_refused():
  arrays = tiny_prohmr()
  for key in (f"{FLOW}.2.identity_features", f"{FLOW}.5.transform_features"):
    with pytest.raises(InputError, match=f"{key} is not every second feature"):
      prohmr.convert(arrays | {key: (arrays[key] + 1) % 144}, NET, "a.pt")
    with pytest.raises(InputError, match="every second feature"):
      prohmr.convert(arrays | {key: arrays[key][:-1]}, NET, "a.pt")


def test_the_lifting_model_and_other_backbones_are_said_to_be_that():
  with pytest.raises(InputError, match="lifts 2D skeletons"):
    prohmr.convert({"backbone.fc_layers.0.fc_block.0.weight": np.zeros((4, 4))}, NET, "a.pt")
  with NET.unlocked():
    net = ml_collections.ConfigDict(NET)
  net.backbone = "resnet_tiny"
  with pytest.raises(InputError, match="resnet_tiny"):
    prohmr.convert(tiny_prohmr(), net, "a.pt")


def test_an_untrained_flow_is_mentioned():
  arrays = tiny_prohmr() | {f"{FLOW}.0.initialized": np.array(False)}
  assert any("never trained" in line for line in prohmr.convert(arrays, NET, "a.pt").said)


@pytest.mark.parametrize("name, bottleneck", [("resnet50", True), ("resnet18", False)])
def test_torchvisions_files_fill_our_backbones(name, bottleneck):
  shapes = authors.resnet_shapes(authors.BLOCKS[name], 64, bottleneck)
  ours = jax.eval_shape(lambda: net_resnet.ResNet(name).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))
  entries = resnet.entries(name, ("backbone",))
  assert {e.names[0]: e.shape for e in entries} == {k: s for k, s in shapes.items() if not k.endswith("tracked")}
  paths = {"/".join(e.path) for e in entries}
  assert paths == {f"params/backbone/{k}" for k in shapes_of(ours["params"])} | {
      f"stats/backbone/{k}" for k in shapes_of(ours["batch_stats"])}


def test_a_classifier_is_left_out_and_named():
  arrays = authors.numbers(authors.resnet_shapes(authors.BLOCKS["resnet18"], 64, False))
  found = resnet.convert(arrays | {"fc.weight": np.zeros((1000, 512)), "fc.bias": np.zeros(1000)}, None, "r.pth")
  assert "the ImageNet classifier fc (2)" in found.said[0] and "resnet18" in found.said[0]
  kernel = arrays["layer1.0.conv1.weight"]
  np.testing.assert_array_equal(found.params["backbone"]["layer1_0"]["conv1"]["kernel"], kernel.transpose(2, 3, 1, 0))
  arrays.pop("layer4.1.bn2.bias")
  with pytest.raises(InputError, match="torchvision's resnet18: missing layer4.1.bn2.bias"):
    resnet.convert(arrays, None, "r.pth")
