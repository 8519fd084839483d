"""The command `fit` from keypoint files to bodies, without a network: what is written is what was fitted."""

import json
import pathlib
import subprocess
import sys
import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import assets as assets_lib
from jhmr import evaluate, fit, pose_prior
from jhmr.body import camera, joints, rotations, smpl
from jhmr.data import keypoints as made_up
from jhmr.nn import pose_vae
from jhmr.state import Prediction, System, TrainState
import runs

ROOT = pathlib.Path(__file__).parent.parent
FEW = ("--body", "mannequin_small", "--num-steps", "60", "--method", "spin")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
  out = tmp_path_factory.mktemp("people") / "set"
  made_up.main(["x", "--out", str(out), "--people", "5", "--noise-px", "1", "--missing", "0.1", "--facing-deg", "50",
                "--body", "mannequin_small", "--format", "npz", "--seed", "5"])
  return out


@pytest.fixture(scope="module")
def fitted(people, tmp_path_factory):
  """(out, what fits.npz holds) of a fit with pictures and meshes."""
  out = tmp_path_factory.mktemp("fitted") / "out"
  fit.main(["fit", "--keypoints", str(people / "keypoints"), "--out", str(out), "--truth", str(people / "truth.npz"),
            *FEW])
  with np.load(out / "fits.npz") as f:
    return out, dict(f)


def seen_by(table, focal_px, center_px):
  body = smpl.load("mannequin_small")
  posed = smpl.forward(body, table["betas"], table["pose"], table["transl_m"])
  points = smpl.keypoints(body, posed, str(table["joint_set"]))
  return np.asarray(camera.perspective(points, focal_px, center_px)), np.asarray(points)


def test_the_written_bodies_are_seen_where_it_says(fitted):
  _, table = fitted
  px, _ = seen_by(table, table["focal_px"], table["center_px"])
  np.testing.assert_allclose(px, table["fitted_px"], atol=0.1)
  gap = np.linalg.norm(px - table["keypoints"][..., :2], axis=-1)
  there = table["keypoints"][..., 2] > 0
  np.testing.assert_allclose(table["reprojection_px"][there], gap[there], atol=0.1)
  assert np.isnan(table["reprojection_px"][~there]).all()
  np.testing.assert_allclose(rotations.axis_angle_to_matrix(table["pose_axis_angle"].reshape(-1, 24, 3)),
                             table["pose"], atol=1e-5)


def test_fits_come_near_their_keypoints(fitted):
  _, table = fitted
  off = np.nanmedian(table["reprojection_px"] * (224 / table["box_size_px"])[:, None])
  assert off < 8 and np.isfinite(table["objective"]).all()


def test_the_json_is_that_of_eft(fitted):
  out, table = fitted
  text = json.loads((out / "fits.json").read_text())
  assert len(text["data"]) == 5 and text["ver"]
  for row, entry in enumerate(text["data"]):
    pose, cam = np.array(entry["parm_pose"]), np.array(entry["parm_cam"])
    np.testing.assert_allclose(pose, table["pose"][row], atol=1e-5)
    assert np.shape(entry["parm_shape"]) == (10,) and entry["smpltype"] == "smpl"
    seen = dict(zip(joints.names("openpose25"), table["keypoints"][row, :, 2] > 0))
    assert entry["joint_validity_openpose18"] == [seen[n] for n in joints.names("openpose18")]
    # x = s X + t in -1..1 of the box: what the camera would see if all joints were as far away as the pelvis is.
    body = smpl.load("mannequin_small")
    points = smpl.keypoints(body, smpl.forward(body, table["betas"][row], pose.astype(np.float32)), "openpose25")
    box = np.asarray(cam[0] * points[:, :2] + cam[1:])
    px = np.array(entry["bbox_center"]) + box * 100 * entry["bbox_scale"]
    far = 1 + np.asarray(points)[:, 2:] / table["transl_m"][row, 2]
    center = table["center_px"][row]
    np.testing.assert_allclose(px - center, (table["fitted_px"][row] - center) * far, atol=0.1)


