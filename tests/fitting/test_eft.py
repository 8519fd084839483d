"""Exemplar fine-tuning: what is recorded when, what is trained, what counts, and the authors' loss as recorded."""

import pathlib

from fitting import eft_inputs
import jax
import jax.numpy as jnp
from jhmr import regression
from jhmr.body import joints, smpl
from jhmr.fitting import eft
from jhmr.nn import regressor
import numpy as np
import pytest

from body import random_body

PEOPLE, INPUTS, HIDDEN = 5, 12, 16
REST = np.tile(np.array([1, 0, 0, 1, 0, 0], np.float32), 24)
INDEX = lambda name: joints.index("spin49", name)
FAST = eft.Settings(learning_rate=3e-3, threshold=0.0, max_iter=8)


def network(seed=0):
  """Parameters of a network of two layers, named as ours are."""
  rng = np.random.RandomState(seed)
  dense = lambda i, o, size=0.1: {"kernel": size * rng.normal(size=(i, o)).astype(np.float32),
                                  "bias": 0.05 * rng.normal(size=o).astype(np.float32)}
  return {"backbone": {"conv1": dense(INPUTS, HIDDEN, 0.3),
                       "bn1": {"scale": np.ones(HIDDEN, np.float32), "bias": np.zeros(HIDDEN, np.float32)}},
          "head": {"fc1": dense(HIDDEN, HIDDEN, 0.3), "decpose": dense(HIDDEN, 144), "decshape": dense(HIDDEN, 10),
                   "deccam": dense(HIDDEN, 3, 0.02)}}


def forward(params, x):
  layer = lambda p, x: x @ p["kernel"] + p["bias"]
  norm = params["backbone"]["bn1"]
  x = jnp.tanh(layer(params["backbone"]["conv1"], x) * norm["scale"] + norm["bias"])
  x = layer(params["head"]["fc1"], x)
  estimates = [base + layer(params["head"][name], x) for name, base in (
      ("decpose", REST), ("decshape", 0.0), ("deccam", jnp.array([0.9, 0.0, 0.0])))]
  return regression.decode(estimates)


@pytest.fixture(scope="module")
def people():
  """(inputs [P, 12], keypoints [P, 49, 3] a tenth of the crop off the prediction, body)."""
  body = smpl.sub_body(smpl.from_arrays(random_body.arrays(60, num_faces=10)), ("spin49",))
  rng = np.random.RandomState(1)
  inputs = rng.normal(size=(PEOPLE, INPUTS)).astype(np.float32)
  pose, betas, cam = jax.vmap(forward, (None, 0))(network(), inputs)
  points = smpl.keypoints(body, smpl.forward(body, betas, pose), "spin49")
  seen = jax.vmap(lambda p, c: eft.project(p, c, "perspective"))(points, cam)
  noisy = np.concatenate([seen + 0.1 * rng.normal(size=seen.shape), rng.uniform(0.5, 1, (PEOPLE, 49, 1))], -1)
  return inputs, noisy.astype(np.float32), body


@pytest.fixture(scope="module")
def fits():
  """fine_tune, compiled once for each of its settings."""
  programs = {}

  def run(inputs, keypoints, body, settings=FAST, chunk=1, function=forward):
    key = settings, chunk, function, len(keypoints)
    if key not in programs:
      programs[key] = jax.jit(lambda params, *rows: eft.fine_tune(function, params, *rows, settings, chunk=chunk))
    return programs[key](network(), inputs, keypoints, body)

  return run


def test_one_evaluation_or_a_fit_from_the_start_returns_the_plain_prediction(people, fits):
  plain = jax.vmap(forward, (None, 0))(network(), people[0])
  for settings in (FAST._replace(max_iter=1), FAST._replace(threshold=np.inf)):
    found = fits(*people, settings)
    for before_and_after, wanted in zip((found.pose, found.betas, found.camera), plain):
      np.testing.assert_array_equal(before_and_after[:, 0], before_and_after[:, 1])
      np.testing.assert_allclose(before_and_after[:, 0], wanted, atol=1e-6)
    np.testing.assert_array_equal(found.iterations, 1)


def test_the_result_is_the_first_evaluation_below_the_threshold(people, fits):
  whole = fits(*people)
  assert np.all(whole.iterations == 8) and np.all(whole.loss[:, 1] < 0.9 * whole.loss[:, 0])
  threshold = float(np.sort(whole.history[:, 4])[2])  # some people get there sooner, some later
  found = fits(*people, FAST._replace(threshold=threshold))
  count = np.array(found.iterations)
  assert len(set(count)) > 1
  for p, n in enumerate(count):
    np.testing.assert_allclose(found.history[p, :n], whole.history[p, :n], rtol=1e-5)
    assert np.all(np.isnan(found.history[p, n:])) and np.all(found.history[p, :n - 1] >= threshold)
    assert n == 8 or found.history[p, n - 1] < threshold
    np.testing.assert_array_equal(found.terms["keypoints2d"][p, 1], found.history[p, n - 1])


