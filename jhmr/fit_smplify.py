"""SMPLify's methods as programs for batches of people: where they start, what they are fitted by, and what comes out.

A `Solver` is what the command `fit` needs of any method that works on keypoints in batches; another method is another
function that makes one.
"""

from typing import Any, Callable, NamedTuple

from jhmr import evaluate, fit_journal, fit_scores, metrics, pose_prior
from jhmr.body import camera, landmarks, rotations, smpl
from jhmr.data import images as images_lib
from jhmr.fitting import objectives, priors, smplify
import jax
import jax.numpy as jnp
import numpy as np

METHODS = tuple(smplify.METHODS)
COLD_STEPS = 500    # of each stage of Adam from the mean pose: SPIN's 100 suit the start that a network gives
VALID_PX2 = 100.0   # mean over a person's joints of c^2 rho, in a box of 224 pixels. Source: SPIN's valid fits
VALID_BETA = 3.0    # largest of the betas. Source: SPIN and EFT, who reject what is beyond
CROPS = 64          # that a network looks at together: frames of one person may be thousands


class Solver(NamedTuple):
  """A way of fitting batches of people."""
  run: Callable         # (inputs, people) -> {name: [P, ...]}; people: scaled arrays of fit_cameras.arrays_of, and
                        # "person" [P], "crop" [P, S, S, 3]; out: pose, pose_axis_angle, betas, transl_m, objective
                        # and pixels [P, K, 2], scaled too
  inputs: Any           # pytree of big arrays, handed to run
  body: Any             # Smpl of the whole mesh, for outputs
  faces: np.ndarray     # [F, 3]
  settings: dict        # what decides the results but for the people: JSON, and hashes of what was loaded
  crop_px: int = 0      # side of the crops that it looks at; 0: none
  batch: int = 512      # people at a time
  as_crops: bool = True  # its weights are for boxes of 224 pixels, whatever the picture's size


def solver(args, set_name, known_cameras):
  """The Solver of one of METHODS.

  Args:
    args: of `fit.parse`: method, body, gmm, vae, num_steps, use_hips, free_camera, workdir, step,
      shared_shape.
    set_name: joint set of the keypoints.
    known_cameras: translations are given, and stay.
  """
  method = _method(args)
  loaded = evaluate.load_run(args.workdir, args.step, args.body) if args.workdir else None
  arrays = None if loaded else smpl.load_arrays(args.body or "mannequin")
  body = loaded[3]["body"] if loaded else smpl.from_arrays(arrays)
  faces = np.asarray(loaded[3]["surface"].faces if loaded else arrays["f"])
  inputs = {"body": landmarks.rigid_body(body, (set_name,)), "vae": _vae(args.vae),
            "gmm": priors.read_gmm(args.gmm) if args.gmm else priors.default_gmm()}
  if loaded:
    inputs |= {"state": loaded[2], "assets": loaded[3]}
  steps = args.num_steps or (COLD_STEPS if method.optimizer == "adam" and not loaded else 0)
  run = program(method, set_name, steps, args.shared_shape, known_cameras, loaded[1] if loaded else None)
  inputs_key = {name: fit_journal.digest(inputs[name]) for name in ("body", "gmm", "vae")}
  settings = {"method": repr(method), "as_crops": args.method == "spin", "steps": steps, "joint_set": set_name,
              "known_cameras": known_cameras, "shared_shape": args.shared_shape, **inputs_key,
              "vae_net": repr(inputs["vae"].net) if args.vae else "",
              "run": fit_journal.run_digest(loaded[0], *loaded[2:]) if loaded else ""}
  return Solver(run, inputs, body, faces, settings,
                crop_px=loaded[0].image_size if loaded else 0, batch=64 if loaded else 512,
                as_crops=args.method == "spin")


class Options(NamedTuple):
  """What decides the fits of a split."""
  method: str = "spin"
  joint_set: str = "openpose25"
  use_hips: bool = False
  num_steps: int = 0         # of every stage; 0: the method's own
  gmm: str | None = None     # files, as for `solver`
  vae: str | None = None
  free_camera: bool = False


def keypoint_errors(config, system, state, assets, name, noise_px, options):
  """{one of fit_scores.METHODS: {metric: [N]}} of the people of a split: what a run sees, and its fit to keypoints.

  Args:
    config, system, state, assets: of `evaluate.load_run`.
    noise_px: standard deviation of what is added to the labelled keypoints, in pixels of a 224-pixel crop.
    options: Options.
  """
  method = _method(options)
  given = {"body": landmarks.rigid_body(assets["body"], (options.joint_set,)), "vae": _vae(options.vae),
           "gmm": priors.read_gmm(options.gmm) if options.gmm else priors.default_gmm()}

  @jax.jit
  def measure(state, batch, assets, given):
    seen = system.predict(state, batch, assets)
    pose = jnp.concatenate([seen.global_orient[:, 0], seen.body_pose[:, 0]], 1)
    keypoints = fit_scores.noisy_keypoints(batch, options.joint_set, noise_px, config.seed)
    start = smplify.from_matrices(pose, seen.betas[:, 0], camera.weak_to_translation(seen.camera[:, 0]))
    fit = smplify.fit(given["body"], objectives.crop_target(keypoints), start,
                      _priors(given["gmm"], given["vae"], start), method=method, set_name=options.joint_set,
                      steps=options.num_steps or None)
    score = lambda pose, betas: metrics.per_example(fit_scores.to_prediction(pose, betas, seen.camera[:, 0]), batch,
                                                    assets)
    return {"mode": score(pose, seen.betas[:, 0]), "fit": score(fit.pose, fit.body.betas)}, (
        batch["mask"] * batch["has_pose"])

  return fit_scores.over_split(config, assets, name, lambda batch: measure(state, batch, assets, given))


