"""SPIN row: updates with SMPLify in the loop, beside the same network in PyTorch with SMPLify on smplx's full mesh.

20 steps of Adam in each of the two stages. The note says what the fits cost: the same update without them, and with 100
steps in each stage. The peer makes its network's update and then `smplify.run_peer` for the same number of people.
"""

from jhmr.benchmarks import smplify
from jhmr.benchmarks import timing
from jhmr.benchmarks import train
from jhmr.body import smpl
from jhmr.data import spec
from jhmr.fitting import priors
from jhmr.fitting import smplify as smplify_lib
from jhmr.systems import spin
import ml_collections

STEPS, MANY = 20, 100
_FEW = 5  # steps of each stage that the peer makes to be timed


def update(batch=32, seconds=5.0):
  """Images per second of whole SPIN updates: forward, fits, losses, backward, Adam."""
  arrays = smpl.load_arrays("mannequin")
  made = {name: set_up(arrays, batch, *how) for name, how in (
      ("ours", ("in_the_loop", STEPS)), ("without", ("none", 1)), ("many", ("in_the_loop", MANY)))}
  functions = {name: train.runner(*parts) for name, parts in made.items()}
  step, state, data, assets = made["ours"]
  peer = timing.installed("torch", "smplx")
  if peer:
    functions["peer"] = train.peer_step(arrays, *made["without"][1:])
  times = timing.interleaved(functions, seconds)
  if peer:
    per_stage, _ = smplify.run_peer(arrays, smplify.set_up(arrays, batch)[1], _FEW)
  cost = lambda name: times[name] / times["without"]
  return {"name": "SPIN update", "unit": "images/s", "ours": batch / times["ours"],
          "peer": batch / (times["peer"] + STEPS * sum(per_stage)) if peer else None,
          "peer_name": "the same in PyTorch, smplx",
          "flops_per_item": made["without"][0].lower(*made["without"][1:]).cost_analysis()["flops"] / batch,
          "bytes_per_item": train.bytes_per_image(state.params, batch),
          "note": f"an update with {STEPS} + {STEPS} steps of fitting takes {cost('ours'):.2f} times one without, with "
                  f"{MANY} + {MANY} steps {cost('many'):.2f} times; the floor is that of the network"}


def set_up(arrays, batch, mode, steps):
  """(mapped step, state, batch laid out for it, assets) on one device."""
  config = ml_collections.ConfigDict(train.CONFIG | {
      "system": "spin", "fits": "", "unpaired": False, "num_examples": batch, "camera_convention": "spin",
      "fitting": {"mode": mode, "method": "spin", "steps": steps, "threshold": 100.0, "torso": "annotated",
                  "ignored": smplify_lib.METHODS["spin"].ignored},
      "keypoint_weights": {"detected": 0.0, "annotated": 1.0},
      "weights": {n: w for n, w in train.CONFIG["weights"].items() if n != "adversarial"}})
  data = spec.fake_batch(train.IMAGE_SIZE, batch)
  data["keypoints2d"][..., :2] *= 0.3  # in the crop
  return train.lay_out(spin.build(config), arrays, "spin49", data, {"pose_prior": priors.default_gmm()})
