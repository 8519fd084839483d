"""The prior of 3D Multi-bodies, as its authors trained it: 20 couplings over 24 joints. Not yet run to the end here.

python -m jhmr.train --config configs/joint_prior.py [--config.data.mocap=amass.npz --config.body=SMPL_NEUTRAL.pkl]
python -m jhmr.train --config configs/joint_prior.py:smoke       # two steps
Then config.prior of configs/multibodies.py is its workdir. Learns bodies of the built-in sampler or mocap, not images.
"""

from ml_collections import ConfigDict


def get_config(mode="full"):
  config = ConfigDict(dict(
      system="joint_prior",
      seed=0,
      body="mannequin",
      mean_params="",
      image_size=64,             # of pictures in evaluations; training looks at none
      batch_size=48,
      duration="1000000 steps",  # or epochs, examples
      splits=("val",),
      eval_batches=0,
      log_every=100,
      eval_every=10000,
      checkpoint_every=10000,
      keep=2,
      parallel="pmap",
      accumulate=1,
      ema=0.0,
      skip_bad_steps=0,
      warm_start="",
      stuck_after_s=0,
      jitter_m=0.0,              # noise on the joints that it learns, which keeps the density finite
      data=dict(source="stream", share_2d_only=0.0, mocap="", num_threads=8, num_workers=0, max_bad_share=0.05),
      net=dict(dim=72, couplings=20, hidden=512, dropout=0.2),
      # Source: 3D Multi-bodies, name and options of the released flow's run; authors' `optimizer.py`.
      optim=dict(name="adam", learning_rate=1e-5, schedule="constant", warmup="0 steps", decay_every="", decay=0.1,
                 weight_decay=5e-4, clip_norm=0.0),
      weights=dict(nll=1.0),
  ))
  if mode == "smoke":
    config.update(dict(duration="2 steps", batch_size=8, image_size=64, body="mannequin_small", log_every=1,
                       eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.update(dict(couplings=2, hidden=16))
  return config
