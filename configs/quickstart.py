"""ProHMR on rendered people, on a laptop's CPU in minutes; no data, no licence, no download.

python -m jhmr.train --config configs/quickstart.py
python -m jhmr.train --config configs/quickstart.py:smoke      # two steps, for tests
"""

from ml_collections import ConfigDict


def get_config(mode="full"):
  config = ConfigDict(dict(
      system="prohmr",
      seed=0,
      body="mannequin_small",   # or the path of an SMPL file
      mean_params="",           # "": the mean of the pose sampler; or smpl_mean_params.npz
      image_size=64,
      batch_size=16,
      duration="6000 steps",  # or epochs, examples
      splits=("val", "val_occluded"),  # the first one decides which checkpoint is best
      eval_batches=0,           # of each split; 0: all
      log_every=200,
      eval_every=3000,
      checkpoint_every=500,
      keep=2,                   # checkpoints kept besides the best
      parallel="pmap",          # or "shard_map"
      accumulate=1,             # parts a device's batch is computed in, one after the other
      ema=0.0,                  # decay of the average of the parameters that is scored and kept for prediction; 0: none
      skip_bad_steps=0,         # updates that may be left out because they are not finite; 0: stop at the first
      warm_start="",            # workdir of a run whose networks this one starts from
      stuck_after_s=0,          # end a process that makes no step for so long, so that it can be restarted; 0: never
      train_samples=2,          # bodies of each image in a step, the mode among them
      model_joints="prohmr44",  # regressors of the model's 44 joints; "spin49" needs other files of the body
      # One outfit in an empty studio, people who face the camera to within 60 degrees, a third of them seen in part:
      # what a small network learns in minutes, and something to be unsure of. Raise variety, photo and facing_deg
      # (1, 1, 180) for the full range of rendered people.
      data=dict(source="stream", share_2d_only=0.1, mocap="", input="rgb", photo=0.0, variety=0.0, facing_deg=60.0,
                share_occluded=0.1, share_truncated=0.3, roll_deg=3.0),
      net=dict(backbone="resnet_tiny", hidden=256, dtype="float32", batch_norm="device", remat=False,
               flow=dict(blocks=4, hidden=256, depth=2, dropout=0.0, legacy_lu=False)),
      optim=dict(name="adamw", learning_rate=1e-3, schedule="cosine", warmup="200 steps", decay_every="",
                 decay=0.1, weight_decay=1e-4, clip_norm=50.0),
      critic_optim=dict(name="adamw", learning_rate=1e-4, weight_decay=1e-4),
      weights=dict(keypoints2d_mode=0.01, keypoints2d_exp=0.001, keypoints3d_mode=0.05, keypoints3d_exp=0.0,
                   global_orient_mode=0.001, global_orient_exp=0.0, body_pose_mode=0.001, body_pose_exp=0.0,
                   betas=0.0005, nll=0.001, orthogonal=0.1, adversarial=0.0),
  ))
  if mode == "smoke":
    config.update(dict(duration="2 steps", batch_size=8, log_every=1, eval_every=2, eval_batches=1,
                       checkpoint_every=2, splits=("val",)))
    config.net.hidden = 32
    config.net.flow.update(dict(blocks=2, hidden=32))
    config.optim.warmup = "0 steps"
  return config
