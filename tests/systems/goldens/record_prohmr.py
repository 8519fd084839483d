"""Records prohmr.npz: what the authors' ProHMR computes of `prohmr_inputs`, in float32, and its gradients in float64.

    git clone https://github.com/nkolot/ProHMR && git clone https://github.com/nkolot/nflows
    PYTHONPATH=.:tests python tests/systems/goldens/record_prohmr.py ProHMR nflows tests/systems/goldens/prohmr.npz

Needs torch, smplx and PyYAML. The density is recorded twice, as `record_flow.py` does: as their package computes it and
as it did before commit 26388ed. Gradients are kept as their norm and their product with a random direction, for each
parameter. It prints how far their own float32 is from their float64.
"""

import sys
import tempfile

import numpy as np
from nn.goldens import record_flow
from systems import prohmr_inputs as inputs
from systems.goldens import authors_prohmr
import torch


def tensors(arrays, dtype):
  return {k: torch.tensor(v, dtype=dtype) for k, v in arrays.items()}


def looked_at(model, dtype):
  """What the model says of the first images when it does not train."""
  model.eval()
  image = torch.tensor(inputs.images(inputs.PEOPLE, inputs.PEOPLE_SIZE), dtype=dtype).permute(0, 3, 1, 2)
  z, pose = (torch.tensor(x, dtype=dtype) for x in inputs.latents())
  with torch.no_grad():
    features = model.backbone(image)
    # One sample per call: with more, their package compares the latents with too few contexts.
    made = [model.flow(features, z=z[:, s:s + 1]) for s in range(inputs.SAMPLES)]
    known = six_d(pose.reshape(-1, 24, 3)).reshape(*pose.shape[:2], 144)
    known = {"global_orient": known[..., :6], "body_pose": known[..., 6:]}
    found = {"features": features, "six_d": torch.cat([m[4] for m in made], 1),
             "pose": torch.cat([torch.cat([m[0]["global_orient"], m[0]["body_pose"]], 2) for m in made], 1),
             "sample_log_prob": torch.cat([m[2] for m in made], 1), "betas": made[0][0]["betas"][:, 0],
             "camera": made[0][1][:, 0]}
    found["log_prob"], found["z"] = model.flow.log_prob(known, features)
    lu = type(model.flow.flow._transform._transforms[1])
    theirs, lu.forward_no_cache = lu.forward_no_cache, record_flow.legacy_forward
    found["legacy_log_prob"], found["legacy_z"] = model.flow.log_prob(known, features)
    lu.forward_no_cache = theirs
  return {k: v.numpy() for k, v in found.items()}


def six_d(axis_angle):
  """[B, 24, 3] -> [B, 24, 6] by their functions."""
  from prohmr.utils.geometry import aa_to_rotmat
  matrix = aa_to_rotmat(axis_angle.reshape(-1, 3)).reshape(*axis_angle.shape, 3)
  return matrix[..., :2].transpose(-1, -2).reshape(*axis_angle.shape[:2], 6)


def batches(dtype):
  """The training batch, and the mocap batch with every real body once for each sample."""
  known = tensors(inputs.labels(), dtype)
  has_pose = known["has_pose"]
  split = {"global_orient": known["pose"][:, :3], "body_pose": known["pose"][:, 3:], "betas": known["betas"]}
  has = {"global_orient": has_pose, "body_pose": has_pose, "betas": known["has_betas"]}
  axis_angle = {k: torch.tensor([k != "betas"] * inputs.IMAGES) for k in split}
  image = torch.tensor(inputs.images(inputs.IMAGES, inputs.SIZE), dtype=dtype).permute(0, 3, 1, 2)
  return {"img": {"img": image, "keypoints_2d": known["keypoints2d"], "keypoints_3d": known["keypoints3d"],
                  "smpl_params": split, "has_smpl_params": has, "smpl_params_is_axis_angle": axis_angle},
          "mocap": {"body_pose": known["real_pose"].repeat(2, 1), "betas": known["real_betas"].repeat(2, 1)}}


def trained_on(model, dtype):
  """(losses, {key: gradient}) of one training step."""
  model.train()
  z, noise = (torch.tensor(x, dtype=dtype) for x in inputs.draws())
  noise = noise[torch.tensor(inputs.labels()["has_pose"]) > 0]
  parts = {6: noise[..., :6], 138: noise[..., 6:], 10: torch.zeros(len(noise), 1, 10, dtype=dtype)}
  drawn = torch.randn, torch.randn_like
  torch.randn = lambda *shape, **_: z.reshape(*(shape if len(shape) > 1 else shape[0]))
  torch.randn_like = lambda x: parts[x.shape[-1]]
  output = model.training_step(batches(dtype), 0, 0)
  torch.randn, torch.randn_like = drawn
  return {k: float(v) for k, v in output["losses"].items()}, model.gradients()


def statistics(model):
  """Their running statistics after the step, as products with random directions."""
  return {k: np.vdot(inputs.probe(k, v.shape), v.double().numpy()) for k, v in model.state_dict().items()
          if k.endswith(("running_mean", "running_var"))}


def record(prohmr, nflows, dtype):
  with tempfile.TemporaryDirectory() as folder:
    model, _ = authors_prohmr.build(prohmr, nflows, folder, dtype)
  found = looked_at(model, dtype)
  losses, grads = trained_on(model, dtype)
  names, stats = sorted(grads), statistics(model)
  norms = [np.linalg.norm(grads[k]) for k in names]
  dots = [np.vdot(inputs.probe(k, grads[k].shape), grads[k]) for k in names]
  return found, {"loss_names": np.array(list(losses)), "losses": np.array(list(losses.values())),
                 "grad_names": np.array(names), "grad_norms": np.array(norms), "grad_dots": np.array(dots),
                 "stat_names": np.array(list(stats)), "stat_dots": np.array(list(stats.values()))}


def main(prohmr, nflows, path):
  seen, step = record(prohmr, nflows, torch.float32)
  seen64, step64 = record(prohmr, nflows, torch.float64)
  for k, v in seen.items():
    print(f"{k}: {np.linalg.norm(v - seen64[k]) / np.linalg.norm(v):.1e}, size {np.sqrt(np.mean(v ** 2)):.3g}")
  for k, a, b in zip(step["loss_names"], step["losses"], step64["losses"]):
    print(f"{k} {b:.6g}: {abs(a - b) / max(abs(b), 1e-9):.1e}")
  odd = np.abs(step["grad_dots"] - step64["grad_dots"]) / step64["grad_norms"].clip(1e-6)
  for i in np.argsort(-odd)[:10]:
    print(f"gradient of {step['grad_names'][i]}: norm {step64['grad_norms'][i]:.3g}, {odd[i]:.1e}")
  print("gradients, median and largest:", np.median(odd), odd.max())
  sums = {"sum_weights": inputs.total(inputs.weights()), "sum_body": inputs.total(inputs.body())}
  exact = {f"exact_{k}": v for k, v in step64.items() if k.endswith(("losses", "norms", "dots"))}
  np.savez_compressed(path, **{k: v.astype(np.float32) for k, v in seen.items()}, **step, **exact, **sums)


if __name__ == "__main__":
  main(*sys.argv[1:])
