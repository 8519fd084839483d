"""SPIN beside numbers of the authors' code: its dictionary of fits, the quality of a fit, and the losses."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jhmr import fits_memory, losses, regression
from jhmr.body import camera, rotations
from jhmr.fitting import objectives
from jhmr.systems import spin
from systems import spin_config, spin_inputs

matrices = jax.jit(lambda pose: rotations.axis_angle_to_matrix(pose.reshape(-1, 24, 3)))


@pytest.fixture(scope="module")
def theirs():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "spin.npz") as f:
    return dict(f)


def test_fits_are_read_and_stored_as_in_the_authors_dictionary(theirs):
  i = spin_inputs.fits()
  ids, angle = np.arange(spin_inputs.PEOPLE), np.deg2rad(i["angle_deg"])
  halves = lambda x: (x[:, :72], x[:, 72:])
  memory = fits_memory.create(spin_inputs.PEOPLE, {"pose": halves(i["table"])[0], "betas": halves(i["table"])[1],
                                                   "known": np.ones(spin_inputs.PEOPLE, bool)})

  @jax.jit
  def both(memory, new, better):
    after = fits_memory.update(memory, ids, *halves(new), np.zeros(len(ids), np.float32), better, i["flip"], angle,
                               axis_name=None)
    return fits_memory.take(memory, ids, i["flip"], angle), after

  (pose, betas, _), after = both(memory, i["new"], i["better"])
  # Matrices: near a half turn the two may choose opposite axes. 1e-6 is float32's rounding of two products.
  np.testing.assert_allclose(matrices(pose), matrices(theirs["read_pose"]), atol=2e-6)
  np.testing.assert_allclose(matrices(after["pose"]), matrices(theirs["stored"][:, :72]), atol=2e-6)
  np.testing.assert_array_equal(betas, theirs["read_betas"])
  np.testing.assert_array_equal(after["betas"], theirs["stored"][:, 72:])


def test_quality_is_the_authors(theirs):
  i = spin_inputs.views()
  crop = np.concatenate([i["keypoints"][..., :2] / 112 - 1, i["keypoints"][..., 2:]], -1)
  found = jax.jit(lambda *a: spin.quality(a[0], spin.targets_of(a[1]), spin_config.IGNORED))(i["points"], crop)
  np.testing.assert_allclose(found, theirs["quality"], rtol=1e-3)  # their normal equations are of float32
  px, confidence = objectives.known(i["keypoints"])
  translation = camera.solve_translation(i["points"], px, confidence * (np.arange(49) >= 25), 5000.0, np.full(2, 112.0))
  np.testing.assert_allclose(translation, theirs["translation"], rtol=1e-3, atol=1e-4)


def test_losses_are_the_authors(theirs):
  two, three = regression.JOINTS_2D["spin49"], regression.JOINTS_3D["spin49"]

  @jax.jit
  def ours(i):
    labels = regression.weighed({"keypoints2d": i["keypoints2d"]}, detected=0.25)["keypoints2d"]
    values = {
        "keypoints2d": (losses.keypoints2d_squared(i["projected"], labels[:, two]), jnp.ones(spin_inputs.PEOPLE)),
        "keypoints3d": (losses.keypoints3d(i["points"][:, three], i["keypoints3d"], regression.HIPS),
                        i["has_keypoints3d"]),
        "pose": (losses.pose(i["rotations"], matrices(i["pose"])), i["valid"]),
        "betas": (losses.betas(i["betas"], i["to_betas"]), i["valid"])}
    return {name: losses.masked_mean(*value, None) for name, value in values.items()}

  for name, value in ours(jax.tree.map(jnp.asarray, spin_inputs.predictions())).items():
    np.testing.assert_allclose(value, theirs[name], rtol=1e-5, err_msg=name)
