"""Rendered people: endless labelled examples, drawn on the device, each a function of (assets, seed, index) alone.

One example: a pose and a shape (`body.poses`), clothes, a camera, a box around the projected keypoints, and a picture
of that box: rendered straight into the crop, because a crop of a photo is a perspective camera with a shifted
principal point. Labels are exact and follow `data.spec`.

Index i shows view i % views of person i // views; views share pose, shape and clothes, not camera, light or place.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jhmr.body import joints
from jhmr.body import poses
from jhmr.body import render
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.data import ambiguous
from jhmr.data import appearance
from jhmr.data import images
from jhmr.data import inputs
from jhmr.errors import InputError

NAMES = joints.names("spin49")
MAX_BETA = 2.5
_NEAREST_M = 1.7  # of a camera to a pelvis: nobody reaches further than 1.3 m from it


_SMALLEST_M = 0.65  # no box is smaller on the person: a hand that fills the crop says nothing, and its faces are huge


class Settings(NamedTuple):
  """What rendered people are like; static numbers, `config.data` overrides any of them."""
  image_size: int = 224              # side of the crop in pixels
  views: int = 1                     # images of each person
  share_2d_only: float = 0.3         # examples whose 3D labels are withheld
  distance_m: tuple = (2.5, 12.0)    # camera to pelvis, log-uniform; short means strong perspective
  share_far: float = 0.2             # examples seen from far_m instead, where weak perspective holds
  far_m: float = 45.0                # where f = 5000 puts a person who fills a 224-pixel crop
  elevation_deg: tuple = (-12.0, 32.0)  # of the camera above the pelvis, uniform
  facing_deg: float = 180.0          # people face the camera to within this (of their first view), uniform
  roll_deg: float = 7.0              # spread of the in-plane rotation, normal
  off_axis_deg: float = 12.0         # the person stands up to this far off the optical axis, each way
  box_scale: float = 1.2             # side of the box over the extent of the keypoints. Source: SPIN's data
  scale_jitter: float = 0.2          # side times 1 +- this, uniform
  shift_jitter: float = 0.06         # centre moved by up to this share of the side
  share_truncated: float = 0.12      # examples zoomed on a part of the body
  share_occluded: float = 0.35       # examples with something in front
  photo: float = 1.0                 # strength of exposure, tint, blur and grain
  variety: float = 1.0               # of clothes, backgrounds and light; 0: one outfit in an empty studio
  hide: str = ""                     # multibodies or multibodies_code: a protocol of `data.ambiguous`
  input: str = "rgb"                 # what "image" shows: rgb, parts or iuv, see `data.inputs`


class Split(NamedTuple):
  """A fixed evaluation split."""
  size: int
  seed: int
  changes: dict  # of Settings


_EXACT_BOX = dict(share_2d_only=0.0, scale_jitter=0.0, shift_jitter=0.0, share_truncated=0.0)


def splits():
  """{name: Split}: fixed sets of rendered people, the same whatever the run's seed.

  val           512 people as in training, but with exact boxes and all labels.
  val_occluded  512 people of whom parts are hidden: with probability 0.3 the legs (knees down), 0.3 arms and head,
                0.3 the head, 0.1 nothing. The crop is tight (5 % padded) around the remaining joints, so what is hidden
                falls outside; a hidden joint that would still show is painted over. Its 2D label has confidence 0.
                Source: 3D Multi-bodies (Biggs et al. 2020), appendix B, AH36M and A3DPW.
                Differs: their code hides hips with the legs but leaves them in view, hides the arms where the text says
                head, does not pad, and leaves hidden joints visible when they overlap the crop.
  multiview     128 people from 4 sides.
  """
  return {"val": Split(512, 1_000_001, _EXACT_BOX),
          "val_occluded": Split(512, 1_000_002, _EXACT_BOX | dict(share_occluded=0.0, hide="multibodies")),
          "multiview": Split(512, 1_000_003, _EXACT_BOX | dict(views=4))}


def check(settings):
  """Raises InputError, naming the setting, when one is out of range."""
  def need(name, ok, says):
    if not ok:
      raise InputError(f"config.data.{name} is {getattr(settings, name)!r}: {says}")

  need("image_size", 16 <= settings.image_size <= 1024, "a crop is 16 to 1024 pixels wide")
  need("views", settings.views >= 1, "give at least 1")
  for name in ("variety", "share_2d_only", "share_far", "share_truncated", "share_occluded"):
    need(name, 0 <= getattr(settings, name) <= 1, "a share lies in 0..1")
  near, far = settings.distance_m if len(settings.distance_m) == 2 else (0, 0)
  need("distance_m", _NEAREST_M <= near <= far, f"give two numbers, the nearer {_NEAREST_M} m or more")
  need("far_m", settings.far_m >= near, "the far camera stands beyond the nearest one")
  angles = settings.elevation_deg
  need("elevation_deg", len(angles) == 2 and max(map(abs, angles)) <= 90, "give two angles within 90 degrees")
  need("facing_deg", 0 <= settings.facing_deg <= 180, "0 to 180 degrees")
  need("off_axis_deg", 0 <= settings.off_axis_deg <= 40, "0 to 40 degrees")
  need("box_scale", 0.5 <= settings.box_scale <= 4, "0.5 to 4 times the person")
  need("scale_jitter", 0 <= settings.scale_jitter <= 0.6, "0 to 0.6")
  need("hide", settings.hide in ("", *ambiguous.PROTOCOLS), f"nothing, {' or '.join(ambiguous.PROTOCOLS)}")
  need("input", settings.input in inputs.KINDS, f"one of {', '.join(inputs.KINDS)}")


def split_examples(assets, name, index, settings):
  """Examples index [B] of a fixed split; see `examples`.

  Of `settings`, image_size, photo, variety, facing_deg and input matter; the rest is the split's own.
  """
  split = splits()[name]
  base = Settings(image_size=settings.image_size, photo=settings.photo, variety=settings.variety,
                  facing_deg=settings.facing_deg, input=settings.input)
  return examples(assets, split.seed, index, base._replace(**split.changes))


def examples(assets, seed, index, settings):
  """Renders a batch.

  Args:
    assets: "body" Smpl, "surface" Surface, and maybe "mocap" MocapTable, which then supplies poses and shapes.
    seed: int, static or traced; index: [B] int32.
    settings: Settings, static.
  Returns:
    dict of every field of spec.FIELDS, image normalised. Fields nobody reads cost nothing under jit.
  """
  index = jnp.asarray(index, jnp.int32)
  person, view = index // settings.views, index % settings.views
  keys = jax.vmap(lambda p: jax.random.fold_in(jax.random.key(seed), p))(person)
  who = jax.vmap(lambda k: _person(assets.get("mocap"), k, settings.variety))(keys)
  view_keys = jax.vmap(lambda k, v: jax.random.fold_in(k, v + 1))(keys, view)
  u = jax.vmap(lambda k: appearance.split(jax.random.uniform(k, (sum(_VIEW_U.values()),)), **_VIEW_U))(view_keys)
  for name in ("light", "background", "shapes"):
    u[name] = appearance.towards(u[name], appearance.STUDIO[name], settings.variety)
  u["words"] = jax.random.key_data(view_keys)
  where = jax.vmap(lambda u, w, v: _viewpoint(u, w, v, settings))(u["viewpoint"], who, view)
  pose = who["pose"].at[:, 0].set(where["root"])
  posed = smpl.forward(assets["body"], who["betas"], pose)
  points = smpl.keypoints(assets["body"], posed, "spin49")
  camera = jax.vmap(lambda *a: _camera(*a, settings))(u["box"], where["ray"], points, posed.joints[:, 0])
  seen = _picture(assets, posed.vertices + camera["transl"][:, None], camera, who["clothes"], u, settings)
  labels = jax.vmap(lambda *a: _labels(*a, settings))(camera, seen)
  known = (u["known"][:, 0] >= settings.share_2d_only).astype(jnp.float32)
  only_if = lambda x: x * known.reshape(-1, *[1] * (x.ndim - 1))
  return {
      "id": index, "mask": jnp.ones_like(known),
      "image": images.normalize(inputs.picture(settings.input, seen)),
      "global_orient": only_if(pose[:, :1]), "body_pose": only_if(pose[:, 1:]), "betas": only_if(who["betas"]),
      "has_pose": known, "has_betas": known, "has_keypoints3d": known,
      "keypoints3d": only_if(jnp.concatenate([points, jnp.ones_like(points[..., :1])], -1)),
      "real_pose": who["real_pose"][:, 1:], "real_betas": who["real_betas"],
      "transl": only_if(camera["transl"]), "focal_px": camera["focal_px"], "center_px": camera["center_px"],
      "parts": seen["parts"], "iuv": seen["iuv"], "depth": seen["depth"], "person": person, "view": view, **labels}


# How many uniform numbers each part of a view takes; all come from one call.
_VIEW_U = dict(viewpoint=7, box=8, light=appearance.LIGHT_U, background=appearance.BACKGROUND_U,
               shapes=(appearance.NUM_CLUTTER + appearance.NUM_OCCLUDERS) * appearance.SHAPE_U,
               develop=appearance.CAMERA_U, occluded=2, known=1)


def _person(mocap, key, variety):
  """Pose, shape and clothes of one person, and another's pose and shape for an adversarial prior."""
  pose_key, clothes_key = jax.random.split(key)
  pose, betas = jax.vmap(lambda k: poses.sample_any(mocap, k))(jax.random.split(pose_key))  # one program for both
  u = jax.random.uniform(clothes_key, (appearance.CLOTHES_U + 1,))
  outfit = appearance.towards(u[:-1], appearance.OUTFIT, variety)
  betas = jnp.clip(betas, -MAX_BETA, MAX_BETA)
  return {"pose": pose[0], "betas": betas[0], "real_pose": pose[1], "real_betas": betas[1],
          "clothes": appearance.wardrobe(outfit), "side": 2 * u[-1] - 1}