def test_a_person_does_not_depend_on_neighbours_order_or_chunks(people, fits):
  inputs, keypoints, body = people
  alone = fits(*people)
  order = np.array([3, 0, 4, 2, 1])
  turned = fits(inputs[order], keypoints[order], body)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), alone, turned)
  together = fits(*people, chunk=2)  # two chunks of two and one of one; sums are in another order
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, together)


def test_the_first_step_is_the_learning_rate_against_the_gradient(people, fits):
  """Of parameters that are the outputs themselves, so that the change can be seen."""
  def outputs(params, x):
    pose, _, cam = forward(network(), x)
    return pose, params["head"]["decshape"]["bias"], cam + params["head"]["deccam"]["bias"]

  settings = eft.Settings(max_iter=2, threshold=0.0)
  found = fits(*people, settings, function=outputs)
  moved = np.asarray(found.betas[:, 1] - found.betas[:, 0])
  np.testing.assert_allclose(np.abs(moved), 5e-6, rtol=1e-2)
  cam = np.asarray(found.camera[:, 1] - found.camera[:, 0])
  np.testing.assert_allclose(np.abs(cam), 5e-6, rtol=0.02)


def test_batch_norm_is_not_trained(people, fits):
  def outputs(params, x):
    pose, betas, cam = forward(params, x)
    return pose, 0 * betas + params["backbone"]["bn1"]["scale"][:10] + params["backbone"]["bn1"]["bias"][:10], cam

  found = fits(*people, function=outputs)
  np.testing.assert_array_equal(found.betas, 1.0)
  assert np.all(found.loss[:, 1] < found.loss[:, 0])


def test_the_published_numbers_of_trained_parameters():
  start = jnp.zeros(144), jnp.zeros(10), jnp.zeros(3)
  net = regressor.ImageRegressor("resnet50", activation="none")
  params = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), start, False))["params"]
  count = {name: sum(int(np.prod(x.shape)) for x in eft.split(params, name)[0].values()) for name in eft.SUBSETS}
  assert count["all"] == 26_924_381 and count["decOnly"] == 160_925 and count["onlyAfterRes"] == 3_469_469
  assert count["onlyRes50LastConv"] == 512 * 2048
  assert count["onlyRes"] + count["onlyAfterRes"] + 7 * 7 * 3 * 64 == count["all"]
  assert count["onlyRes_withconv1"] - count["onlyRes"] == count["all"] - count["Layer1Later"] == 7 * 7 * 3 * 64
  assert count["fc2Later"] == count["decOnly"] + 1024 * 1025
  assert count["Layer4Later"] == count["onlyLayer4"] + count["onlyAfterRes"] < count["Layer3Later"]
  with pytest.raises(ValueError, match="not one of"):
    eft.split(params, "some")
  with pytest.raises(ValueError, match="no parameter"):
    eft.split({"head": params["head"]}, "onlyLayer4")


def test_the_loss_and_its_gradient_are_the_authors():
  recorded = np.load(pathlib.Path(__file__).parent / "goldens" / "eft.npz")
  names, row = list(recorded["names"]), 0

  def total(points, betas, cam, keypoints, joints3d, settings):
    terms = eft.loss_terms(points, betas, regression.from_eft(cam), keypoints, settings, joints3d)
    return sum(getattr(eft.Weights(), n) * t for n, t in terms.items()), terms

  grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True), static_argnums=5)
  for case in eft_inputs.cases().values():
    for hips, three in eft_inputs.KINDS.values():
      settings = eft.Settings(use_hips=hips, projection="weak")
      (loss, terms), found = grads(case["points"], case["betas"], case["camera"], case["keypoints"],
                                   case["joints3d"] if three else None, settings)
      theirs = dict(zip(names, recorded["losses"][row]))
      np.testing.assert_allclose(loss, theirs["loss"], rtol=1e-4)
      np.testing.assert_allclose(terms["keypoints2d"], theirs["loss_keypoints"], rtol=1e-4)
      np.testing.assert_allclose(terms["betas"], theirs["loss_regr_betas"], rtol=1e-4)
      np.testing.assert_allclose(terms.get("keypoints3d", 0.0), theirs["loss_keypoints_3d"], rtol=1e-4)
      found = np.concatenate([np.ravel(g) for g in found])
      np.testing.assert_allclose(found, recorded["grads"][row], atol=1e-4 * np.abs(recorded["grads"][row]).max())
      row += 1
  assert row == len(recorded["losses"])


TERMS = jax.jit(eft.loss_terms, static_argnums=4)


def one_case():
  case = {k: jnp.asarray(v) for k, v in eft_inputs.cases()["all"].items()}
  return case["points"], case["betas"], regression.from_eft(case["camera"]), np.array(case["keypoints"])


