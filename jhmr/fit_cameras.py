"""The pictures and cameras that keypoints are seen by, as arrays for fits of many people.

A camera is, in this order: the one the keypoint file gives; with a known size of the picture, one of the focal length
asked for that looks at the middle; otherwise that of SPIN's crop, which looks at the middle of the person's box with
5000 pixels for 224 of the box. All of them are cameras of the whole picture, in its pixels.
"""

import concurrent.futures
import os

from jhmr import predict
from jhmr.body import camera
from jhmr.errors import InputError
from jhmr.fitting import keypoint_files
from jhmr.fitting import keypoint_formats
import numpy as np


def find_pictures(people, images):
  """{position of a person: path} of those whose picture is among --images, a folder or one file."""
  if not os.path.isdir(images):
    if len({p.image for p in people}) == 1:  # one picture and the keypoints in it, whatever they are called
      return dict.fromkeys(range(len(people)), images)
    by_name = {os.path.basename(images): images}
  else:
    by_name = {name: os.path.join(images, name) for name in predict.image_names(images)}
  by_stem = {os.path.splitext(name)[0]: path for name, path in reversed(by_name.items())}
  found = {}
  for i, person in enumerate(people):
    name = os.path.basename(person.image)
    inside = os.path.join(images, person.image) if person.image and os.path.isdir(images) else ""
    if inside and "\0" not in inside and _is_within(inside, images) and os.path.isfile(inside):
      found[i] = inside
    elif path := by_name.get(name) or by_stem.get(name) or by_stem.get(_stem(name)):
      found[i] = path
  return found


def _stem(name):
  """A picture's name without its extension; "c.1" has none."""
  return os.path.splitext(name)[0] if name.lower().endswith(predict.EXTENSIONS) else name


def _is_within(path, folder):
  return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)


def sized(people, pictures):
  """The same people with the sizes of their pictures; ([Person], [a line on each picture that cannot be read])."""
  paths = sorted({pictures[i] for i, p in enumerate(people) if i in pictures and not p.image_size[0]})
  found = dict(zip(paths, _look(paths)))
  size = lambda i: found.get(pictures.get(i), ((0.0, 0.0), ""))[0]
  known = lambda i, p: p.image_size if p.image_size[0] else tuple(map(float, size(i)))
  bad = [said for _, said in found.values() if said]
  return [p._replace(image_size=known(i, p)) for i, p in enumerate(people)], bad


def unreadable(paths):
  """{path: why} of pictures that cannot be read."""
  paths = sorted(set(paths))
  return {path: said for path, (_, said) in zip(paths, _look(paths)) if said}


def _look(paths):
  """[((width, height), what is wrong)] of pictures."""
  def size(path):
    try:
      return predict.read_image(path).shape[1::-1], ""
    except InputError as error:
      return (0.0, 0.0), str(error)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(pool.map(size, paths))


def arrays_of(people, focal_px=0.0, image_size=(0.0, 0.0)):
  """The people as arrays, float32, all in pixels of the whole pictures.

  Args:
    people: [Person] of one joint set, each with a box (`keypoint_files.too_little` says "").
    focal_px: of pictures whose file says none; 0 is 5000, and in crops that of the crop's camera.
    image_size: (width, height) of pictures whose file says none; 0: unknown, and then the box, or where the camera is
      known all that is up to its far corner.
  Returns:
    {"keypoints" [N, K, 3], "box_center_px" [N, 2], "box_size_px" [N], "image_size" [N, 2], "focal_px" [N],
    "center_px" [N, 2], "transl_m" [N, 3] NaN where it is not known, "in_crop" [N] 1 where the crop's camera is taken}.
  """
  f32 = lambda rows: np.array(rows, np.float32)
  keypoints = np.stack([p.keypoints for p in people])
  centers, sides = zip(*(keypoint_files.box(k) for k in keypoints))
  box_center, box_size = f32(centers), f32(sides)
  size = f32([p.image_size if p.image_size[0] else image_size for p in people])
  center, focal = f32([p.center_px for p in people]), f32([p.focal_px for p in people])
  no_center = ~np.isfinite(center).all(-1)
  in_crop = no_center & (size[:, 0] <= 0)
  center = np.where(no_center[:, None], np.where(in_crop[:, None], box_center, size / 2), center)
  usual = np.where(in_crop, camera.FOCAL_PX / camera.CROP_PX * box_size, camera.FOCAL_PX)
  focal = np.where(np.isfinite(focal), focal, focal_px or usual)
  # A principal point says little of a size, and 0 nothing: where a picture's is not known, it ends where boxes do.
  reach = np.maximum(box_center + box_size[:, None] / 2, box_size[:, None])
  size = np.where(size[:, :1] > 0, size, np.where(in_crop[:, None], box_size[:, None], reach))
  transl = np.where(in_crop[:, None], keypoint_formats.UNKNOWN, f32([p.transl_m for p in people]))
  return {"keypoints": keypoints, "box_center_px": box_center, "box_size_px": box_size, "image_size": f32(size),
          "focal_px": f32(focal), "center_px": f32(center), "transl_m": f32(transl), "in_crop": f32(in_crop)}


def unusable_translations(people, arrays):
  """[a line on each person whose file gives a translation, but no camera that it would be seen by]."""
  given = [bool(np.isfinite(p.transl_m).all()) for p in people]
  return [f"{p.name}: transl_m without center_px, and the picture's size is not known: the translation is fitted"
          for p, has, crop in zip(people, given, arrays["in_crop"]) if has and crop > 0]


def scale_of(arrays, as_crops):
  """[N] by which pictures are scaled for a fit: 1, or what makes a person's box 224 pixels.

  The weights of SPIN's method suit boxes of 224 pixels; where the camera is the crop's, its pixels are the crop's too.
  Scaling a picture scales its focal length and principal point, and leaves bodies and translations as they are.
  """
  crop = camera.CROP_PX / arrays["box_size_px"]
  return crop if as_crops else np.where(arrays["in_crop"] > 0, crop, np.float32(1))


def scaled(arrays, scale):
  """The arrays in pixels of pictures scaled by [N]."""
  in_pixels = ("box_center_px", "box_size_px", "image_size", "focal_px", "center_px")
  wide = lambda x: np.float32(scale).reshape(-1, *[1] * (x.ndim - 1))
  out = arrays | {name: arrays[name] * wide(arrays[name]) for name in in_pixels}
  points = arrays["keypoints"]
  return out | {"keypoints": np.concatenate([points[..., :2] * wide(points), points[..., 2:]], -1)}


def weak_cameras(arrays, transl_m):
  """Cameras [N, 3] (s, tx, ty) of people's boxes, s (X + tx): the inverse of `camera.crop_to_full`."""
  focal, size, z = arrays["focal_px"], arrays["box_size_px"], transl_m[:, 2]
  z = np.where(np.abs(z) > 1e-6, z, 1e-6)
  offset = (arrays["box_center_px"] - arrays["center_px"]) * (z / focal)[:, None]
  return np.concatenate([(2 * focal / (size * z))[:, None], transl_m[:, :2] - offset], -1).astype(np.float32)
