"""Lifting by a conditional invertible network as in the paper: 200 samples, 74,710 steps. Not yet run to the end here.

python -m jhmr.train --config configs/lifting.py --config.data.source=poses.npz
python -m jhmr.train --config configs/lifting.py:released ...   # widths, MMD and sets of hypotheses as coded
python -m jhmr.train --config configs/lifting.py:smoke          # two steps, no data
Its ablations (Table 4), each one or two more flags:
  --config.net.condition=False                                  --config.weights.covariance=0
  --config.weights.generator=0 --config.critic_steps=0 --config.batch_size=64
  --config.weights.best=0                                       --config.top_k=1   (10, 50)
With --config.data.source=FILE.npz of 2D detections, fitted heatmaps and 3D poses; else they are of rendered people.
"""

from ml_collections import ConfigDict

MODES = ("full", "released", "smoke")


def get_config(mode="full"):
  wanted = set(mode.split(","))
  if odd := sorted(wanted - set(MODES)):
    raise ValueError(f"no mode {odd[0]!r} here: {', '.join(MODES)}")
  # Source: Wehrbein et al. 2021, section 4.2; the rate is halved after 150 of 155 epochs of 482 steps each.
  adam = dict(name="adam", learning_rate=1e-4, b1=0.5, b2=0.9, schedule="staircase", warmup="0 steps",
              decay_every="72300 steps", decay=0.5, weight_decay=0.0, clip_norm=0.0)
  config = ConfigDict(dict(
      task="lifting",
      system="cinn_lifting",
      seed=0,
      lift_stats="",             # of a run's workdir; "": of this data
      batch_size=704,            # 64 for each of the 2 critic_steps + 1 parts of a step
      duration="74710 steps",    # or epochs, examples
      splits=("val", "val_hard"),
      eval_batches=0,
      log_every=100,
      eval_every=5000,
      checkpoint_every=5000,
      keep=2,
      parallel="pmap",
      accumulate=1,
      ema=0.0,
      skip_bad_steps=0,
      warm_start="",
      stuck_after_s=0,
      hypotheses=200,            # samples of each image while training
      top_k=5,                   # of which so many learn
      critic_steps=5,            # updates of the critic in each step
      mmd="paper",               # "code": with pairs of a point with itself
      clip=15.0,                 # each entry of the network's gradient is cut to this; 0: never
      mode_first=True,           # a set of hypotheses begins with that of z = 0; False: samples alone
      data=dict(source="stream", people=20000, val=2000, val_hard=1000),
      net=dict(blocks=8, hidden=1024, condition=True, condition_hidden=256, features=56, clamp=2.0, dtype="float32"),
      critic=dict(hidden=100, chain_hidden=1000, penalty=10.0),
      optim=adam,
      critic_optim=dict(adam),
      weights=dict(keypoints2d=1.0, mmd=10.0, deterministic=4.0, best=4.0, covariance=750.0, generator=1.0),
  ))
  if "released" in wanted:  # Source: Wehrbein et al. 2021, authors' code
    config.update(dict(mmd="code", mode_first=False))
    config.net.hidden = 1028
  if "smoke" in wanted:
    config.update(dict(duration="2 steps", batch_size=24, log_every=1, eval_every=2,
                       eval_batches=1, checkpoint_every=2, hypotheses=8, top_k=2, critic_steps=1))
    config.net.update(dict(blocks=2, hidden=16, condition_hidden=16, features=8))
    config.data.update(dict(people=64, val=16, val_hard=8))
    config.critic.update(dict(hidden=8, chain_hidden=16))
    config.optim.decay_every = config.critic_optim.decay_every = "1 steps"
  return config
