"""3D Multi-bodies beside numbers of the authors' code, recorded by `goldens/record_multibodies.py`: which hypothesis is
the best one, losses and gradients, densities of hypotheses, and clusters."""

import pathlib

import jax
import jax.numpy as jnp
from jhmr import joint_prior, losses, multi_hypothesis, quantise, regression
from jhmr.body import camera, landmarks, rotations, smpl
from jhmr.nn import realnvp
from jhmr.released import multibodies_prior
from jhmr.systems import multibodies
import ml_collections
import numpy as np
import pytest
from released import multibodies_inputs as inputs
from systems import prohmr_inputs

# Theirs; their `skel2d_modewise` is `keypoints2d_all`, their `depth_modewise` is `camera`, of all hypotheses.
WEIGHTS = {"keypoints3d": 25.0, "pose": 1.0, "betas": 0.001, "keypoints2d": 1.0, "vertices": 0.0,
           "keypoints2d_all": 0.1, "camera": 1.0}
THEIRS = {"keypoints3d": "joint", "pose": "angle", "betas": "shape", "keypoints2d": "skel2d",
          "keypoints2d_all": "skel2d_modewise", "camera": "depth_modewise"}
SUPERVISION = "spin49"


@pytest.fixture(scope="module")
def recorded():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "multibodies.npz") as f:
    return dict(f)


@pytest.fixture(scope="module")
def body(recorded):
  prohmr_inputs.check(recorded, inputs.body(), "body")
  return landmarks.rigid_body(smpl.from_arrays(inputs.body()), ("spin49",))


def labels():
  """The batch, detected keypoints weighing nothing, as by their default options."""
  i = {k: jnp.asarray(v) for k, v in inputs.training().items()}
  pose = rotations.axis_angle_to_matrix(i["pose"].reshape(-1, 24, 3))
  three = jnp.zeros((inputs.BATCH, 49, 4)).at[:, multi_hypothesis.GT24].set(i["keypoints3d"])
  batch = {"mask": jnp.ones(inputs.BATCH), "global_orient": pose[:, :1], "body_pose": pose[:, 1:],
           "betas": i["to_betas"], "has_pose": i["has_pose"], "has_betas": i["has_pose"],
           "has_keypoints3d": i["has_keypoints3d"], "keypoints2d": i["keypoints2d"], "keypoints3d": three}
  return regression.weighed(batch), {k: i[k] for k in ("six_d", "betas", "camera")}


@pytest.fixture(scope="module")
def ours(body):
  """Of each image alone: terms, the best hypothesis, joints of all, gradients."""

  def loss(leaves, batch, body):
    one = lambda tree: jax.tree.map(lambda x: x[None], tree)
    leaves, batch, assets = one(leaves), one(batch), {"keypoint_body": body}
    bodies = regression.decode(tuple(leaves[k] for k in ("six_d", "betas", "camera")))
    measured, batch = batch["has_keypoints3d"], multi_hypothesis.with_joints(batch, assets)
    points = multi_hypothesis.joints_of(body, *bodies[:2])
    projected = camera.project_crop(points, bodies[2])
    best = multi_hypothesis.selected(points, projected, batch, SUPERVISION)
    batch |= {"has_keypoints3d": measured}  # config.infer_joints = False
    of_one = {n: w for n, w in WEIGHTS.items() if n != "keypoints2d_all"} | {"camera": 0.0}
    totals = losses.totals(multibodies.label_weights(batch, WEIGHTS, SUPERVISION, False), None)
    learns = lambda index: regression.image_terms(*multi_hypothesis.rows(bodies, index), batch, assets, of_one,
                                                  SUPERVISION, totals)
    terms = jax.tree.map(jnp.add, learns(best), learns(jnp.zeros_like(best)))
    terms |= multibodies.losses_of_all(projected, bodies[2], batch, WEIGHTS, SUPERVISION, totals)
    terms = {n: t / inputs.BATCH for n, t in terms.items()}  # means times the number of devices, which the images are
    return losses.weigh(WEIGHTS, terms), (terms, best[0], points[0])

  each = jax.vmap(jax.value_and_grad(loss, has_aux=True), (0, 0, None), axis_name=losses.AXIS)
  batch, leaves = labels()
  (total, aux), grads = jax.jit(each)(leaves, batch, body)
  return total, *aux, grads


def test_the_best_hypothesis_is_theirs(recorded, ours):
  _, _, best, points, _ = ours
  np.testing.assert_array_equal(best, recorded["best"])
  assert len(set(recorded["best"].tolist())) > 1
  centred = losses.centred(points[..., multi_hypothesis.GT24, :], regression.HIPS)
  np.testing.assert_allclose(centred[:, :, ::3], recorded["joints"], atol=1e-5)


def test_losses_are_theirs(recorded, ours):
  total, terms, *_ = ours
  assert recorded["loss_joint"][1] == 0 < recorded["loss_joint"][0]  # where no joints were measured
  for name, theirs in THEIRS.items():
    np.testing.assert_allclose(terms[name], recorded[f"loss_{theirs}"], rtol=2e-5, err_msg=name)
  np.testing.assert_allclose(total, recorded["objective"], rtol=2e-5)


def test_gradients_are_theirs(recorded, ours):
  for name, grads in ours[-1].items():
    flat = np.asarray(grads, np.float64).reshape(inputs.BATCH, -1)
    norms, along = recorded[f"grad_{name}_norms"], flat @ prohmr_inputs.probe(name, flat.shape[1:])
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), norms, rtol=1e-4, err_msg=name)
    assert np.all(np.abs(along - recorded[f"grad_{name}_dots"]) < 2e-4 * norms), name


def test_densities_of_hypotheses_are_theirs(recorded, body):
  net = ml_collections.ConfigDict(dict(dim=72, couplings=20, hidden=512))
  found = multibodies_prior.convert(inputs.prior_weights(), net, "a.pth")
  prior = joint_prior.JointPrior(found.params["net"], found.stats["net"], realnvp.RealNvp(**net))
  _, leaves = labels()

  @jax.jit
  def density(prior, body, leaves):
    pose, betas, _ = regression.decode((leaves["six_d"], leaves["betas"], leaves["camera"]))
    return joint_prior.log_prob(prior, joint_prior.upright(body, pose[:, :, 1:], betas))

  np.testing.assert_allclose(density(prior, body, leaves), recorded["log_prob"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["uniform", "weighted"])
def test_clusters_from_the_same_start_are_theirs(recorded, name):
  points, log_weights, first = inputs.clusters()
  log_weights = log_weights if name == "weighted" else np.zeros_like(log_weights)

  @jax.jit
  @jax.vmap
  def cluster(points, log_weights):
    centres, labels = quantise.lloyd(points, points[first], log_weights)
    return centres, quantise.medoids(points, centres, labels, log_weights)

  centres, chosen = cluster(points, log_weights)
  np.testing.assert_allclose(centres[..., ::6], recorded[f"kmeans_{name}_centres"], atol=1e-4)
  np.testing.assert_array_equal(chosen, recorded[f"kmeans_{name}_chosen"])
