"""SMPLify and its descendants: bodies fitted to 2D keypoints, each method a table of stages for one objective.

For one person, with the projected joints x_j, detections d_j of confidence c_j and rho of Geman and McClure,

    E = w_data sum_j c_j^2 sum_xy rho(x_j - d_j) + w_torso sum_torso |x_j - d_j|^2 + w_depth (t_z - t_z0)^2
        + w_pose E_pose(body_pose) + w_angle sum_a exp(sign_a angle_a)^2 + w_betas |betas|^2

A `Stage` says which variables are free and what each term weighs; a `Method` is a few stages, and how they start (both
in `stages`). Nothing couples people, unless `person` says that several rows are frames of one, who then has one shape.

Inside, people are on the last axis (`body.people_last`): a step of Adam for 1,024 people is a few dozen long vector
operations. L-BFGS takes one evaluation a step, see `descend.lbfgs`.

Sources: SMPLify (Bogo et al. 2016), Eq. 1-4 and section 3.3; SPIN (Kolotouros et al. 2019), section 3.3 and authors'
`smplify/smplify.py`; SMPL-X (Pavlakos et al. 2019), section 3 and authors' `fit_smpl.yaml`.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import people_last
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.fitting import descend
from jhmr.fitting import objectives
from jhmr.fitting import priors as priors_lib
from jhmr.fitting.stages import METHODS, Method, Stage, counts, with_free_camera  # noqa: F401 (part of this file)
import numpy as np
import optax


class Body(NamedTuple):
  """Parameters of P people."""
  global_orient: jax.Array  # [P, 3] axis-angle, radians, camera frame
  body_pose: jax.Array      # [P, 69] axis-angle, radians
  betas: jax.Array          # [P, L]
  translation: jax.Array    # [P, 3] metres, in the camera of the target


def from_matrices(pose, betas, translation):
  """The Body of pose [P, 24, 3, 3], betas [P, L] and translation [P, 3]."""
  vectors = rotations.matrix_to_axis_angle(pose)
  return Body(vectors[:, 0], vectors[:, 1:].reshape(-1, 69), betas, translation)


class Priors(NamedTuple):
  """What poses are likely: a mixture of Gaussians, or a pose VAE, in whose latent space a fit then happens."""
  gmm: Any = None          # priors.Gmm
  decode: Any = None       # (z [P, Z]) -> body_pose [P, 23, 3, 3] rotation matrices
  latent: Any = None       # [P, Z] where to start in the latent space; needed with decode


SIDE_VIEW_PX = 25.0  # shoulders nearer than this: which way a person faces is open. Source: SMPLify, SMPLify-X
# Right hip, left hip, right shoulder, left shoulder, as detected and as annotated.
_TORSOS = {source: tuple(prefix + name for name in ("right_hip", "left_hip", "right_shoulder", "left_shoulder"))
           for source, prefix in (("detected", "op_"), ("annotated", ""))}


class Fit(NamedTuple):
  """P fitted people."""
  body: Body               # with a VAE, body_pose is what its latent decodes to
  pose: jax.Array          # [P, 24, 3, 3] rotation matrices, root first
  objective: jax.Array     # [P] of the last stage, at the end
  reprojection: jax.Array  # [P, K] c^2 rho of each joint at the end, square pixels; ignored joints are 0
  losses: jax.Array        # [P, steps] of all stages, on the way
  latent: Any              # [P, Z] of the VAE; None without


class Scene(NamedTuple):
  """What stays as it is during a fit; people on the last axis."""
  body: Any
  targets: Any             # objectives.Target, leaves [..., P]
  priors: Priors
  set_name: str
  torso: tuple             # positions of hips and shoulders, [4] of each kind there is
  used: np.ndarray         # [K] 0 for ignored joints
  scale: jax.Array         # [P] of the weights of data and torso
  person: Any              # [P] or None


def fit(body, targets, start, priors, *, method="spin", set_name="spin49", torso="detected", steps=None, person=None,
        num_persons=None, fixed=()):
  """Fits P people.

  Args:
    body: of `landmarks.rigid_body`, made for set_name.
    targets: objectives.Target, leaves [P, ...].
    start: Body; see `cold_start` for people of whom nothing is known.
    priors: Priors.
    method: name of METHODS, or a Method.
    torso: "detected" takes the set's detected hips and shoulders for people who have all four, else the annotated ones;
      "annotated" takes those always. A set with one kind uses it.
    steps: of every stage; None is the method's own.
    person: [P] int32, which person each row shows; rows of one share its betas. None: all different.
    num_persons: how many there are, static; needed with `person`.
    fixed: fields of Body that stay as they start, such as ("translation",) for a known camera.
  Returns:
    Fit. A person without keypoints goes where the priors like them best; nothing becomes NaN because of one.
  Raises:
    ValueError: for a method, field or joint set that does not exist, or shared betas with L-BFGS.
  Differs: keypoints without confidence add nothing to the torso term, where SPIN fits whatever is stored for them.
  """
  method = METHODS[method] if isinstance(method, str) else method
  if set(fixed) - set(Body._fields):
    raise ValueError(f"fixed {fixed} names no field of Body: {Body._fields}")
  if person is not None and method.optimizer != "adam":
    raise ValueError("rows that share betas need a method that uses Adam, such as 'spin'")
  scene = _scene(body, targets, priors, method, set_name, torso, person)
  x = _variables(start, priors, person, num_persons)
  first, *rest = (_free(stage, fixed, steps) for stage in method.stages)
  x, losses = _minimise(scene, method, first, x) if rest else (x, jnp.zeros((0, x["translation"].shape[-1])))
  onwards = lambda x: _run(scene, method, rest or [first], x)
  x, objective, more = _either_way(scene, x, onwards) if method.both_sides else onwards(x)
  return _finished(scene, x, objective, jnp.concatenate([losses, more]))


def _free(stage, fixed, steps):
  return stage._replace(free=tuple(n for n in stage.free if n not in fixed), steps=steps or stage.steps)


def _scene(body, targets, priors, method, set_name, torso, person):
  names = joints.names(set_name)
  kinds = [_TORSOS[k] for k in (("annotated",) if torso == "annotated" else ("detected", "annotated"))]
  found = tuple(tuple(names.index(n) for n in kind) for kind in kinds if set(kind) <= set(names))
  if not found:
    raise ValueError(f"joint set {set_name!r} has no {torso} hips and shoulders to find the camera by")
  pixels, confidence = objectives.known(targets.keypoints)
  clean = targets._replace(keypoints=jnp.concatenate([pixels, confidence[..., None]], -1))
  height = targets.image_size[..., 1]
  scale = (method.reference_px / height)**2 if method.reference_px else jnp.ones_like(height)
  return Scene(body, _last(clean), priors, set_name, found,
               np.array([n not in method.ignored for n in names], np.float32), scale, person)


def _last(tree):
  return jax.tree.map(lambda x: jnp.moveaxis(jnp.asarray(x), 0, -1), tree)


def _variables(start, priors, person, num_persons):
  """{name: [..., P]} of all that could be free; betas of persons; "latent" too with a VAE."""
  x = _last(start._asdict())
  if person is not None:  # the mean over a person's rows
    rows = jnp.zeros(num_persons).at[person].add(1.0)
    x["betas"] = jnp.zeros((x["betas"].shape[0], num_persons)).at[:, person].add(x["betas"]) / jnp.maximum(rows, 1.0)
  return x | ({"latent": _last(priors.latent)} if priors.decode else {})


def _run(scene, method, stages, x):
  """(variables, objective [P] of the last stage at the end, losses [steps, P])."""
  losses = []
  for _, alike in itertools.groupby(stages, lambda s: (s.free, s.steps, tuple(bool(w) for w in s[2:]))):
    alike = list(alike)  # they differ in their weights alone: one program, run once a row of the table
    table = {n: jnp.array(w, jnp.float32) for n, w in zip(Stage._fields[2:], zip(*(s[2:] for s in alike))) if any(w)}
    one = lambda x, row, like=alike[0]: _minimise(scene, method, like._replace(**row), x)
    x, more = jax.lax.scan(one, x, table)
    losses.append(more.reshape(-1, more.shape[-1]))
  return x, _energy(scene, stages[-1], x, x["translation"][2]), jnp.concatenate(losses)


def _either_way(scene, x, onwards):
  """`onwards` from x, and from the opposite orientation too for people seen from the side; the better end of each."""
  from_side = _shoulders_px(scene) < SIDE_VIEW_PX
  turned = x | {"global_orient": _turned(x["global_orient"])}

  def try_(i, best):
    new = onwards(jax.tree.map(lambda a, b: jnp.where(i == 0, a, b), x, turned))
    take = ((i == 0) | from_side) & ~(new[1] >= best[1])
    return jax.tree.map(lambda n, b: jnp.where(take, n, b), new, best)

  blank = jax.tree.map(lambda s: jnp.full(s.shape, jnp.inf, s.dtype), jax.eval_shape(onwards, x))
  return jax.lax.fori_loop(0, 1 + jnp.any(from_side).astype(jnp.int32), try_, blank)


def _minimise(scene, method, stage, x):
  """One stage: (variables, losses [steps, P])."""
  if not stage.free:
    return x, jnp.zeros((0, x["translation"].shape[-1]))
  names = [("latent" if n == "body_pose" and "latent" in x else n) for n in stage.free]
  depth = x["translation"][2]
  units = _units(scene, x) if method.optimizer == "lbfgs" and not counts(stage.depth) else {}
  enter = lambda free: {n: free[n] / units[n] if n in units else free[n] for n in free}
  leave = lambda free: {n: free[n] * units[n] if n in units else free[n] for n in free}
  loss = lambda free: _energy(scene, stage, x | leave(free), depth)
  minimise = descend.descend_together if method.optimizer == "adam" else descend.descend_each
  tx = optax.adam(method.learning_rate) if method.optimizer == "adam" else descend.lbfgs()
  free, losses = minimise(loss, enter({n: x[n] for n in names}), tx, stage.steps)
  return x | leave(free), losses


def _units(scene, x):
  """{"translation": [3, P] metres} that move or scale a person's picture about alike: L-BFGS knows no other scale."""
  across = jnp.maximum(x["translation"][2], objectives.NEAREST_M)
  across = across / scene.targets.focal_px * jnp.max(scene.targets.image_size, 0) / 100
  return {"translation": jax.lax.stop_gradient(jnp.stack([across, across, x["translation"][2] / 20]))}


