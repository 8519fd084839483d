"""The embedded body: a closed symmetric surface with sound joints, weights, shapes and correctives."""

import jax
import jax.numpy as jnp
from jhmr import files
from jhmr.body import joints, mannequin, mesh, rotations, smpl
import numpy as np
import pytest

trimesh = pytest.importorskip("trimesh")
SIZES = ("full", "small")
REGRESSORS = ("J_regressor", "regressor_extra9", "regressor_h36m17", "regressor_j19")


@pytest.fixture(scope="module", params=SIZES)
def body(request):
  return mannequin.arrays(request.param)


@pytest.fixture(scope="module")
def full():
  return mannequin.arrays("full")


@pytest.fixture(scope="module")
def pose_full(full):
  """(turns, betas, correctives wanted) -> vertices [N, 3], joints [24, 3]."""
  forward = jax.jit(smpl.forward)
  with_correctives = smpl.from_arrays(full)
  without = smpl.from_arrays(full | {"posedirs": np.zeros_like(full["posedirs"])})

  def pose(turns, betas=(), correct=True):
    turned = np.zeros((24, 3), np.float32)
    for name, axis_angle_deg in turns.items():
      turned[joints.SMPL24.index(name)] = np.radians(axis_angle_deg)
    betas = np.pad(np.asarray(betas, np.float32), (0, 10 - len(betas)))
    posed = forward(with_correctives if correct else without, jnp.asarray(betas),
                    rotations.axis_angle_to_matrix(jnp.asarray(turned)))
    return np.asarray(posed.vertices, np.float64), np.asarray(posed.joints, np.float64)
  return pose


def solid(arrays, vertices=None):
  return trimesh.Trimesh(arrays["v_template"] if vertices is None else vertices, arrays["f"], process=False)


def shaped(arrays, index, amount):
  vertices = arrays["v_template"] + amount * arrays["shapedirs"][:, :, index]
  return vertices.astype(np.float64), (arrays["J_regressor"] @ vertices).astype(np.float64)


# The surface.

