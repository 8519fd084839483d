"""Scores a run on published benchmarks, from SPIN's annotation files and the photographs they name.

    python -m jhmr.evaluate --workdir RUN --benchmark 3dpw --annotations 3dpw_test.npz --images 3DPW --body SMPL

Which files to get, and what the authors published, is in docs/real_data.md. A mesh that is no posed body has a row of
its own. Source: SPIN and GraphCMR, authors' `eval.py`.
"""

import concurrent.futures
import json
import os
from typing import NamedTuple

import cv2
from jhmr import (best_of, evaluate, files, hypothesis_report, intervals, joint_prior, joint_scores, parallel, report,
                  sampling, silhouettes)
from jhmr.body import joints
from jhmr.data import ambiguous, images, inputs, source, spin_crop, spin_files
from jhmr.errors import InputError
import jax
import jax.numpy as jnp
import numpy as np


class Benchmark(NamedTuple):
  """What is compared on a data set."""
  needs: tuple           # keys of the annotation file
  metrics: tuple         # names of the scores, in the order of the table
  joints: str = ""       # joint set of the errors, where joints are compared
  gendered: bool = False  # the truth is a body of the person's gender, not annotated joints
  outlines: bool = False  # outlines and parts in the photograph are compared; else joints, or else vertices


_ERRORS = ("mpjpe_mm", "pa_mpjpe_mm")
_PCK = ("pck_percent", "auc_percent", "pa_pck_percent", "pa_auc_percent")
BENCHMARKS = {
    "3dpw": Benchmark(("pose", "shape", "gender"), _ERRORS, "h36m_j14", gendered=True),
    "h36m_p1": Benchmark(("S",), _ERRORS, "h36m_j14"), "h36m_p2": Benchmark(("S",), _ERRORS, "h36m_j14"),
    "mpi_inf_3dhp": Benchmark(("S",), _ERRORS + _PCK, "h36m_j17"),
    "up_3d": Benchmark(("pose", "shape"), ("per_vertex_mm",)),
    "lsp": Benchmark(("maskname", "partname"), ("fb_accuracy_percent", "fb_f1", "part_accuracy_percent", "part_f1"),
                     outlines=True)}
PROTOCOLS = {"paper": "multibodies", "code": "multibodies_code"}  # of --ambiguous: names in `data.ambiguous`
CROPS = ("exact", "spin")
BATCH = 64
THREADS = 8


# --- what a run sees