def _energy(scene, stage, x, depth):
  """The objective of a stage -> [P]; depth: [P] where the translation's z began."""
  pose, betas = _pose(scene, x), _betas(scene, x)
  total = stage.betas * jnp.sum(betas**2, 0)
  if counts(stage.data) or counts(stage.torso):
    error, confidence = _errors(scene, pose, betas, x["translation"])
    if counts(stage.data):
      rho = jnp.sum(objectives.geman_mcclure(error), 1)
      total += stage.data * scene.scale * jnp.sum((scene.used[:, None] * confidence)**2 * rho, 0)
    if counts(stage.torso):
      seen = _torso(scene, confidence) > 0
      total += stage.torso * scene.scale * jnp.sum(seen * jnp.sum(_torso(scene, error)**2, 1), 0)
  if counts(stage.depth):
    total += stage.depth * (x["translation"][2] - depth)**2
  if counts(stage.pose):
    total += stage.pose * (jnp.sum(x["latent"]**2, 0) if "latent" in x else
                           priors_lib.gmm_energy(scene.priors.gmm, x["body_pose"].T))
  if counts(stage.angle):
    angles = _bending(pose).T if "latent" in x else x["body_pose"].T
    total += stage.angle * priors_lib.angle_energy(angles)
  return total


def _pose(scene, x):
  """[24, 3, 3, P] rotation matrices."""
  root = people_last.matrices(x["global_orient"][None])
  if "latent" in x:
    return jnp.concatenate([root, _last(scene.priors.decode(x["latent"].T))])
  return jnp.concatenate([root, people_last.matrices(x["body_pose"].reshape(23, 3, -1))])


