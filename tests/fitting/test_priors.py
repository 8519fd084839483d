"""The pose prior against its equation in slow NumPy and the authors' code, and what its files may be."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from body import pickling
from fitting import mixtures
from jhmr.body import joints
from jhmr.errors import InputError
from jhmr.fitting import gmm_fit, priors

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "gmm.npz"
value_and_grad = jax.jit(jax.value_and_grad(lambda x, gmm: jnp.sum(priors.gmm_energy(gmm, x))))
energy = jax.jit(priors.gmm_energy)


@pytest.fixture(scope="module")
def gmm():
  return priors.from_mixture(gmm_fit.Mixture(**mixtures.mixture()))


def test_the_energy_is_its_equation(gmm):
  pose, made = mixtures.poses(), mixtures.mixture()
  slow = [mixtures.energy(**made, pose=p) for p in pose]
  np.testing.assert_allclose(energy(gmm, pose), slow, rtol=1e-5)  # float32 against float64
  np.testing.assert_array_equal(energy(gmm, pose.reshape(3, 4, 69)).ravel(), energy(gmm, pose))
  assert energy(gmm, pose[0]).shape == ()


def test_the_gradient_is_that_of_the_likeliest_gaussian(gmm):
  pose, made = mixtures.poses(), mixtures.mixture()
  got, step = value_and_grad(pose, gmm)[1], 1e-5
  for i in (0, 1, 5):
    for c in (0, 30, 68):
      way = step * np.eye(69)[c]
      slope = (mixtures.energy(**made, pose=pose[i] + way) - mixtures.energy(**made, pose=pose[i] - way)) / (2 * step)
      assert float(got[i, c]) == pytest.approx(slope, rel=1e-4, abs=1e-3)


def test_the_curvature_is_a_precision(gmm):
  """The rule for the gradient can itself be differentiated, as second-order methods do."""
  hessian = jax.jit(jax.hessian(lambda x: priors.gmm_energy(gmm, x)))(jnp.asarray(mixtures.poses()[2]))
  assert min(float(jnp.max(jnp.abs(hessian - p))) / float(jnp.max(p)) for p in gmm.precisions) < 1e-5


def test_a_batch_is_its_people_one_by_one(gmm):
  pose = mixtures.poses()
  one = jax.jit(jax.vmap(jax.value_and_grad(lambda x: priors.gmm_energy(gmm, x))))(pose)
  np.testing.assert_allclose(one[0], energy(gmm, pose), rtol=1e-6)
  np.testing.assert_allclose(one[1], value_and_grad(pose, gmm)[1], rtol=1e-4, atol=1e-4)


def test_at_the_means_only_constants_are_left(gmm):
  made = mixtures.mixture()
  log_d = 0.5 * np.linalg.slogdet(made["covars"])[1]
  bound = 34.5 * np.log(2 * np.pi) - np.log(made["weights"]) + log_d - log_d.min()
  assert 34.5 * np.log(2 * np.pi) == pytest.approx(63.40676, abs=1e-5)
  assert np.all(energy(gmm, gmm.means) <= bound * (1 + 1e-6))
  alone = priors.from_mixture(gmm_fit.Mixture(np.ones(1), np.zeros((1, 69)), np.eye(69)[None]))
  assert float(energy(alone, jnp.zeros(69))) == pytest.approx(63.40676, abs=1e-4)


def test_determinants_below_the_range_of_float32_count():
  made = mixtures.mixture()
  small = made | {"covars": (1e-3 * made["covars"]).astype(np.float32)}
  assert all(np.linalg.det(c) == 0 for c in small["covars"])
  got = priors.from_mixture(gmm_fit.Mixture(**small))
  np.testing.assert_allclose(got.log_weights, priors.from_mixture(gmm_fit.Mixture(**made)).log_weights, rtol=1e-5)


def test_energies_gradients_and_mean_are_the_authors(gmm):
  """1e-4: their float32 precisions are inverses of float32 covariances."""
  golden, pose = np.load(GOLDEN), mixtures.poses()
  value, gradient = energy(gmm, pose), value_and_grad(pose, gmm)[1]
  np.testing.assert_allclose(value, golden["energy"], rtol=1e-4)
  assert np.max(np.abs(gradient - golden["gradient"])) < 1e-4 * np.max(np.abs(golden["gradient"]))
  np.testing.assert_allclose(gmm.mean_pose(), golden["mean"], atol=1e-6)
  np.testing.assert_allclose(priors.angle_energy(pose), golden["angle"], rtol=1e-5)


def test_elbows_and_knees_pay_for_bending_the_wrong_way():
  assert float(priors.angle_energy(jnp.zeros(69))) == 4
  slope = jax.grad(priors.angle_energy)(jnp.zeros(69))
  assert {int(i) + 3: float(slope[i]) for i in np.flatnonzero(slope)} == {55: 2, 58: -2, 12: -2, 15: -2}
  bent = np.zeros((24, 3), np.float32)
  for name, axis, angle in (("left_elbow", 1, -1.5), ("right_elbow", 1, 1.5), ("left_knee", 0, 1.5),
                            ("right_knee", 0, 1.5)):
    bent[joints.index("smpl24", name), axis] = angle
  assert float(priors.angle_energy(bent.ravel()[3:])) == pytest.approx(4 * np.exp(-3), rel=1e-5)
  assert float(priors.angle_energy(-bent.ravel()[3:])) == pytest.approx(4 * np.exp(3), rel=1e-5)


def test_a_pose_with_a_root_is_refused(gmm):
  with pytest.raises(ValueError, match="72"):
    priors.gmm_energy(gmm, jnp.zeros((2, 72)))


def known(num=3000, size=6, seed=0):
  """(mixture, samples of it): three Gaussians well apart."""
  rng = np.random.RandomState(seed)
  truth = mixtures.mixture(3, size, seed)
  truth["means"] = 3 * np.eye(size)[:3]
  which = rng.choice(3, size=num, p=truth["weights"])
  roots = np.linalg.cholesky(truth["covars"])
  return truth, truth["means"][which] + np.einsum("nij,nj->ni", roots[which], rng.normal(size=(num, size)))


def test_expectation_maximisation_finds_a_mixture_again():
  truth, x = known()
  found = gmm_fit.fit_mixture(x, num=3, floor=0.0)
  order = np.argmin(np.linalg.norm(found.means[:, None] - truth["means"], axis=-1), 0)
  assert sorted(order) == [0, 1, 2]
  np.testing.assert_allclose(found.weights[order], truth["weights"], atol=0.03)
  np.testing.assert_allclose(found.means[order], truth["means"], atol=0.03)
  np.testing.assert_allclose(found.covars[order], truth["covars"], atol=0.05)  # 3 standard errors


def test_every_step_raises_the_likelihood():
  _, x = known()
  seen = []
  found = gmm_fit.fit_mixture(x, num=5, floor=0.0, tol=-1.0, max_steps=25, said=lambda step, mean: seen.append(mean))
  assert len(seen) == 25 and np.all(np.diff(seen) > -1e-9) and seen[-1] > seen[0]
  slow = 0.0
  for row in x[:50]:
    each = [w * np.exp(-0.5 * (row - m) @ np.linalg.inv(c) @ (row - m)) / np.sqrt(np.linalg.det(2 * np.pi * c))
            for w, m, c in zip(*found)]
    slow += np.log(sum(each))
  assert gmm_fit.log_likelihood(found, x[:50]).sum() == pytest.approx(slow, rel=1e-9)


def test_the_same_samples_give_the_same_mixture_and_odd_ones_stay_finite():
  _, x = known(300)
  for a, b in zip(gmm_fit.fit_mixture(x, 3), gmm_fit.fit_mixture(x, 3)):
    np.testing.assert_array_equal(a, b)
  equal = gmm_fit.fit_mixture(np.ones((40, 69)), 8)
  assert all(np.all(np.isfinite(part)) for part in equal)
  assert np.all(np.isfinite(priors.gmm_energy(priors.from_mixture(equal), np.ones((1, 69), np.float32))))
  for bad in (x[:2], np.full((40, 6), np.nan), x[0]):
    with pytest.raises(InputError, match="mixture of 3"):
      gmm_fit.fit_mixture(bad, 3)


def same(a, b, rtol=1e-6):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.max(np.abs(y)))


class GMM:
  """Stands for scikit-learn's object of the time."""

  def __init__(self, weights, means, covars):
    self.weights_, self.means_, self.covars_, self.n_components, self.random_state = weights, means, covars, 8, None


