"""Bodies from images and keypoints, or from several views, with the density of a trained system as prior.

    python -m jhmr.fit --workdir runs/prohmr --images photos --keypoints keypoints --out out
    python -m jhmr.fit --workdir runs/prohmr --images folder --multiview groups.json --out out
    python -m jhmr.fit --workdir runs/prohmr --split val --keypoint-noise-px 3
    python -m jhmr.fit --workdir runs/prohmr --split multiview --multiview
    python -m jhmr.fit --workdir runs/spin_released --method eft --images photos --keypoints keypoints --out out

Per person, `<name>.json` and `<name>.npz` with the regressed body and the fitted one, `<name>_<method>.obj`, and
`<name>.png`. Keypoints are OpenPose's JSON, one file an image, `<image>_keypoints.json`. The same command again goes on
where it was interrupted. `groups.json` is {"anna": ["left.jpg", "right.jpg"], ...}. On a split the known bodies are
compared with the regressed and the fitted ones.

`--method eft` fine-tunes a regressor for each person, see `fit_eft`.
"""

import argparse
import json
import os

from jhmr import command, evaluate, fit_eft, fit_files, fit_scores, files, predict, report
from jhmr.body import camera, joints, landmarks
from jhmr.errors import InputError
from jhmr.fitting import eft, latent


def parse(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.fit", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--workdir", required=True, help="of a training run")
  parser.add_argument("--prior", default="flow", choices=("flow",), help="flow: the run's own density over poses")
  parser.add_argument("--method", default="latent", choices=("latent", "eft"), help="latent: the pose within the run's "
                      "density; eft: the weights of the run's regressor")
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--images", help="an image or a folder of images")
  what.add_argument("--split", help="an evaluation split, to measure: val, val_occluded, multiview")
  parser.add_argument("--keypoints", help="OpenPose JSON: a folder of <image>_keypoints.json, or one file")
  parser.add_argument("--out", help="folder to write to; with --split a table as JSON")
  parser.add_argument("--multiview", nargs="?", const="", help="refine several views of a person; with --images a JSON "
                      "or CSV that lists each person's images")
  parser.add_argument("--boxes", help="JSON with the people's boxes, for --multiview without --keypoints")
  parser.add_argument("--full-frame", action="store_true", help="fit in the whole image, not in the crop")
  parser.add_argument("--focal", type=float, default=camera.FOCAL_PX, help="focal length in image pixels (full frame)")
  parser.add_argument("--joint-set", default="openpose25", help=f"order of the keypoints: {', '.join(joints.SETS)}")
  parser.add_argument("--use-hips", action="store_true", help="trust hips and pelvis: annotations, not detections")
  parser.add_argument("--keypoint-noise-px", type=float, default=0.0, help="noise on a split's keypoints, crop pixels")
  parser.add_argument("--detector-noise-px", type=float, default=0.0, help="how far keypoints are off, in the 224 "
                      "pixels of a crop: weighs the prior accordingly; default: the authors' weights, which suit 0.9")
  parser.add_argument("--mode", default="vmap", choices=latent.MODES, help="joint: one problem a batch, as the authors")
  parser.add_argument("--num-steps", type=int, default=0, help=f"default {latent.NUM_STEPS}; joint: calls of 20 steps")
  parser.add_argument("--threshold", type=float, default=eft.TEST, help="eft: 2D loss below which a person is finished")
  parser.add_argument("--subset", default="all", choices=eft.SUBSETS, metavar="NAME", help="eft: what is trained: " +
                      ", ".join(eft.SUBSETS))
  parser.add_argument("--chunk", type=int, default=1, help="eft: how many people at once")
  parser.add_argument("--step", type=int, help="which checkpoint; default: the best")
  parser.add_argument("--body", help="another body than the run's: an SMPL file")
  parser.add_argument("--no-meshes", action="store_true", help="write no .obj")
  parser.add_argument("--no-pictures", action="store_true", help="write no .png")
  return parser.parse_args(argv[1:])