def _viewpoint(u, who, view, settings):
  """Where the camera stands: root rotation in its frame and the ray to the pelvis."""
  low, high = settings.elevation_deg
  elevation = jnp.deg2rad(low + (high - low) * u[0])
  roll = jnp.deg2rad(settings.roll_deg * jax.scipy.special.ndtri(0.001 + 0.998 * u[1]))
  around = view + (0.4 * (u[2] - 0.5) if settings.views > 1 else 0.0)
  yaw = jnp.deg2rad(settings.facing_deg) * who["side"] + 2 * jnp.pi * around / settings.views
  # y up to y down and z away is a half turn about x; then the camera looks down, then it rolls.
  turns = [rotations.rotation_about("z", roll), rotations.rotation_about("x", elevation + jnp.pi),
           rotations.rotation_about("y", yaw), who["pose"][0]]
  root = turns[0]
  for turn in turns[1:]:
    root = jnp.matmul(root, turn, precision=jax.lax.Precision.HIGHEST)
  near, far = settings.distance_m
  distance = jnp.where(u[3] < settings.share_far, settings.far_m, near * (far / near) ** u[4])
  angles = jnp.deg2rad(settings.off_axis_deg * (2 * u[5:7] - 1))
  return {"root": root, "ray": distance * jnp.append(jnp.tan(angles), 1.0)}


