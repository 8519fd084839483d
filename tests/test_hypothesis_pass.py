"""The pass over chunks of hypotheses against NumPy on everything at once; what chunks and devices do not change."""

import functools
import json

import cv2
import jax
import jax.numpy as jnp
from jhmr import evaluate, hypotheses, hypothesis_pass, hypothesis_report, parallel, sampling
from jhmr.body import camera, joints, rotations, smpl
from jhmr.data import spec
from jhmr.errors import InputError
import latents
import numpy as np
import pytest
from scipy import stats

from body import random_body
import similarity

B, NUM, CHUNK = 8, 12, 5


@pytest.fixture(scope="module")
def scene():
  """(latent, assets, batch) of a linear density over poses of a body of noise."""
  body = smpl.from_arrays(random_body.arrays(120, num_faces=10))
  batch = spec.fake_batch(8, B, [n for n, f in spec.FIELDS.items() if f.required] + ["visible"])
  batch["visible"] = (np.random.default_rng(1).random((B, 49)) < 0.6).astype(np.float32)
  batch["keypoints2d"][:, :, 2] = np.random.default_rng(2).random((B, 49)) < 0.8
  pose = rotations.axis_angle_to_matrix(0.2 * np.random.default_rng(3).normal(size=(B, 24, 3)).astype(np.float32))
  batch["global_orient"], batch["body_pose"] = pose[:, :1], pose[:, 1:]
  assets = {"body": body}
  return latents.LATENT, assets | {"hypothesis_body": hypothesis_pass.body_of(assets)}, batch


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def stream(latent, batch, assets, num, chunk, keep_first=True):
  body, encoded = assets["hypothesis_body"], latent.encode((), batch, assets)
  truth = hypothesis_pass.truth_of(latent, (), batch, encoded, assets, body)
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(batch["id"])
  sample = hypothesis_pass.sampler(latent, (), encoded, assets, body)
  return hypothesis_pass.score_hypotheses(sample, truth, keys, num, chunk, keep_first)


def all_at_once(scene, num):
  """What the pass must find, in NumPy from full meshes of every hypothesis."""
  latent, assets, batch = scene
  forward = jax.jit(smpl.forward)
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), 0))(batch["id"])
  z = sampling.noise(keys, jnp.arange(num), latents.DIM)
  encoded = latent.encode((), batch, assets)
  pose, _, log_prob = latent.decode((), z, encoded, assets)
  body, regress = assets["body"], lambda p, name: np.asarray(smpl.keypoints(assets["body"], p, name), np.float64)
  posed = forward(body, encoded.betas[:, None], pose)
  target = forward(body, batch["betas"], np.concatenate([batch["global_orient"], batch["body_pose"]], 1))
  lsp = [joints.names("h36m17").index(n) for n in joints.names("lsp14")]
  centred = lambda x: (x - x[..., joints.index("h36m17", "pelvis"), :][..., None, :])[..., lsp, :]
  predicted, truth = centred(regress(posed, "h36m17")), centred(regress(target, "h36m17"))
  coco = np.array(joints.mapping("spin49", "coco17"))
  seen = batch["visible"][:, coco] * (batch["keypoints2d"][:, coco, 2] > 0)
  keypoints = regress(posed, "coco17")
  projected = np.asarray(camera.project_crop(keypoints.astype(np.float32), encoded.camera[:, None]))
  off = 112 * np.linalg.norm(projected - batch["keypoints2d"][:, None, coco, :2], axis=-1)
  spread = 1000 * np.linalg.norm(keypoints[:, 1:] - keypoints[:, 1:].mean(1, keepdims=True), axis=-1).mean(1)
  labels = np.concatenate([batch["global_orient"], batch["body_pose"]], 1)[:, None]
  log_truth, z_truth = (np.asarray(x, np.float64) for x in latent.log_prob((), labels, encoded, assets))
  return dict(z=z, predicted=predicted, truth=truth, seen=seen, off=off, spread=spread, keypoints=keypoints,
              log_prob=np.asarray(log_prob), log_truth=log_truth[:, 0], z_truth=z_truth[:, 0])


