"""`fit --method eft`: pictures and splits with a regressor, and what is said when that cannot be."""

import functools
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import assets as assets_lib
from jhmr import evaluate, fit, fit_eft, regression, systems
from jhmr.body import camera, smpl
from jhmr.data import spec
from jhmr.errors import InputError
from jhmr.fitting import eft
from jhmr.nn import regressor
from jhmr.state import TrainState
import runs

SIZE = 32


@functools.cache
def loaded():
  config = runs.config_of("body=mannequin_small", f"image_size={SIZE}", "batch_size=8", "eval_batches=1",
                          "net.backbone=resnet_tiny", "net.hidden=16", config=runs.HMR)
  assets, start = assets_lib.load(config), (jnp.zeros(144), jnp.zeros(10), jnp.zeros(3))
  net = regressor.ImageRegressor("resnet_tiny", hidden=16)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), start, False))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: 0.05 * rng.normal(size=x.shape).astype(np.float32), shapes["params"])
  stats = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes["batch_stats"])
  state = TrainState(step=jnp.zeros((), jnp.int32), params={"net": params}, opt_state={}, stats={"net": stats},
                     memory={})
  return config, systems.load(config), state, assets


@pytest.fixture
def run(monkeypatch):
  monkeypatch.setattr(evaluate, "load_run", lambda workdir, step=None, body=None: loaded())
  return lambda *arguments: fit.main(["fit", "--workdir", "run", "--method", "eft", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path):
  folder, rng = tmp_path / "photos", np.random.default_rng(0)
  folder.mkdir()
  cv2.imwrite(str(folder / "a.png"), rng.integers(0, 255, (160, 120, 3)).astype(np.uint8))
  points = np.stack([60 + 15 * rng.uniform(-1, 1, 25), np.linspace(20, 140, 25), np.ones(25)], -1)
  (folder / "a_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": points.ravel().tolist()}]}))
  return folder


def test_a_picture_becomes_a_body_nearer_to_its_keypoints(run, photos, tmp_path):
  out = tmp_path / "out"
  arguments = ("--images", photos, "--keypoints", photos, "--out", out, "--num-steps", 4, "--no-pictures")
  run(*arguments)
  assert {p.name for p in out.iterdir()} == {"a.json", "a.npz", "a_fit.obj", "a_regression.obj"}
  stored = np.load(out / "a.npz")
  assert stored["body_pose"].shape == (2, 23, 3, 3) and int(stored["evaluations"]) == 4
  assert stored["objective"][1] < stored["objective"][0]
  assert stored["keypoints2d_loss"][1] < stored["keypoints2d_loss"][0]
  # The camera written sees the written body where the fit saw it.
  assets = loaded()[3]
  pose = np.concatenate([stored["global_orient"], stored["body_pose"]], 1)
  points = smpl.keypoints(assets["body"], smpl.forward(assets["body"], stored["betas"], pose, stored["transl_m"]),
                          "openpose25")
  px = np.asarray(camera.perspective(points, stored["focal_px"], stored["center_px"]))
  keep = ~np.isin(np.arange(25), (8, 9, 12))
  gap = np.linalg.norm(px - stored["keypoints"][:, :2], axis=-1)[:, keep].mean(1)
  np.testing.assert_allclose(gap, stored["reprojection_px"], rtol=1e-3)
  settings = json.loads((out / "a.json").read_text())["settings"]
  assert settings["method"] == "eft" and settings["subset"] == "all"


@pytest.mark.slow
def test_a_split_gives_a_table(run, tmp_path):
  run("--split", "val", "--keypoint-noise-px", 2, "--out", tmp_path, "--num-steps", 3, "--subset", "decOnly",
      "--chunk", 8)
  found = json.loads((tmp_path / "fit_val.json").read_text())
  assert [r["method"] for r in found["rows"]] == ["mode", "eft", "eft - mode"] and found["rows"][0]["people"] == 8
  assert all(np.isfinite(r["mpjpe_mm"]) for r in found["rows"]) and found["rows"][2]["mpjpe_mm"] != 0


def test_features_computed_once_lead_to_the_same_fit_from_the_runs_own_prediction():
  config, system, state, assets = loaded()
  batch = spec.fake_batch(SIZE, 2)
  settings = eft.Settings(max_iter=4, threshold=0.0, subset="fc2Later", learning_rate=1e-3)
  start = regression.start_values(assets["mean"])
  net = regressor.ImageRegressor("resnet_tiny", hidden=16)

  @jax.jit
  def both(state, batch, assets):
    def whole(params, image):
      estimates = net.apply({"params": params, "batch_stats": state.stats["net"]}, image[None], start, False)
      return tuple(x[0, -1] for x in regression.decode(estimates))
    rows = batch["image"], batch["keypoints2d"], assets["keypoint_body"]
    return (fit_eft.fit_people(config, settings, state, batch["image"], batch["keypoints2d"], assets),
            eft.fine_tune(whole, state.params["net"], *rows, settings), system.predict(state, batch, assets))

  found, slow, predicted = both(state, batch, assets)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, slow)
  assert np.all(found.loss[:, 1] < found.loss[:, 0])
  np.testing.assert_allclose(found.pose[:, 0, 1:], predicted.body_pose[:, 0], atol=0.03)  # the run's own is bfloat16
  np.testing.assert_allclose(found.betas[:, 0], predicted.betas[:, 0], atol=0.03)


def test_a_network_is_fine_tuned_under_its_own_camera():
  config = loaded()[0]
  assert fit_eft.settings_of(config, fit_eft.Options()).projection == "perspective"
  other = runs.config_of("camera_convention=eft", config=runs.HMR)
  found = fit_eft.settings_of(other, fit_eft.Options(num_steps=7, use_hips=True))
  assert (found.projection, found.max_iter, found.use_hips, found.threshold) == ("weak", 7, True, 2e-4)


def test_a_person_of_whom_no_keypoint_counts_is_left_out():
  points, options = np.zeros((25, 3)), fit_eft.Options()
  points[[8, 9, 12, 19, 22], 2] = 1  # hips and feet
  assert "counts none" in fit_eft.too_little(points, options)
  points[4, 2] = 0.5
  assert not fit_eft.too_little(points, options)


@pytest.mark.parametrize("arguments, said", [
    (["--images", "{photos}"], "--out"),
    (["--split", "val", "--multiview"], "--multiview does nothing with --method eft"),
    (["--split", "val", "--chunk", "0"], "--chunk is 0"), (["--split", "val", "--mode", "joint"], "--mode"),
    (["--split", "val", "--threshold", "nan"], "--threshold is nan"),
    (["--split", "val", "--full-frame"], "--full-frame does nothing with --method eft --split"),
    (["--split", "val", "--subset", "onlyRes50LastConv"], "layer of resnet50")])
def test_wrong_input_is_one_line(run, photos, arguments, said):
  with pytest.raises(InputError) as error:
    run(*[a.format(photos=photos) for a in arguments])
  assert said in str(error.value)


def test_a_run_of_another_kind_is_one_line(run, monkeypatch):
  other = runs.config_of(config=runs.QUICK.replace("hmr", "prohmr"))
  monkeypatch.setattr(evaluate, "load_run", lambda *a: (other, *loaded()[1:]))
  with pytest.raises(InputError, match="run of 'prohmr'"):
    run("--split", "val")
