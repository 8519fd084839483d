"""GraphCMR as in the paper: ResNet-50 at 224 pixels, graph convolutions, its weights. Not yet run to the end here.

python -m jhmr.train --config configs/graphcmr.py --config.data.source=DIR [--config.body=SMPL_NEUTRAL.pkl]
python -m jhmr.train --config configs/graphcmr.py:released     # losses and projection of the authors' code
python -m jhmr.train --config configs/graphcmr.py:smoke        # two steps, no data
DIR is a data set built in the format of jhmr/data/builders; without one the images are rendered people. The paper's two
steps are --config.train=graph and then, in another workdir, --config.train=parameters --config.warm_start=RUN.
"""

from ml_collections import ConfigDict


def get_config(mode="full"):
  config = ConfigDict(dict(
      system="graphcmr",
      supervision="paper",       # or "code"
      train="joint",             # "graph", then "parameters" from its run: the paper's two steps
      seed=0,
      body="mannequin",
      mean_params="",
      pyramid="",                # "": the body file's own, or made; a file of jhmr.body.pyramid; mesh_downsampling.npz
      model_joints="graphcmr24",
      image_size=224,
      batch_size=16,
      duration="500000 steps",   # or epochs (the paper: 25 of Human3.6M and UP-3D), examples
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
      data=dict(source="stream", share_2d_only=0.3, mocap="", num_workers=0, num_threads=8, max_bad_share=0.05),
      net=dict(backbone="resnet50", mesh="graph", layers=5, channels=256, hidden=1024, start="authors",
               dtype="float32", batch_norm="device", remat=False, conv="auto", determinant="nearest"),
      # Source: GraphCMR, section 2.4.2: Adam, rate 3e-4, batches of 16.
      optim=dict(name="adam", learning_rate=3e-4, schedule="constant", warmup="0 steps", decay_every="", decay=0.1,
                 weight_decay=0.0, clip_norm=0.0),
      # Source: GraphCMR, Eq. 2.4 and 2.5; its lambda, 0.1, is that of the authors' code.
      weights=dict(vertices=1.0, keypoints2d=1.0, keypoints3d=0.0, smpl_vertices=1.0, smpl_keypoints2d=1.0,
                   smpl_keypoints3d=0.0, pose=1.0, betas=0.1),
  ))
  if mode == "released":
    config.supervision, config.net.determinant = "code", "negated"
    config.weights.keypoints3d = config.weights.smpl_keypoints3d = 1.0
  if mode == "smoke":
    config.update(dict(duration="2 steps", batch_size=8, image_size=64, body="mannequin_small", log_every=1,
                       eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.update(dict(backbone="resnet_tiny", layers=1, channels=32, hidden=32))
  return config