def _camera(u, ray, points, pelvis, settings):
  """The box around the person and the crop's camera.

  Args:
    ray: [3] to the pelvis, points: [49, 3] keypoints, pelvis: [3], both without translation.
  Returns:
    {"transl" [3], "focal_px" [], "center_px" [2], "keypoints_px" [49, 2], "depth_m" [49], "hidden" [49] bool}.
  """
  transl = ray - pelvis
  flat = (points + transl)[:, :2] / (points + transl)[:, 2:]
  hidden, scale = _protocol(u[0], settings)
  low = jnp.min(jnp.where(hidden[:, None], jnp.inf, flat), 0)
  high = jnp.max(jnp.where(hidden[:, None], -jnp.inf, flat), 0)
  side = scale * jnp.max(high - low) * (1.0 + settings.scale_jitter * (2 * u[1] - 1))
  center = (low + high) / 2 + settings.shift_jitter * side * (2 * u[2:4] - 1)
  zoom = jnp.where(u[4] < settings.share_truncated, 0.45 + 0.35 * u[5], 1.0)
  center += 0.9 * (1.0 - zoom) * (u[6:8] - 0.5) * (high - low)
  focal_px = settings.image_size / jnp.maximum(side * zoom, _SMALLEST_M / ray[2])
  center_px = settings.image_size / 2 - center * focal_px
  return {"transl": transl, "focal_px": focal_px, "center_px": center_px,
          "keypoints_px": flat * focal_px + center_px, "depth_m": (points + transl)[:, 2], "hidden": hidden}


