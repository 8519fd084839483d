"""GraphCMR: the vertices of a person's mesh by graph convolutions, and a body's parameters from that mesh.

Paper: Kolotouros, Pavlakos, Daniilidis, "Convolutional Mesh Regression for Single-Image Human Shape Reconstruction",
CVPR 2019. Features of the image stand at every vertex of a template of a quarter of the vertices; graph convolutions
move the vertices (Eq. 2.1 of Kolotouros's dissertation, whose numbers these are) and give a camera; a perceptron turns
the mesh into SMPL parameters. Losses: Eq. 2.2 to 2.5. No gradient goes from the body to the mesh.
Predicts: the body of the parameters, and in `vertices` the free mesh; both have one camera, s (X + t).

`config.train` says which of the two networks learn: "joint"; or the paper's two steps, "graph", and from its run as
`config.warm_start` "parameters", which leaves the first network as it is, batch norm's statistics included.
`config.supervision` says whose losses are used:
  "paper"  absolute 2D errors, mean over visible joints; its weights are 1 vertices, 1 keypoints2d, 1 smpl_vertices,
           1 smpl_keypoints2d, 1 pose, lambda betas, 0 for the 3D joints.
  "code"   squared 2D errors times confidence, mean over all joints; all weights 1 but 0.1 betas.
`config.net.determinant`: how matrices become rotations, see `rotations.project`; the paper says by an SVD, released
weights want "negated".

Differs:
  - the paper's sums over vertices and joints are means here, as in the authors' code.
  - labels of keypoints are what the data say, of rendered people the chain's joints; both meshes' are regressed from
    vertices, as in the authors' code.
"""

import jax
import jax.numpy as jnp
from jhmr import losses
from jhmr import once
from jhmr import optim
from jhmr import regression
from jhmr import sparse
from jhmr.body import camera
from jhmr.body import joints
from jhmr.body import rotations
from jhmr.body import smpl
from jhmr.nn import graph_conv
from jhmr.nn import graphcmr
from jhmr.nn import regressor
from jhmr.nn import resnet
from jhmr.state import AXIS, labelled_pose, Prediction, System, TrainState
import numpy as np
import optax

GRAPH_TERMS = ("vertices", "keypoints2d", "keypoints3d")
SMPL_TERMS = ("smpl_vertices", "smpl_keypoints2d", "smpl_keypoints3d", "pose", "betas")
TRAIN = {"joint": ("net", "smpl"), "graph": ("net",), "parameters": ("smpl",)}  # which networks learn
SUPERVISION = ("paper", "code")
JOINTS = "graphcmr24"
_LABELS = np.array(joints.mapping("spin49", "gt24"))
_CHOICES = {"backbone": resnet.ARCHITECTURES, "mesh": graphcmr.MESHES, "start": graphcmr.STARTS,
            "dtype": ("float32", "bfloat16"), "batch_norm": regressor.BATCH_NORM, "conv": graph_conv.FORMS,
            "determinant": rotations.DETERMINANTS}
_OF_MESH_NET = ("backbone", "mesh", "layers", "channels", "hidden", "start", "dtype", "batch_norm", "remat")


def check(config):
  """Raises InputError for a choice that does not exist, before anything is built."""
  regression.one_of("train", config.train, TRAIN)
  regression.one_of("supervision", config.supervision, SUPERVISION)
  for field, choices in _CHOICES.items():
    regression.one_of(f"net.{field}", config.net[field], choices)
  regression.check_weights(config, GRAPH_TERMS + SMPL_TERMS)


def label_weights(batch, supervision):
  """What each example weighs in each loss's mean: {name: [B]}, of the batch alone."""
  known = batch["has_pose"] * batch["has_betas"]
  visible = losses.visible_count(batch["keypoints2d"][:, _LABELS, 2])
  two = visible if supervision == "paper" else jnp.ones_like(batch["mask"])
  weights = {"vertices": known, "keypoints2d": two, "keypoints3d": batch["has_keypoints3d"]}
  weights |= {f"smpl_{name}": weight for name, weight in weights.items()}
  weights |= {"pose": batch["has_pose"], "betas": batch["has_betas"]}
  return {name: batch["mask"] * weight for name, weight in weights.items()}


