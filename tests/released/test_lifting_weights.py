"""Files of lifting networks: every key is expected, sizes are read off them, TensorFlow's are read without it."""

import json

import jax
from jhmr import convert, evaluate, lift_baselines, predict
from jhmr.data import lift_poses, lift_source, lift_spec
from jhmr.errors import InputError
from jhmr.nn import lift_mlp
from jhmr.released import martinez, mdn, prohmr_skeleton, tf_file, wehrbein
import ml_collections
import numpy as np
import pytest
from released import lifting_inputs as inputs
from released import tf_files

BASE = ml_collections.ConfigDict(dict(hidden=8, blocks=2, dropout=0.5, batch_norm="device"))
INN = ml_collections.ConfigDict(dict(blocks=2, hidden=6, condition_hidden=256, features=56))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Holds `one` and `five`, checkpoints of Martinez et al. and of Li and Lee."""
  path = tmp_path_factory.mktemp("checkpoints")
  tf_files.write(path / "one", tf_files.lifter())
  tf_files.write(path / "five", tf_files.lifter(components=5))
  return path


def test_a_checkpoint_of_tensorflow_is_read_by_any_of_its_names(folder):
  want = tf_files.lifter()
  for name in ("one", "one.index", "one.data-00000-of-00001"):
    found = tf_file.read(str(folder / name))
    assert found.keys() == want.keys()
    for key, value in want.items():
      np.testing.assert_array_equal(found[key], value)
      assert found[key].shape == value.shape


def test_damaged_checkpoints_are_refused(folder, tmp_path):
  index, data = ((folder / f"one.{end}").read_bytes() for end in ("index", "data-00000-of-00001"))

  def refused(match, index=index, data=data):
    (tmp_path / "a.index").write_bytes(index)
    (tmp_path / "a.data-00000-of-00001").write_bytes(data)
    with pytest.raises(InputError, match=match):
      tf_file.read(str(tmp_path / "a"))

  with pytest.raises(InputError, match="does not exist: give PREFIX"):
    tf_file.read(str(tmp_path / "b"))
  refused("no table", index=index[:-8] + b"12345678")
  refused("no table", index=b"")
  refused("numbers end before", data=data[:-4])
  end = index.index(b"\x11\x22\x33\x44") - 1
  refused("compressed", index=index[:end] + b"\x01" + index[end + 1:])
  tf_files.write(tmp_path / "parts", {"x": np.zeros(2, np.float32)}, parts=3)
  with pytest.raises(InputError, match="3 parts"):
    tf_file.read(str(tmp_path / "parts"))
  tf_files.write(tmp_path / "a", {"x": np.zeros((2, 3), np.float32)})
  index = (tmp_path / "a.index").read_bytes()
  for bit in range(8 * len(index)):  # whatever is wrong, it is said
    changed = bytearray(index)
    changed[bit // 8] ^= 1 << bit % 8
    (tmp_path / "a.index").write_bytes(bytes(changed))
    try:
      tf_file.read(str(tmp_path / "a"))
    except InputError:
      pass


def theirs(arrays, x):
  """Features of Martinez et al.'s network in evaluation, and its heads, from its description."""
  scope = "linear_model/"
  cut = lambda name: arrays[name] / max(1.0, np.linalg.norm(arrays[name]))

  def layer(x, weight, norm):
    a = {k: arrays[f"{norm}/{k}"] for k in ("gamma", "beta", "moving_mean", "moving_variance")}
    x = x @ cut(weight) + arrays["/b".join(weight.rsplit("/w", 1))]
    x = (x - a["moving_mean"]) / np.sqrt(a["moving_variance"] + 1e-3) * a["gamma"] + a["beta"]
    return np.maximum(x, 0)

  x = layer(x, scope + "w1", scope + "batch_normalization")
  for i in range(2):
    inside = f"{scope}two_linear_{i}/"
    y = layer(x, f"{inside}w2_{i}", f"{inside}batch_normalization1{i}")
    x = x + layer(y, f"{inside}w3_{i}", f"{inside}batch_normalization2{i}")
  head = lambda n, kernel: x @ kernel + arrays[f"{scope}b{n}"]
  return {n: head(n, cut(f"{scope}w{n}") if n < 6 else arrays[f"{scope}w{n}"]) for n in (4, 5, 6)
          if f"{scope}w{n}" in arrays}


