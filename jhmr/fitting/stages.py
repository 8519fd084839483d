"""The tables of `smplify`: what each method minimises, over what, in which order."""

from typing import NamedTuple


class Stage(NamedTuple):
  """One minimisation; terms of weight 0 are not computed."""
  free: tuple              # names of Body's fields
  steps: int = 100
  data: float = 0.0        # all joints, robust
  torso: float = 0.0       # hips and shoulders, squared, without confidences
  depth: float = 0.0       # of the translation's distance to where the stage begins
  pose: float = 0.0
  angle: float = 0.0       # elbows and knees that bend the wrong way
  betas: float = 0.0


class Method(NamedTuple):
  """A way of fitting."""
  stages: tuple
  ignored: tuple           # joints that never count but in `torso`
  optimizer: str           # "adam", whose last point is kept, or "lbfgs", whose best one is
  learning_rate: float = 1e-2
  reference_px: float = 0.0  # data and torso weights are times (this / image height)^2; 0: as they are
  both_sides: bool = False  # tries the opposite orientation too for people seen from the side


_ALL = ("global_orient", "body_pose", "betas")
_CAMERA = ("global_orient", "translation")
_HIPS_NECK = ("op_neck", "op_right_hip", "op_left_hip")
_SMPLIFY_STAGES = ((404.0, 100.0), (404.0, 50.0), (57.4, 10.0), (4.78, 5.0))  # lambda of poses, of betas
ANGLE = 3.17  # weight of the angle prior over the pose prior's

METHODS = {
    # Source: SPIN, authors' `smplify/smplify.py` and `losses.py`.
    "spin": Method(stages=(Stage(_CAMERA, torso=1.0, depth=100.0**2),
                           Stage(_ALL, data=1.0, pose=4.78**2, angle=15.2**2, betas=5.0**2)),
                   ignored=(*_HIPS_NECK, "right_hip", "left_hip"), optimizer="adam"),
    # Source: SMPLify's release, `fit_3d.py`. Differs: L-BFGS, not the dogleg method; no interpenetration term; every
    # joint of the set counts, not LSP's 13.
    "smplify": Method(stages=(Stage(_CAMERA, 60, torso=1.0, depth=100.0**2),
                              *(Stage(_ALL, 60, data=1.0, pose=p**2, angle=(ANGLE * p)**2, betas=b**2)
                                for p, b in _SMPLIFY_STAGES)),
                      ignored=("right_hip", "left_hip", "op_right_hip", "op_left_hip"), optimizer="lbfgs",
                      both_sides=True),
    # Source: SMPLify-X's `fit_smpl.yaml` and `fitting.py`, whose angle weight is not squared. Differs: fixed numbers of
    # steps; no collision term.
    "smplify_x": Method(stages=(Stage(_CAMERA, 60, torso=1.0, depth=100.0**2),
                                *(Stage(_ALL, 60, data=1.0, pose=p**2, angle=ANGLE * p, betas=b**2)
                                  for p, b in _SMPLIFY_STAGES)),
                        ignored=_HIPS_NECK, optimizer="lbfgs", reference_px=1000.0, both_sides=True),
}


def with_free_camera(method):
  """The method with one more stage, its last one with the translation free too.

  Source: ours. A camera that was placed by a torso of which half is missing leaves people too large or too small.
  """
  last = method.stages[-1]
  return method._replace(stages=(*method.stages, last._replace(free=(*last.free, "translation"))))


def counts(weight):
  """Whether a term may count: a weight from the table of a scan always does."""
  return not isinstance(weight, (int, float)) or bool(weight)
