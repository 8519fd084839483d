"""ProHMR on rendered people with the paper's losses: ResNet-50 at 224 pixels on an accelerator. Not yet run to the end.

python -m jhmr.train --config configs/prohmr_rendered.py
python -m jhmr.train --config configs/prohmr_rendered.py:smoke    # two steps
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
      duration="200000 steps",  # or epochs, examples
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
      warm_start="",             # python -m jhmr.convert --kind resnet makes a start of torchvision's file
      stuck_after_s=0,
      train_samples=2,
      model_joints="prohmr44",
      data=dict(source="stream", share_2d_only=0.3, mocap="", input="rgb", num_workers=0, num_threads=8,
                max_bad_share=0.05),
      net=dict(backbone="resnet50", hidden=1024, dtype="bfloat16", batch_norm="device", remat=False,
               flow=dict(blocks=4, hidden=1024, depth=2, dropout=0.5, legacy_lu=False)),
      optim=dict(name="adamw", learning_rate=1e-4, schedule="cosine", warmup="1000 steps", decay_every="", decay=0.1,
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
    config.optim.warmup = "0 steps"
  return config