def point_errors(points, cam, batch, supervision):
  """2D and 3D errors of joints: {"keypoints2d": [B], "keypoints3d": [B]}.

  Args:
    points: [B, 24, 3] metres, camera frame.  cam: [B, 3].
  Source: GraphCMR, Eq. 2.3; authors' `train/trainer.py:keypoint_loss` and `keypoint_3d_loss`.
  """
  error2d = losses.keypoints2d if supervision == "paper" else losses.keypoints2d_squared
  return {"keypoints2d": error2d(camera.project_weak(points, cam), batch["keypoints2d"][:, _LABELS]),
          "keypoints3d": losses.keypoints3d(points, batch["keypoints3d"][:, _LABELS], regression.HIPS)}


def graph_errors(coarse, cam, target, batch, assets, supervision):
  """What the free mesh pays, {name of GRAPH_TERMS: [B]}.

  Args:
    coarse: [B, n, 3] metres.  cam: [B, 3].  target: [B, N, 3] vertices of the labels.
  Source: GraphCMR, Eq. 2.2 to 2.4. Joints come from the coarse mesh: regressor times upsampling, multiplied once.
  """
  points = jnp.einsum("kn,bnc->bkc", assets["mesh_joints"], coarse, precision=jax.lax.Precision.HIGHEST)
  return point_errors(points, cam, batch, supervision) | {
      "vertices": losses.vertices(sparse.multiply(assets["upsampling"], coarse), target)}


def smpl_errors(pose, betas, cam, target, batch, assets, weights, supervision):
  """What the body pays, {name of SMPL_TERMS: [B]}; the camera learns nothing here.

  Args:
    pose: [B, 24, 3, 3], betas: [B, L], cam: [B, 3].  target: [B, N, 3].
  Source: GraphCMR, Eq. 2.5; authors' `train/trainer.py:train_step`, which detaches the camera.
  """
  body = assets["keypoint_body"]
  points = smpl.keypoints(body, smpl.forward(body, betas, pose), JOINTS)
  errors = {f"smpl_{n}": e for n, e in point_errors(points, jax.lax.stop_gradient(cam), batch, supervision).items()}
  if weights["smpl_vertices"]:
    errors["smpl_vertices"] = losses.vertices(smpl.forward(assets["body"], betas, pose).vertices, target)
  return errors | {"pose": losses.pose(pose, labelled_pose(batch)), "betas": losses.betas(betas, batch["betas"])}


def _from_mean(params, mean):
  """Parameters whose last layers' biases give the mean camera, pose and shape."""
  last = next(name for name in ("camera_4", "out") if name in params["net"])
  values = {("net", last): mean["camera"],
            ("smpl", "out"): jnp.concatenate([jnp.ravel(mean["pose"]), mean["betas"]])}
  for (net, layer), value in values.items():
    bias = params[net][layer]["bias"]
    params = params | {net: params[net] | {layer: params[net][layer] | {"bias": bias.at[-len(value):].set(value)}}}
  return params