def _bending(pose):
  """Axis-angle [69, P] of the joints that may bend the wrong way, zeros for the others."""
  bent = np.array([joints.index("smpl24", name) for name, *_ in priors_lib.BENDS])
  vectors = rotations.matrix_to_axis_angle(jnp.moveaxis(pose[bent], -1, 0))  # [P, 4, 3]
  return jnp.zeros((pose.shape[-1], 23, 3)).at[:, bent - 1].set(vectors).reshape(-1, 69).T


def _betas(scene, x):
  return x["betas"] if scene.person is None else x["betas"][:, scene.person]


def _errors(scene, pose, betas, translation):
  """(projected - detected [K, 2, P] pixels, confidence [K, P])."""
  points = people_last.keypoints(scene.body, betas, pose, scene.set_name) + translation
  depth = jnp.maximum(points[:, 2:], objectives.NEAREST_M)
  target = scene.targets
  return (target.focal_px * points[:, :2] / depth + target.center_px - target.keypoints[:, :2], target.keypoints[:, 2])


def _torso(scene, values):
  """[K, ..., P] -> [4, ..., P] of right hip, left hip, right and left shoulder: of the first kind that is all seen."""
  rows = [smpl.pick(values, list(ids), 0) for ids in scene.torso]
  if len(rows) == 1:
    return rows[0]
  whole = jnp.all(scene.targets.keypoints[np.array(scene.torso[0]), 2] > 0, 0)
  return jnp.where(whole, *rows)


def _shoulders_px(scene):
  """[P] distance of the shoulders in the image; infinite for people who lack one."""
  right, left = _torso(scene, scene.targets.keypoints)[2:]
  gap = jnp.sqrt(jnp.sum((left[:2] - right[:2])**2, 0))
  return jnp.where((left[2] > 0) & (right[2] > 0), gap, jnp.inf)


def _turned(global_orient):
  """[3, P] turned about the body's own vertical axis by half a turn. Source: SMPLify's `fit_3d.py`, R R_y(pi)."""
  root = rotations.axis_angle_to_matrix(global_orient.T)
  half = jnp.array([-1.0, 1.0, -1.0], root.dtype)  # the diagonal of R_y(pi) scales columns
  return rotations.matrix_to_axis_angle(root * half).T