def test_the_pass_equals_numpy_on_everything_at_once(scene):
  num = NUM
  found = jax.device_get(stream(scene[0], scene[2], scene[1], num, CHUNK))
  full = all_at_once(scene, num)
  distance = 1000 * np.linalg.norm(full["predicted"] - full["truth"][:, None], axis=-1)
  aligned = 1000 * similarity.distances(full["predicted"], full["truth"][:, None])
  expected = {"pck_mode": (distance[:, 0] < 150).mean(-1), "pck_best": (distance < 150).mean(-1).max(1),
              "cps_mode": [np.trapezoid([float((a[0] < t).all()) for t in range(1, 301)]) for a in aligned],
              "cps_best": [np.trapezoid([float((a < t).all(-1).any()) for t in range(1, 301)]) for a in aligned]}
  for name, error in (("mpjpe_mm", distance.mean(-1)), ("pa_mpjpe_mm", aligned.mean(-1))):
    expected |= {f"{name}_mode": error[:, 0], f"{name}_min": error.min(1), f"{name}_mean": error.mean(1),
                 f"{name}_worst": error.max(1), f"{name}_median": np.sort(error, 1)[:, (num - 1) // 2],
                 f"{name}_first": np.stack([error[:, :n].min(1) for n in (1, 2, 4, 5, 8, 10, 12)], 1)}
  seen, every = full["seen"], np.ones_like(full["seen"])
  off = (full["off"] * seen[:, None]).sum(-1)
  expected |= {"consistency2d_px": (off[:, 1:].sum(1), (num - 1) * seen.sum(1)),
               "consistency2d_mode_px": (off[:, 0], seen.sum(1))}
  for name, weight in (("diversity_mm", every), ("diversity_visible_mm", seen), ("diversity_hidden_mm", 1 - seen)):
    expected[name] = (full["spread"] * weight).sum(1), weight.sum(1)
  expected |= {"std_mm": 1000 * full["keypoints"][:, 1:].std(1, ddof=1).mean(1),
               "log_likelihood": full["log_truth"], "bits_per_dim": -full["log_truth"] / np.log(2) / latents.DIM,
               "log_prob_gap": full["log_truth"] - full["log_prob"][:, 1:].mean(1),
               "latent_energy": (full["z_truth"] ** 2).mean(1),
               "latent_coverage": (full["z_truth"] ** 2).sum(1)[:, None] < stats.chi2.ppf(
                   hypotheses.QUANTILES, latents.DIM)}
  for name, value in expected.items():
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-3, err_msg=name), found[name], value)
  np.testing.assert_allclose(found["calibration"], hypotheses.calibration(
      full["predicted"][:, 1:].astype(np.float32), full["truth"].astype(np.float32)), atol=1 / 14 + 1e-6)
  quantised = {f"{m}_{kind}" for m in hypothesis_pass.ORACLES for kind in ("medoids", "centroids")}
  assert set(found) == set(expected) | {"calibration"} | quantised
  for m in hypothesis_pass.ORACLES:
    np.testing.assert_array_equal(found[f"{m}_medoids"][:, 0], found[f"{m}_mode"])
    np.testing.assert_allclose(found[f"{m}_centroids"][:, 0], found[f"{m}_mode"], rtol=1e-4)
    assert (found[f"{m}_medoids"] <= found[f"{m}_mode"][:, None]).all()  # the mode is one of them
    assert (found[f"{m}_medoids"] >= found[f"{m}_min"][:, None]).all()


def test_the_size_of_a_chunk_changes_nothing(scene):
  whole, parts = (stream(scene[0], scene[2], scene[1], NUM, c) for c in (64, CHUNK))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), parts, whole)


def test_hypotheses_drawn_later_do_not_change_the_earlier_ones(scene):
  few, many = (stream(scene[0], scene[2], scene[1], n, CHUNK) for n in (4, NUM))
  np.testing.assert_allclose(few["mpjpe_mm_first"], many["mpjpe_mm_first"][:, :3], rtol=1e-4)
  keys = jax.random.split(jax.random.key(0), 2)
  z = sampling.noise(keys, jnp.arange(5), 6)
  np.testing.assert_array_equal(z[:, 0], 0)
  np.testing.assert_array_equal(sampling.noise(keys, jnp.arange(3, 5), 6), z[:, 3:])
  assert len(np.unique(z[:, 1:])) == 2 * 4 * 6


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_of_a_batch_and_as_documented_with_hypotheses(scene):
  latent, assets, batch = scene

  def temporary(images, num):
    several = {k: np.repeat(v[:1], images, 0) for k, v in batch.items()}

    def measure(batch, assets):
      labels = {k: v for k, v in batch.items() if k != "image"}
      return hypothesis_pass._in_groups(lambda b: stream(latent, b, assets, num, 64), labels)

    return jax.jit(measure).lower(several, assets).compile().memory_analysis().temp_size_in_bytes

  few, many, more = temporary(4, 512), temporary(32, 512), temporary(4, 1024)
  assert many < 1.1 * few
  # 684 B are kept, once in chunks and once in a row; sorting and clustering hold a copy or two of parts of it.
  assert 0 < (more - few) / (4 * 512) < 4 * 684


