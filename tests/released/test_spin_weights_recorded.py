"""SPIN's and EFT's network of full size with weights from a seed: what theirs predicts of a crop, and where its camera
puts points, as recorded by `goldens/record_spin.py`."""

import pathlib

import jax
import jax.numpy as jnp
from jhmr import regression
from jhmr.body import camera
from jhmr.nn import regressor
from jhmr.released import spin
import ml_collections
import numpy as np
import pytest
from released import authors
from systems import prohmr_inputs

NET = ml_collections.ConfigDict(dict(backbone="resnet50", hidden=1024))


@pytest.fixture(scope="module")
def recorded():
  return np.load(pathlib.Path(__file__).parent / "goldens" / "spin.npz")


def test_released_weights_predict_what_the_authors_network_does(recorded):
  arrays = authors.spin_trained()
  prohmr_inputs.check(recorded, arrays, "weights")
  found = spin.convert(arrays, NET, "model_checkpoint.pt")
  net = regressor.ImageRegressor("resnet50", activation="none")
  start = tuple(jnp.asarray(found.start[k]) for k in ("pose", "betas", "camera"))
  variables = {"params": found.params["net"], "batch_stats": found.stats["net"]}
  apply = jax.jit(lambda variables, image: regression.decode(net.apply(variables, image, start, False)))
  pose, betas, cam = (np.asarray(x[:, -1]) for x in apply(variables, prohmr_inputs.images(1, 224)))
  for ours, theirs in ((pose, recorded["pose"]), (betas, recorded["betas"]), (cam, recorded["camera"])):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # fifty layers in float32, each summed in another order


def test_cameras_of_both_conventions_see_points_where_the_authors_do(recorded):
  points, cam = recorded["points"], jnp.asarray(recorded["camera"])
  theirs = recorded["spin_projection"]
  np.testing.assert_allclose(camera.project_crop(points, cam), theirs, atol=2e-5)
  pose = jnp.tile(jnp.eye(3)[:, :2].reshape(6), 24)[None]
  scale, *t = jnp.moveaxis(regression.decode((pose, jnp.zeros((1, 10)), cam), "eft")[2], -1, 0)
  ours = scale[:, None, None] * (points[..., :2] + jnp.stack(t, -1)[:, None])
  np.testing.assert_allclose(ours, recorded["eft_projection"], atol=1e-5)


def test_one_point_in_both_conventions():
  seen = lambda cam: cam[0] * (0.3 + cam[1])
  assert seen((0.9, 0.1)) == pytest.approx(0.36)
  assert seen(regression.from_eft(jnp.array([0.9, 0.1, 0.0]))) == pytest.approx(0.37)
  assert seen(regression.from_eft(jnp.array([0.9, 0.09, 0.0]))) == pytest.approx(0.36)
  grad = jax.grad(lambda cam: regression.from_eft(cam).sum())
  assert all(np.all(np.isfinite(grad(jnp.array([s, 0.1, 0.2])))) for s in (0.0, -0.1, 1e-7))