def _protocol(u, settings):
  """(joints that `data.ambiguous` hides [49] bool, side of the box over the extent of the others)."""
  if not settings.hide:
    return jnp.zeros(len(NAMES), bool), settings.box_scale
  protocol = ambiguous.PROTOCOLS[settings.hide]
  kind = jnp.sum(u > jnp.array(ambiguous.BELOW)).astype(int)
  whole = protocol.padding if protocol.recrops_all else settings.box_scale
  return jnp.asarray(protocol.hidden)[kind], jnp.where(kind == ambiguous.NOTHING, whole, protocol.padding)


def _picture(assets, vertices_cam, camera, clothes, u, settings):
  """Image [B, S, S, 3] in 0..255, parts, surface coordinates, depth, and what hides the person [B, S, S]."""
  body, surface = assets["body"], assets["surface"]
  size = (settings.image_size,) * 2
  people = vertices_cam[:, None]
  scene = render.render_batch(people, surface.faces, camera["focal_px"], camera["center_px"], size,
                              windows(settings, surface.faces.shape[0]), cull=True)
  lamps = jax.vmap(appearance.lamp)(u["light"])
  cosine = jnp.einsum("bnc,bc->bn", _vertex_normals(vertices_cam, surface.faces), lamps["direction"])[:, None]
  rest = jnp.broadcast_to(body.template.T, people.shape)
  seen = render.interpolate(scene, jnp.concatenate([cosine[..., None], rest], -1), surface.faces)
  part = render.part_labels(scene, surface.parts24)
  head = _head(body)

  def paint(u, clothes, lamp, seen, part, camera):
    color = appearance.albedo(clothes, part.astype(int), seen[..., 1:], head) * appearance.light(lamp, seen[..., 0])
    return _compose(u, color, part > 0, camera, settings)

  image, covered = jax.vmap(paint)(u, clothes, lamps, seen, part, camera)
  shown = (part > 0) & ~covered
  iuv = inputs.encode_iuv(render.interpolate_corners(scene, surface.iuv))
  return {"image": image, "parts": jnp.where(shown, part, 0).astype(jnp.uint8), "covered": covered,
          "iuv": jnp.where(shown[..., None], iuv, 0),
          "depth": jnp.where(shown, scene.depth, 0.0), "surface_m": scene.depth, "overflow": scene.overflow}