@pytest.fixture(scope="module")
def scored(scene):
  """{mapper: rows} of 13 images, two of which have no pose label, padded to two batches."""
  latent, assets, batch = scene
  rows = {}
  for kind, devices in (("pmap", 8), ("shard_map", 8), ("pmap", 1)):
    mapper = parallel.make(kind, jax.devices()[:devices])
    score = hypothesis_pass.make_scorer(mapper, latents.system(), NUM, CHUNK)

    def batches(assets, mapper=mapper):
      del assets
      for first in (0, B):
        index = np.arange(first, first + B, dtype=np.int32)
        yield mapper.to_devices(batch | {"id": index, "mask": (index < 13).astype(np.float32),
                                         "has_pose": (index % 9 != 2).astype(np.float32)})
    rows[kind, devices] = score((), batches, mapper.replicate(assets))
  return rows


def test_mappers_and_devices_do_not_change_the_rows(scored):
  first, *others = scored.values()
  assert all(len(leaf) == 11 for leaf in jax.tree.leaves(first))
  for rows in others:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), rows, first)


def test_an_image_is_scored_alone(scored, scene):
  together = jax.device_get(stream(scene[0], scene[2], scene[1], NUM, CHUNK))  # eight at once, not one a device
  kept = np.flatnonzero(np.arange(B) % 9 != 2)
  jax.tree.map(lambda x, rows: np.testing.assert_allclose(x[kept], rows[:len(kept)], rtol=1e-3, atol=1e-3), together,
               scored["pmap", 8])


def test_a_summary_is_the_mean_over_images_inside_its_interval(scored):
  rows = next(iter(scored.values()))
  summary = hypothesis_report.summarise(rows)
  json.dumps(summary, allow_nan=False)
  np.testing.assert_allclose(summary["mpjpe_mm_min"]["value"], rows["mpjpe_mm_min"].mean(), rtol=1e-6)
  numerator, denominator = rows["consistency2d_px"]
  np.testing.assert_allclose(summary["consistency2d_px"]["value"], numerator.sum() / denominator.sum(), rtol=1e-6)
  frequencies = rows["calibration"].mean(0)
  np.testing.assert_allclose(summary["calibration_error"]["value"],
                             np.abs(frequencies - hypotheses.QUANTILES).mean(), rtol=1e-6)
  for name in ("mpjpe_mm_mode", "pa_mpjpe_mm_min", "diversity_mm", "bits_per_dim"):
    assert summary[name]["low"] < summary[name]["value"] < summary[name]["high"], name


def test_what_no_image_has_is_a_dash_not_a_number(scored):
  rows = dict(next(iter(scored.values())))
  rows["diversity_hidden_mm"] = (np.zeros(11), np.zeros(11))
  summary = hypothesis_report.summarise(rows, resamples=20)
  assert summary["diversity_hidden_mm"]["value"] is None
  assert hypothesis_report.cell(summary["diversity_hidden_mm"]) == "-"


def test_evaluate_scores_hypotheses_of_a_run_and_draws_them(finished_run, tmp_path, monkeypatch, capsys):
  config, system, state, assets = evaluate.load_run(str(finished_run))
  fake = latents.system(init=system.init, step=system.step, predict=system.predict)
  monkeypatch.setattr(evaluate, "load_run", lambda *_, **__: (config, fake, state, assets))
  out = tmp_path / "rows.json"
  evaluate.main(["evaluate", "--workdir", str(finished_run), "--hypotheses", "12", "--chunk", "5", "--out", str(out)])
  found = json.loads(out.read_text())
  assert [r["method"] for r in found["rows"]] == ["mean pose", "hmr"]  # what is always there still is
  scores = found["hypotheses"]["splits"]["val"]
  assert found["hypotheses"]["n_of_first"] == [1, 2, 4, 5, 8, 10, 12]
  curve = scores["pa_mpjpe_mm_first"]["value"]
  assert curve == sorted(curve, reverse=True) and curve[0] == pytest.approx(scores["pa_mpjpe_mm_mode"]["value"])
  assert 0.5 < scores["latent_energy"]["value"]
  printed = capsys.readouterr().out
  assert "n=10" in printed and "bits_per_dim" in printed
  assert cv2.imread(str(tmp_path / "rows.png")).shape[1] > 2 * 400


def test_a_run_without_a_density_is_one_line_and_writes_nothing(finished_run, tmp_path):
  out = tmp_path / "rows.json"
  with pytest.raises(InputError, match="density"):
    evaluate.main(["evaluate", "--workdir", str(finished_run), "--hypotheses", "8", "--out", str(out)])
  assert not out.exists()
