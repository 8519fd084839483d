"""HMR as in the paper: ResNet-50 at 224 pixels, its losses and weights, its critic. Not yet run to the end here.

python -m jhmr.train --config configs/hmr.py --config.data.source=DIR [--config.body=SMPL_NEUTRAL.pkl]
python -m jhmr.train --config configs/hmr.py:smoke             # two steps, no data
DIR is a data set built in the format of jhmr/data/builders; without one the images are rendered people.
"""

from ml_collections import ConfigDict


def get_config(mode="full"):
  config = ConfigDict(dict(
      system="hmr",
      seed=0,
      body="mannequin",
      mean_params="",
      image_size=224,
      batch_size=64,
      duration="500000 steps",  # or epochs, examples
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
      supervision="hmr",
      camera_convention="spin",  # what the network's (s, t) mean: s (X + t); or "eft": s X + t
      # From disk, num_workers processes prepare batches; 0: num_threads threads, which share Python's lock.
      data=dict(source="stream", share_2d_only=0.5, mocap="", input="rgb", num_workers=0, num_threads=8,
                max_bad_share=0.05),
      net=dict(backbone="resnet50", iterations=3, hidden=1024, dropout=0.5, activation="relu", dtype="bfloat16",
               batch_norm="device", remat=False),
      # Source: HMR, authors' do_train.sh: rates 1e-5 and 1e-4, weights 60 on the reprojection and on the 3D terms;
      # the shares of pose and betas follow from their one mean over 216 + 10 numbers (jhmr/systems/hmr.py).
      optim=dict(name="adam", learning_rate=1e-5, schedule="constant", warmup="0 steps", decay_every="", decay=0.1,
                 weight_decay=0.0, clip_norm=0.0),
      critic_optim=dict(name="adam", learning_rate=1e-4),
      weights=dict(keypoints2d=60.0, keypoints3d=30.0, pose=60 * 108 / 226, betas=60 * 5 / 226, vertices=0.0,
                   camera=0.0, adversarial=1.0),
  ))
  if mode == "smoke":
    config.update(dict(duration="2 steps", batch_size=8, image_size=64, body="mannequin_small", log_every=1,
                       eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.update(dict(backbone="resnet_tiny", hidden=32))
  return config
