"""Errors of regressed joints on published benchmarks: 3DPW, Human3.6M, MPI-INF-3DHP; of vertices: UP-3D.

Joints are regressed from the predicted vertices with Human3.6M's regressor and centred at its pelvis. They are compared
with those of a body of the person's gender (3DPW), or with annotated ones. Source: SPIN, authors' `eval.py`.
"""

import os

import jax
import jax.numpy as jnp
from jhmr import metrics
from jhmr.body import joints, landmarks, procrustes, rotations, smpl
from jhmr.errors import InputError
import numpy as np

_PCK = list(joints.mapping("h36m_j17", "h36m_j14"))  # MPI-INF-3DHP leaves out pelvis, spine and jaw


def errors(points, target, known):
  """Errors of regressed joints against a benchmark's.

  Args:
    points: [B, 17, 3] metres in the order of "h36m17", anywhere.
    target: [B, K, 3] metres, "h36m_j14" or "h36m_j17", its pelvis at the origin.
    known: [B, K] 1 for joints with a label.
  Returns:
    {name: [B]}, millimetres and per cent.
  Source: SPIN, authors' `eval.py`; Mehta et al. 2017 for PCK at 150 mm and the mean over 0, 5, ..., 150 mm, on the
    joints of their `mpii_get_pck_auc_joint_groups`: the first 14.
  Differs: a joint without a label is left out; the released files label all.
  """
  names = {14: "h36m_j14", 17: "h36m_j17"}[target.shape[1]]
  pelvis = points[:, joints.index("h36m17", "pelvis")][:, None]
  predicted = points[:, np.array(joints.mapping("h36m17", names))] - pelvis
  aligned = procrustes.align(predicted, target, known)
  found = {"mpjpe_mm": 1000 * metrics.mpjpe(predicted, target, known),
           "pa_mpjpe_mm": 1000 * metrics.mpjpe(aligned, target, known)}
  part, mask = target[:, _PCK], known[:, _PCK]
  for prefix, moved in (("", predicted), ("pa_", aligned)):
    found |= {f"{prefix}pck_percent": 100 * metrics.pck(moved[:, _PCK], part, mask=mask),
              f"{prefix}auc_percent": 100 * metrics.auc(moved[:, _PCK], part, mask=mask)}
  return found


def of_set(prediction, target, known, assets):
  """`errors` of the best of S hypotheses [B, S], each score its own best one.

  Source: 3D Multi-bodies (Biggs et al. 2020), section 5, MPJPE-n and RE-n.
  """
  body = assets["neutral_joints"]
  points = smpl.keypoints(body, smpl.forward(body, prediction.betas, prediction.pose), "h36m17")
  each = jax.vmap(lambda points: errors(points, target, known), in_axes=1, out_axes=1)(points)
  return {name: metrics.best_of(value, higher_is_better=name.endswith("percent")) for name, value in each.items()}


def of_bodies(batch, assets):
  """(target [B, 14, 3], known [B, 14]) of bodies of the person's gender.

  Args:
    batch: "pose" [B, 72] axis-angle, "shape" [B, 10], "female" [B].
    assets: of `bodies`.
  Source: SPIN, authors' `eval.py` on 3DPW: Human3.6M's regressor on the male or female mesh, its pelvis at the origin.
  """
  points = {}
  for gender in ("male", "female"):
    body = assets[f"{gender}_joints"]
    points[gender] = smpl.keypoints(body, smpl.forward_axis_angle(body, batch["shape"], batch["pose"]), "h36m17")
  chosen = jnp.where(batch["female"][:, None, None] > 0, points["female"], points["male"])
  target, pelvis = chosen[:, np.array(joints.mapping("h36m17", "h36m_j14"))], joints.index("h36m17", "pelvis")
  target = target - chosen[:, pelvis][:, None]
  return target, jnp.ones(target.shape[:2], target.dtype)


def of_annotations(points, set_name):
  """(target [B, K, 3], known [B, K]) of annotated joints [B, 24, 4] in the order of a set, the pelvis at the origin.

  Source: SPIN, constants.py `J24_TO_J14`, `J24_TO_J17`.
  Differs: theirs takes the origin of the file for the pelvis, which it is in the released ones.
  """
  pelvis = points[:, joints.index("gt24", "pelvis")]
  chosen = points[:, np.array(joints.mapping("gt24", set_name))]
  return chosen[..., :3] - (pelvis[:, :3] * (pelvis[:, 3:] > 0))[:, None], (chosen[..., 3] > 0).astype(points.dtype)


def vertex_errors(prediction, batch, assets, mesh=False):
  """{"per_vertex_mm" [B]}: mean distance to the vertices of the labelled body, neither centred nor aligned.

  Args:
    prediction: state.Prediction; of it the first hypothesis, or its own mesh where `mesh`.
    batch: "pose" [B, 72] axis-angle, "shape" [B, 10].
    assets: with "body".
  Source: GraphCMR, authors' `eval.py` on UP-3D.
  """
  found = (prediction.vertices[:, 0] if mesh
           else smpl.forward(assets["body"], prediction.betas[:, 0], prediction.pose[:, 0]).vertices)
  target = smpl.forward_axis_angle(assets["body"], batch["shape"], batch["pose"]).vertices
  return {"per_vertex_mm": 1000 * metrics.pve(found, target)}


def results(prediction, assets):
  """What a result file has of the first hypothesis: {"pred_joints", "pose", "betas", "camera"}, each [B, ...].

  "pred_joints_mesh" are those of the system's own mesh, where it makes one. Source: SPIN, authors' `eval.py`.
  """
  pose, betas, body = prediction.pose[:, 0], prediction.betas[:, 0], assets["neutral_joints"]
  found = {} if prediction.vertices is None else {"pred_joints_mesh": joints_of_mesh(prediction, assets)}
  return found | {"pred_joints": smpl.keypoints(body, smpl.forward(body, betas, pose), "h36m17"),
                  "pose": rotations.matrix_to_axis_angle(pose).reshape(pose.shape[0], -1), "betas": betas,
                  "camera": prediction.camera[:, 0]}


def joints_of_mesh(prediction, assets):
  """[B, 17, 3] "h36m17" of the first hypothesis' own mesh. Source: GraphCMR, authors' `eval.py`."""
  body = assets["body"]
  return smpl.keypoints(body, smpl.as_posed(body, prediction.vertices[:, 0]), "h36m17")


def bodies(assets, path="", gendered=False):
  """What the joints of predictions, and of bodies with a gender, are made from; see `landmarks.rigid_body`.

  Args:
    assets: with "body".
    path: of the body; a folder with male and female ones, where `gendered` ones are wanted.
  Raises:
    InputError: when a body, or Human3.6M's regressor, is missing.
  """
  rigid = lambda body: landmarks.rigid_body(body, ("h36m17",))
  found = {"neutral_joints": rigid(assets["body"])}
  if not gendered:
    return found
  if not os.path.isdir(path):
    raise InputError(f"3DPW compares with male and female bodies, and the body {str(path)!r} is one alone: give --body "
                     "a folder with SMPL_NEUTRAL.pkl, SMPL_MALE.pkl and SMPL_FEMALE.pkl")
  return found | {f"{gender}_joints": rigid(smpl.load(path, gender)) for gender in ("male", "female")}
