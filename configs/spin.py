"""SPIN as in the paper: ResNet-50 at 224 pixels, SMPLify in the loop, its weights. Not yet run to the end here.

python -m jhmr.train --config configs/spin.py --config.data.source=DIR [--config.body=SMPL_NEUTRAL.pkl]
python -m jhmr.train --config configs/spin.py:released ...     # weights, rate and iterations of the authors' code
python -m jhmr.train --config configs/spin.py:smoke            # two steps, no data
DIR is a data set built in the format of jhmr/data/builders; without one the images are `data.examples` rendered people.
Initial fits: --config.fits=fits.npz, of `python -m jhmr.static_fits` or the authors' <dataset>_fits.npy.
"""

from ml_collections import ConfigDict


# Source: SPIN, authors' `utils/train_options.py`: 100 iterations of each stage, weights 60 x (5, 5, 1, 0.001, 0, 1).
RELEASED = dict(duration="50 epochs", fitting=dict(steps=100), optim=dict(learning_rate=5e-5),
                weights=dict(keypoints2d=300.0, keypoints3d=300.0, betas=0.06))


def get_config(mode="full"):
  config = ConfigDict(dict(
      system="spin",
      seed=0,
      body="mannequin",
      mean_params="",
      pose_prior="",             # "": fitted to the pose sampler; or gmm_08.pkl
      fits="",                   # initial fits; "": none, so that the first of every example is better
      unpaired=False,            # hide all 3D labels
      camera_convention="spin",  # what the network's (s, t) mean: s (X + t); or "eft": s X + t
      image_size=224,
      batch_size=64,
      duration="350000 steps",   # or epochs, examples
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
      warm_start="",             # python -m jhmr.convert --kind resnet makes a start of torchvision's file
      stuck_after_s=0,
      # Rendered people come again every `examples`; data sets on disk know their number.
      data=dict(source="stream", examples=20000, share_2d_only=0.7, mocap="", input="rgb", num_workers=0, num_threads=8,
                max_bad_share=0.05),
      # Source: SPIN, section 4: 50 iterations, of two stages; error below which a fit supervises: authors' options.
      # Their camera stage always uses annotated joints, since the first look at the fits' errors clears the detected
      # ones' confidences; "detected" prefers these, as their text says.
      fitting=dict(mode="in_the_loop", method="spin", steps=25, threshold=100.0, torso="annotated",
                   ignored=("op_neck", "op_right_hip", "op_left_hip", "right_hip", "left_hip")),
      keypoint_weights=dict(detected=0.0, annotated=1.0),
      net=dict(backbone="resnet50", iterations=3, hidden=1024, dropout=0.5, activation="none", dtype="bfloat16",
               batch_norm="device", remat=False),
      # Source: SPIN, supplement: rate 3e-5, batches of 64, all weights 60 but betas 6.
      optim=dict(name="adam", learning_rate=3e-5, schedule="constant", warmup="0 steps", decay_every="", decay=0.1,
                 weight_decay=0.0, clip_norm=0.0),
      weights=dict(keypoints2d=60.0, keypoints3d=60.0, pose=60.0, betas=6.0, vertices=0.0, camera=60.0),
  ))
  if "released" in mode.split(","):
    config.update(RELEASED)
  if "smoke" in mode.split(","):
    config.update(dict(duration="2 steps", batch_size=8, image_size=64, body="mannequin_small", log_every=1,
                       eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.update(dict(backbone="resnet_tiny", hidden=32))
    config.data.examples, config.fitting.steps = 24, 3
  return config
