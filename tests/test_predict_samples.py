"""The command `predict` for a density over poses: what is written of every hypothesis, of a few, and of a walk."""

import functools
import json

import cv2
import jax
import jax.numpy as jnp
from jhmr import assets as assets_lib
from jhmr import evaluate, pictures, predict
from jhmr.body import smpl
from jhmr.data import spec
from jhmr.errors import InputError
from jhmr.state import Prediction, TrainState
import latents
import numpy as np
import pytest

import runs


def encode(state, batch, assets):
  """Looks at the crop's mean colour only, so that images differ."""
  number = jnp.sum(batch["image"].mean((1, 2)), -1)
  return latents.encode(state, batch | {"id": number}, assets)._replace(projected=number % 5)


def decode(state, z, encoded, assets):
  pose, six_d, log_prob = latents.decode(state, 4 * z, encoded, assets)
  return jnp.concatenate([assets["mean"]["pose"][0] @ pose[:, :, :1], pose[:, :, 1:]], 2), six_d, log_prob


def mode(state, batch, assets):
  encoded = encode(state, batch, assets)
  pose, _, log_prob = decode(state, jnp.zeros((len(batch["image"]), 1, latents.DIM)), encoded, assets)
  return Prediction(pose[:, :, :1], pose[:, :, 1:], encoded.betas[:, None], encoded.camera[:, None], log_prob)


SYSTEM = latents.system(predict=mode, latent=latents.LATENT._replace(encode=encode, decode=decode))


@functools.cache
def loaded():
  config = runs.config_of("body=mannequin_small", "image_size=32", "batch_size=16", "eval_batches=1")
  state = TrainState(step=jnp.zeros((), jnp.int32), params={}, opt_state={}, stats={}, memory={})
  return config, SYSTEM, state, assets_lib.load(config)


