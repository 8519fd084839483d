"""Bodies from keypoints: by SMPLify and its descendants, or with the density of a trained system as prior.

    python -m jhmr.fit --keypoints keypoints --out out
    python -m jhmr.fit --keypoints person_keypoints.json --images photos --method smplify_x --out out
    python -m jhmr.fit --workdir runs/spin --images photos --keypoints keypoints --method spin --out out
    python -m jhmr.fit --workdir runs/prohmr --images photos --keypoints keypoints --out out
    python -m jhmr.fit --workdir runs/prohmr --images folder --multiview groups.json --out out
    python -m jhmr.fit --workdir runs/spin --images photos --keypoints keypoints --method eft --out out
    python -m jhmr.fit --workdir runs/prohmr --split val --keypoint-noise-px 3

Keypoints are OpenPose's JSON (a folder, one file an image), for SMPLify's methods also COCO's JSON or an .npz
(`fitting/keypoint_formats.py`). The same command again goes on where it was interrupted; see `fit_options` for options.

SMPLify's methods need neither a network nor images. They write `fits.npz`, `fits.json` as EFT's, `fits.png`, and of a
few people `meshes/<name>.obj` and `pictures/<name>.png` (`fit_outputs.py`). With --workdir they start from what the run
sees.

The method "latent" needs a run with a density over poses; "eft" fine-tunes a run's regressor for each person, see
`fit_eft`. Per person, `<name>.json` and `<name>.npz` with the regressed body and the fitted one,
`<name>_<method>.obj`, and `<name>.png`. `groups.json` is {"anna": ["left.jpg", ...], ...}. On a split the known bodies
are compared with the regressed and the fitted ones.
"""

import json
import os

from jhmr import command, evaluate, files, fit_eft, fit_files, fit_options, fit_people, fit_scores, fit_smplify, report
from jhmr.body import camera, landmarks
from jhmr.errors import InputError
from jhmr.fitting import eft, latent


def main(argv):
  args = fit_options.parse(argv)
  fit_options.check(args)
  if args.method in fit_smplify.METHODS and not args.split:
    return fit_people.fit_keypoints(args)
  config, system, state, assets = evaluate.load_run(args.workdir, args.step, args.body)
  if args.method == "latent":
    return within_density(args, config, system, state, assets)
  if args.method == "eft":
    return fine_tune(args, config, system, state, assets)
  options = fit_smplify.Options(args.method, args.joint_set, args.use_hips, args.num_steps, args.gmm, args.vae,
                                args.free_camera)
  errors = fit_smplify.keypoint_errors(config, system, state, assets, args.split, args.keypoint_noise_px, options)
  return write_table(args, state, options, errors, fit_scores.METHODS)


def within_density(args, config, system, state, assets):
  """--method latent."""
  if system.latent is None:
    raise InputError(f"--method latent needs a system with a density over poses, but {args.workdir!r} is a run of "
                     f"{config.system!r}: train configs/prohmr.py, or use --method spin")
  args.mode = args.mode or latent.MODES[0]
  options = fit_files.Options(args.joint_set, args.full_frame, args.focal or camera.FOCAL_PX, args.use_hips, args.mode,
                              args.num_steps, args.detector_noise_px)
  body = landmarks.rigid_body(assets["body"], (args.joint_set,))
  if args.images:
    with files.writing(args.out):
      if args.multiview:
        return fit_files.refine_groups(args, config, system, state, assets)
      return fit_files.fit_images(args, options, config, system, state, assets, body)
  if args.multiview is not None:
    order = fit_scores.VIEW_METHODS
    errors = fit_scores.view_errors(config, system, state, assets, args.split, options.mode, args.num_steps)
  else:
    order = fit_scores.METHODS
    errors = fit_scores.keypoint_errors(config, system, state, assets, body, args.split, args.keypoint_noise_px,
                                        options)
  return write_table(args, state, options, errors, order)


def fine_tune(args, config, system, state, assets):
  """--method eft."""
  options = fit_eft.Options(args.joint_set, args.full_frame, args.focal or camera.FOCAL_PX, args.use_hips,
                            num_steps=args.num_steps, threshold=eft.TEST if args.threshold is None else args.threshold,
                            subset=args.subset or "all", chunk=args.chunk or 1)
  fit_eft.check(config, options, args.workdir)
  if args.images:
    body = landmarks.rigid_body(assets["body"], (args.joint_set,))
    with files.writing(args.out):
      return fit_files.fit_images(args, options, config, system, state, assets, body,
                                  fit_eft.fit_program(config, options),
                                  lambda keypoints: fit_eft.too_little(keypoints, options))
  errors = fit_eft.keypoint_errors(config, state, assets, args.split, args.keypoint_noise_px, options)
  return write_table(args, state, options, errors, fit_eft.METHODS)


def write_table(args, state, options, errors, order):
  """Prints what fits gain on a split, and writes it to --out."""
  rows = fit_scores.rows_of(args.split, errors, order)
  report.table(rows, fit_scores.COLUMNS)
  if args.out:
    with files.writing(args.out):
      os.makedirs(args.out, exist_ok=True)
      with files.whole(os.path.join(args.out, f"fit_{args.split}.json")) as f:
        json.dump({"step": int(state.step), "keypoint_noise_px": args.keypoint_noise_px, "options": options._asdict(),
                   "rows": rows}, f, indent=2)


if __name__ == "__main__":
  command.run(main)