@pytest.mark.parametrize("projection", eft.PROJECTIONS)
def test_what_is_left_out_changes_nothing(projection):
  *ours, keypoints = one_case()
  settings = eft.Settings(projection=projection)
  before = TERMS(*ours, keypoints, settings)
  ignored = [*range(25), *map(INDEX, ("right_hip", "left_hip", "pelvis"))]
  keypoints[ignored] = np.nan
  keypoints[ignored[::2]] = 7.0
  assert TERMS(*ours, keypoints, settings) == before


def test_ankles_count_by_the_direction_of_the_shin_alone():
  *ours, keypoints = one_case()
  settings = eft.Settings()
  before = TERMS(*ours, keypoints, settings)
  knee, ankle = INDEX("left_knee"), INDEX("left_ankle")
  shin = keypoints[ankle, :2] - keypoints[knee, :2]
  along, across = keypoints.copy(), keypoints.copy()
  along[ankle, :2] += 0.5 * shin
  across[ankle, :2] += 0.5 * np.array([-shin[1], shin[0]])
  for name, value in TERMS(*ours, along, settings).items():
    np.testing.assert_allclose(value, before[name], rtol=1e-5, atol=2e-7)  # a difference from 1
  changed = {n for n, v in TERMS(*ours, across, settings).items() if v != before[n]}
  assert changed == {"legs"}


def test_pieces_of_the_loss_have_the_known_values():
  weights, (points, _, _, keypoints) = eft.Weights(), one_case()
  camera = jnp.array([0.9, 0.0, 0.0])
  terms = TERMS(points, jnp.ones(10), camera, keypoints, eft.Settings())
  assert terms["camera"] == pytest.approx(1.523e-8, rel=1e-3)
  assert weights.betas * terms["betas"] == pytest.approx(0.06)
  knee, ankle = INDEX("right_knee"), INDEX("right_ankle")
  seen = eft.project(points, camera, "weak")
  bone = seen[ankle] - seen[knee]
  keypoints[:, 2] = 0
  keypoints[[knee, ankle], 2] = 1
  keypoints[ankle, :2] = keypoints[knee, :2] + np.array([-bone[1], bone[0]])
  terms = TERMS(points, jnp.ones(10), camera, keypoints, eft.Settings(projection="weak"))
  assert weights.legs * terms["legs"] == pytest.approx(0.3, rel=1e-5)
  radius = lambda loss: 112 * (98 * loss / 8) ** 0.5  # RMS of eight joints, pixels of a crop
  assert [round(radius(x), 2) for x in (eft.DEMO, eft.DATA_SET, eft.TEST)] == [1.75, 3.92, 5.54]


def test_shins_without_length_have_finite_gradients():
  points, betas, cam, keypoints = one_case()
  points = points.at[INDEX("left_ankle")].set(points[INDEX("left_knee")])
  keypoints[INDEX("right_ankle")] = keypoints[INDEX("right_knee")]
  total = lambda p, b, c: sum(eft.loss_terms(p, b, c, keypoints).values())
  assert all(np.all(np.isfinite(g)) for g in jax.grad(total, (0, 1, 2))(points, betas, cam))


def test_detections_stand_in_the_place_of_annotations():
  numbered = lambda name: np.arange(1.0, len(joints.names(name)) + 1)[:, None] * np.ones(3)
  found = eft.annotated(numbered("openpose25"), "openpose25")[:, 0]
  names = joints.names("spin49")
  filled = {names[i]: joints.names("openpose25")[int(found[i]) - 1] for i in np.flatnonzero(found)}
  assert len(filled) == 17 and all(theirs == f"op_{ours}" for ours, theirs in filled.items())
  assert not any(found[:25]) and "neck" not in filled and "pelvis" not in filled
  found = eft.annotated(numbered("spin49"), "spin49")[:, 0]
  np.testing.assert_array_equal(found, np.where(np.arange(49) < 25, 0, np.arange(1, 50)))
  for name, count in (("coco17", 17), ("openpose18", 17), ("mpii16", 16), ("lsp_annotated14", 14), ("gt24", 24)):
    found = eft.annotated(jnp.tile(numbered(name), (2, 1, 1)), name)
    assert found.shape == (2, 49, 3) and np.count_nonzero(found[0, :, 0]) == count


def test_whose_keypoints_are_missing_keeps_the_prediction(people, fits):
  inputs, keypoints, body = people
  keypoints = keypoints.copy()
  keypoints[1, :, 2] = 0
  keypoints[2] = np.nan
  found = fits(inputs, keypoints, body, FAST._replace(threshold=1e-9))
  np.testing.assert_array_equal(found.iterations, [8, 1, 1, 8, 8])
  assert np.all(np.isfinite(found.loss)) and np.all(np.isfinite(found.pose))