def test_files_of_the_release_are_read(gmm, tmp_path, monkeypatch):
  path, made = tmp_path / "gmm_08.pkl", mixtures.mixture()
  for protocol in (0, 2, 4):
    path.write_bytes(pickling.dumps(made, protocol))
    same(priors.read_gmm(path), gmm)
  for module in ("sklearn.mixture.gmm", "sklearn.mixture"):
    monkeypatch.setitem(pickling.OLD_NAMES, (__name__, "GMM"), (module, "GMM"))
    path.write_bytes(pickling.dumps(GMM(**made), 2))
    same(priors.read_gmm(path), gmm)


def test_a_mixture_is_written_and_read(gmm, tmp_path):
  gmm_fit.write_mixture(tmp_path / "gmm.npz", gmm_fit.Mixture(**mixtures.mixture()))
  same(priors.read_gmm(tmp_path / "gmm.npz"), gmm, 1e-4)
  np.savez(tmp_path / "whole.npz", **mixtures.mixture())
  same(priors.read_gmm(tmp_path / "whole.npz"), gmm)


def test_hostile_and_odd_files_are_one_line(tmp_path):
  made, ran = mixtures.mixture(), tmp_path / "ran"
  asymmetric = made["covars"] + np.triu(np.ones((69, 69)), 1)
  odd = {"hostile": pickling.Calls(open, str(ran), "w"), "a list": [1, 2], "no means": {"weights": made["weights"]},
         "shapes": made | {"means": made["means"][:, :66]}, "nan": made | {"weights": made["weights"] * np.nan},
         "sum": made | {"weights": made["weights"] * 2}, "negative": made | {"covars": -made["covars"]},
         "asymmetric": made | {"covars": asymmetric}, "whole numbers": made | {"means": made["means"].astype(int)},
         "inside": made | {"covars": pickling.Calls(open, str(ran), "w")}}
  files = {name: pickling.dumps(value, 2) for name, value in odd.items()}
  files |= {"cut": pickling.dumps(made, 2)[:500], "text": b"hello", "empty": b"", "zip": b"PK\x03\x04"}
  for name, text in files.items():
    (tmp_path / name).write_bytes(text)
    with pytest.raises(InputError, match="gmm_08.pkl") as error:
      priors.read_gmm(tmp_path / name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500, name
  np.savez(tmp_path / "other.npz", poses=np.zeros(3))
  for i, flat in enumerate(({"means": 1.0}, {"weights": 1.0}, {"covars": 1.0}, {"covars_upper": 1.0})):
    np.savez(tmp_path / f"flat{i}.npz", **made | flat)
  for name in ("missing.pkl", "other.npz", *(f"flat{i}.npz" for i in range(4))):
    with pytest.raises(InputError, match=name):
      priors.read_gmm(tmp_path / name)
  assert not ran.exists()


@pytest.fixture(scope="module")
def sampled():
  return priors.sampled_poses(500, seed=7)


def test_the_mixture_that_is_kept_fits_the_pose_sampler(sampled):
  """Fresh poses are as likely as those it was fitted to (85.54), and likelier than poses turned about or at random."""
  kept = gmm_fit.read_mixture(priors.DEFAULT)
  assert len(kept.weights) == 8
  assert gmm_fit.log_likelihood(kept, sampled).mean() == pytest.approx(85.5, abs=1.5)
  gmm = priors.default_gmm()
  likely = np.asarray(energy(gmm, sampled))
  shuffled = np.random.default_rng(0).permuted(sampled.reshape(-1, 23, 3), axis=1).reshape(-1, 69)
  assert np.median(likely) < 150 and np.mean(energy(gmm, shuffled) > likely) > 0.99
  assert np.all(energy(gmm, sampled[:20] + 1.0) > likely[:20])


def test_the_command_fits_mocap(tmp_path, sampled, monkeypatch, capsys):
  turns = 2 * np.pi * sampled[:60].reshape(-1, 3) / np.linalg.norm(sampled[:60].reshape(-1, 3) + 1e-6, axis=-1)[:, None]
  turned = sampled[:60] + turns.reshape(60, 69)
  np.savez(tmp_path / "mocap.npz", poses=np.pad(turned, ((0, 0), (3, 0))), betas=np.zeros(10))
  call = lambda *args: (monkeypatch.setattr("sys.argv", ["priors", *map(str, args)]), priors.main())
  call("--mocap", tmp_path / "mocap.npz", "--out", tmp_path / "gmm.npz", "--num", 2)
  assert "step 1: mean log-likelihood" in capsys.readouterr().out
  # One turn more about the same axis is the same pose, and counts as the nearest.
  np.testing.assert_allclose(priors.read_gmm(tmp_path / "gmm.npz").mean_pose(), sampled[:60].mean(0), atol=5e-3)
  for flags, word in ((("--mocap", tmp_path / "missing.npz", "--out", tmp_path / "other.npz"), "missing.npz"),
                      (("--samples", 9, "--out", tmp_path / "none" / "other.npz"), "make it first"),
                      (("--samples", 3, "--out", tmp_path / "other.npz"), "as many samples")):
    with pytest.raises(SystemExit) as end:
      call(*flags)
    assert end.value.code == 2 and word in capsys.readouterr().err
  assert not (tmp_path / "other.npz").exists()
