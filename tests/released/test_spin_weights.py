"""Files of SPIN and EFT: every key is expected, and the run that comes out stands wherever it is moved."""

import json
import pathlib
import shutil

import jax
from jhmr import assets, convert, evaluate, run
from jhmr.data import spec
from jhmr.errors import InputError
from jhmr.nn import resnet
from jhmr.released import eft, spin
import ml_collections
import numpy as np
import pytest
from released import authors
import runs

ROOT = pathlib.Path(__file__).parent.parent.parent
TINY = resnet.Architecture(stem=7, pool=True, blocks=(1, 2, 1, 1), width=4, expansion=4)
NET = ml_collections.ConfigDict(dict(backbone="resnet_test", hidden=8))
SMOKE = (f"--config={ROOT}/configs/hmr.py:smoke", "--config.net.backbone=resnet_test", "--config.net.hidden=8")


def mean(path):
  """Mean parameters of a file, or any others."""
  return assets.mean_parameters(path) if path else {"pose": np.eye(3) + np.zeros((24, 1, 1)), "betas": np.zeros(10),
                                                    "camera": np.array([0.9, 0, 0])}


@pytest.fixture(scope="module", autouse=True)
def tiny_backbone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(resnet.ARCHITECTURES, "resnet_test", TINY)
    yield


def arrays(**changes):
  """A tiny network's, with some changed or, by None, left out."""
  backbone = authors.resnet_shapes(TINY.blocks, TINY.width, bottleneck=True)
  found = authors.numbers(authors.spin_shapes(backbone, TINY.features, head=8)) | authors.spin_start() | changes
  return {k: v for k, v in found.items() if v is not None}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
  """The same file as a run of SPIN and as one of EFT."""
  folder = tmp_path_factory.mktemp("spin")
  np.savez(folder / "model_checkpoint.npz", **arrays())
  for kind in ("spin", "eft"):
    convert.main(["convert", "--kind", kind, "--from", str(folder / "model_checkpoint.npz"), "--out",
                  str(folder / kind), *SMOKE])
  return folder


def predicted(workdir):
  config, system, state, loaded = evaluate.load_run(str(workdir))
  return config, jax.jit(system.predict)(state, spec.fake_batch(config.image_size, 2), loaded)


def test_the_published_number_of_parameters_and_keys():
  theirs = authors.spin_shapes(authors.resnet_shapes(authors.BLOCKS["resnet50"], 64, bottleneck=True), 2048)
  entries = spin.entries("resnet50", 1024)
  count = sum(int(np.prod(e.shape)) for e in entries if e.path[0] == "params")
  assert count == 26_977_501
  assert sum(int(np.prod(e.shape)) for e in entries if e.path[0] == "params" and "scale" in e.path[-1]) * 2 == 53_120
  named = {name: e.shape for e in entries for name in e.names}
  assert {k: theirs[k] for k in named} == named
  rest = {k.rsplit(".", 1)[-1] for k in set(theirs) - set(named)}
  assert rest == {"num_batches_tracked", "init_pose", "init_shape", "init_cam"}


def test_every_number_arrives_once():
  theirs = arrays()
  found = spin.convert(theirs, NET, "a.pt")
  learnt = [v for v in theirs.values() if v.dtype == np.float32]
  every = lambda leaves: np.sort(np.concatenate([np.ravel(x) for x in leaves]))
  np.testing.assert_array_equal(every(learnt), every(jax.tree.leaves((found.params, found.stats, found.start))))
  wrapped = eft.convert({f"module.{k}": v for k, v in theirs.items()}, NET, "a.pt")
  assert jax.tree.all(jax.tree.map(np.array_equal, wrapped.params, found.params))


@pytest.mark.parametrize("changes, said", [
    ({"deccam.bias": None}, "missing deccam.bias"), ({"fc3.weight": np.zeros(2)}, "unexpected fc3.weight"),
    ({"init_cam": None}, "missing init_cam"),
    ({"fc1.weight": np.zeros((8, 9))}, r"fc1.weight \[8, 9\], not \[8, 285\]"),
    ({"layer1.0.bn1.running_var": np.full(4, np.inf)}, "not finite"),
    ({"init_pose": np.ones((1, 144), np.float32)}, "not made of rotations")])