def build(config):
  """The System of a config; see the top of this file. Raises InputError for values that do not exist."""
  check(config)
  weights, learning, num_parts = dict(config.weights), TRAIN[config.train], config.get("accumulate", 1)
  nets = {"net": graphcmr.MeshNet(**{name: config.net[name] for name in _OF_MESH_NET}, axis_name=AXIS),
          "smpl": graphcmr.ParameterNet(config.net.hidden, batch_norm=config.net.batch_norm, axis_name=AXIS)}
  optimizers = optim.of_run(config)
  paid = GRAPH_TERMS * ("net" in learning) + SMPL_TERMS * ("smpl" in learning)
  used = {name: weight for name, weight in weights.items() if name in paid}

  def apply(name, params, stats, *inputs, train):
    """(outputs, new statistics); those that a network is given when it does not learn."""
    variables = {"params": params[name], "batch_stats": stats[name]}
    if not train or name not in learning:
      return nets[name].apply(variables, *inputs, False), stats[name]
    out, new = nets[name].apply(variables, *inputs, True, mutable=["batch_stats"])
    return out, new["batch_stats"]

  def estimate(params, stats, image, assets, train):
    """(mesh [B, n, 3], camera [B, 3], pose [B, 24, 3, 3], betas [B, L]), new statistics."""
    template, new = assets["graph"].template, {}
    (coarse, cam), new["net"] = apply("net", params, stats, image, template, assets["adjacency"], train=train)
    (matrices, betas), new["smpl"] = apply("smpl", params, stats, jax.lax.stop_gradient(coarse), template, train=train)
    return (coarse, cam, rotations.project(matrices, config.net.determinant), betas), new

  def init(rng, batch, assets):
    @once.jit
    def fresh(rng, image, assets):
      keys, template = jax.random.split(rng), assets["graph"].template
      variables = {"net": nets["net"].init(keys[0], image, template, assets["adjacency"], False),
                   "smpl": nets["smpl"].init(keys[1], template[None], template, False)}
      params, stats = ({name: v[part] for name, v in variables.items()} for part in ("params", "batch_stats"))
      if config.net.start == "mean":
        params = _from_mean(params, assets["mean"])
      opt_state = {name: optimizers()["net"].init(params[name]) for name in learning}
      return TrainState(step=jnp.zeros((), jnp.int32), params=params, stats=stats, opt_state=opt_state, memory={})

    return fresh(rng, batch["image"][:1], {name: assets[name] for name in ("graph", "adjacency", "mean")})

  def net_loss(learned, params, stats, batch, assets, totals):
    (coarse, cam, pose, betas), new = estimate(params | learned, stats, batch["image"], assets, True)
    target = smpl.forward(assets["body"], batch["betas"], labelled_pose(batch)).vertices
    errors = graph_errors(coarse, cam, target, batch, assets, config.supervision)
    errors |= smpl_errors(pose, betas, cam, target, batch, assets, weights, config.supervision)
    counted = label_weights(batch, config.supervision)
    terms = {n: losses.masked_mean(errors[n], counted[n], total=totals[n]) for n in used if used[n]}
    loss = losses.weigh(used, terms)
    return loss, ({"loss": loss} | terms, new)

  def step(state, batch, assets):
    totals = losses.totals(label_weights(batch, config.supervision))
    learned = {name: state.params[name] for name in learning}

    def part(stats, batch, index):
      del index
      grads, (metrics, stats) = jax.grad(net_loss, has_aux=True)(learned, state.params, stats, batch, assets, totals)
      return stats, ((grads, metrics), ())

    stats, (grads, metrics), _ = optim.accumulate(part, state.stats, batch, num_parts)
    grads, metrics, stats = jax.lax.pmean((grads, metrics, stats), AXIS)  # after grad, or it would be silently wrong
    # The mean of equal numbers is not always that number, to the bit.
    stats = {name: new if name in learning else state.stats[name] for name, new in stats.items()}
    metrics |= {f"grad_norm_{name}": optax.tree.norm(g) for name, g in grads.items()}
    params, opt_state = dict(state.params), {}
    for name in learning:
      updates, opt_state[name] = optimizers()["net"].update(grads[name], state.opt_state[name], params[name])
      params[name] = optax.apply_updates(params[name], updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, stats=stats), metrics

  def predict(state, batch, assets):
    (coarse, cam, pose, betas), _ = estimate(state.params, state.stats, batch["image"], assets, False)
    return Prediction.of(pose[:, None], betas[:, None], cam[:, None],
                         vertices=sparse.multiply(assets["upsampling"], coarse)[:, None])

  return System(init, step, predict)
