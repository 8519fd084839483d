"""By what `fit` knows that a result is finished: everything that decides it, and nothing else."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from fitting import malformed
from jhmr import evaluate, fit_cameras, fit_people, fit_smplify, pose_prior
from jhmr.body import landmarks, mesh, smpl
from jhmr.fitting import gmm_fit, priors
from jhmr.fitting.keypoint_formats import Person
from jhmr.nn import pose_vae
from jhmr.state import TrainState
import runs

USUAL = dict(method="spin", body=None, gmm=None, vae=None, num_steps=0, use_hips=False, free_camera=False, workdir=None,
             step=None, shared_shape=False)


def vae(workdir):
  net = pose_vae.PoseVae(version=2 if "two" in workdir else 1)
  return pose_prior.PosePrior({"w": jnp.full(3, len(workdir))}, {}, net)


@pytest.fixture
def keys(monkeypatch, tmp_path):
  """keys(known=, set_name=, **options) of three people, of two of whom one shape may be wanted; bodies are one array."""
  monkeypatch.setattr(smpl, "load_arrays", lambda path: {"x": np.load(path)["x"] if ".npz" in path else 0, "f": 0})
  monkeypatch.setattr(smpl, "from_arrays", lambda arrays: arrays["x"])
  monkeypatch.setattr(landmarks, "rigid_body", lambda body, sets: {"points": body})
  monkeypatch.setattr(pose_prior, "load", vae)

  def load_run(workdir, step, body):
    state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.full(2, step)}, {}, {}, {})
    body = smpl.load_arrays(body or "mannequin")["x"]
    return runs.config_of(), None, state, {"body": body, "surface": mesh.Surface(*[np.zeros(1)] * 4)}
  monkeypatch.setattr(evaluate, "load_run", load_run)
  people = [Person(str(i), np.float32(malformed.standing(shift=i)), "openpose25") for i in range(3)]
  arrays = fit_cameras.arrays_of(people)
  paths = {i: str(tmp_path / f"{i}.png") for i in range(3)}
  for i, path in paths.items():
    (tmp_path / f"{i}.png").write_bytes(bytes(i + 1))

  def keys_of(known=False, set_name="openpose25", **options):
    solver = fit_smplify.solver(types.SimpleNamespace(**USUAL | options), set_name, known)
    return fit_people.keys_of(arrays, solver, options.get("shared_shape", False), np.array([0, 0, 1]), paths)
  return keys_of


@pytest.mark.parametrize("changed", [
    dict(set_name="coco17"), dict(known=True), dict(use_hips=True), dict(free_camera=True), dict(method="smplify"),
    dict(num_steps=7), dict(body="1.npz"), dict(gmm="gmm.npz"), dict(vae="run"), dict(shared_shape=True),
    dict(workdir="run", step=1)], ids=str)
def test_whatever_decides_a_result_is_in_its_key(keys, tmp_path, monkeypatch, changed):
  monkeypatch.chdir(tmp_path)
  np.savez("1.npz", x=1)
  mixture = gmm_fit.read_mixture(priors.DEFAULT)
  gmm_fit.write_mixture("gmm.npz", mixture._replace(means=mixture.means + 0.1))
  usual = keys()
  assert usual == keys() and len(set(usual)) == 3
  assert not set(usual) & set(keys(**changed))


def test_files_of_one_name_are_told_apart_by_what_they_hold(keys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  np.savez("1.npz", x=1)
  np.savez("2.npz", x=1)
  first = keys(body="1.npz")
  assert first == keys(body="2.npz")  # a file that was moved or touched
  np.savez("1.npz", x=2)
  assert first != keys(body="1.npz")
  assert keys(vae="one") != keys(vae="two")  # weights and architecture
  seen = keys(workdir="run", step=1)
  assert seen == keys(workdir="moved", step=1) and not set(seen) & set(keys(workdir="run", step=2))
  assert not set(seen) & set(keys(workdir="run", step=1, body="1.npz"))
  (tmp_path / "1.png").write_bytes(b"another picture")
  again = keys(workdir="run", step=1)
  assert [a == b for a, b in zip(seen, again)] == [True, False, True]


def test_the_keys_of_a_shared_shape_are_the_groups(keys, tmp_path):
  first = keys(workdir="run", step=1, shared_shape=True)
  (tmp_path / "1.png").write_bytes(b"another picture")
  assert [a == b for a, b in zip(first, keys(workdir="run", step=1, shared_shape=True))] == [False, False, True]


def test_a_prior_that_is_given_is_the_one_that_is_used(keys, monkeypatch):
  given = priors.default_gmm().replace(weights=jnp.arange(8.0))
  monkeypatch.setattr(priors, "read_gmm", lambda path: given if path == "mine.pkl" else None)
  del keys  # its stand-ins are in place
  solver = fit_smplify.solver(types.SimpleNamespace(**USUAL | {"gmm": "mine.pkl"}), "openpose25", False)
  assert solver.inputs["gmm"] is given


def test_a_network_looks_at_many_crops_in_chunks():
  rows = jnp.arange(14.0).reshape(7, 2)
  look = lambda x: (x.sum(1), 2 * x)
  for size in (3, 7, 10):
    found = fit_smplify.in_chunks(look, rows, size)
    np.testing.assert_array_equal(found[0], rows.sum(1))
    np.testing.assert_array_equal(found[1], 2 * rows)
