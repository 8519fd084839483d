"""Bodies from keypoints: by SMPLify and its descendants, or with the density of a trained system as prior.

    python -m jhmr.fit --keypoints keypoints --out out
    python -m jhmr.fit --keypoints person_keypoints.json --images photos --method smplify_x --out out
    python -m jhmr.fit --workdir runs/spin --images photos --keypoints keypoints --method spin --out out
    python -m jhmr.fit --workdir runs/prohmr --images photos --keypoints keypoints --out out
    python -m jhmr.fit --workdir runs/prohmr --images folder --multiview groups.json --out out
    python -m jhmr.fit --workdir runs/spin --images photos --keypoints keypoints --method eft --out out
    python -m jhmr.fit --workdir runs/prohmr --split val --keypoint-noise-px 3

Keypoints are OpenPose's JSON (a folder, one file an image), COCO's JSON or an .npz (`fitting/keypoint_formats.py`). The
same command again goes on where it was interrupted.

SMPLify's methods need neither a network nor images. They write `fits.npz`, `fits.json` as EFT's, `fits.png`, and of a
few people `meshes/<name>.obj` and `pictures/<name>.png` (`fit_outputs.py`). With --workdir they start from what the run
sees.

The method "latent" needs a run with a density over poses; "eft" fine-tunes a run's regressor for each person, see
`fit_eft`. Per person, `<name>.json` and `<name>.npz` with the regressed body and the fitted one,
`<name>_<method>.obj`, and `<name>.png`. `groups.json` is {"anna": ["left.jpg", ...], ...}. On a split the known bodies
are compared with the regressed and the fitted ones.
"""

import argparse
import json
import os

from jhmr import command, evaluate, files, fit_eft, fit_files, fit_people, fit_scores, fit_smplify, predict, report
from jhmr.body import camera, joints, landmarks
from jhmr.errors import InputError
from jhmr.fitting import eft, latent, smplify

METHODS = (*fit_smplify.METHODS, "latent", "eft")
COLD = "smplify"  # the method without a run: it starts from nothing
# Options that some methods alone understand.
_OF_LATENT = ("multiview", "boxes", "detector_noise_px", "mode")
_OF_EFT = ("threshold", "subset", "chunk")
_OF_SMPLIFY = ("gmm", "vae", "image_size", "shared_shape", "free_camera", "truth", "batch")
_OF_NETWORKS = ("full_frame",)


def parse(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.fit", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--method", choices=METHODS, help=f"default: latent with --workdir, else {COLD}; or, with "
                      "--shared-shape, spin")
  parser.add_argument("--keypoints", help="OpenPose or COCO JSON, or .npz: a folder, or one file")
  parser.add_argument("--out", help="folder to write to; with --split a table as JSON")
  parser.add_argument("--images", help="an image or a folder of images")
  parser.add_argument("--joint-set", default="", help=f"order of the keypoints: {', '.join(joints.SETS)}; default: "
                      "openpose25, coco17 or what the file says")
  parser.add_argument("--body", help="an SMPL file; default: the run's, or the built-in body")
  parser.add_argument("--focal", type=float, help="focal length in image pixels, where no file gives it; default "
                      f"{camera.FOCAL_PX:.0f}")
  parser.add_argument("--use-hips", action="store_true", help="trust hips and pelvis: annotations, not detections")
  parser.add_argument("--num-steps", type=int, default=0, help="of each of a method's stages; default: its own, or "
                      f"for spin without a run {fit_smplify.COLD_STEPS}")
  parser.add_argument("--meshes", action=argparse.BooleanOptionalAction, help="write .obj; default: for up to "
                      f"{fit_people.fit_outputs.FEW} people")
  parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, help="write .png; default: likewise, and a "
                      "sheet of the first dozen always")
  alone = parser.add_argument_group("methods of SMPLify")
  alone.add_argument("--gmm", help="pose prior: gmm_08.pkl or an .npz of jhmr.fitting.priors; default: built in")
  alone.add_argument("--vae", help="workdir of a pose VAE, which takes the mixture's place")
  alone.add_argument("--image-size", help="W,H of the pictures in pixels, where neither a file nor --images says it; "
                     "unknown: fits are in crops")
  alone.add_argument("--shared-shape", action="store_true", help="one shape for all pictures of a person: those of one "
                     "id, or without ids all files; only --method spin")
  alone.add_argument("--free-camera", action="store_true", help="one more stage, in which the camera moves too: for "
                     "people whose torso is seen in part")
  alone.add_argument("--batch", type=int, default=0, help="people at a time, each batch is one step of the journal")
  alone.add_argument("--truth", help="truth.npz of jhmr.data.keypoints: print how far fits are from it")
  run = parser.add_argument_group("with a trained run")
  run.add_argument("--workdir", help="of a training run")
  run.add_argument("--step", type=int, help="which checkpoint; default: the best")
  run.add_argument("--split", help="an evaluation split, to measure: val, val_occluded, multiview")
  run.add_argument("--multiview", nargs="?", const="", help="refine several views of a person; with --images a JSON "
                   "or CSV that lists each person's images")
  run.add_argument("--boxes", help="JSON with the people's boxes, for --multiview without --keypoints")
  run.add_argument("--full-frame", action="store_true", help="fit in the whole image, not in the crop")
  run.add_argument("--keypoint-noise-px", type=float, default=0.0, help="noise on a split's keypoints, crop pixels")
  run.add_argument("--detector-noise-px", type=float, default=0.0, help="how far keypoints are off, in the 224 "
                   "pixels of a crop: weighs the prior accordingly; default: the authors' weights, which suit 0.9")
  run.add_argument("--mode", choices=latent.MODES, help="joint: one problem a batch, as the authors; default: vmap")
  run.add_argument("--threshold", type=float, help="eft: 2D loss below which a person is finished; default: "
                   f"{eft.TEST}")
  run.add_argument("--subset", choices=eft.SUBSETS, metavar="NAME", help="eft: what is trained, default all: " +
                   ", ".join(eft.SUBSETS))
  run.add_argument("--chunk", type=int, help="eft: how many people at once; default: 1")
  args = parser.parse_args(argv[1:])
  args.method = args.method or ("latent" if args.workdir else "spin" if args.shared_shape else COLD)
  return args


