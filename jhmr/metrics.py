"""Errors of predicted bodies, one number per example: [B], or [B, S] for S hypotheses.

Three steps that are kept apart: align (`centre`, `procrustes.align`), measure ([..., K, 3] -> [...]), and reduce over
hypotheses (`best_of`). Joints are metres; whoever prints them turns them into millimetres, as `per_example` does.

The protocol is SPIN's: the 14 LSP joints regressed from the vertices by Human3.6M's regressor, centred at its pelvis.
"""

import jax
import jax.numpy as jnp
from jhmr.body import joints
from jhmr.body import procrustes
from jhmr.body import smpl
from jhmr.state import labelled_pose
import numpy as np

PCK_THRESHOLD_M = 0.15
AUC_THRESHOLDS_M = np.arange(31, dtype=np.float32) * 0.005
HIGHER_IS_BETTER = ("pck", "auc")


def distances(predicted, target):
  """[..., K, 3] and the same -> [..., K] Euclidean distances. Source: SPIN, authors' `eval.py`."""
  return jnp.sqrt(jnp.sum((predicted - target) ** 2, axis=-1))


def _mean_over(values, mask):
  """Mean of [..., K] over the joints that mask [..., K] keeps (None: all); 0 when it keeps none."""
  if mask is None:
    return jnp.mean(values, axis=-1)
  total = jnp.sum(jnp.broadcast_to(mask, values.shape), axis=-1)
  return jnp.sum(jnp.where(mask > 0, values, 0.0) * mask, axis=-1) / jnp.where(total > 0, total, 1.0)


def mpjpe(predicted, target, mask=None):
  """Mean distance of joints, each side already centred as the protocol says.

  Args:
    predicted, target: [..., K, 3] metres, leading axes that broadcast.
    mask: [..., K], 1 for joints with a label; None is all of them.
  Returns:
    [...] metres; 0 where nothing is labelled.
  Source: SPIN, authors' `eval.py`: mean over joints, then (by the caller) over examples.
  """
  return _mean_over(distances(predicted, target), mask)


def pa_mpjpe(predicted, target, mask=None):
  """`mpjpe` after the similarity (scale, rotation, translation) that best maps predicted onto target.

  Source: SPIN, authors' `utils/pose_utils.py:reconstruction_error`; fitted on the joints that are averaged.
  """
  shape = np.broadcast_shapes(predicted.shape, target.shape)
  predicted, target = jnp.broadcast_to(predicted, shape), jnp.broadcast_to(target, shape)
  weights = None if mask is None else jnp.broadcast_to(mask, shape[:-1])
  return mpjpe(procrustes.align(predicted, target, weights), target, mask)


def pve(predicted, target):
  """Mean distance of vertices [..., N, 3], each side already centred -> [...] metres.

  Source: MPJPE on vertices, as HuManiFlow's `PVE`, but centred at the pelvis as the joints are.
  """
  return jnp.mean(distances(predicted, target), axis=-1)


def pck(predicted, target, threshold_m=PCK_THRESHOLD_M, mask=None):
  """Share of joints nearer than threshold_m to their label, in 0..1; shapes as in `mpjpe`.

  Source: Mehta et al. 2017 (MPI-INF-3DHP), 3DPCK at 150 mm; strictly less, as in 3D Multi-bodies' evaluation.
  """
  return _mean_over((distances(predicted, target) < threshold_m).astype(jnp.float32), mask)


def auc(predicted, target, mask=None):
  """Mean of `pck` over thresholds of 0, 5, ..., 150 mm, in 0..1; shapes as in `mpjpe`.

  Source: Mehta et al. 2017 (MPI-INF-3DHP), the area under the 3DPCK curve.
  """
  error = distances(predicted, target)
  near = error[..., None] < AUC_THRESHOLDS_M.reshape((1,) * error.ndim + (-1,))
  return _mean_over(jnp.mean(near.astype(jnp.float32), axis=-1), mask)


def best_of(values, num=None, higher_is_better=False):
  """The best of the first `num` hypotheses (None: all), [..., S] -> [...]; each metric takes its own best one.

  It needs the answer to choose, so it says what a set of hypotheses covers, not what a method finds; it improves with
  S, so it is only ever compared at equal S.
  Source: ProHMR (Kolotouros et al. 2021), table 2, "min"; authors' `eval_regression.py`.
  """
  chosen = values[..., :num]
  return jnp.max(chosen, axis=-1) if higher_is_better else jnp.min(chosen, axis=-1)


def centred(body, posed):
  """A posed body's 14 LSP joints and its vertices, both with Human3.6M's pelvis at the origin.

  Returns:
    joints [..., 14, 3], vertices [..., N, 3], metres.
  Source: SPIN, authors' `eval.py`.
  """
  points = smpl.keypoints(body, posed, "h36m17")
  pelvis = points[..., joints.index("h36m17", "pelvis"), :][..., None, :]
  return points[..., np.array(joints.mapping("h36m17", "lsp14")), :] - pelvis, posed.vertices - pelvis


def per_example(prediction, batch, assets):
  """Every metric of a batch of predictions, against the pose and shape labels.

  Args:
    prediction: state.Prediction with S hypotheses, the best guess first.
    batch: needs global_orient, body_pose and betas; examples without them get meaningless numbers, mask them.
    assets: needs "body".
  Returns:
    {"mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "pck", "auc"}: [B] of hypothesis 0, and when S > 1 the same names with
    "best_" in front: [B] of the best hypothesis for each metric.
  Source: SPIN, authors' `eval.py`, ground truth from a SMPL mesh as on 3DPW.
  """
  body, target = assets["body"], _target(batch, assets)

  def measure(hypothesis):
    return _errors(centred(body, smpl.forward(body, *hypothesis)), target)

  # One hypothesis after the other: B x S full meshes at once would not fit.
  of_all = jax.lax.map(measure, jax.tree.map(  # {name: [S, B]}
      lambda x: jnp.swapaxes(x, 0, 1), (prediction.betas, prediction.pose)))
  values = {name: v[0] for name, v in of_all.items()}
  if prediction.betas.shape[1] > 1:
    values |= {f"best_{n}": best_of(v.T, higher_is_better=n in HIGHER_IS_BETTER) for n, v in of_all.items()}
  return values


def of_mesh(prediction, batch, assets):
  """As `per_example`, of the first hypothesis' own mesh (`Prediction.vertices`), which is no posed body.

  Source: GraphCMR (Kolotouros et al. 2019), table 3, "non-parametric"; authors' `eval.py`.
  """
  body = assets["body"]
  return _errors(centred(body, smpl.as_posed(body, prediction.vertices[:, 0])), _target(batch, assets))


def _target(batch, assets):
  """`centred` of the labelled bodies."""
  return centred(assets["body"], smpl.forward(assets["body"], batch["betas"], labelled_pose(batch)))


def _errors(found, target):
  """{name: [B]} of joints and vertices against the target's, both of `centred`."""
  (predicted, vertices), (labelled, labelled_vertices) = found, target
  return {"mpjpe_mm": 1000 * mpjpe(predicted, labelled), "pa_mpjpe_mm": 1000 * pa_mpjpe(predicted, labelled),
          "pve_mm": 1000 * pve(vertices, labelled_vertices), "pck": pck(predicted, labelled),
          "auc": auc(predicted, labelled)}