def test_few_people_get_meshes_and_pictures(fitted, people):
  out, table = fitted
  for name in table["names"]:
    assert (out / "meshes" / f"{name}.obj").stat().st_size > 10_000
    assert cv2.imread(str(out / "pictures" / f"{name}.png")).shape[1] > 600
  assert cv2.imread(str(out / "fits.png")).shape[0] > 3 * 200  # two a row
  lines = (out / "meshes" / f"{table['names'][0]}.obj").read_text().splitlines()
  vertices = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], float)
  assert abs(vertices[:, 2].mean() - table["transl_m"][0, 2]) < 1.5


def test_a_known_camera_stays(people, tmp_path):
  with np.load(people / "truth.npz") as truth, np.load(people / "keypoints" / "keypoints.npz") as seen:
    np.savez(tmp_path / "known.npz", **seen, transl_m=truth["transl_m"])
    transl = truth["transl_m"]
  fit.main(["fit", "--keypoints", str(tmp_path / "known.npz"), "--out", str(tmp_path / "out"), "--no-meshes",
            "--no-pictures", *FEW])
  with np.load(tmp_path / "out" / "fits.npz") as table:
    np.testing.assert_allclose(table["transl_m"], transl, rtol=1e-5)
    assert table["focal_px"][0] == 5000


def test_a_shared_shape_is_one(people, tmp_path):
  fit.main(["fit", "--keypoints", str(people / "keypoints"), "--out", str(tmp_path / "out"), "--no-meshes",
            "--no-pictures", "--shared-shape", *FEW])
  with np.load(tmp_path / "out" / "fits.npz") as table:
    assert np.ptp(table["betas"], 0).max() > 1e-3  # every one of these is somebody else
  with np.load(people / "keypoints" / "keypoints.npz") as f:
    np.savez(tmp_path / "one.npz", **{k: v for k, v in f.items() if k != "person"})
  fit.main(["fit", "--keypoints", str(tmp_path / "one.npz"), "--out", str(tmp_path / "one"), "--no-meshes",
            "--no-pictures", "--shared-shape", *FEW])
  with np.load(tmp_path / "one" / "fits.npz") as table:
    assert np.ptp(table["betas"], 0).max() == 0 and np.abs(table["betas"]).max() > 1e-3


def test_odd_people_stay_finite_and_leave_their_neighbours_alone(people, fitted, tmp_path):
  with np.load(people / "keypoints" / "keypoints.npz") as f:
    stored = {k: v for k, v in f.items() if k in ("keypoints", "joint_set", "image_size")}
  odd = np.repeat(stored["keypoints"][:1], 6, 0)
  odd[:, :, 2] = 1
  odd[0, [0, 1, 5, 6, 7, *range(11, 25)]] = 0                 # a few keypoints
  odd[1, :, 0] = 200                                          # on a line
  odd[2, :, :2] = np.random.default_rng(0).uniform(-1e5, 1e5, (25, 2))
  odd[3, :, :2] = 300 + 5 * np.random.default_rng(1).uniform(size=(25, 2))
  odd[4, :, 2] = 0.11
  odd[5, :, :2] = np.where(np.arange(25)[:, None] < 12, 50, 600)  # two places
  stored["keypoints"] = np.concatenate([odd, stored["keypoints"]])
  np.savez(tmp_path / "odd.npz", focal_px=5000, **stored)
  fit.main(["fit", "--keypoints", str(tmp_path / "odd.npz"), "--out", str(tmp_path / "out"), "--no-meshes",
            "--no-pictures", *FEW])
  with np.load(tmp_path / "out" / "fits.npz") as table:
    for name in ("pose", "betas", "transl_m", "camera", "objective"):
      assert np.isfinite(table[name]).all(), name
    np.testing.assert_allclose(table["fitted_px"][6:], fitted[1]["fitted_px"], atol=0.5)


def sees(state, batch, assets):
  """A network that takes everybody for somebody of the mean pose, larger the brighter the crop is."""
  del state
  count = len(batch["image"])
  rows = lambda x: jnp.broadcast_to(x, (count, 1, *x.shape))
  scale = 0.8 + 0.01 * batch["image"].mean((1, 2, 3))
  pose = assets["mean"]["pose"]
  return Prediction(rows(pose[:1]), rows(pose[1:]), rows(0.5 * jnp.ones(10)),
                    jnp.stack([scale, 0 * scale, 0 * scale], -1)[:, None], jnp.zeros((count, 1)))


