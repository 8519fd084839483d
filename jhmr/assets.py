"""What never changes in a run: the body, its surface, the joints-only body, the mean parameters."""

from jhmr import fits_memory, joint_prior, sparse, task
from jhmr.body import joints, landmarks, mesh, poses, pyramid, rotations, smpl
from jhmr.data import lift_source, source
from jhmr.errors import InputError
from jhmr.fitting import priors
from jhmr.nn import graph_conv
import jax
import jax.numpy as jnp
import numpy as np

LABELS = "spin49"  # what batches label; `keypoint_body` keeps only the vertices that this and the model's joints need


def load(config, training=True, fits=True):
  """The assets of a config, as one pytree of arrays.

  Args:
    config: its `body` is "mannequin", "mannequin_small", or the path of an SMPL file or folder; its
      `mean_params` is "" for the mean of the pose sampler, or the path of an `smpl_mean_params.npz`; its
      `data.mocap` is "" for the pose sampler, or the path of a mocap file that takes its place; its `model_joints`,
      where there is one, is the joint set a system compares with the labels; its `fits`, where there are any, are
      files of initial fits of the training examples, see `fits_memory.read`; its `pose_prior` the file of a
      `priors.Gmm`, "" for that of the pose sampler; its `prior`, where there is one, the workdir of a joint_prior;
      its `pyramid`, where there is one, what `pyramid.load` is given.
    training: also what only training needs.  fits: among it config.fits, which only a run's first step needs.
  Returns:
    {"body": Smpl, "keypoint_body": Smpl of a few dozen points, "surface": Surface,
     "mean": {"pose": [24, 3, 3] root in the camera frame, "betas": [10], "camera": [3]},
     "mocap": MocapTable, if there is one, "fits": {"pose", "betas", "known"} on the host, if there are any,
     "pose_prior": Gmm, if the config speaks of one, "joint_prior": JointPrior, if there is one,
     "graph": pyramid.Graph, "adjacency": graph_conv.Adjacency, "upsampling": sparse.Table of the coarse mesh's vertices
     to the body's, "mesh_joints": [K, n] of the coarse mesh, if the config speaks of a pyramid};
    for config.task "lifting" {"lift_stats": of `lift_source.statistics`} alone
  Raises:
    InputError: for a file that is missing or is not a body, or fits that say that they are of other data.
  """
  if task.lifts(config):
    return {"lift_stats": jax.tree.map(jnp.asarray, lift_source.statistics(config))}
  arrays = smpl.load_arrays(config.body)
  body = smpl.from_arrays(arrays)
  mocap = {"mocap": poses.mocap_table(config.data.mocap)} if config.data.mocap else {}
  sets = tuple(dict.fromkeys((LABELS, config.get("model_joints", LABELS))))
  more = {"fits": _fits(config)} if training and fits and config.get("fits", "") else {}
  if training and "pose_prior" in config:
    more["pose_prior"] = priors.read_gmm(config.pose_prior) if config.pose_prior else priors.default_gmm()
  if config.get("prior", ""):
    more["joint_prior"] = joint_prior.load(config.prior)
  if "pyramid" in config:
    more |= mesh_network(config, arrays, body)
  return mocap | more | {"body": body, "keypoint_body": landmarks.rigid_body(body, sets),
                         "surface": mesh.surface(arrays), "mean": mean_parameters(config.mean_params)}


def mesh_network(config, arrays, body):
  """What a network on the coarse mesh of config.pyramid needs; its joints are those of config.model_joints.

  Args:
    arrays: of the body file.  body: the Smpl of them.
  Returns:
    {"graph", "adjacency", "upsampling", "mesh_joints"}, as in `load`.
  """
  levels, edges = pyramid.load(config.pyramid, arrays)
  graph = pyramid.graph(levels, edges, arrays["v_template"])
  upsampling = sparse.from_rows(levels.up_ids, levels.up_weights, len(levels.down_ids))
  rows = smpl.landmark_ids(body, joints.landmarks(config.model_joints), config.model_joints)
  found = {"graph": graph, "adjacency": graph_conv.prepare(pyramid.adjacency(graph), config.net.conv),
           "upsampling": upsampling, "mesh_joints": np.asarray(body.landmarks)[rows] @ sparse.dense(upsampling)}
  return jax.tree.map(jnp.asarray, found)


def _fits(config):
  """What `fits_memory.read` makes of config.fits; a file that says which data it is of must be of the config's."""
  found, made = fits_memory.read(config.fits), fits_memory.data_of(config.fits)
  here = source.identity(config) if made else {}
  if odd := sorted(k for k in made.keys() | here.keys() if made.get(k) != here.get(k)):
    more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
    said = ", ".join(f"{k} (there {made.get(k, 'absent')}, here {here.get(k, 'absent')})" for k in odd[:3])
    raise InputError(f"config.fits {config.fits!r} is of other data: {said}{more} differ; make the fits of this data "
                     "with python -m jhmr.static_fits")
  return found


def mean_parameters(path=""):
  """Where regressors start: the mean of the pose sampler facing the camera, or the file of HMR and SPIN.

  Source: SPIN, `smpl_mean_params.npz`: `pose` (144,) 6D in SPIN's layout, `shape` (10,), `cam` (3,) = (0.9, 0, 0).
  """
  if not path:
    return {"pose": poses.mean_pose().at[0].set(jnp.diag(jnp.array([1.0, -1.0, -1.0]))),
            "betas": jnp.zeros((10,), jnp.float32), "camera": jnp.array([0.9, 0.0, 0.0], jnp.float32)}
  try:
    with np.load(path, allow_pickle=False) as f:
      pose, betas, camera = (np.asarray(f[k], np.float32) for k in ("pose", "shape", "cam"))
    pose = rotations.six_d_to_matrix(pose.reshape(24, 6), "spin")
  except (OSError, KeyError, ValueError) as error:
    raise InputError(f"mean parameters {path!r} cannot be read ({error}): give an smpl_mean_params.npz "
                     "with pose, shape and cam") from error
  return {"pose": pose, "betas": jnp.asarray(betas[:10]), "camera": jnp.asarray(camera)}
