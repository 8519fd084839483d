"""Baselines of lifting 2D poses to 3D: Martinez et al., Li and Lee, ProHMR on skeletons. Not yet run to the end here.

python -m jhmr.train --config configs/lifting_baselines.py:martinez --workdir runs/martinez   # one pose
python -m jhmr.train --config configs/lifting_baselines.py:mdn --workdir runs/mdn             # a mixture of five
python -m jhmr.train --config configs/lifting_baselines.py:prohmr --workdir runs/prohmr_lift  # a normalizing flow
python -m jhmr.train --config configs/lifting_baselines.py:prohmr,released ...                # of 17 joints
python -m jhmr.train --config configs/lifting_baselines.py:mdn,smoke                          # two steps, no data
With --config.data.source=FILE.npz of jhmr/data/lift_poses.py; else poses are those of made people.
The mixture without its prior: --config.weights.prior=0; joints of limbs that are not seen: --config.missing=1.
"""

from ml_collections import ConfigDict

MODES = ("martinez", "mdn", "prohmr", "released", "smoke")


def martinez(config):
  """One pose. Source: Martinez et al. 2017, sections 3 and 4."""
  config.update(dict(system="martinez", weights=dict(pose3d=1.0)))


def mdn(config):
  """A mixture; all that is not here as Martinez et al. Source: Li and Lee 2019, authors' `mix_den_model.py`."""
  config.update(dict(
      system="lift_mdn",
      components=5,
      sets="means",              # sets of hypotheses: means, then samples; "samples": one mean, then samples
      weights=dict(nll=1.0, prior=1.0)))  # the prior's concentration is one more than its weight


def prohmr(config):
  """A flow. Source: ProHMR, authors' `configs/proskeleton.yaml`."""
  del config.net.max_norm
  config.update(dict(
      system="prohmr_lift",
      duration="300000 steps",
      inputs="lift16",           # detected joints; "lift17": with the nose
      train_samples=2,           # poses of each input in training: the mode, and random ones
      noise_m=0.005,             # on the poses whose likelihood is learned
      net=dict(flow=dict(blocks=4, hidden=1024, depth=2, dropout=0.5, legacy_lu=False)),
      optim=dict(name="adamw", learning_rate=1e-4, schedule="constant", decay_every="", weight_decay=1e-4),
      weights=dict(nll=0.001, joints_mode=1.0, joints_exp=0.0)))


def get_config(mode="martinez"):
  wanted = set(mode.split(","))
  methods = wanted & {"martinez", "mdn", "prohmr"}
  if (odd := sorted(wanted - set(MODES))) or len(methods) > 1 or "released" in wanted and methods != {"prohmr"}:
    raise ValueError(f"no mode {(odd or [mode])[0]!r} here: martinez, mdn or prohmr; prohmr also with released, all of "
                     "them with smoke")
  config = ConfigDict(dict(
      task="lifting",
      system="",
      seed=0,
      lift_stats="",             # of a run's workdir; "": of this data
      batch_size=64,
      duration="4874000 steps",  # 200 epochs of the 1,559,752 poses of Human3.6M; or epochs, examples
      splits=("val", "val_hard"),
      eval_batches=0,
      log_every=1000,
      eval_every=10000,
      checkpoint_every=10000,
      keep=2,
      parallel="pmap",
      accumulate=1,
      ema=0.0,
      skip_bad_steps=0,
      warm_start="",
      stuck_after_s=0,
      missing=0,                 # joints of limbs that are hidden in training
      data=dict(source="stream", people=20000, val=2000, val_hard=1000),
      # Source: Martinez et al. 2017, section 3; authors' recommended flags.
      net=dict(hidden=1024, blocks=2, dropout=0.5, max_norm=True, batch_norm="device"),
      # Source: Martinez et al., authors' `linear_model.py`.
      optim=dict(name="adam", learning_rate=1e-3, schedule="exponential", warmup="0 steps", decay_every="100000 steps",
                 decay=0.96, weight_decay=0.0, clip_norm=0.0),
  ))
  {"mdn": mdn, "prohmr": prohmr}.get(next(iter(methods), ""), martinez)(config)
  if "released" in wanted:
    config.inputs = "lift17"
  if "smoke" in wanted:
    config.update(dict(duration="2 steps", batch_size=8, log_every=1, eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.hidden = 32
    config.data.update(dict(people=64, val=16, val_hard=8))
    if "prohmr" in wanted:
      config.net.flow.update(dict(blocks=2, hidden=32))
  return config