def check(args):
  """Raises InputError for what can be seen to be wrong before anything is loaded."""
  if args.joint_set not in joints.SETS:
    raise InputError(f"--joint-set {args.joint_set!r} does not exist: use one of {', '.join(joints.SETS)}")
  if min(args.num_steps, args.keypoint_noise_px, args.detector_noise_px) < 0 or not args.focal > 0:
    raise InputError("--num-steps, --keypoint-noise-px and --detector-noise-px cannot be negative, --focal is positive")
  if args.detector_noise_px and args.full_frame:
    raise InputError("--detector-noise-px is in pixels of a crop: leave out --full-frame")
  if args.images and not args.out:
    raise InputError("--images needs --out, the folder to write to")
  if args.images and args.multiview == "":
    raise InputError("--multiview needs a JSON or CSV that lists each person's images")
  if args.images and args.multiview is None and not args.keypoints:
    raise InputError("--images needs --keypoints, OpenPose JSON, or --multiview, a list of each person's images")
  if args.images and os.path.isdir(args.images) and args.keypoints and not os.path.isdir(args.keypoints):
    raise InputError(f"--keypoints {args.keypoints!r} is not a folder, but --images is: give the folder of keypoints")
  if args.split and args.joint_set not in fit_scores.SETS:
    raise InputError(f"--joint-set {args.joint_set!r}: a split's labels make {', '.join(fit_scores.SETS)}")
  if args.out and args.images:
    predict.check_out(args.out, args.images, args.keypoints)
  if args.method == "eft" and (args.multiview is not None or args.detector_noise_px or args.mode != "vmap"):
    raise InputError("--method eft knows no --multiview, --detector-noise-px or --mode: leave them out")
  if args.chunk < 1:
    raise InputError(f"--chunk is {args.chunk}: give 1 or more")
  if args.split and args.multiview:
    raise InputError("with --split, --multiview takes no file: the split says which images show one person")


def main(argv):
  args = parse(argv)
  check(args)
  config, system, state, assets = evaluate.load_run(args.workdir, args.step, args.body)
  if args.method == "eft":
    return fine_tune(args, config, system, state, assets)
  if system.latent is None:
    raise InputError(f"--prior flow needs a system with a density over poses, but {args.workdir!r} is a run of "
                     f"{config.system!r}: train configs/prohmr.py")
  options = fit_files.Options(args.joint_set, args.full_frame, args.focal, args.use_hips, args.mode, args.num_steps,
                              args.detector_noise_px)
  body = landmarks.rigid_body(assets["body"], (args.joint_set,))
  if args.images and args.multiview:
    return fit_files.refine_groups(args, config, system, state, assets)
  if args.images:
    return fit_files.fit_images(args, options, config, system, state, assets, body)
  if args.multiview is not None:
    order = fit_scores.VIEW_METHODS
    errors = fit_scores.view_errors(config, system, state, assets, args.split, args.mode, args.num_steps)
  else:
    order = fit_scores.METHODS
    errors = fit_scores.keypoint_errors(config, system, state, assets, body, args.split, args.keypoint_noise_px,
                                        options)
  write_table(args, state, options, errors, order)


def fine_tune(args, config, system, state, assets):
  """--method eft."""
  options = fit_eft.Options(args.joint_set, args.full_frame, args.focal, args.use_hips, num_steps=args.num_steps,
                            threshold=args.threshold, subset=args.subset, chunk=args.chunk)
  fit_eft.check(config, options, args.workdir)
  if args.images:
    body = landmarks.rigid_body(assets["body"], (args.joint_set,))
    return fit_files.fit_images(args, options, config, system, state, assets, body,
                                fit_eft.fit_program(config, options))
  errors = fit_eft.keypoint_errors(config, state, assets, args.split, args.keypoint_noise_px, options)
  return write_table(args, state, options, errors, fit_eft.METHODS)


def write_table(args, state, options, errors, order):
  """Prints what a split says, and writes it to --out."""
  rows = fit_scores.rows_of(args.split, errors, order)
  report.table(rows, fit_scores.COLUMNS)
  if args.out:
    os.makedirs(args.out, exist_ok=True)
    with files.whole(os.path.join(args.out, f"fit_{args.split}.json")) as f:
      json.dump({"step": int(state.step), "keypoint_noise_px": args.keypoint_noise_px, "options": options._asdict(),
                 "rows": rows}, f, indent=2)


if __name__ == "__main__":
  command.run(main)
