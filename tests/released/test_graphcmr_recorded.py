"""GraphCMR of full size with weights from a seed: meshes, cameras and bodies, losses and gradients as the authors' code
has them, recorded by `goldens/record_graphcmr.py`."""

import pathlib

import jax
import jax.numpy as jnp
from jhmr import losses, sparse
from jhmr.body import joints, landmarks, mesh, pyramid, rotations, smpl
from jhmr.nn import graph_conv, graphcmr as nets
from jhmr.released import graphcmr
from jhmr.systems import graphcmr as system
import ml_collections
import numpy as np
import pytest
from released import graphcmr_inputs as inputs
from systems import prohmr_inputs

NET = ml_collections.ConfigDict(dict(backbone="resnet50", layers=inputs.LAYERS, channels=inputs.CHANNELS,
                                     hidden=inputs.HIDDEN))
LEAVES = ("mesh", "camera", "rotations", "betas")
WEIGHTS = dict.fromkeys(system.GRAPH_TERMS + system.SMPL_TERMS, 1.0) | {"betas": 0.1}


@pytest.fixture(scope="module")
def recorded():
  with np.load(pathlib.Path(__file__).parent / "goldens" / "graphcmr.npz") as f:
    return dict(f)


@pytest.fixture(scope="module")
def assets(recorded):
  """As `assets.load` makes them."""
  arrays, (down, up_ids, up_weights) = inputs.body(), inputs.hierarchy()
  prohmr_inputs.check(recorded, arrays, "body")
  levels = mesh.Pyramid(down[:, None], np.ones((inputs.COARSE, 1)), up_ids, up_weights)
  graph, body = pyramid.graph(levels, inputs.edges(), arrays["v_template"]), smpl.from_arrays(arrays)
  upsampling = sparse.from_rows(up_ids, up_weights, inputs.COARSE)
  rows = smpl.landmark_ids(body, joints.landmarks(system.JOINTS), system.JOINTS)
  made = {"body": body, "keypoint_body": landmarks.rigid_body(body, (system.JOINTS,)), "graph": graph,
          "adjacency": graph_conv.prepare(pyramid.adjacency(graph)), "upsampling": upsampling,
          "mesh_joints": np.asarray(body.landmarks)[rows] @ sparse.dense(upsampling)}
  return jax.tree.map(jnp.asarray, made)


def along(name, x):
  return np.vdot(prohmr_inputs.probe(name, x.shape), np.asarray(x, np.float64))


def test_the_template_is_theirs(recorded, assets):
  np.testing.assert_allclose(assets["graph"].template[inputs.SHOWN], recorded["template"], atol=1e-6)


@pytest.mark.slow
def test_released_weights_predict_what_the_authors_networks_do(recorded, assets):
  arrays = inputs.weights()
  prohmr_inputs.check(recorded, arrays, "weights")
  found = graphcmr.convert(arrays, NET, "model_checkpoint.pt")
  variables = {name: {"params": found.params[name], "batch_stats": found.stats[name]} for name in ("net", "smpl")}

  @jax.jit
  def predict(variables, image, assets):
    template = assets["graph"].template
    coarse, camera = nets.MeshNet().apply(variables["net"], image, template, assets["adjacency"], False)
    several = jnp.concatenate([coarse, inputs.training()["mesh"]])
    matrices, betas = nets.ParameterNet().apply(variables["smpl"], several, template, False)
    pose = rotations.project(matrices, "negated")
    posed = smpl.forward(assets["body"], betas[:1], pose[:1])
    return {"coarse": coarse, "camera": camera, "rotations": pose, "betas": betas, "posed": posed.vertices[0, ::100],
            "upsampled": sparse.multiply(assets["upsampling"], coarse),
            "joints": jnp.einsum("kn,bnc->bkc", assets["mesh_joints"], coarse),
            "smpl_joints": smpl.keypoints(assets["body"], posed, system.JOINTS)}

  ours = predict(variables, prohmr_inputs.images(1, 224), assets)
  assert np.mean(np.linalg.det(recorded["rotations"])) > 0.99
  for name in ("camera", "rotations", "betas", "posed", "joints", "smpl_joints"):
    np.testing.assert_allclose(ours[name], recorded[name], atol=1e-4, err_msg=name)
  np.testing.assert_allclose(ours["coarse"][0, inputs.SHOWN], recorded["vertices"], atol=1e-4)
  # Sums of 5,000 and 20,000 coordinates times random signs.
  np.testing.assert_allclose(along("vertices", ours["coarse"]), recorded["vertices_dot"], atol=1e-3)
  np.testing.assert_allclose(along("upsampled", ours["upsampled"]), recorded["upsampled_dot"], atol=1e-3)


def test_losses_and_gradients_are_the_authors(recorded, assets):
  i = {k: jnp.asarray(v) for k, v in inputs.training().items()}
  matrix = lambda pose: rotations.axis_angle_to_matrix(pose.reshape(-1, 24, 3))
  slots = np.array(joints.mapping("spin49", "gt24"))
  label = lambda x: jnp.zeros((inputs.BATCH, 49, x.shape[-1])).at[:, slots].set(x)
  pose = matrix(i["pose"])
  batch = {"mask": jnp.ones(inputs.BATCH), "global_orient": pose[:, :1], "body_pose": pose[:, 1:],
           "betas": i["to_betas"], "has_pose": i["has_pose"], "has_betas": i["has_pose"],
           "has_keypoints3d": i["has_keypoints3d"], "keypoints2d": label(i["keypoints2d"]),
           "keypoints3d": label(i["keypoints3d"])}

  def loss(leaves, batch, assets):
    target = smpl.forward(assets["body"], batch["betas"], jnp.concatenate([batch["global_orient"],
                                                                           batch["body_pose"]], 1)).vertices
    coarse, camera, pose, betas = (leaves[name] for name in LEAVES)
    errors = system.graph_errors(coarse, camera, target, batch, assets, "code")
    errors |= system.smpl_errors(pose, betas, camera, target, batch, assets, WEIGHTS, "code")
    counted = system.label_weights(batch, "code")
    terms = {n: losses.masked_mean(errors[n], counted[n], None) for n in WEIGHTS}
    total = losses.weigh(WEIGHTS, terms)
    return total, terms | {"total": total}

  leaves = {"mesh": i["mesh"], "camera": i["camera"], "rotations": matrix(i["rotations"]), "betas": i["betas"]}
  grads, terms = jax.jit(jax.grad(loss, has_aux=True))(leaves, batch, assets)
  assert len(terms) == 9
  for name, value in terms.items():
    np.testing.assert_allclose(value, recorded[f"loss_{name}"], rtol=1e-5, err_msg=name)
  for name, value in grads.items():
    norm = recorded[f"grad_{name}_norm"]
    np.testing.assert_allclose(np.linalg.norm(value), norm, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(along(name, value), recorded[f"grad_{name}_dot"], atol=1e-4 * norm, err_msg=name)
