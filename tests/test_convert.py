"""Released files become runs that everything takes; a file with anything odd leaves nothing behind."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
from jhmr import assets as assets_lib
from jhmr import checkpoint, command, convert, evaluate, guard, optim, systems
from jhmr.data import spec
from jhmr.errors import InputError
from jhmr import released as released_kinds
from jhmr.nn import regressor, resnet
from jhmr.state import TrainState
import ml_collections
import numpy as np
import pytest
from released import authors

ROOT = pathlib.Path(__file__).parent.parent
SMALL = resnet.Architecture(stem=7, pool=True, blocks=(1, 2, 1, 1), width=4, expansion=4)
SMOKE = (f"--config={ROOT}/configs/prohmr.py:smoke", "--config.net.backbone=resnet_test", "--config.net.hidden=8",
         "--config.net.flow.hidden=8")
BETAS = np.linspace(-1, 1, 10, dtype=np.float32)


@pytest.fixture(scope="module", autouse=True)
def small_backbones():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(resnet.ARCHITECTURES, "resnet_test", SMALL)
    patch.setitem(resnet.ARCHITECTURES, "resnet18", SMALL._replace(blocks=(2, 2, 2, 2), expansion=1))
    yield


def prohmr_file(folder, **changes):
  """A small ProHMR's checkpoint.npz, with some arrays changed or, by None, left out."""
  backbone = authors.resnet_shapes(SMALL.blocks, SMALL.width, bottleneck=True)
  arrays = authors.numbers(authors.prohmr_shapes(backbone, SMALL.features, head=8, blocks=2, hidden=8))
  arrays["flow.fc_head.init_betas"] = BETAS[None, None]
  np.savez(folder / "checkpoint.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})
  return str(folder / "checkpoint.npz")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
  """A small ProHMR's file and the run it was turned into."""
  folder = tmp_path_factory.mktemp("released")
  run("prohmr", prohmr_file(folder), folder / "run", *SMOKE, "--legacy-lu")
  return folder / "checkpoint.npz", folder / "run"


def run(kind, source, out, *flags):
  return convert.main(["convert", "--kind", kind, "--from", str(source), "--out", str(out), *flags])


def test_the_default_config_is_found_from_another_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  args = convert.parse(["convert", "--kind", "spin", "--from", "a.pt", "--out", "out"])
  assert convert._config(args, released_kinds.load("spin")).supervision == "spin49"
  monkeypatch.setattr(convert, "_ROOT", str(tmp_path))
  with pytest.raises(InputError, match="configs/hmr.py.*--config FILE"):
    convert._config(args, released_kinds.load("spin"))


def ones(f, *args):
  """What f returns, in shape alone: nothing is compiled."""
  return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), jax.eval_shape(f, *args))


def small_resnet(path):
  arrays = authors.numbers(authors.resnet_shapes((2, 2, 2, 2), SMALL.width, bottleneck=False))
  np.savez(path, **arrays, **{"fc.weight": np.zeros((10, 32)), "fc.bias": np.zeros(10)})
  return arrays