def applied(net, found, x):
  return jax.jit(net.apply)({"params": found.params["net"], "batch_stats": found.stats["net"]}, x)


def test_martinez_poses_are_those_of_their_network(folder):
  arrays, x = tf_file.read(str(folder / "one")), np.random.RandomState(1).normal(size=(3, 32)).astype(np.float32)
  assert martinez.settings(arrays) == ("net.hidden=8", "net.blocks=2")
  found = martinez.convert(arrays, BASE, "one")
  assert "state of the optimiser" in found.said[0] and "statistics" in found.said[1]
  net = lift_mlp.Regression(lift_baselines.body(BASE, max_norm=True), 48)
  np.testing.assert_allclose(applied(net, found, x), theirs(arrays, x)[4], atol=1e-5)


def test_mixtures_are_those_of_their_network(folder):
  arrays, x = tf_file.read(str(folder / "five")), np.random.RandomState(1).normal(size=(3, 32)).astype(np.float32)
  assert mdn.settings(arrays) == ("net.hidden=8", "net.blocks=2", "components=5")
  found = mdn.convert(arrays, BASE, "five")
  mixture = applied(lift_mlp.MixtureDensity(lift_baselines.body(BASE, max_norm=True), 5), found, x)
  want = theirs(arrays, x)
  sigma, alpha = np.where(want[5] > 0, want[5] + 1, np.exp(want[5])), np.exp(want[6])
  np.testing.assert_allclose(mixture.means, want[4].reshape(3, 48, 5).swapaxes(1, 2), atol=1e-5)
  np.testing.assert_allclose(np.exp(mixture.log_sigma), sigma, rtol=1e-4)
  np.testing.assert_allclose(np.exp(mixture.log_weights), alpha / alpha.sum(1, keepdims=True), rtol=1e-4)


def test_one_kind_is_not_taken_for_the_other(folder):
  one, five = (tf_file.read(str(folder / name)) for name in ("one", "five"))
  with pytest.raises(InputError, match="--kind mdn"):
    martinez.convert(five, BASE, "five")
  with pytest.raises(InputError, match="--kind martinez"):
    mdn.convert(one, BASE, "one")


def small_inn():
  rng = np.random.RandomState(0)
  return {k: rng.normal(size=s).astype(np.float32) for k, s in inputs.inn_shapes(2, 6).items()}


def test_an_inn_says_its_sizes_and_odd_keys_are_named():
  arrays = small_inn() | {"inn.tmp_var_0": np.zeros(3)}
  assert wehrbein.settings(arrays) == ("net.blocks=2", "net.hidden=6", "net.condition_hidden=256", "net.features=56")
  assert "buffers of FrEIA (1)" in wehrbein.convert(arrays, INN, "model.pt").said[0]
  with pytest.raises(InputError, match="missing cond_net.0.bias; unexpected odd"):
    wehrbein.convert({k: v for k, v in arrays.items() if k != "cond_net.0.bias"} | {"odd": np.ones(1)}, INN, "model.pt")
  with pytest.raises(InputError, match="FrEIA 0.2 or newer"):
    wehrbein.convert({k.replace("s1", "subnet1"): v for k, v in arrays.items()}, INN, "model.pt")