def test_a_run_says_where_a_fit_starts(people, tmp_path, monkeypatch, capsys):
  config = runs.config_of("body=mannequin_small", "image_size=32")
  state = TrainState(step=jnp.zeros((), jnp.int32), params={}, opt_state={}, stats={}, memory={})
  assets = assets_lib.load(config)
  system = System(None, None, sees)
  monkeypatch.setattr(evaluate, "load_run", lambda workdir, step=None, body=None: (config, system, state, assets))
  with np.load(people / "keypoints" / "keypoints.npz") as f:
    stored = dict(f, images=np.array([f"{i}.png" for i in range(5)]))
  np.savez(tmp_path / "seen.npz", **stored)
  (tmp_path / "photos").mkdir()
  for i in (0, 1, 3):
    cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), np.full((960, 1280, 3), 40 * i, np.uint8))
  (tmp_path / "photos" / "4.png").write_bytes(b"<html>")
  fit.main(["fit", "--keypoints", str(tmp_path / "seen.npz"), "--out", str(tmp_path / "out"), "--workdir", "run",
            "--images", str(tmp_path / "photos"), "--method", "spin", "--num-steps", "1", "--no-meshes",
            "--no-pictures"])
  said = capsys.readouterr().err
  with np.load(tmp_path / "out" / "fits.npz") as f:
    table = dict(f)
  assert table["names"].tolist() == ["0", "1", "3"] and "no picture" in said and "4.png" in said
  # One step of Adam moves every number by at most 0.01.
  np.testing.assert_allclose(table["betas"], 0.5, atol=0.011)
  mean = np.asarray(rotations.matrix_to_axis_angle(assets["mean"]["pose"]))[1:].ravel()
  np.testing.assert_allclose(table["pose_axis_angle"][:, 3:], np.broadcast_to(mean, (3, 69)), atol=0.011)
  assert np.all(np.diff(table["camera"][:, 0]) > 1e-3)  # brighter pictures, larger people


@pytest.mark.slow
def test_a_pose_vae_takes_the_mixtures_place(people, tmp_path, monkeypatch):
  net = pose_vae.PoseVae(version=1, hidden=16, latent=6)
  variables = net.init(jax.random.key(0), jnp.zeros((1, 63)), jnp.zeros((1, 6)))
  prior = pose_prior.PosePrior(variables["params"], variables["batch_stats"], net)
  monkeypatch.setattr(pose_prior, "load", lambda workdir: prior)
  fit.main(["fit", "--keypoints", str(people / "keypoints"), "--out", str(tmp_path / "out"), "--no-meshes",
            "--no-pictures", "--vae", "run", *FEW])
  with np.load(tmp_path / "out" / "fits.npz") as table:
    hands = np.broadcast_to(np.eye(3), (5, 2, 3, 3))
    np.testing.assert_array_equal(table["pose"][:, 22:], hands)  # a pose VAE has none
    np.testing.assert_allclose(rotations.axis_angle_to_matrix(table["pose_axis_angle"].reshape(-1, 24, 3)),
                               table["pose"], atol=1e-5)
    assert np.ptp(table["pose"], 0).max() > 0.01 and np.isfinite(table["objective"]).all()


@pytest.mark.long
def test_the_command_itself_survives_kills(tmp_path):
  made_up.main(["x", "--out", str(tmp_path / "set"), "--people", "300", "--body", "mannequin_small"])

  def start(out):
    arguments = ("--keypoints", str(tmp_path / "set" / "keypoints"), "--out", str(tmp_path / out), "--batch", "16",
                 "--no-meshes", "--no-pictures", *FEW)
    return subprocess.Popen([sys.executable, "-m", "jhmr.fit", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)

  parts = lambda: {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "parts").glob("*.npz")}
  process = start("out")
  while process.poll() is None and len(parts()) < 4:
    time.sleep(0.01)
  process.kill()
  process.wait()
  killed = parts()
  assert 4 <= len(killed) < 19 and not (tmp_path / "out" / "fits.npz").exists()
  process = start("out")
  said, _ = process.communicate()
  assert process.returncode == 0 and f"{16 * len(killed)} of 300 people are in" in said
  assert killed.items() <= parts().items() and len(parts()) == 19
  assert start("at_once").communicate() is not None
  with np.load(tmp_path / "out" / "fits.npz") as a, np.load(tmp_path / "at_once" / "fits.npz") as b:
    for name in a.files:
      np.testing.assert_array_equal(a[name], b[name])
