"""The options of the command `fit`, and which of them mean something in what it is asked to do."""

import argparse
import math
import os

from jhmr import command, files, fit_outputs, fit_scores, fit_smplify, predict
from jhmr.body import camera, joints
from jhmr.errors import InputError
from jhmr.fitting import eft, latent, smplify

METHODS = (*fit_smplify.METHODS, "latent", "eft")
COLD = "smplify"  # the method without a run: it starts from nothing
# What the command can be asked to do: {name: in words}.
TASKS = {"cold": "--method {} without --workdir", "seen": "--method {} --workdir", "scored": "--method {} --split",
         "latent": "--method latent --images", "groups": "--images --multiview LIST",
         "latent scored": "--method latent --split", "views": "--split --multiview",
         "eft": "--method eft --images", "eft scored": "--method eft --split"}
_SMPLIFY_FILES, _SMPLIFY, _PERSONS = ("cold", "seen"), ("cold", "seen", "scored"), ("cold", "seen", "latent", "eft")
_EFT, _LATENT, _SPLITS = ("eft", "eft scored"), ("latent", "latent scored"), ("scored", "latent scored", "eft scored")
# {option: tasks in which it means something}; others mean something in all of them.
MEANT = {
    "keypoints": (*_PERSONS, "groups"), "images": (*_PERSONS, "groups"), "meshes": (*_PERSONS, "groups"),
    "pictures": (*_PERSONS, "groups"), "joint_set": (*_PERSONS, *_SPLITS, "groups"), "focal": _PERSONS,
    "use_hips": (*_PERSONS, *_SPLITS), "gmm": _SMPLIFY, "vae": _SMPLIFY, "free_camera": _SMPLIFY,
    "image_size": _SMPLIFY_FILES, "shared_shape": _SMPLIFY_FILES, "batch": _SMPLIFY_FILES, "truth": _SMPLIFY_FILES,
    "workdir": tuple(t for t in TASKS if t != "cold"), "step": tuple(t for t in TASKS if t != "cold"),
    "split": (*_SPLITS, "views"), "multiview": ("groups", "views"), "boxes": ("groups",),
    "full_frame": ("latent", "latent scored", "eft"), "keypoint_noise_px": _SPLITS, "detector_noise_px": _LATENT,
    "mode": (*_LATENT, "groups", "views"), "threshold": _EFT, "subset": _EFT, "chunk": _EFT}


def parser():
  """The parser; its defaults say which options were given."""
  parser = argparse.ArgumentParser(prog="python -m jhmr.fit", description="Bodies from keypoints.")
  parser.add_argument("--method", choices=METHODS, help="default: spin with --shared-shape, else "
                      f"latent with --workdir, else {COLD}")
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
                      f"{fit_outputs.FEW} people")
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
  alone.add_argument("--batch", type=int, help="people at a time, each batch is one step of the journal")
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
  return parser


def parse(argv):
  args = parser().parse_args(argv[1:])
  args.method = args.method or ("spin" if args.shared_shape else "latent" if args.workdir else COLD)
  return args


def task_of(args):
  """Which of TASKS."""
  if args.method == "eft":
    return "eft scored" if args.split else "eft"
  if args.method == "latent":
    if args.multiview is not None:
      return "views" if args.split else "groups"
    return "latent scored" if args.split else "latent"
  return "scored" if args.split else "seen" if args.workdir else "cold"


def check(args):
  """Raises InputError for what can be seen to be wrong before anything is loaded."""
  if args.joint_set and args.joint_set not in joints.SETS:
    raise InputError(f"--joint-set {args.joint_set!r} does not exist: use one of {', '.join(joints.SETS)}")
  for name in ("num_steps", "keypoint_noise_px", "detector_noise_px", "threshold"):
    if not 0 <= (getattr(args, name) or 0) < math.inf:
      raise InputError(f"{_flag(name)} is {getattr(args, name)}: give a number that is not negative")
  for name in ("batch", "chunk"):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise InputError(f"{_flag(name)} is {getattr(args, name)}: give 1 or more")
  if args.focal is not None and not 0 < args.focal < 1e7:
    raise InputError(f"--focal {args.focal}: give a positive number of pixels")
  if args.split:
    check_split(args)
  check_meant(args)
  if args.split or args.method in ("latent", "eft"):
    args.joint_set = args.joint_set or "openpose25"
  (check_network if args.method in ("latent", "eft") else check_smplify)(args)
  if args.out:
    files.check_folder(args.out)
    predict.check_out(args.out, args.images, args.keypoints)


def _flag(name):
  return f"--{name.replace('_', '-')}"


def check_meant(args):
  """Raises InputError for an option that was given and would do nothing."""
  task, default = task_of(args), parser().get_default
  given = [name for name in vars(args) if name != "method" and getattr(args, name) != default(name)]
  say = lambda name, where: InputError(f"{_flag(name)} does nothing with {where}: leave it out")
  if odd := [name for name in given if task not in MEANT.get(name, TASKS)]:
    siblings = {"latent": (*_LATENT, "groups", "views"), "eft": _EFT}.get(args.method, _SMPLIFY)
    never = not set(siblings) & set(MEANT[odd[0]])
    raise say(odd[0], f"--method {args.method}" if never else TASKS[task].format(args.method))
  if "focal" in given and task in ("latent", "eft") and not args.full_frame:
    raise InputError(f"--focal does nothing with --method {args.method} but with --full-frame: crops have their own")
  if "boxes" in given and "keypoints" in given:
    raise InputError("--boxes does nothing with --keypoints, which say where people are: leave one of them out")
  if "joint_set" in given and task == "groups" and "keypoints" not in given:
    raise say("joint_set", "--multiview without --keypoints")


def check_split(args):
  if not args.workdir:
    raise InputError("--split measures what fits gain on a run: give its --workdir")
  if args.images or args.keypoints:
    raise InputError("--split brings its own images and keypoints: leave out --images and --keypoints")
  if (args.joint_set or "openpose25") not in fit_scores.SETS:
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
  args.image_size = command.image_size(args.image_size) if args.image_size is not None else (0, 0)


def check_network(args):
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