def _method(options):
  """The smplify.Method of options with `method`, `use_hips` and `free_camera`."""
  method = smplify.METHODS[options.method]
  if options.use_hips:
    method = method._replace(ignored=tuple(n for n in method.ignored if n not in objectives.HIPS))
  return smplify.with_free_camera(method) if options.free_camera else method


def program(method, set_name, steps=None, shared=False, known_cameras=False, system=None):
  """run(inputs, people) of a Solver, jitted."""
  @jax.jit
  def run(inputs, people):
    body, gmm, vae = inputs["body"], inputs["gmm"], inputs["vae"]
    targets = objectives.Target(people["keypoints"], people["focal_px"], people["center_px"], people["image_size"])
    if system is None:
      start = smplify.cold_start(body, targets, gmm.mean_pose(), set_name=set_name)
    else:
      start = regressed(system, inputs["state"], inputs["assets"], people)
    if known_cameras:
      start = start._replace(translation=people["transl_m"])
    fit = smplify.fit(body, targets, start, _priors(gmm, vae, start), method=method, set_name=set_name,
                      steps=steps or None, person=people["person"] if shared else None,
                      num_persons=people["keypoints"].shape[0] if shared else None,
                      fixed=("translation",) if known_cameras else ())
    points = smpl.keypoints(body, smpl.forward(body, fit.body.betas, fit.pose, fit.body.translation), set_name)
    return {"pose": fit.pose, "pose_axis_angle": jnp.concatenate([fit.body.global_orient, fit.body.body_pose], -1),
            "betas": fit.body.betas, "transl_m": fit.body.translation, "objective": fit.objective,
            "pixels": camera.perspective(points, people["focal_px"], people["center_px"])}
  return run


def _vae(workdir):
  """The pose VAE of a run, or None."""
  return pose_prior.load(workdir) if workdir else None


def _priors(gmm, vae, start):
  """What a fit is drawn to.

  Differs: SMPLify-X starts at the VAE's zero, the mean pose; we at what the encoder makes of the start, which a network
    may have seen.
  """
  if vae is None:
    return smplify.Priors(gmm=gmm)
  pose = rotations.axis_angle_to_matrix(start.body_pose.reshape(-1, 23, 3))
  return smplify.Priors(gmm, lambda z: pose_prior.decode(vae, z), pose_prior.encode(vae, pose)[0])


def regressed(system, state, assets, people):
  """What a run sees in the people's crops, as the Body that a fit starts from."""
  def look(crops):
    seen = system.predict(state, {"image": images_lib.normalize(crops)}, assets)
    return jnp.concatenate([seen.global_orient[:, 0], seen.body_pose[:, 0]], 1), seen.betas[:, 0], seen.camera[:, 0]

  pose, betas, weak = in_chunks(look, people["crop"])
  translation = camera.crop_to_full(weak, people["box_center_px"], people["box_size_px"], 2 * people["center_px"],
                                    people["focal_px"])
  return smplify.from_matrices(pose, betas, translation)


def in_chunks(look, rows, size=CROPS):
  """look(rows [P, ...]) -> leaves [P, ...], of at most `size` rows at a time."""
  count = len(rows)
  if count <= size:
    return look(rows)
  whole = jnp.concatenate([rows, jnp.zeros((-count % size, *rows.shape[1:]), rows.dtype)])
  found = jax.lax.map(look, whole.reshape(-1, size, *rows.shape[1:]))
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def is_valid(pose, betas, transl_m, quality_px2):
  """[N] whether a fit can be trusted as a label: finite, in front of the camera, close to the keypoints, a usual shape.

  Args:
    quality_px2: [N] mean over a person's keypoints of c^2 rho, in square pixels of a box of 224.
  Source: SPIN, authors' `train/trainer.py`: quality below 100; betas beyond 3 are rejected by SPIN and EFT.
  Differs: the mean is over keypoints that are there, not over all 49.
  """
  finite = np.isfinite(pose).all((1, 2, 3)) & np.isfinite(betas).all(1) & np.isfinite(transl_m).all(1)
  with np.errstate(invalid="ignore"):
    return finite & (transl_m[:, 2] > 0) & (quality_px2 < VALID_PX2) & (np.abs(betas).max(1) <= VALID_BETA)