def test_surface_is_closed_of_genus_zero_and_faces_outward(body):
  m = solid(body)
  assert m.is_watertight and m.is_winding_consistent and m.euler_number == 2
  assert 0.055 < m.volume < 0.070
  directed = set(map(tuple, body["f"][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist()))
  assert len(directed) == 3 * len(body["f"]) and all((b, a) in directed for a, b in directed)


def test_full_size_has_the_counts_and_stature_of_the_standard_template(full):
  assert full["v_template"].shape == (6890, 3) and full["f"].shape == (13776, 3)
  low, high = full["v_template"].min(0), full["v_template"].max(0)
  assert 1.68 < high[1] - low[1] < 1.73 and abs(low[1] + 1.155) < 0.01


def test_triangles_are_even(body):
  m = solid(body)
  longest, median = m.edges_unique_length.max(), np.median(m.edges_unique_length)
  assert longest < 2.1 * median
  assert np.degrees(m.face_angles).min() > 18 and np.degrees(m.face_angles).max() < 130
  if len(m.vertices) == 6890:
    assert longest < 0.037 and 0.015 < median < 0.020 and m.area_faces.min() > 1e-5


def test_surface_is_its_own_mirror_image(body):
  twin = body["vert_sym_idxs"]
  np.testing.assert_array_equal(body["v_template"][twin], body["v_template"] * np.float32([-1, 1, 1]))
  faces = {tuple(sorted(f)) for f in body["f"].tolist()}
  assert {tuple(sorted(f)) for f in twin[body["f"]].tolist()} == faces
  other = list(joints.flip("smpl24"))
  np.testing.assert_allclose(body["weights"][twin][:, other], body["weights"], atol=2e-5)
  np.testing.assert_allclose(body["J_regressor"][:, twin][other], body["J_regressor"], atol=1e-6)
  np.testing.assert_allclose(body["shapedirs"][twin] * np.float32([-1, 1, 1])[:, None], body["shapedirs"], atol=1e-6)


# Joints and landmarks.

def test_regressor_rows_are_sparse_averages(body):
  for name, rows in zip(REGRESSORS, (24, 9, 17, 19)):
    weights = body[name]
    assert weights.shape == (rows, len(body["v_template"])) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert (weights > 0).sum(1).max() < 160


def test_joints_lie_inside_the_surface_for_every_shape(body):
  rng = np.random.default_rng(0)
  for betas in np.concatenate([np.zeros((1, 10)), rng.uniform(-2, 2, (3, 10))]):
    vertices = body["v_template"] + body["shapedirs"] @ betas
    inside = solid(body, vertices).contains(body["J_regressor"] @ vertices)
    assert inside.all(), (betas, [n for n, ok in zip(joints.SMPL24, inside) if not ok])


def test_landmarks_lie_where_their_names_say(body):
  ids = dict(zip(joints.VERTEX21, body["vertex_joint_ids"]))
  points = {name: body["v_template"][i] for name, i in ids.items()}
  if len(body["v_template"]) == 6890:
    assert ids == {name: joints.VERTEX_IDS[name] for name in joints.VERTEX21}
    assert body["regressor_extra9"][3].argmax() == joints.VERTEX_IDS["head_top"]
  assert abs(points["nose"][0]) < 1e-6 and points["nose"][2] > points["left_eye"][2] > points["left_ear"][2]
  assert points["left_eye"][0] > 0 > points["right_eye"][0] and points["left_ear"][0] > points["left_eye"][0]
  assert points["left_middle"][0] > body["v_template"][:, 0].max() - 0.01
  assert points["left_thumb"][2] > points["left_index"][2] > points["left_ring"][2] > points["left_pinky"][2]
  assert points["left_heel"][2] < 0 < points["left_small_toe"][2] < points["left_big_toe"][2]
  assert len(set(body["vertex_joint_ids"].tolist())) == 21
  top = body["regressor_extra9"][3]
  assert top.max() == 1 and body["v_template"][top.argmax(), 1] > body["v_template"][:, 1].max() - 0.01


def test_evaluation_joints_agree_with_the_chain(body):
  at = lambda key, name, names: (body[key] @ body["v_template"])[names.index(name)]
  chain = body["J_regressor"] @ body["v_template"]
  for name in ("left_knee", "right_ankle", "left_elbow", "right_wrist", "left_shoulder"):
    for key, names in (("regressor_h36m17", joints.H36M17), ("regressor_j19", joints.names("j19"))):
      assert np.linalg.norm(at(key, name, names) - chain[joints.SMPL24.index(name)]) < 0.015
  np.testing.assert_array_equal(body["regressor_extra9"][4], body["regressor_h36m17"][0])  # pelvis
  np.testing.assert_array_equal(body["regressor_extra9"][7], body["regressor_h36m17"][9])  # jaw


# Skinning.

def test_weights_are_at_most_four_and_sum_to_one(body):
  weights = body["weights"]
  assert weights.min() >= 0 and (weights > 0).sum(1).max() <= 4
  np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


def test_limbs_follow_only_their_own_bones(body):
  x, y, _ = body["v_template"].T
  of = lambda *names: body["weights"][:, [joints.SMPL24.index(n) for n in names]].sum(1)
  right_leg = of("right_hip", "right_knee", "right_ankle", "right_foot")
  assert right_leg[(x > 0.02) & (y < -0.46)].max() == 0
  assert of("left_shoulder", "left_elbow", "left_wrist", "left_hand")[(x < 0.10) | (y < 0)].max() == 0
  assert of("neck", "head")[(y < 0.18) | (np.abs(x) > 0.2)].max() == 0
  assert of("head")[y > 0.45].min() > 0.999


def test_weights_change_gradually(full):
  change = np.abs(np.diff(full["weights"][solid(full).edges_unique], axis=1)).max((1, 2))
  assert change.max() < 0.56 and np.quantile(change, 0.99) < 0.35


def test_correctives_are_there_and_local(body):
  features = body["posedirs"].reshape(23, 9, -1, 3)
  for j, size in enumerate(np.abs(features).max((1, 2, 3)), 1):
    assert size > 1e-3, joints.SMPL24[j]
  knee = np.abs(features[joints.SMPL24.index("left_knee") - 1]).max((0, 2))
  rest = (body["J_regressor"] @ body["v_template"])[joints.SMPL24.index("left_knee")]
  assert np.linalg.norm(body["v_template"][knee > 1e-6] - rest, axis=1).max() < 0.20


BENDS = {"elbow": {"left_elbow": (0, -120, 0), "right_elbow": (0, 120, 0)},
         "knee": {"left_knee": (120, 0, 0), "right_knee": (120, 0, 0)},
         "shoulder twist": {"left_shoulder": (100, 0, 0), "right_shoulder": (-100, 0, 0)},
         "raised arms": {"left_shoulder": (0, 0, 80), "right_shoulder": (0, 0, -80)},
         "hip": {"left_hip": (-100, 0, 0), "right_hip": (-100, 0, 0)}}


@pytest.mark.parametrize("name", BENDS)
def test_correctives_keep_volume(full, pose_full, name):
  """In litres of 61; raised arms, where linear blending happens to be right, may only not get bad."""
  rest = solid(full).volume
  kept, blended = (1000 * (solid(full, pose_full(BENDS[name], correct=c)[0]).volume - rest) for c in (True, False))
  assert abs(kept) < 0.7
  assert name == "raised arms" or abs(kept) < 0.8 * abs(blended)
  assert name not in ("elbow", "knee", "hip") or abs(kept) < 0.3 * abs(blended)


def test_bent_joints_do_not_tear(full, pose_full):
  edges = solid(full).edges_unique
  length = lambda v: np.linalg.norm(np.diff(v[edges], axis=1)[:, 0], axis=1)
  for turns in BENDS.values():
    assert length(pose_full(turns)[0]).max() < 0.10


# Shape.

def extent(vertices, axis, where=slice(None)):
  return np.ptp(vertices[where, axis])


MEANING = {  # what each direction changes, from (arrays, vertices, joints), and by how much per unit
    "height": (lambda a, v, j: extent(v, 1), 0.065, 0.015),
    "weight": (lambda a, v, j: 985 * trimesh.Trimesh(v, a["f"], process=False).volume, 9, 3),
    "leg length": (lambda a, v, j: j[1, 1] - j[7, 1], 0.025, 0.004),
    "shoulder width": (lambda a, v, j: j[16, 0] - j[17, 0], 0.016, 0.004),
    "hip width": (lambda a, v, j: extent(v, 0, np.abs(a["v_template"][:, 1] + 0.29) < 0.03), 0.018, 0.005),
    "arm length": (lambda a, v, j: j[20, 0] - j[16, 0], 0.020, 0.004),
    "belly": (lambda a, v, j: v[np.abs(a["v_template"][:, 1] + 0.10) < 0.03, 2].max(), 0.025, 0.006),
    "chest": (lambda a, v, j: extent(v, 2, (np.abs(a["v_template"][:, 1] - 0.085) < 0.03)
                                     & (np.abs(a["v_template"][:, 0]) < 0.12)), 0.014, 0.005),
    "head size": (lambda a, v, j: extent(v, 2, a["v_template"][:, 1] > 0.38), 0.006, 0.002),
    "limb thickness": (lambda a, v, j: extent(v, 2, (np.abs(a["v_template"][:, 1] + 0.55) < 0.04)
                                              & (a["v_template"][:, 0] > 0)), 0.007, 0.002)}


def test_shape_directions_do_what_their_names_say(full):
  from jhmr.body import mannequin_rig
  assert tuple(MEANING) == mannequin_rig.BETAS
  for index, (name, (measure, step, tolerance)) in enumerate(MEANING.items()):
    more, less = (measure(full, *shaped(full, index, s)) for s in (1.0, -1.0))
    assert abs((more - less) / 2 - step) < tolerance, (name, (more - less) / 2)


def test_shapes_within_three_units_stay_solid(body):
  for index in range(10):
    for amount in (-3, 3):
      m = solid(body, shaped(body, index, amount)[0])
      assert 0.02 < m.volume < 0.12 and (solid(body).face_normals * m.face_normals).sum(1).min() > -0.2


def test_shape_directions_are_independent(full):
  flat = full["shapedirs"].reshape(-1, 10).astype(np.float64)
  assert np.linalg.cond(flat / np.linalg.norm(flat, axis=0)) < 20


# Labels and the making of it.

def test_parts_are_consistent(body):
  np.testing.assert_array_equal(body["parts6"], mesh.PARTS6[body["parts24"] - 1])
  assert set(body["parts24"].tolist()) == set(range(1, 25)) and set(body["parts6"].tolist()) == set(range(1, 7))
  counts = np.bincount(body["parts6"])
  assert counts[1] == counts[2] and counts[4] == counts[5]  # left and right


def test_sizes_have_the_same_keys_and_types(full):
  small = mannequin.arrays("small")
  assert list(small) == list(full)
  assert all(small[k].dtype == full[k].dtype and small[k].ndim == full[k].ndim for k in full)
  assert 1000 <= len(small["v_template"]) <= 1730


def test_making_it_is_deterministic_and_needs_no_cache(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("in the way")
  monkeypatch.setenv("JHMR_CACHE", str(tmp_path / "file"))
  first = mannequin.arrays("small")
  monkeypatch.setenv("JHMR_CACHE", str(tmp_path))
  path = files.cache_path("mannequin_small", mannequin.sources())
  path.write_bytes(b"PK\x03\x04 cut short")  # a damaged cache is made again
  second, third = mannequin.arrays("small"), mannequin.arrays("small")
  assert path.stat().st_size > 1e6
  for key in first:
    assert first[key].tobytes() == second[key].tobytes() == third[key].tobytes(), key


def test_unknown_size_is_refused():
  with pytest.raises(ValueError, match="huge"):
    mannequin.arrays("huge")


@pytest.mark.parametrize("suffix", (".pkl", ".npz"))
def test_body_file_round_trip(tmp_path, suffix):
  from jhmr.body import body_file
  small = mannequin.arrays("small")
  body_file.write_body_file(tmp_path / f"body{suffix}", small)
  back = body_file.read_body_file(tmp_path / f"body{suffix}")
  for key in ("v_template", "posedirs", "J_regressor", "weights", "f", "parts24", "up_ids", "vertex_joint_ids"):
    np.testing.assert_allclose(back[key], small[key], atol=1e-7)