def _vertex_normals(vertices, faces):
  """Unit normals [B, N, 3] of vertices [B, N, 3], from the up to ten faces around each.

  `mesh.vertex_normals` adds faces to vertices in whatever order a GPU likes, so its last bits change from run to run;
  here every vertex looks its faces up in a table that is made by sorting, and the picture is the same each time.
  """
  num_vertices, most = vertices.shape[1], 10
  order = jnp.argsort(faces.reshape(-1), stable=True)
  vertex = faces.reshape(-1)[order]
  rank = jnp.arange(vertex.shape[0]) - jnp.searchsorted(vertex, vertex)
  table = jnp.full((num_vertices, most), faces.shape[0]).at[vertex, rank].set(order // 3, mode="drop")
  a, b, c = (vertices[:, faces[:, i]] for i in range(3))
  cross = jnp.pad(jnp.cross(b - a, c - a), ((0, 0), (0, 1), (0, 0)))  # the last row is of no face
  total = sum(cross[:, table[:, i]] for i in range(most))
  return total * jax.lax.rsqrt(jnp.maximum(jnp.sum(total * total, -1, keepdims=True), 1e-24))


def _head(body):
  """Where the unposed head is: a point for the ear, the height of its top, the two eyes."""
  point = lambda name: jnp.matmul(body.template, body.landmarks[body.landmark_names.index(f"vertex:{name}")],
                                  precision=jax.lax.Precision.HIGHEST)
  return {"ear": point("left_ear"), "top": jnp.max(body.template[1]),
          "eyes": jnp.stack([point("left_eye"), point("right_eye")])}


def _compose(u, color, body, camera, settings):
  """Person over background, occluders over both, then the camera's photo: (bytes [S, S, 3], covered [S, S])."""
  size = settings.image_size
  axis = (jnp.arange(size) + 0.5) / size
  grid = jnp.stack(jnp.meshgrid(axis, axis), -1)
  shapes = u["shapes"].reshape(-1, appearance.SHAPE_U)
  noise = appearance.noise_image(u["words"][0], size)
  image = appearance.background(u["background"], shapes[:appearance.NUM_CLUTTER], noise, grid)
  image = jnp.where(body[..., None], color, image)
  covered = jnp.zeros((size, size), bool)
  for i, shape in enumerate(shapes[appearance.NUM_CLUTTER:]):
    center = camera["keypoints_px"][(len(NAMES) * shape[7]).astype(int)] / size + 0.1 * (shape[:2] - 0.5)
    exists = (u["occluded"][0] < settings.share_occluded * settings.variety) & ((i == 0) | (u["occluded"][1] < 0.4))
    painted, mask = appearance.paint(image, shape, exists, grid, center, (0.05, 0.22))
    image, covered = painted + jnp.where(mask[..., None], 0.4 * noise, 0.0), covered | mask
  if settings.hide == "multibodies":  # the authors leave in the picture what overlaps the crop
    mask = _patches(camera, grid, size)
    image, covered = jnp.where(mask[..., None], 0.45 + 0.4 * noise, image), covered | mask
  return appearance.develop(image, u["develop"], u["words"][1], settings.photo), covered


def _patches(camera, grid, size):
  """Discs of 11 cm around hidden joints [S, S] bool, for those that would still show."""
  depth = camera["depth_m"]
  radius = 0.11 * camera["focal_px"] / depth / size
  gap = jnp.sum((grid[:, :, None] - camera["keypoints_px"] / size) ** 2, -1)
  return jnp.any((gap < radius**2) & camera["hidden"], -1)


# How far below the skin a joint lies, in metres, generously: deeper than this and something hides it.
_DEPTHS = (("hip", 0.16), ("pelvis", 0.18), ("spine", 0.18), ("thorax", 0.16), ("neck", 0.12), ("shoulder", 0.12),
           ("head_top", 0.06), ("head", 0.16), ("jaw", 0.12), ("knee", 0.09), ("elbow", 0.07), ("wrist", 0.06),
           ("ankle", 0.07))
_TOLERANCE_M = np.array([next((d for part, d in _DEPTHS if part in name), 0.04) for name in NAMES], np.float32)


def _labels(camera, picture, settings):
  """2D keypoints [49, 3] with confidences, and visibility [49].

  The annotated half (joints 25..48) has confidence 1 inside the crop; the detected half (0..24, OpenPose's) only
  where the joint is visible, since a detector finds what it sees.
  """
  size = settings.image_size
  px = camera["keypoints_px"]
  inside = jnp.all((px >= 0) & (px < size), -1) & ~camera["hidden"]
  column, row = jnp.clip(px.astype(jnp.int32), 0, size - 1).T
  in_front = picture["surface_m"][row, column] < camera["depth_m"] - _TOLERANCE_M
  visible = inside & ~in_front & ~picture["covered"][row, column]
  detected = jnp.arange(len(NAMES)) < len(joints.names("openpose25"))
  confidence = jnp.where(detected, visible, inside).astype(jnp.float32)
  crop = jnp.concatenate([2 * px / size - 1, jnp.ones_like(px[:, :1])], -1) * confidence[:, None]
  return {"keypoints2d": crop, "visible": visible.astype(jnp.float32)}


def windows(settings, num_faces):
  """The renderer's search windows for bodies of so many faces.

  Sized by the mean face of a person who spans the crop. Of 1,536 training examples of either mannequin one in a hundred
  lost a face or two; windows in which no face could ever be lost cost four times as much.
  """
  face_px = settings.image_size * np.sqrt(1.9 / num_faces)  # side of a face; a body has 1.9 square metres
  return render.Windows(small=int(np.ceil(2.2 * face_px)), large=int(np.ceil(7.5 * face_px)), num_large=num_faces // 8)