def open_batches(arrays, rows, root, batch_size, image_size, crop, mapper, pool, kind="rgb"):
  """(batch, number of batches): batch(i) has this process's rows of batch i, `mask` 0 on the padding.

  Args:
    arrays: of `spin_files.read`.
    rows: [M] those to show.
    crop: one of CROPS.
    pool: threads that crop.
    kind: what the run is shown, of `inputs.KINDS`.
  """
  local = batch_size // mapper.process_count
  labels = {k: arrays[k].astype(np.float32) for k in ("S", "pose", "shape") if k in arrays}
  if "gender" in arrays:
    labels["female"] = (arrays["gender"] == "female").astype(np.float32)

  def picture(row):
    path = os.path.join(root, arrays["imgname"][row])
    return read_crop(path, arrays["center"][row], arrays["scale"][row], image_size, crop, kind)

  def batch(i):
    index = i * batch_size + mapper.process_index * local + np.arange(local)
    real, chosen = index < len(rows), rows[np.minimum(index, len(rows) - 1)]
    shown = np.zeros((local, image_size, image_size, 3), np.uint8)
    for k, made in enumerate(pool.map(picture, chosen[real])):
      shown[k] = made
    return {"image": shown, "mask": real.astype(np.float32), "row": chosen.astype(np.int32)} | {
        k: v[chosen] for k, v in labels.items()}

  return batch, -(-len(rows) // batch_size)


def read_crop(path, center_px, scale, size, crop="exact", kind="rgb"):
  """The crop [size, size, 3] uint8 of the box of a photograph or label image. Raises InputError when it cannot be made.

  Args:
    scale: side of the box over 200 pixels.
    crop: "exact", `images.crop`; "spin", the bytes of the authors' code.
    kind: of `inputs.KINDS`; labels are cropped by the nearest pixel.
  """
  if kind != "rgb":
    return inputs.crop(inputs.read(path, kind), kind, center_px, 200 * scale, size)
  try:
    with open(path, "rb") as f:
      data = f.read()
    if crop == "spin":
      return spin_crop.crop(images.decode(data)[0][..., ::-1], center_px, scale, size)
    out = np.empty((size, size, 3), np.uint8)
    images.warp_encoded(data, images.crop_affine(center_px, 200 * scale, size), size, out)
    return out
  except (OSError, ValueError) as error:
    raise InputError(f"image {path!r} cannot be used: {' '.join(str(error).split())}") from error


def read_labels(root, name):
  """One channel [H, W] of a label image. Raises InputError when it cannot be read."""
  image = cv2.imread(os.path.join(root, name), cv2.IMREAD_GRAYSCALE)
  if image is None:
    raise InputError(f"label image {os.path.join(root, name)!r} cannot be read: give a PNG")
  return image


# --- scoring

def make_program(mapper, system, benchmark, size=None, counts=()):
  """program(state, batch, assets) -> ({method: {name: [B, ...]}}, result rows, mask [B]); one for all batches.

  Args:
    size: Windows of the renderer, where outlines are compared.
    counts: n of sets of hypotheses whose best one is scored too, where joints are compared.
  """
  methods = {"mean pose": evaluate.predict_mean, "run": system.predict}

  def compare(prediction, batch, assets, mesh=False):
    if benchmark.outlines:
      return dict(zip(("labels", "lost"), silhouettes.draw(prediction, assets, size, mesh)))
    if not benchmark.joints:
      return joint_scores.vertex_errors(prediction, batch, assets, mesh)
    points = (joint_scores.joints_of_mesh(prediction, assets) if mesh
              else joint_scores.results(prediction, assets)["pred_joints"])
    found = joint_scores.errors(points, *truth(batch, assets))
    return {name: found[name] for name in benchmark.metrics}

  def truth(batch, assets):
    return (joint_scores.of_bodies(batch, assets) if benchmark.gendered
            else joint_scores.of_annotations(batch["S"], benchmark.joints))

  def best(n, state, seen, batch, assets):
    keys = sampling.keys_of_ids(0, batch["row"])
    found = joint_scores.of_set(system.choose(state, seen, assets, keys, n), *truth(batch, assets), assets)
    return {name: found[name] for name in benchmark.metrics}

  def measure(state, batch, assets):
    seen = {"image": images.normalize(batch["image"])}
    predictions = {name: predict(state, seen, assets) for name, predict in methods.items()}
    values = {name: compare(p, batch, assets) for name, p in predictions.items()}
    if predictions["run"].vertices is not None:
      values["run mesh"] = compare(predictions["run"], batch, assets, mesh=True)
    values |= {f"best of {n}": best(n, state, seen, batch, assets) for n in counts}
    return values, joint_scores.results(predictions["run"], assets), batch["mask"]

  return mapper.rows(measure)


def gather(program, batches, state, assets, mapper, keep=lambda values, first: values):
  """Runs a program over all batches, padding left out.

  Args:
    batches: of `open_batches`.
    keep: (values {name: [M, ...]} of a method, number of the first person among them) -> what is kept of them.
  Returns:
    {method: {name: [N, ...]}}, {name: [N, ...]} of the result file.
  """
  batch, num = batches
  kept, results, first = {}, [], 0
  for i, one in enumerate(source.ahead(batch, 0, num)):
    values, rows, mask = mapper.join(program(state, mapper.to_devices(one), assets))
    values, rows = jax.tree.map(lambda x, real=mask > 0: x[real], (values, rows))
    for method, found in values.items():
      kept.setdefault(method, []).append(keep(found, first))
    results.append(rows)
    first += len(rows["pose"])
    if i % 50 == 49:
      report.say(f"{first:,} people")
  joined = lambda parts: {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
  return {method: joined(parts) for method, parts in kept.items()}, joined(results)


def counter(arrays, rows, root, masks):
  """`keep` of `gather` that counts pixels against the annotated outlines and parts."""

  def count(row, labels):
    name = arrays["imgname"][row]
    with open(os.path.join(root, name), "rb") as f:
      size_hw = images.decode(f.read())[0].shape[:2]
    mask, parts = (read_labels(masks, arrays[key][row]) for key in ("maskname", "partname"))
    predicted = spin_crop.uncrop(labels, arrays["center"][row], arrays["scale"][row], size_hw)
    try:
      return silhouettes.count(predicted, mask, parts)
    except ValueError as error:
      raise InputError(f"image {name!r} cannot be scored: {error}") from error

  def keep(values, first):
    people = [count(rows[first + k], labels) for k, labels in enumerate(values["labels"])]
    return {k: np.stack([p[k] for p in people]) for k in people[0]} | {"lost": values["lost"]}

  return keep


def summarise(values, benchmark, seed=0):
  """{name: {"value", "low", "high"}} of a method's rows, intervals over people; None where it predicts no numbers."""
  lost = int(np.sum(values.pop("lost", 0)))
  if lost:
    report.warn(f"{lost} faces of bodies much larger than their crops were not drawn")
  samples = (silhouettes if benchmark.outlines else intervals).replicates(values, seed=seed)
  return {name: intervals.as_json(samples[name]) for name in benchmark.metrics}


def write_results(path, rows, found, size):
  """SPIN's result file, a row for each of the annotation file's; those that were left out are NaN."""
  whole = {name: np.full((size, *value.shape[1:]), np.nan, np.float32) for name, value in found.items()}
  for name, value in found.items():
    whole[name][rows] = value
  with files.whole(path, "wb") as f:
    np.savez(f, **whole)


# --- the command

def check(args):
  """Raises InputError for what can be seen to be wrong before anything is loaded."""
  if args.benchmark not in BENCHMARKS:
    raise InputError(f"--benchmark {args.benchmark!r} is not one of {', '.join(BENCHMARKS)}")
  if args.crop not in CROPS:
    raise InputError(f"--crop {args.crop!r} is not one of {', '.join(CROPS)}")
  if not (args.annotations and args.images):
    raise InputError("--benchmark needs --annotations FILE.npz and --images FOLDER: docs/real_data.md says where from")
  if args.hypotheses or args.splits:
    raise InputError("--benchmark scores one hypothesis, or sets of --best-of: leave out --hypotheses and --splits")
  if args.best_of and not BENCHMARKS[args.benchmark].joints:
    raise InputError(f"--best-of goes with benchmarks of joints, which {args.benchmark} is not: leave it out")
  for flag, path in (("--out", args.out), ("--result-file", args.result_file)):
    if path and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
      raise InputError(f"the folder of {flag} {path!r} does not exist: make it first")


def find_rows(arrays, benchmark, args):
  """Which rows of the file are scored; see `spin_files.find`."""
  rows = spin_files.find(args.images, [arrays["imgname"]], args.skip_missing)
  if benchmark.outlines:
    labelled = spin_files.find(args.masks or args.images, [arrays["maskname"], arrays["partname"]], args.skip_missing)
    rows = np.intersect1d(rows, labelled)
  if "S" in benchmark.needs:
    names = list(joints.mapping("gt24", benchmark.joints))
    empty = rows[~np.any(arrays["S"][rows][:, names, 3] > 0, axis=1)]
    if len(empty):
      raise InputError(f"annotations {args.annotations!r}: S of row {empty[0]}, and of {len(empty) - 1} more, has no "
                       "joint that counts: leave these people out of the file")
  if not len(rows):
    raise InputError(f"no row of {args.annotations!r} has all of its files: give other --images or --masks")
  return rows


def ambiguous_boxes(arrays, what, annotations):
  """Annotations with the boxes of ambiguous crops; labels stay those of the whole person.

  Args:
    what: an .npz for `spin_files.read_crops`, or one of PROTOCOLS; then the row alone decides what is hidden.
  Raises:
    InputError: when the file does not fit, or the annotations have no keypoint to make crops from.
  Source: 3D Multi-bodies, appendix B; authors' `base_dataset.py`, where the crops of evaluation are of a file.
  """
  if what not in PROTOCOLS:
    center, scale = spin_files.read_crops(what, len(arrays["scale"]))
    return arrays | {"center": center, "scale": scale}
  points = spin_files.keypoints(arrays)
  if not np.any(points[..., 2] > 0):
    raise InputError(f"annotations {annotations!r} have no 2D keypoints ({', '.join(spin_files.KEYPOINTS)}): give "
                     "--ambiguous an .npz with amb_center and amb_scale")
  boxes = np.concatenate([arrays["center"], 200 * arrays["scale"][:, None]], 1)
  made = np.stack([ambiguous.hide(p, box, PROTOCOLS[what], 0, i)[1] for i, (p, box) in enumerate(zip(points, boxes))])
  return arrays | {"center": made[:, :2], "scale": made[:, 2] / 200}


def load_assets(config, assets, benchmark):
  """(assets, Windows or None) of a run, with what the benchmark compares with."""
  assets = assets | joint_scores.bodies(assets, config.body, benchmark.gendered)
  if not benchmark.outlines:
    return assets, None
  surface = assets["surface"]
  folder = config.body if os.path.isdir(config.body) else os.path.dirname(config.body)
  parts = silhouettes.released_parts(folder, len(surface.faces))
  report.say("part labels: " + ("the body's own" if parts is None else f"those of cube_parts.npy in {folder}"))
  if parts is not None:
    surface = surface.replace(parts6=jnp.asarray(parts))
  return assets | {"surface": surface}, silhouettes.windows(assets["body"], surface.faces)


def score(args):
  """Runs the command of parsed arguments; see `evaluate.main`."""
  args.crop = args.crop or CROPS[0]
  check(args)
  benchmark = BENCHMARKS[args.benchmark]
  arrays = spin_files.read(args.annotations, benchmark.needs, spin_files.KEYPOINTS if args.ambiguous else ())
  if args.ambiguous:
    arrays = ambiguous_boxes(arrays, args.ambiguous, args.annotations)
  counts = best_of.parse(args.best_of) if args.best_of else ()
  config, system, state, assets = evaluate.load_run(args.workdir, args.step, args.body)
  assets = assets | joint_prior.given(args.prior, system)
  if counts:
    best_of.check(system)
  kind = inputs.kind_of(config)
  if kind != "rgb" and args.crop != CROPS[0]:
    raise InputError(f"--crop {args.crop} is of photographs, but the run sees {kind}: leave it out")
  arrays["imgname"] = np.array([inputs.name_of(name, kind) for name in arrays["imgname"]])
  rows, total = find_rows(arrays, benchmark, args), len(arrays["imgname"])
  if len(rows) < total:
    report.warn(f"{total - len(rows):,} of {total:,} people are left out, their files are missing")
  assets, size = load_assets(config, assets, benchmark)
  mapper = parallel.make(args.parallel)
  program = make_program(mapper, system, benchmark, size, counts)
  batch_size = -(-BATCH // mapper.num_devices) * mapper.num_devices
  keep = {"keep": counter(arrays, rows, args.images, args.masks or args.images)} if benchmark.outlines else {}
  with concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="jhmr-crop") as pool:
    batches = open_batches(arrays, rows, args.images, args.batch_size or batch_size, config.image_size, args.crop,
                           mapper, pool, kind)
    values, results = gather(program, batches, mapper.replicate(state), mapper.replicate(assets), mapper, **keep)
  names = {"mean pose": "mean pose", "run": config.system, "run mesh": f"{config.system} mesh"}
  names |= {f"best of {n}": f"{config.system}, best of {n}" for n in counts}
  table = [{"method": name, "examples": len(rows)} | summarise(values[method], benchmark)
           for method, name in names.items() if method in values]
  write(args, table, benchmark, {"step": int(state.step), "left_out": total - len(rows)})
  if args.result_file:
    write_results(args.result_file, rows, results, total)


def write(args, table, benchmark, about):
  """Prints the table, and keeps it with what it is of in --out."""
  crops = args.crop + (f", ambiguous ({args.ambiguous})" if args.ambiguous else "")
  report.say(f"{args.benchmark}, {table[0]['examples']:,} people, crops {crops}; [95 % interval over people]")
  report.table([row | {m: hypothesis_report.cell(row[m]) for m in benchmark.metrics} for row in table],
               ("method", *benchmark.metrics))
  if args.out:
    with files.whole(args.out) as f:
      json.dump({"benchmark": args.benchmark, "annotations": args.annotations, "crop": args.crop,
                 "ambiguous": args.ambiguous} | about | {
          "interval": intervals.LEVEL, "resamples": intervals.RESAMPLES, "rows": table}, f, indent=2)