def test_odd_files_are_refused_by_name(changes, said):
  with pytest.raises(InputError, match=said):
    spin.convert(arrays(**changes), NET, "a.pt")


def test_the_run_has_their_head_their_start_and_their_cameras(released):
  (config, ours), (other, theirs) = (predicted(released / kind) for kind in ("spin", "eft"))
  assert config.supervision == "spin49"
  assert config.net.activation == "none" and config.system == "hmr" and not config.weights.adversarial
  assert (config.camera_convention, other.camera_convention) == ("spin", "eft")
  start = np.load(config.mean_params)
  for name, theirs_name in (("pose", "init_pose"), ("shape", "init_shape"), ("cam", "init_cam")):
    np.testing.assert_allclose(start[name], authors.spin_start()[theirs_name][0], atol=1e-6)
  np.testing.assert_array_equal(ours.body_pose, theirs.body_pose)
  scale = ours.camera[..., :1]
  np.testing.assert_allclose(theirs.camera[..., 1:], ours.camera[..., 1:] / scale, rtol=1e-5)
  assert np.all(np.isfinite(ours.camera)) and np.all(np.isfinite(theirs.betas))


def test_a_run_that_was_moved_finds_its_mean_parameters(released, tmp_path):
  before = predicted(released / "spin")[1]
  shutil.copytree(released / "spin", tmp_path / "elsewhere")
  shutil.move(released / "spin", tmp_path / "spin")
  config, after = predicted(tmp_path / "elsewhere")
  shutil.move(tmp_path / "spin", released / "spin")
  assert config.mean_params == str(tmp_path / "elsewhere" / "mean_params.npz")
  np.testing.assert_array_equal(before.body_pose, after.body_pose)
  assert str(tmp_path) not in (tmp_path / "elsewhere" / "config.json").read_text()


def test_a_network_that_would_read_the_weights_otherwise_cannot_start_from_them(released):
  def check(kind, *overrides, config=runs.HMR):
    config = runs.config_of(f"warm_start={released / kind}", *overrides, config=config)
    run._check_warm_start(config, mean(config.mean_params))

  theirs, spin_config = f"mean_params={released}/{{}}/mean_params.npz", f"{ROOT}/configs/spin.py:smoke"
  with pytest.raises(InputError, match="camera_convention=eft"):
    check("eft", "net.activation=none")
  with pytest.raises(InputError, match="net.activation=none"):
    check("eft", "camera_convention=eft")
  with pytest.raises(InputError, match="net.iterations=3"):
    check("eft", "camera_convention=eft", "net.activation=none", "net.iterations=4")
  with pytest.raises(InputError, match="--config.mean_params=.*eft/mean_params.npz"):
    check("eft", "camera_convention=eft", "net.activation=none")
  check("eft", "camera_convention=eft", "net.activation=none", theirs.format("eft"))
  with pytest.raises(InputError, match="camera_convention=eft"):
    check("eft", theirs.format("eft"), config=spin_config)
  with pytest.raises(InputError, match="another pose and betas"):
    check("spin", config=spin_config)
  check("spin", theirs.format("spin"), config=spin_config)


def test_an_older_run_has_spins_cameras(released, tmp_path):
  shutil.copytree(released / "spin", tmp_path / "older")
  file = tmp_path / "older" / "config.json"
  file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "camera_convention"}))
  config = runs.config_of(f"warm_start={tmp_path / 'older'}", "net.activation=none", "camera_convention=eft",
                          config=runs.HMR)
  with pytest.raises(InputError, match="camera_convention=spin"):
    run._check_warm_start(config, mean(""))


def test_settings_of_the_weights_may_be_overridden_but_flags_of_others_are_refused():
  config = lambda *flags: convert._config(
      convert.parse(["convert", "--kind", "eft", "--from", "a.pt", "--out", "out", *SMOKE, *flags]), eft)
  with pytest.raises(InputError, match="legacy-lu"):
    config("--legacy-lu")
  assert config("--config.net.dtype=bfloat16").net.dtype == "bfloat16"
  with pytest.raises(InputError, match="weights are for hmr"):
    convert._config(convert.parse(["convert", "--kind", "spin", "--from", "a.pt", "--out", "out",
                                   f"--config={ROOT}/configs/prohmr.py:smoke"]), spin)
