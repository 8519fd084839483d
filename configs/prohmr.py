"""ProHMR as in the paper: ResNet-50 at 224 pixels, four blocks of flow, its losses. Not yet run to the end here.

python -m jhmr.train --config configs/prohmr.py --config.data.source=DIR [--config.body=SMPL_NEUTRAL.pkl]
python -m jhmr.train --config configs/prohmr.py:smoke          # two steps, no data
DIR is a data set built in the format of jhmr/data/builders; without one the images are rendered people.
"""

from ml_collections import ConfigDict


def get_config(mode="full"):
  config = ConfigDict(dict(
      system="prohmr",
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
      train_samples=2,           # bodies of each image in a step, the mode among them
      model_joints="prohmr44",   # regressors of the model's 44 joints; "spin49" needs other files of the body
      data=dict(source="stream", share_2d_only=0.5, mocap="", input="rgb", num_threads=8, num_workers=0,
                max_bad_share=0.05),
      # Source: ProHMR, authors' configs/prohmr.yaml; the flow stays in float32 whatever dtype is.
      net=dict(backbone="resnet50", hidden=1024, dtype="bfloat16", batch_norm="device", remat=False,
               flow=dict(blocks=4, hidden=1024, depth=2, dropout=0.5, legacy_lu=False)),
      optim=dict(name="adamw", learning_rate=1e-4, schedule="constant", warmup="0 steps", decay_every="", decay=0.1,
                 weight_decay=1e-4, clip_norm=0.0),
      critic_optim=dict(name="adamw", learning_rate=1e-4, weight_decay=1e-4),
      weights=dict(keypoints2d_mode=0.01, keypoints2d_exp=0.001, keypoints3d_mode=0.05, keypoints3d_exp=0.0,
                   global_orient_mode=0.001, global_orient_exp=0.0, body_pose_mode=0.001, body_pose_exp=0.0,
                   betas=0.0005, nll=0.001, orthogonal=0.1, adversarial=0.0005),
  ))
  if mode == "smoke":
    config.update(dict(duration="2 steps", batch_size=8, image_size=64, body="mannequin_small", log_every=1,
                       eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.update(dict(backbone="resnet_tiny", hidden=32))
    config.net.flow.update(dict(blocks=2, hidden=32))
  return config