def test_a_resnet_becomes_the_backbone_of_a_fresh_network(tmp_path, capsys):
  theirs = small_resnet(tmp_path / "r.npz")
  run("resnet", tmp_path / "r.npz", tmp_path / "out")
  assert "fc (2)" in capsys.readouterr().out
  assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "r.npz"]
  start, image = (jnp.zeros(144), jnp.zeros(10), jnp.zeros(3)), jnp.zeros((1, 32, 32, 3))
  variables = ones(lambda: regressor.ImageRegressor("resnet18", hidden=8).init(jax.random.key(0), image, start, False))
  fresh = TrainState(step=jnp.zeros((), jnp.int32), params={"net": variables["params"]}, opt_state={}, memory={},
                     stats={"net": variables["batch_stats"]})
  state, said = checkpoint.warm_start(fresh, str(tmp_path / "out"))
  assert said.endswith(": net/backbone")
  np.testing.assert_array_equal(state.params["net"]["backbone"]["conv1"]["kernel"],
                                theirs["conv1.weight"].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(state.stats["net"]["backbone"]["layer4_1"]["bn2"]["var"],
                                theirs["layer4.1.bn2.running_var"])
  assert np.all(state.params["net"]["head"]["fc1"]["kernel"] == 1)


def test_prohmr_becomes_a_run_that_predicts_warm_starts_and_resumes(released):
  out = released[1]
  config, system, state, assets = evaluate.load_run(str(out))
  assert config.net.flow.legacy_lu
  batch = spec.fake_batch(config.image_size, 2)
  prediction = jax.jit(system.predict)(state, batch, assets)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(prediction))
  resolved = optim.resolve(ml_collections.ConfigDict(config), 1)
  init = lambda: systems.load(resolved).init(jax.random.key(0), batch, assets)
  fresh = ones(lambda: guard.prepared(init(), resolved.ema))
  started, said = checkpoint.warm_start(fresh, str(out))
  assert said.endswith(": critic, net")
  writer = checkpoint.open_writer(str(out))
  restored = checkpoint.restore(writer, 0, fresh, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
  checkpoint.close(writer)
  assert jax.tree.structure(restored) == jax.tree.structure(fresh)
  assert jax.tree.all(jax.tree.map(np.array_equal, restored.params, started.params))
  assert jax.tree.all(jax.tree.map(np.array_equal, restored.stats, started.stats))
  assert not any(np.any(x) for x in jax.tree.leaves((restored.opt_state, restored.step, restored.skipped)))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_every_optimiser_starts_from_zeros(name):
  config = {"name": name, "warmup": "3 steps", "weight_decay": 0.1, "clip_norm": 1.0}
  assert not any(np.any(x) for x in jax.tree.leaves(optim.make_optimizer(config, 10).init({"w": jnp.ones(3)})))


def test_other_means_are_written_beside_the_weights_unless_the_config_has_them(released, tmp_path):
  source, out = released
  config = command.read_config(str(out))
  assert config.mean_params == str(out / "mean_params.npz")
  mean = assets_lib.mean_parameters(config.mean_params)
  np.testing.assert_array_equal(mean["betas"], BETAS)
  np.testing.assert_allclose(mean["camera"], [0.9, 0, 0])
  np.testing.assert_allclose(mean["pose"][0], np.diag([1, -1, -1]), atol=1e-6)
  run("prohmr", source, tmp_path / "again", *SMOKE, f"--config.mean_params={config.mean_params}")
  assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["checkpoints", "config.json"]


@pytest.mark.parametrize("changes, match", [
    ({"flow.fc_head.layers.2.bias": None}, "missing flow.fc_head.layers.2.bias"),
    ({"surprise": np.zeros(1)}, "unexpected surprise"),
    ({"backbone.conv1.weight": np.zeros((4, 3, 7, 5))}, r"conv1.weight \[4, 3, 7, 5\], not \[4, 3, 7, 7\]"),
    ({"flow.flow._transform._transforms.2.identity_features": np.arange(72)}, "every second feature")])
def test_odd_files_leave_nothing(tmp_path, changes, match):
  source = prohmr_file(tmp_path, **changes)
  with pytest.raises(InputError, match=match):
    run("prohmr", source, tmp_path / "deep" / "out", *SMOKE)
  assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_config_of_another_system_is_refused(tmp_path):
  with pytest.raises(InputError, match="weights are for prohmr"):
    run("prohmr", prohmr_file(tmp_path), tmp_path / "out", f"--config={ROOT}/configs/hmr.py:smoke")


def test_wrong_flags_and_folders_are_one_line(tmp_path):
  small_resnet(tmp_path / "r.npz")
  with pytest.raises(InputError, match="leave out --config"):
    run("resnet", tmp_path / "r.npz", tmp_path / "out", "--legacy-lu")
  with pytest.raises(InputError, match="does not exist"):
    run("resnet", tmp_path / "q.npz", tmp_path / "out")
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "a").write_text("")
  for out in ("full", "r.npz"):
    with pytest.raises(InputError, match="exists: give a new folder"):
      run("resnet", tmp_path / "r.npz", tmp_path / out)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "r.npz"]


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise InputError("checkpoint 0 could not be written")
  monkeypatch.setattr(checkpoint, "close", fail)
  small_resnet(tmp_path / "r.npz")
  with pytest.raises(InputError, match="could not be written"):
    run("resnet", tmp_path / "r.npz", tmp_path / "out")
  assert [p.name for p in tmp_path.iterdir()] == ["r.npz"]


def test_the_command_ends_with_2_and_one_line(tmp_path):
  (tmp_path / "a.pth").write_bytes(b"\x80\x02}q\x00.")
  done = subprocess.run([sys.executable, "-m", "jhmr.convert", "--kind", "resnet", "--from", str(tmp_path / "a.pth"),
                         "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
  assert not (tmp_path / "out").exists()
