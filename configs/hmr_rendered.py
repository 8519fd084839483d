"""HMR on rendered people with SPIN's losses: ResNet-50 at 224 pixels on an accelerator. Not yet run to the end here.

python -m jhmr.train --config configs/hmr_rendered.py
python -m jhmr.train --config configs/hmr_rendered.py:smoke    # two steps
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
      duration="100000 steps",  # or epochs, examples
      splits=("val", "val_occluded", "multiview"),
      eval_batches=0,
      log_every=100,
      eval_every=5000,
      checkpoint_every=2500,
      keep=2,
      parallel="pmap",
      accumulate=1,
      ema=0.0,
      skip_bad_steps=0,
      warm_start="",
      stuck_after_s=0,
      supervision="spin",
      camera_convention="spin",
      # From disk, num_workers processes prepare batches; 0: num_threads threads, which share Python's lock.
      data=dict(source="stream", share_2d_only=0.3, mocap="", input="rgb", num_workers=0, num_threads=8,
                max_bad_share=0.05),
      net=dict(backbone="resnet50", iterations=3, hidden=1024, dropout=0.5, activation="none", dtype="bfloat16",
               batch_norm="device", remat=False),
      optim=dict(name="adam", learning_rate=1e-4, schedule="cosine", warmup="1000 steps", decay_every="", decay=0.1,
                 weight_decay=0.0, clip_norm=0.0),
      critic_optim=dict(name="adam", learning_rate=1e-4),
      # Source: SPIN, authors' train options: 60 x (5, 5, 1, 0.001, 0, 1). Their mean of 2D errors is over 49 keypoints,
      # the 25 detected ones zeros, as with supervision="spin49"; over 24 as here, it weighs twice (49/24) as much.
      weights=dict(keypoints2d=300.0, keypoints3d=300.0, pose=60.0, betas=0.06, vertices=0.0, camera=60.0,
                   adversarial=0.0),
  ))
  if mode == "smoke":
    config.update(dict(duration="2 steps", batch_size=8, image_size=64, body="mannequin_small", log_every=1,
                       eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.update(dict(backbone="resnet_tiny", hidden=32))
    config.optim.warmup = "0 steps"
  return config