@pytest.fixture
def run(monkeypatch):
  monkeypatch.setattr(evaluate, "load_run", lambda workdir, step=None, body=None, lifting=False: loaded())
  return lambda *arguments: predict.main(["predict", "--workdir", "run", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path):
  folder = tmp_path / "photos"
  folder.mkdir()
  for i, name in enumerate(("anna", "bob")):
    image = np.random.default_rng(i).integers(0, 200 + i, (60, 50, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / f"{name}.png"), image)
  return folder


def arrays(path):
  with np.load(path) as stored:
    return dict(stored)


def test_all_hypotheses_are_written_and_meshes_of_those_shown(run, photos, tmp_path):
  out = tmp_path / "out"
  run("--images", photos, "--num-samples", 9, "--out", out, "--no-pictures")
  stored, read = arrays(out / "bob.npz"), json.loads((out / "bob.json").read_text())
  assert stored["body_pose"].shape == (9, 23, 3, 3) and stored["joints_cam_m"].shape == (9, 24, 3)
  assert (stored["z"][0] == 0).all() and stored["z"].shape == (9, latents.DIM)
  assert stored["log_prob"].argmax() == 0 and len(set(stored["log_prob"])) == 9
  assert len(set(stored["shown"])) == 4 and stored["shown"][0] == 0
  meshes = {"bob.obj", *(f"bob_sample{s}.obj" for s in stored["shown"][1:])}
  assert {p.name for p in out.glob("bob*.obj")} == meshes
  for name in ("body_pose", "joints_cam_m", "log_prob", "betas", "transl_m"):
    np.testing.assert_allclose(read[name], stored[name], atol=1e-6, rtol=1e-6)
  assert read["hypotheses"] == list(range(9)) and read["shown"] == stored["shown"].tolist() and "z" not in read
  vertices = lambda s: np.array([line.split()[1:4] for line in (out / (f"bob_sample{s}.obj" if s else "bob.obj"))
                                 .read_text().splitlines() if line.startswith("v ")], float)
  for s in stored["shown"]:  # the mesh is where the joints are
    body = vertices(s)
    inside = (stored["joints_cam_m"][s] > body.min(0)) & (stored["joints_cam_m"][s] < body.max(0))
    assert inside.all()


def test_a_person_has_the_same_samples_alone_and_with_others_and_others_with_another_seed(run, photos, tmp_path):
  flags = ("--no-pictures", "--no-meshes", "--num-samples", 9)
  run("--images", photos, "--out", tmp_path / "all", *flags)
  run("--images", photos / "bob.png", "--out", tmp_path / "one", *flags)
  run("--images", photos / "bob.png", "--out", tmp_path / "seed", "--seed", 1, *flags)
  together, alone, other = (arrays(tmp_path / f / "bob.npz") for f in ("all", "one", "seed"))
  for name in together:
    np.testing.assert_allclose(alone[name], together[name], atol=1e-5, rtol=1e-5, err_msg=name)
  assert (alone["z"][1:] != other["z"][1:]).all() and (alone["body_pose"][0] == other["body_pose"][0]).all()
  assert (alone["z"][1:] != arrays(tmp_path / "all" / "anna.npz")["z"][1:]).all()


def test_of_very_many_the_json_has_those_shown(run, photos, tmp_path):
  run("--images", photos / "bob.png", "--num-samples", 300, "--out", tmp_path, "--no-pictures", "--no-meshes")
  stored, read = arrays(tmp_path / "bob.npz"), json.loads((tmp_path / "bob.json").read_text())
  assert len(stored["body_pose"]) == 300 and read["hypotheses"] == read["shown"] and read["num_samples"] == 300
  np.testing.assert_allclose(read["body_pose"], stored["body_pose"][stored["shown"]], atol=1e-6)


def test_without_samples_the_mode_is_written_as_ever(run, photos, tmp_path):
  run("--images", photos, "--out", tmp_path / "ever", "--no-pictures")
  run("--images", photos, "--out", tmp_path / "samples", "--num-samples", 1, "--no-pictures", "--no-meshes")
  assert sorted(p.name for p in (tmp_path / "ever").glob("bob*")) == ["bob.json", "bob.npz", "bob.obj"]
  ever, samples = (arrays(tmp_path / f / "bob.npz") for f in ("ever", "samples"))
  assert set(samples) - set(ever) == {"z", "shown"}
  for name, value in ever.items():
    np.testing.assert_allclose(samples[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_walk_leads_from_the_mode_through_the_samples_shown(run, photos, tmp_path):
  run("--images", photos / "bob.png", "--num-samples", 2, "--interpolate", 1, "--out", tmp_path, "--no-meshes")
  walk, stored = arrays(tmp_path / "bob_walk.npz"), arrays(tmp_path / "bob.npz")
  assert walk["z"].shape == (1, 3, latents.DIM) and walk["joints_cam_m"].shape == (1, 3, 24, 3)
  for name in ("z", "body_pose", "global_orient", "log_prob", "joints_cam_m"):
    np.testing.assert_allclose(walk[name][0, [0, 2]], stored[name], atol=1e-5, rtol=1e-5, err_msg=name)
  np.testing.assert_allclose(walk["z"][0, 1], stored["z"][1] / 2, atol=1e-5)
  columns = lambda name: cv2.imread(str(tmp_path / name)).shape[1] // pictures.SIDE_PX
  assert (columns("bob_walk.png"), columns("bob.png"), columns("all.png")) == (3, 4, 4)


def test_a_sheet_has_the_mode_samples_and_skeletons_beside_the_truth():
  _, system, state, assets = loaded()
  batch = spec.fake_batch(32, 2)
  sheet = pictures.prediction_sheet(system, state, batch, jax.tree.map(np.asarray, assets), num=1)
  side, top, left = pictures.SIDE_PX, 4 + 4 + 18, 4 + 4  # margins of the sheet and of the person, labels
  assert sheet.shape == (8 + 4 + 2 * (side + 22), 8 + 4 + 6 * (side + 4), 3)
  for row in (0, 1):
    for column in range(6):
      panel = sheet[top + row * (side + 22):, left + column * (side + 4):][:side, :side]
      assert (panel < 200).any(), (row, column)


@pytest.mark.parametrize("arguments, said", [
    (["--num-samples", 0], "--num-samples is 0"),
    (["--num-samples", 5, "--interpolate", 0], "--interpolate is 0"),
    (["--interpolate", 3], "--num-samples 2"),
    (["--num-samples", 1, "--interpolate", 3], "--num-samples 2"),
    (["--num-samples", 5, "--seed", -1], "--seed is -1"),
])
def test_numbers_that_make_no_sense_are_one_line_and_write_nothing(run, photos, tmp_path, arguments, said):
  with pytest.raises(InputError, match=said) as error:
    run("--images", photos, "--out", tmp_path / "out", *arguments)
  assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_set_of_hypotheses_is_written_as_samples_are(photos, tmp_path, monkeypatch):
  config, _, *rest = loaded()

  def choose(state, batch, assets, keys, num):
    encoded = encode(state, batch, assets)
    z = jax.vmap(lambda key: jax.random.normal(key, (num, latents.DIM)))(keys)
    pose, _, log_prob = decode(state, z, encoded, assets)
    each = lambda x, scale: x[:, None] * jnp.linspace(1, scale, num)[:, None]
    return Prediction(pose[:, :, :1], pose[:, :, 1:], each(encoded.betas, 1), each(encoded.camera, 1.1), log_prob)

  sets = SYSTEM._replace(latent=None, choose=choose)
  monkeypatch.setattr(evaluate, "load_run", lambda *_, **__: (config, sets, *rest))
  command = lambda out, *more: predict.main(["predict", "--workdir", "run", "--images", str(photos / "bob.png"), "--out",
                                             str(tmp_path / out), "--num-samples", "6", *more])
  command("out")
  stored, read = arrays(tmp_path / "out" / "bob.npz"), json.loads((tmp_path / "out" / "bob.json").read_text())
  assert stored["body_pose"].shape == (6, 23, 3, 3) and "z" not in stored and read["hypotheses"] == list(range(6))
  assert len(set(stored["camera"][:, 0])) == 6 and len(set(stored["shown"])) == 4
  assert len(list((tmp_path / "out").glob("*.obj"))) == 4 and (tmp_path / "out" / "bob.png").is_file()
  with pytest.raises(InputError, match="walks through a latent space"):
    command("walk", "--interpolate", "2")


def test_a_mesh_that_is_no_posed_body_is_written_and_shown_beside_it(photos, tmp_path, monkeypatch):
  config, _, state, assets = loaded()
  offset = np.array([0.1, 0.0, 0.0], np.float32)

  def with_mesh(state, batch, assets):
    found = mode(state, batch, assets)
    pose = jnp.concatenate([found.global_orient, found.body_pose], 2)
    return found.replace(vertices=smpl.forward(assets["body"], found.betas, pose).vertices + offset)

  monkeypatch.setattr(evaluate, "load_run", lambda *_, **__: (config, SYSTEM._replace(
      latent=None, predict=with_mesh), state, assets))
  out = tmp_path / "out"
  predict.main(["predict", "--workdir", "run", "--images", str(photos / "bob.png"), "--out", str(out)])
  body, mesh = ([line for line in (out / f"bob{kind}.obj").read_text().splitlines()] for kind in ("", "_mesh"))
  numbers = lambda lines: np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
  np.testing.assert_allclose(numbers(mesh), numbers(body) + offset, atol=1e-5)
  assert [line for line in mesh if line[0] == "f"] == [line for line in body if line[0] == "f"]
  assert arrays(out / "bob.npz")["vertices"].shape == (1, len(numbers(body)), 3)
  assert "vertices" not in json.loads((out / "bob.json").read_text())
  assert cv2.imread(str(out / "bob.png")).shape[1] > 5 * pictures.SIDE_PX, "input, body and mesh, each from two sides"


def test_a_system_without_a_density_has_no_samples(photos, tmp_path, monkeypatch):
  config, _, *rest = loaded()
  monkeypatch.setattr(evaluate, "load_run", lambda *_, **__: (config, SYSTEM._replace(latent=None), *rest))
  with pytest.raises(InputError, match="many hypotheses.*'runs/hmr'.*configs/prohmr.py") as error:
    predict.main(["predict", "--workdir", "runs/hmr", "--images", str(photos), "--num-samples", "5", "--out",
                  str(tmp_path / "out")])
  assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
