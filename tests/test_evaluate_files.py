"""The published benchmarks: what the truth scores, what known errors score, and what is said about bad files."""

import json

import cv2
import jax
import jax.numpy as jnp
from jhmr import command, evaluate, evaluate_files, joint_scores, parallel
from jhmr.body import camera, render, smpl
from jhmr.data import ambiguous
from jhmr.errors import InputError
import numpy as np
import pytest
import spin_sets as sets

POSE, SHAPE, CAMERAS = sets.truth()
SHIFT_MM = 122.5


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
  return sets.write_bodies(tmp_path_factory.mktemp("bodies"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
  """(folder, annotation files by benchmark): 3DPW's, and joints of the neutral body, a part of them displaced."""
  root = tmp_path_factory.mktemp("set")
  smpl_labels = {"pose": POSE.astype(np.float64), "shape": SHAPE, "gender": sets.genders()}
  sets.write(root / "3dpw.npz", root, **smpl_labels)
  sets.write(root / "mpi.npz", root, S=annotated())
  return root


def annotated(shift_m=(SHIFT_MM / 1000, 0, 0)):
  """S [N, 24, 4] of the truth, centred; every ankle is moved by shift_m."""
  points = sets.slow_joints("neutral", POSE, SHAPE)
  points = (points - points[:, :1])[:, sets.LSP_ORDER]
  points[:, [0, 5]] += shift_m
  out = np.zeros((sets.NUM, 24, 4))
  out[:, sets.IN_24] = np.concatenate([points, np.ones((sets.NUM, 17, 1))], -1)
  return out


def score(monkeypatch, bodies, root, name, file, *flags, system=None):
  """(rows by method, folder of outputs) of the command run with the system that knows the answers."""
  system = system or sets.knowing_system(POSE, SHAPE, CAMERAS)
  monkeypatch.setattr(evaluate, "load_run", lambda workdir, step, body: sets.loaded(system, body))
  evaluate.main(["evaluate", "--workdir", "x", "--benchmark", name, "--annotations", str(root / file), "--images",
                 str(root), "--body", str(bodies), "--batch_size", "8", "--out", str(root / "out.json"),
                 "--result-file", str(root / "results.npz"), *flags])
  return {row["method"]: row for row in json.loads((root / "out.json").read_text())["rows"]}


def test_3dpw_compares_with_the_body_of_the_persons_gender(monkeypatch, bodies, photographs, capsys):
  rows = score(monkeypatch, bodies, photographs, "3dpw", "3dpw.npz")
  predicted = sets.slow_joints("neutral", POSE, SHAPE)
  target = np.where((sets.genders() == "f")[:, None, None], sets.slow_joints("female", POSE, SHAPE), predicted)
  chosen = sets.LSP_ORDER[:14]
  slow = np.array([sets.slow_errors((p - p[0])[chosen], (t - t[0])[chosen]) for p, t in zip(predicted, target)])
  assert np.all(slow[sets.genders() == "m"] < 1e-9) and np.all(slow[sets.genders() == "f"] > [5, 1])
  row = rows["knowing"]
  assert row["examples"] == sets.NUM
  assert [row[m]["value"] for m in ("mpjpe_mm", "pa_mpjpe_mm")] == pytest.approx(slow.mean(0), abs=2e-3)
  assert row["mpjpe_mm"]["low"] < row["mpjpe_mm"]["value"] < row["mpjpe_mm"]["high"]
  assert rows["mean pose"]["mpjpe_mm"]["value"] > 100
  assert "[95 % interval" in capsys.readouterr().out

  stored = np.load(photographs / "results.npz")
  np.testing.assert_allclose(stored["pred_joints"], predicted, atol=2e-6)  # not centred
  np.testing.assert_allclose(stored["pose"][:, 3:], POSE[:, 3:], atol=1e-5)
  np.testing.assert_allclose(stored["betas"], SHAPE)
  np.testing.assert_allclose(stored["camera"], CAMERAS)


def test_up_3d_compares_vertices_of_both_meshes_without_any_alignment(monkeypatch, bodies, tmp_path):
  # As GraphCMR's preparation writes them: names of Python 2, no OpenPose, no S.
  sets.write(tmp_path / "up.npz", tmp_path, pose=POSE.astype(np.float64), shape=SHAPE, part=np.ones((sets.NUM, 24, 3)))
  arrays = dict(np.load(tmp_path / "up.npz"))
  np.savez(tmp_path / "up.npz", **arrays | {"imgname": arrays["imgname"].astype("S")})
  wrong = SHAPE + 0.5
  system = sets.knowing_system(POSE, wrong, CAMERAS, (0.03, 0, -0.04))
  rows = score(monkeypatch, bodies, tmp_path, "up_3d", "up.npz", system=system)
  body = smpl.from_arrays(sets.body_arrays()["neutral"])
  found, target = (np.asarray(sets._vertices(body, POSE, b)) for b in (wrong, SHAPE))  # pylint: disable=protected-access
  slow = lambda shift: 1000 * np.mean([[np.linalg.norm(f + shift - t) for f, t in zip(*rows)]
                                       for rows in zip(found, target)])
  assert list(rows) == ["mean pose", "knowing", "knowing mesh"]
  assert rows["knowing"]["per_vertex_mm"]["value"] == pytest.approx(slow(0), abs=2e-3)
  assert rows["knowing mesh"]["per_vertex_mm"]["value"] == pytest.approx(slow([0.03, 0, -0.04]), abs=2e-3)
  stored = np.load(tmp_path / "results.npz")
  np.testing.assert_allclose(stored["pred_joints_mesh"], stored["pred_joints"] + [0.03, 0, -0.04], atol=2e-6)


def test_3dhp_scores_known_displacements(monkeypatch, bodies, photographs):
  row = score(monkeypatch, bodies, photographs, "mpi_inf_3dhp", "mpi.npz")["knowing"]
  # Two ankles of 17 joints are off: within 150 mm, and within the thresholds 125, ..., 150 of 0, 5, ..., 150.
  assert row["mpjpe_mm"]["value"] == pytest.approx(2 * SHIFT_MM / 17, abs=1e-3)
  assert row["pck_percent"]["value"] == 100
  assert row["auc_percent"]["value"] == pytest.approx(100 * (12 / 14 * 30 / 31 + 2 / 14 * 6 / 31), abs=0.01)
  points, target = sets.slow_joints("neutral", POSE, SHAPE), annotated()[:, sets.IN_24, :3]
  slow = [sets.slow_errors((p - p[0])[sets.LSP_ORDER], t)[1] for p, t in zip(points, target)]
  assert row["pa_mpjpe_mm"]["value"] == pytest.approx(np.mean(slow), abs=2e-3)
  system = sets.knowing_system(POSE, SHAPE, CAMERAS, (0.1, 0.2, 0.3))  # that far off is as good
  human = score(monkeypatch, bodies, photographs, "h36m_p2", "mpi.npz", system=system)  # 14 joints of the same file
  for method in ("knowing", "knowing mesh"):
    row = human[method]
    assert row["mpjpe_mm"]["value"] == pytest.approx(2 * SHIFT_MM / 14, abs=1e-3) and "pck_percent" not in row


def test_the_best_of_sets_of_hypotheses_counts(monkeypatch, bodies, photographs):
  system = sets.knowing_system(POSE, SHAPE, CAMERAS)

  def choose(state, batch, assets, keys, num):
    right = system.predict(state, batch, assets)
    assert keys.shape == right.betas.shape[:1]
    wrong = right.replace(body_pose=jnp.swapaxes(right.body_pose, -1, -2), betas=-right.betas)
    return jax.tree.map(lambda *x: jnp.concatenate(x, 1), *([wrong] * (num - 1) + [right if num > 1 else wrong]))

  rows = score(monkeypatch, bodies, photographs, "mpi_inf_3dhp", "mpi.npz", "--best-of", "1,3",
               system=system._replace(choose=choose))
  assert list(rows) == ["mean pose", "knowing", "knowing, best of 1", "knowing, best of 3"]
  one, three = rows["knowing, best of 1"], rows["knowing, best of 3"]
  for name in ("mpjpe_mm", "pa_mpjpe_mm", "pck_percent"):
    assert three[name]["value"] == pytest.approx(rows["knowing"][name]["value"], rel=1e-4)
  assert one["mpjpe_mm"]["value"] > 2 * three["mpjpe_mm"]["value"]
  assert one["pck_percent"]["value"] < three["pck_percent"]["value"]
  with pytest.raises(InputError, match="makes sets of hypotheses"):
    score(monkeypatch, bodies, photographs, "mpi_inf_3dhp", "mpi.npz", "--best-of", "4", system=system)
  with pytest.raises(InputError, match="of which this run has none"):
    score(monkeypatch, bodies, photographs, "mpi_inf_3dhp", "mpi.npz", "--prior", "x", system=system)


def test_pck_counts_the_fourteen_joints_strictly_nearer_than_150_mm():
  target = np.zeros((1, 17, 3), np.float32)
  points = np.zeros((1, 17, 3), np.float32)
  points[0, 7:11, 0] = [9.0, 9.0, 0.149, 0.151]  # spine, neck, jaw, head: of these neck and head count
  found = joint_scores.errors(points, target, np.ones((1, 17), np.float32))
  assert float(found["pck_percent"][0]) == pytest.approx(100 * 12 / 14)


def test_a_joint_without_a_label_does_not_count():
  points = np.random.default_rng(0).normal(size=(2, 17, 3)).astype(np.float32)
  of = lambda known: joint_scores.errors(points, target, known)
  target = np.asarray(points[:, sets.LSP_ORDER[:14]] - points[:, :1])
  target[:, 3] += 5
  known = np.ones((2, 14), np.float32)
  known[:, 3] = 0
  assert np.abs(of(known)["mpjpe_mm"]).max() < 1e-2 and np.abs(of(known)["pa_mpjpe_mm"]).max() < 1e-2
  assert of(np.ones((2, 14), np.float32))["mpjpe_mm"][0] > 100


def test_numbers_do_not_depend_on_the_devices_or_the_batches(monkeypatch, bodies, photographs):
  system = sets.knowing_system(POSE, SHAPE + 0.2, CAMERAS)
  many = score(monkeypatch, bodies, photographs, "h36m_p1", "mpi.npz", system=system)
  one = parallel.make("shard_map", jax.devices()[:1])
  monkeypatch.setattr(parallel, "make", lambda kind: one)
  monkeypatch.setattr(evaluate_files, "BATCH", 3)  # which 8 devices do not share, nor 3 people
  some = score(monkeypatch, bodies, photographs, "h36m_p1", "mpi.npz", system=system)
  assert some["knowing"]["mpjpe_mm"] == pytest.approx(many["knowing"]["mpjpe_mm"], rel=1e-5)
  few = score(monkeypatch, bodies, photographs, "h36m_p1", "mpi.npz", "--batch_size", "3", system=system)
  for name in ("mpjpe_mm", "pa_mpjpe_mm"):
    assert few["knowing"][name]["value"] == pytest.approx(many["knowing"][name]["value"], rel=1e-5)


# --- ambiguous crops

def with_keypoints(root):
  """An annotation file with S and 2D keypoints; returns (file, part)."""
  part = np.concatenate([np.random.default_rng(3).uniform(40, 120, (sets.NUM, 24, 2)), np.ones((sets.NUM, 24, 1))], -1)
  return sets.write(root / "s.npz", root, S=annotated(), part=part), part


def test_ambiguous_crops_of_a_file_or_of_the_keypoints_are_shown(monkeypatch, bodies, tmp_path):
  _, part = with_keypoints(tmp_path)
  center, scale = sets.boxes()
  np.savez(tmp_path / "amb.npz", amb_center=center + 1, amb_scale=scale / 2)
  seen, plain = {}, evaluate_files.read_crop
  def recording(path, center, scale, size, crop, kind):
    seen[path[-5]] = [*center, scale]
    return plain(path, center, scale, size, crop, kind)
  monkeypatch.setattr(evaluate_files, "read_crop", recording)
  row = score(monkeypatch, bodies, tmp_path, "h36m_p1", "s.npz", "--ambiguous", str(tmp_path / "amb.npz"))["knowing"]
  np.testing.assert_allclose([seen[str(i)] for i in range(sets.NUM)], np.column_stack([center + 1, scale / 2]))
  assert row["mpjpe_mm"]["value"] == pytest.approx(2 * SHIFT_MM / 14, abs=1e-3)  # the truth is of the whole person
  assert json.loads((tmp_path / "out.json").read_text())["ambiguous"].endswith("amb.npz")

  arrays = {"center": center, "scale": scale, "parts_openpose_s24": part}  # as in 3D Multi-bodies' file of 3DPW
  found = evaluate_files.ambiguous_boxes(arrays, "code", "s.npz")
  for i in range(sets.NUM):
    box = ambiguous.hide(np.concatenate([np.zeros((25, 3)), part[i]]), np.array([*center[i], 200 * scale[i]]),
                         "multibodies_code", 0, i)[1]
    np.testing.assert_allclose([*found["center"][i], 200 * found["scale"][i]], box)
  assert np.any(found["scale"] != scale)


@pytest.mark.parametrize("arrays, said", [
    (dict(amb_center=np.ones((7, 2))), "have amb_center, not amb_center and amb_scale"),
    (dict(amb_center=np.ones((6, 2)), amb_scale=np.ones(6)), "amb_center has shape (6, 2), not (7, 2)"),
    (dict(amb_center=np.full((7, 2), np.nan), amb_scale=np.ones(7)), "not all finite"),
    (dict(amb_center=np.ones((7, 2)), amb_scale=np.zeros(7)), "scale of row 0 is 0"),
    (dict(amb_center=np.array([{}] * 7, object), amb_scale=np.ones(7)), "without pickled objects")])
def test_a_file_of_ambiguous_crops_that_does_not_fit_is_one_line(tmp_path, arrays, said):
  np.savez(tmp_path / "amb.npz", **arrays)
  with pytest.raises(InputError) as error:
    evaluate_files.ambiguous_boxes({"scale": np.ones(7)}, str(tmp_path / "amb.npz"), "s.npz")
  assert said in str(error.value) and "\n" not in str(error.value)


# --- outlines

@pytest.fixture(scope="module")
def outlines(tmp_path_factory, bodies):
  """A folder with outlines drawn straight into the photographs, by another camera and without a crop."""
  root = tmp_path_factory.mktemp("lsp")
  (root / "data").mkdir()
  _, _, _, assets = sets.loaded(None, bodies)
  center, scale = sets.boxes()
  focal = camera.FOCAL_PX * 200 * scale / 224
  transl = np.asarray(camera.crop_to_full(CAMERAS, center, 200 * scale, np.array(sets.SIZE_HW[::-1]), focal))
  faces = assets["surface"].faces

  @jax.jit
  def drawn(body, pose, shape, transl, focal, faces):
    vertices = smpl.forward_axis_angle(body, shape, pose, transl).vertices
    middle = np.tile(np.array(sets.SIZE_HW[::-1]) / 2, (sets.NUM, 1))
    return render.render_batch(vertices[:, None], faces, focal, middle, sets.SIZE_HW, render.Windows(12, 24, 400))

  scene = drawn(assets["body"], POSE, SHAPE, transl, focal, faces)
  for i, parts in enumerate(np.asarray(render.part_labels(scene, assets["surface"].parts6))):
    cv2.imwrite(str(root / f"data/{i}.png"), 255 * (parts > 0).astype(np.uint8))
    cv2.imwrite(str(root / f"data/{i}_parts.png"), parts)
  of = lambda end: np.array([f"data/{i}{end}.png" for i in range(sets.NUM)])
  sets.write(root / "lsp.npz", root, maskname=of(""), partname=of("_parts"))
  return root


def test_an_outline_drawn_in_the_photograph_is_met(monkeypatch, bodies, outlines):
  rows = score(monkeypatch, bodies, outlines, "lsp", "lsp.npz",
               system=sets.knowing_system(POSE, SHAPE, CAMERAS, (0.25, 0, 0)))
  row = {k: v["value"] for k, v in rows["knowing"].items() if isinstance(v, dict)}
  mesh = {k: v["value"] for k, v in rows["knowing mesh"].items() if isinstance(v, dict)}
  assert 0.4 < mesh["fb_f1"] < 0.85 and mesh["part_f1"] < row["part_f1"] - 0.2  # a foot to the side
  # The crop's corners are whole pixels and labels are pasted by the nearest one: edges differ.
  assert row["fb_accuracy_percent"] > 98.5 and row["fb_f1"] > 0.95
  assert row["part_accuracy_percent"] > 98 and row["part_f1"] > 0.86
  assert rows["mean pose"]["fb_f1"]["value"] < 0.9


def test_released_part_labels_take_the_place_of_ours(tmp_path):
  from jhmr import silhouettes
  rng = np.random.default_rng(0)
  labels, colors = rng.integers(1, 7, 30), rng.permutation(1000)[:30]
  texture = (np.stack([colors // 100, colors // 10 % 10, colors % 10], 1) + 0.5) / 100
  cube = np.zeros((100, 92, 17))
  cube[colors // 100, colors // 10 % 10, colors % 10] = labels
  np.save(tmp_path / "vertex_texture.npy", np.broadcast_to(texture[None, :, None, None, None], (1, 30, 2, 2, 2, 3)))
  assert silhouettes.released_parts(tmp_path, 30) is None
  np.save(tmp_path / "cube_parts.npy", cube)
  np.testing.assert_array_equal(silhouettes.released_parts(tmp_path, 30), labels)
  with pytest.raises(InputError, match="no part labels of 31 faces"):
    silhouettes.released_parts(tmp_path, 31)


# --- what is said

def test_missing_files_are_named_and_may_be_left_out(monkeypatch, bodies, tmp_path):
  sets.write(tmp_path / "s.npz", tmp_path, S=annotated())
  for i in (1, 4):
    (tmp_path / f"photos/im{i:04d}.png").unlink()
  with pytest.raises(InputError, match="photos/im0001.png, photos/im0004.png of 7 files"):
    score(monkeypatch, bodies, tmp_path, "h36m_p1", "s.npz")
  row = score(monkeypatch, bodies, tmp_path, "h36m_p1", "s.npz", "--skip-missing")["knowing"]
  assert row["examples"] == 5 and row["mpjpe_mm"]["value"] == pytest.approx(2 * SHIFT_MM / 14, abs=1e-3)
  stored = np.load(tmp_path / "results.npz")["betas"]
  assert np.flatnonzero(np.isnan(stored).all(1)).tolist() == [1, 4]
  np.testing.assert_allclose(stored[[0, 2, 6]], SHAPE[[0, 2, 6]])


@pytest.mark.parametrize("flags, said", [
    (["--benchmark", "4dpw"], "not one of 3dpw"),
    (["--images", "absent"], "absent"),
    (["--annotations", "absent.npz"], "absent.npz"),
    (["--crop", "round"], "not one of exact, spin"),
    (["--benchmark", "h36m_p1"], "lack S"),
    (["--benchmark", "lsp"], "lack maskname, partname"),
    (["--body", "mannequin_small"], "SMPL_MALE.pkl"),
    (["--hypotheses", "4"], "leave out --hypotheses"),
    (["--best-of", "4,4"], "rising numbers"),
    (["--best-of", "4", "--benchmark", "up_3d"], "goes with benchmarks of joints"),
    (["--ambiguous", "absent.npz"], "absent.npz"),
    (["--ambiguous", "paper"], "have no 2D keypoints (openpose, part"),
    (["--benchmark", "up_3d", "--annotations", "absent.npz"], "absent.npz"),
    (["--out", "absent/out.json"], "does not exist"),
])
def test_wrong_input_is_one_line(monkeypatch, bodies, photographs, flags, said):
  with pytest.raises(InputError) as error:
    score(monkeypatch, bodies, photographs, "3dpw", "3dpw.npz", *flags)
  assert said in str(error.value) and "\n" not in str(error.value)


def test_a_person_without_any_label_is_named(monkeypatch, bodies, tmp_path):
  points = annotated()
  points[[2, 5], :, 3] = 0
  sets.write(tmp_path / "s.npz", tmp_path, S=points)
  with pytest.raises(InputError, match="S of row 2, and of 1 more"):
    score(monkeypatch, bodies, tmp_path, "mpi_inf_3dhp", "s.npz")


def test_a_malformed_file_ends_the_command_with_code_2(monkeypatch, tmp_path, capsys):
  (tmp_path / "a.npz").write_text("<html>")
  monkeypatch.setattr("sys.argv", ["evaluate", "--workdir", "x", "--benchmark", "lsp", "--annotations",
                                   str(tmp_path / "a.npz"), "--images", str(tmp_path)])
  with pytest.raises(SystemExit) as ended:
    command.run(evaluate.main)
  said = capsys.readouterr().err
  assert ended.value.code == 2 and said.count("\n") == 1 and said.startswith("error: annotations")


def test_a_damaged_picture_or_label_is_named(monkeypatch, bodies, outlines, tmp_path):
  bad = sets.write_photographs(tmp_path)[2]
  (tmp_path / bad).write_bytes((tmp_path / bad).read_bytes()[:60])
  with pytest.raises(InputError, match="im0002.png.*truncated"):
    evaluate_files.read_crop(str(tmp_path / bad), (50, 50), 0.3, 16)
  cv2.imwrite(str(tmp_path / "small.png"), np.zeros((5, 5), np.uint8))
  arrays = dict(np.load(outlines / "lsp.npz"))
  arrays["partname"] = np.full(sets.NUM, str(tmp_path / "small.png"))
  with pytest.raises(InputError, match="im0000.png.*part labels have"):
    evaluate_files.counter(arrays, np.arange(sets.NUM), str(outlines), str(outlines))(
        {"labels": np.zeros((1, 32, 32), np.uint8), "lost": np.zeros(1)}, 0)


def test_flags_of_a_benchmark_need_one(bodies):
  with pytest.raises(InputError, match="--annotations goes with --benchmark"):
    evaluate.main(["evaluate", "--workdir", str(bodies), "--annotations", "x.npz"])
  with pytest.raises(InputError, match="--crop goes with --benchmark"):
    evaluate.main(["evaluate", "--workdir", str(bodies), "--crop", "exact"])
  with pytest.raises(InputError, match="--chunk goes with --hypotheses"):
    evaluate.main(["evaluate", "--workdir", str(bodies), "--chunk", "8"])


def test_the_command_scores_a_finished_run(finished_run, bodies, photographs, tmp_path):
  evaluate.main(["evaluate", "--workdir", str(finished_run), "--benchmark", "3dpw", "--annotations",
                 str(photographs / "3dpw.npz"), "--images", str(photographs), "--body", str(bodies), "--crop", "spin",
                 "--out", str(tmp_path / "out.json")])
  found = json.loads((tmp_path / "out.json").read_text())
  assert [r["method"] for r in found["rows"]] == ["mean pose", "hmr"] and found["crop"] == "spin"
  assert all(r["examples"] == sets.NUM and r["mpjpe_mm"]["value"] > 0 for r in found["rows"])