def test_a_model_of_skeletons_says_its_sizes_and_its_halves_are_checked():
  arrays = {k: np.ones(s, np.float32) for k, s in inputs.skeleton_shapes(3, 5, 1, 2, context=7).items()}
  for key in arrays:
    if key.endswith("_features"):
      arrays[key] = np.arange((int(key.split(".")[4]) // 3 + key.endswith("transform_features")) % 2, 48, 2)
  said = prohmr_skeleton.settings(arrays)
  assert said == ("net.hidden=7", "net.blocks=2", "net.flow.blocks=3", "net.flow.hidden=5", "net.flow.depth=1")
  net = ml_collections.ConfigDict(dict(hidden=7, blocks=2, flow=dict(blocks=3, hidden=5, depth=1)))
  assert prohmr_skeleton.convert(arrays, net, "a.ckpt").params["net"]["encoder"]["fc"]["kernel"].shape == (34, 7)
  odd = "flow.flow._transform._transforms.2.identity_features"
  with pytest.raises(InputError, match="every second feature"):
    prohmr_skeleton.convert(arrays | {odd: arrays[odd] + 1}, net, "a.ckpt")


def converted(kind, source, run, *flags):
  """(config, statistics) of the run that a file becomes."""
  convert.main(["convert", "--kind", kind, "--from", str(source), "--out", str(run), *flags])
  return json.loads((run / "config.json").read_text()), dict(np.load(run / lift_source.STATISTICS))


def test_files_become_runs_with_statistics(folder, tmp_path, pose_file, capsys):
  np.savez(tmp_path / "model.npz", **small_inn())
  config, stats = converted("mdn", folder / "five.index", tmp_path / "mdn", f"--config.data.source={pose_file}")
  rows = lift_poses.read(pose_file)
  assert config["components"] == 5
  np.testing.assert_allclose(stats["mean3d"], rows["pose3d"][rows["split"] == "train"].mean(0), atol=1e-6)
  given = f"--config.lift_stats={tmp_path / 'mdn' / lift_source.STATISTICS}"
  _, same = converted("martinez", folder / "one", tmp_path / "one", given)
  assert all(np.array_equal(stats[k], same[k]) for k in stats)
  assert "mean pose" not in capsys.readouterr().err
  config, stats = converted("wehrbein", tmp_path / "model.npz", tmp_path / "wehrbein")
  assert config["net"]["hidden"] == 6 and config["mmd"] == "code" and "mean pose" in capsys.readouterr().err
  assert {k: v.shape for k, v in stats.items()} == lift_source.SHAPES
  assert not stats["mean3d"].any() and (stats["std3d"] == 1).all()


def test_a_run_of_weights_needs_no_data_of_its_own(tmp_path):
  """Those that a file without a training split became lift the poses of that file."""
  np.savez(tmp_path / "model.npz", **small_inn())
  batch = lift_spec.fake_batch(3)
  lift_poses.write(str(tmp_path / "test.npz"), {k: batch[k] for k in ("pose2d", "gaussians", "pose3d")} | {
      "split": np.array(["test"] * 3)})
  converted("wehrbein", tmp_path / "model.npz", tmp_path / "run", f"--config.data.source={tmp_path / 'test.npz'}")
  config, system, state, assets = evaluate.load_run(str(tmp_path / "run"), lifting=True)
  assert lift_source.open_split(config, "test").size == 3
  assert np.isfinite(jax.jit(system.predict)(state, batch, assets).joints).all()
  batch["pose2d"][1, 4] = np.nan
  lift_poses.write(str(tmp_path / "gaps.npz"), {k: batch[k] for k in ("pose2d", "gaussians")})
  with pytest.raises(InputError, match="--poses .*gaps.npz': 1 of 3 poses lack a 2D joint"):
    predict.main(["predict", "--workdir", str(tmp_path / "run"), "--poses", str(tmp_path / "gaps.npz"), "--out",
                  str(tmp_path / "out")])


@pytest.mark.parametrize("flags, said", [
    ((), "lift_mdn reads z-scores"), (("--config.data.source=no.npz",), "'no.npz' does not exist"),
    (("unlabelled",), "lift_mdn reads z-scores"), (("--config.lift_stats=no.npz",), "'no.npz' cannot be read")])
def test_weights_that_read_z_scores_want_statistics(folder, tmp_path, flags, said):
  if flags == ("unlabelled",):
    lift_poses.write(str(tmp_path / "poses.npz"), {"pose2d": lift_spec.fake_batch(3)["pose2d"]})
    flags = (f"--config.data.source={tmp_path / 'poses.npz'}",)
  with pytest.raises(InputError, match=said):
    converted("mdn", folder / "five", tmp_path / "run", *flags)
  assert not (tmp_path / "run").exists()


def test_every_number_of_an_inn_arrives_once():
  arrays = small_inn()
  found = wehrbein.convert(arrays, INN, "model.pt")
  total = lambda tree: sum(float(np.sum(np.abs(x))) for x in jax.tree.leaves(tree))
  np.testing.assert_allclose(total(found.params), total(arrays), rtol=1e-6)