def check(args):
  """Raises InputError for what can be seen to be wrong before anything is loaded."""
  if args.joint_set and args.joint_set not in joints.SETS:
    raise InputError(f"--joint-set {args.joint_set!r} does not exist: use one of {', '.join(joints.SETS)}")
  if min(args.num_steps, args.keypoint_noise_px, args.detector_noise_px, args.batch) < 0:
    raise InputError("--num-steps, --keypoint-noise-px, --detector-noise-px and --batch cannot be negative")
  if args.focal is not None and not 0 < args.focal < 1e7:
    raise InputError(f"--focal {args.focal}: give a positive number of pixels")
  others = {"latent": (*_OF_EFT, *_OF_SMPLIFY), "eft": (*_OF_LATENT, *_OF_SMPLIFY)}
  others = others.get(args.method, (*_OF_EFT, *_OF_LATENT, *_OF_NETWORKS))
  given = lambda name: name == "multiview" and args.multiview == "" or getattr(args, name) not in (None, "", False, 0.0)
  if odd := [name for name in others if given(name)]:
    raise InputError(f"--{odd[0].replace('_', '-')} does nothing with --method {args.method}: leave it out")
  if args.split:
    check_split(args)
  (check_network if args.method in ("latent", "eft") else check_smplify)(args)
  if args.out and (args.images or args.keypoints):
    predict.check_out(args.out, args.images, args.keypoints)


def check_split(args):
  args.joint_set = args.joint_set or "openpose25"
  if not args.workdir:
    raise InputError("--split measures what fits gain on a run: give its --workdir")
  if args.images or args.keypoints:
    raise InputError("--split brings its own images and keypoints: leave out --images and --keypoints")
  if args.joint_set not in fit_scores.SETS:
    raise InputError(f"--joint-set {args.joint_set!r}: a split's labels make {', '.join(fit_scores.SETS)}")
  if args.multiview:
    raise InputError("with --split, --multiview takes no file: the split says which images show one person")


def check_smplify(args):
  if args.split:
    return
  if not args.keypoints or not args.out:
    raise InputError(f"--method {args.method} needs --keypoints, a folder or a file, and --out, the folder to write to")
  if args.workdir and not args.images:
    raise InputError("--workdir starts from what its network sees: give --images too, or leave out --workdir")
  if args.shared_shape and smplify.METHODS[args.method].optimizer != "adam":
    raise InputError(f"--shared-shape cannot be had with --method {args.method}: use --method spin")
  if args.truth and not os.path.isfile(args.truth):
    raise InputError(f"--truth {args.truth!r} does not exist: give a truth.npz of jhmr.data.keypoints")
  if args.images and not os.path.exists(args.images):
    raise InputError(f"--images {args.images!r} does not exist: give a folder or a picture")
  size = (args.image_size or "0,0").split(",")
  if len(size) != 2 or not all(s.strip().isdigit() for s in size) or (args.image_size and not all(map(int, size))):
    raise InputError(f"--image-size {args.image_size!r}: give W,H in pixels, such as 1920,1080")
  args.image_size = tuple(map(float, size))


def check_network(args):
  args.joint_set = args.joint_set or "openpose25"
  if not args.workdir:
    raise InputError(f"--method {args.method} needs --workdir, a training run")
  if bool(args.images) == bool(args.split):
    raise InputError(f"--method {args.method} needs either --images or --split")
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
  if args.chunk is not None and args.chunk < 1:
    raise InputError(f"--chunk is {args.chunk}: give 1 or more")


def main(argv):
  args = parse(argv)
  check(args)
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
  if args.images and args.multiview:
    return fit_files.refine_groups(args, config, system, state, assets)
  if args.images:
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
    return fit_files.fit_images(args, options, config, system, state, assets, body,
                                fit_eft.fit_program(config, options))
  errors = fit_eft.keypoint_errors(config, state, assets, args.split, args.keypoint_noise_px, options)
  return write_table(args, state, options, errors, fit_eft.METHODS)


def write_table(args, state, options, errors, order):
  """Prints what fits gain on a split, and writes it to --out."""
  rows = fit_scores.rows_of(args.split, errors, order)
  report.table(rows, fit_scores.COLUMNS)
  if args.out:
    os.makedirs(args.out, exist_ok=True)
    with files.whole(os.path.join(args.out, f"fit_{args.split}.json")) as f:
      json.dump({"step": int(state.step), "keypoint_noise_px": args.keypoint_noise_px, "options": options._asdict(),
                 "rows": rows}, f, indent=2)


if __name__ == "__main__":
  command.run(main)