def _finished(scene, x, objective, losses):
  pose, betas = _pose(scene, x), _betas(scene, x)
  error, confidence = _errors(scene, pose, betas, x["translation"])
  reprojection = (scene.used[:, None] * confidence)**2 * jnp.sum(objectives.geman_mcclure(error), 1)
  first = lambda a: jnp.moveaxis(a, -1, 0)
  pose, latent = first(pose), x["latent"].T if "latent" in x else None
  body_pose = x["body_pose"].T if latent is None else rotations.matrix_to_axis_angle(pose[:, 1:]).reshape(-1, 69)
  body = Body(x["global_orient"].T, body_pose, betas.T, x["translation"].T)
  return Fit(body, pose, objective, reprojection.T, losses.T, latent)


def cold_start(body, targets, body_pose, *, set_name="spin49"):
  """Where to start with people of whom only keypoints are known: upright as their torso is, the side it shows.

  Args:
    body: of `landmarks.rigid_body`, made for set_name.
    targets: objectives.Target, leaves [P, ...].
    body_pose: [69] or [P, 69] axis-angle, such as `priors.mean_pose` of the mixture.
  Returns:
    Body of P people, betas 0. The depth comes from the length of the torso, f mean(3D) / mean(2D), for people whose
    torso is seen, else from all their keypoints by least squares, as does the place in the image.
  Source: SMPLify (Bogo et al. 2016), 3.3, for the depth.
  Differs: SMPLify starts with no rotation of the root; we turn it in the image as the torso is, and away from the
    camera when the left shoulder and hip are seen on the left. It starts on the optical axis; we, where the keypoints
    are.
  """
  people = targets.keypoints.shape[0]
  scene = _scene(body, targets, Priors(), METHODS["spin"], set_name, "detected", None)
  betas = jnp.zeros((people, body.joint_dirs.shape[0]), jnp.float32)
  start = Body(_facing(scene), jnp.broadcast_to(body_pose, (people, 69)), betas, jnp.zeros((people, 3), jnp.float32))
  x = _variables(start, Priors(), None, None)
  points = people_last.keypoints(body, x["betas"], _pose(scene, x), set_name)                      # [K, 3, P]
  return start._replace(translation=_place(scene, points))


def _facing(scene):
  """Root rotations [P, 3]: the torso's direction in the image, and which of its sides is left."""
  torso = _torso(scene, scene.targets.keypoints)                                                   # [4, 3, P]
  (right_hip, left_hip, right_shoulder, left_shoulder), seen = torso[:, :2], jnp.all(torso[:, 2] > 0, 0)
  up = right_shoulder + left_shoulder - right_hip - left_hip
  across = left_shoulder + left_hip - right_shoulder - right_hip
  roll = jnp.where(seen, jnp.arctan2(up[0], -up[1]), 0.0)
  away = seen & (across[0] * jnp.cos(roll) + across[1] * jnp.sin(roll) < 0)
  turn = rotations.rotation_about("z", roll) @ rotations.rotation_about("x", jnp.full_like(roll, jnp.pi))
  return rotations.matrix_to_axis_angle(turn @ rotations.rotation_about("y", jnp.where(away, jnp.pi, 0.0)))


def _place(scene, points):
  """Translations [P, 3] that put points [K, 3, P] where the keypoints are."""
  target, first = scene.targets, lambda a: jnp.moveaxis(a, -1, 0)
  pixels, confidence = first(target.keypoints[:, :2]), first(target.keypoints[:, 2])
  center = target.center_px.T
  usual = 2 * target.focal_px / jnp.max(target.image_size, 0)  # two metres fill the picture
  depth = camera.solve_translation(first(points), pixels, confidence, target.focal_px, center)[:, 2]
  depth = jnp.where(depth > 0.1 * usual, depth, usual)
  lengths = lambda x: jnp.mean(jnp.sqrt(jnp.sum((x[:2] - x[2:])**2, 1)), 0)  # of the torso's two sides
  flat, seen = lengths(_torso(scene, target.keypoints[:, :2])), jnp.all(_torso(scene, target.keypoints[:, 2]) > 0, 0)
  depth = jnp.where(seen & (flat > 1), target.focal_px * lengths(_torso(scene, points)) / jnp.maximum(flat, 1.0), depth)
  ray = (pixels - center[:, None]) / target.focal_px[:, None, None]
  across = ray * (first(points)[..., 2:] + depth[:, None, None]) - first(points)[..., :2]
  weight = confidence[..., None]
  across = jnp.sum(weight * across, 1) / jnp.maximum(jnp.sum(weight, 1), 1e-9)
  return jnp.concatenate([across, depth[:, None]], -1)
