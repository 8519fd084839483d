"""Small data sets in the format of SPIN's annotation files, and a system that knows the answers.

Photograph i is of one grey, GREYS[i], so that a system that sees nothing else can tell which one it is.
"""

import functools

import cv2
import jax
import jax.numpy as jnp
from jhmr.body import smpl
from jhmr.state import Prediction, System, TrainState
import ml_collections
import numpy as np

NUM = 7
GREYS = 20 + 25 * np.arange(NUM)
SIZE_HW = (150, 190)
LSP_ORDER = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9]  # of the regressor's 17, written out again
IN_24 = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 14, 16, 17]      # where those lie among the 24


@functools.cache
def body_arrays():
  """Arrays of a neutral body, of a male one that is the same, and of a female one that is smaller and leaner."""
  neutral = smpl.load_arrays("mannequin_small")
  leaner = neutral["v_template"] * np.float32(0.93) + 1.5 * neutral["shapedirs"][..., 1]
  return {"neutral": neutral, "male": neutral, "female": neutral | {"v_template": leaner.astype(np.float32)}}


def write_bodies(folder):
  folder.mkdir(parents=True, exist_ok=True)
  for gender, arrays in body_arrays().items():
    smpl.write_body_file(folder / f"SMPL_{gender.upper()}.pkl", arrays)
  return folder


def truth(seed=0):
  """pose [NUM, 72] axis-angle facing the camera, shape [NUM, 10], camera [NUM, 3]."""
  rng = np.random.default_rng(seed)
  pose = 0.25 * rng.normal(size=(NUM, 72))
  pose[:, :3] = [np.pi, 0, 0] + 0.1 * rng.normal(size=(NUM, 3))
  cameras = np.array([0.85, 0, 0]) + np.array([0.05, 0.03, 0.03]) * rng.normal(size=(NUM, 3))
  return tuple(x.astype(np.float32) for x in (pose, 0.7 * rng.normal(size=(NUM, 10)), cameras))


def boxes():
  """center [NUM, 2], scale [NUM]: inside the photographs, at no whole pixel."""
  rng = np.random.default_rng(1)
  return rng.uniform([85, 65], [105, 85], (NUM, 2)), rng.uniform(0.5, 0.62, NUM)


def genders():
  return np.array(list("mfmfmmf"))


def write_photographs(root):
  """Writes them below `root`; returns their names."""
  (root / "photos").mkdir(parents=True, exist_ok=True)
  names = [f"photos/im{i:04d}.png" for i in range(NUM)]
  for name, grey in zip(names, GREYS):
    cv2.imwrite(str(root / name), np.full((*SIZE_HW, 3), grey, np.uint8))
  return np.array(names)


def write(path, root, **arrays):
  """An annotation file of the photographs; arrays that are None are left out."""
  center, scale = boxes()
  made = {"imgname": write_photographs(root), "center": center, "scale": scale} | arrays
  np.savez(path, **{k: v for k, v in made.items() if v is not None})
  return path


@jax.jit
def _vertices(body, pose, shape):
  return smpl.forward_axis_angle(body, shape, pose).vertices


def slow_joints(gender, pose, shape):
  """[B, 17, 3] of the regressor on the whole mesh, in NumPy but for the skinning."""
  arrays = body_arrays()[gender]
  vertices = np.asarray(_vertices(smpl.from_arrays(arrays), pose, shape), np.float64)
  return np.stack([arrays["regressor_h36m17"].astype(np.float64) @ v for v in vertices])


def slow_errors(points, target):
  """(MPJPE, PA-MPJPE) in millimetres of one person, [K, 3] each, written from the protocol's definition."""
  mpjpe = np.mean([np.linalg.norm(a - b) for a, b in zip(points, target)])
  mean, goal = points.mean(0), target.mean(0)
  u, _, vt = np.linalg.svd((points - mean).T @ (target - goal))
  turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ u.T
  scale = np.trace(turn @ (points - mean).T @ (target - goal)) / np.sum((points - mean) ** 2)
  moved = [scale * turn @ (p - mean) + goal for p in points]
  return 1000 * mpjpe, 1000 * np.mean([np.linalg.norm(a - b) for a, b in zip(moved, target)])


def knowing_system(pose, shape, cameras, shift_m=None):
  """A System that predicts row i for photograph i; with shift_m [3] a mesh too, so far off."""
  from jhmr.body import rotations
  from jhmr.data import images
  matrices = np.asarray(rotations.axis_angle_to_matrix(pose.reshape(NUM, 24, 3)))
  middle = np.asarray(images.normalize(np.repeat(GREYS[:, None], 3, 1)))[:, 0]

  def predict(state, batch, assets):
    del state
    seen = batch["image"][:, 8, 8, 0]
    row = jnp.argmin(jnp.abs(seen[:, None] - middle[None]), 1)
    of = lambda x: jnp.asarray(x)[row][:, None]
    mesh = None
    if shift_m is not None:
      mesh = smpl.forward(assets["body"], of(shape), of(matrices)).vertices + np.asarray(shift_m, np.float32)
    return Prediction(vertices=mesh, global_orient=of(matrices[:, :1]), body_pose=of(matrices[:, 1:]),
                      betas=of(shape), camera=of(cameras), log_prob=jnp.zeros((len(row), 1)))
  return System(None, None, predict)


def loaded(system, body):
  """What `evaluate.load_run` returns of a run of that system."""
  arrays = smpl.load_arrays(body)
  from jhmr.body import mesh
  mean = {"pose": jnp.tile(jnp.eye(3), (24, 1, 1)), "betas": jnp.zeros(10), "camera": jnp.array([0.9, 0.0, 0.0])}
  assets = {"body": smpl.from_arrays(arrays), "surface": mesh.surface(arrays), "mean": mean}
  config = ml_collections.ConfigDict({"system": "knowing", "image_size": 16, "body": str(body)})
  state = TrainState(step=jnp.zeros((), jnp.int32), params={}, opt_state={}, stats={}, memory={})
  return config, system, state, assets
