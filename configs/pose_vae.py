"""A pose prior as VPoser's second release, for fits: learns poses of the built-in sampler or mocap. Not yet run to the
end here. On a CPU: 2,000 steps with --config.weights.vertices=0 take 2 minutes (2 shared cores) and bring held-out
poses back to 44.4 mm MPJPE, 35.6 mm PA-MPJPE (the mean pose: 123.5); the mesh's term is seven eighths of a step.

python -m jhmr.train --config configs/pose_vae.py [--config.data.mocap=amass.npz --config.body=SMPL_NEUTRAL.pkl]
python -m jhmr.train --config configs/pose_vae.py:smoke          # two steps
"""

from ml_collections import ConfigDict


def get_config(mode="full"):
  config = ConfigDict(dict(
      system="pose_vae",
      seed=0,
      body="mannequin",
      mean_params="",
      image_size=64,             # of pictures in evaluations; training looks at none
      batch_size=128,
      duration="50000 steps",    # or epochs, examples
      splits=("val",),
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
      jitter_rad=0.05,           # noise on the poses that the encoder sees
      data=dict(source="stream", share_2d_only=0.0, mocap="", num_threads=8, num_workers=0, max_bad_share=0.05),
      net=dict(version=2, hidden=512, latent=32, dropout=0.1),
      # Source: VPoser, authors' train/V02_05/V02_05.yaml; there the rate falls when the error no longer does.
      optim=dict(name="adam", learning_rate=1e-3, schedule="cosine", warmup="0 steps", decay_every="", decay=0.1,
                 weight_decay=1e-5, clip_norm=0.0),
      weights=dict(kl=0.005, vertices=4.0, rotations=2.0, joints=2.0),
  ))
  if mode == "smoke":
    config.update(dict(duration="2 steps", batch_size=8, image_size=64, body="mannequin_small", log_every=1,
                       eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.update(dict(hidden=32, latent=8))
  return config
