"""3D Multi-bodies as in the paper: ResNet-50 at 224 pixels, 100 hypotheses, its weights. Not yet run to the end here.

python -m jhmr.train --config configs/spin.py --workdir runs/spin ...      # its first stage, of one body
python -m jhmr.train --config configs/joint_prior.py --workdir runs/joint_prior ...
python -m jhmr.train --config configs/multibodies.py --config.warm_start=runs/spin --config.prior=runs/joint_prior ...
python -m jhmr.train --config configs/multibodies.py:released ...          # network, losses and rate as coded
python -m jhmr.train --config configs/multibodies.py:mdn ...               # its baselines: SMPL-MDN, or cvae: SMPL-CVAE
python -m jhmr.train --config configs/multibodies.py:mdn,smoke             # two steps, no data
python -m jhmr.evaluate --workdir RUN --best-of 1,5,10,25
With --config.data.source=DIR of a data set in the format of jhmr/data/builders; else the images are rendered people.
The stage of "released" begins as M copies of SPIN's: --config.warm_start=RUN of jhmr.convert --kind multibodies.
"""

from ml_collections import ConfigDict

MODES = ("full", "released", "mdn", "cvae", "smoke")

# The losses of one body. Source: 3D Multi-bodies, section 4.1; keypoints2d, used without a number, as in the code.
ONE_BODY = dict(keypoints2d=1.0, keypoints3d=25.0, pose=1.0, betas=0.001, vertices=1.0, camera=0.0)

# Source: 3D Multi-bodies, authors' code: options in the name of the released run, else the defaults. Their vertices are
# a few that joints are made of; 2D and camera are means over hypotheses. Learning from a label's body in place of
# measured joints is the paper's; hypothesis 0 always learns, and all but the last layers stay as SPIN left them.
RELEASED = dict(
    duration="30 epochs", supervision="spin49", supervise_first=True, quantise="code", infer_joints=False, freeze=True,
    data=dict(examples=20000), net=dict(heads="stage4", dtype="float32"),
    optim=dict(schedule="staircase", decay_every="15 epochs", weight_decay=5e-4),
    weights=ONE_BODY | dict(camera=1.0, keypoints2d_all=1.0))


def hypotheses(config):
  """Fields of the paper's own method: M hypotheses, the best of which learns."""
  config.update(dict(
      system="multibodies",
      prior="",                  # the workdir of a joint_prior, which weighs hypotheses; "": equally
      supervise_first=False,     # hypothesis 0 always learns too
      quantise="paper",          # sets of n are of all hypotheses; "code": hypothesis 0 and n - 1 of the others
      infer_joints=True,         # where no 3D joints were measured, those of the label's body are the label
      freeze=False))             # only what is M times as large learns; for config.warm_start
  config.net.update(dict(heads="output", hypotheses=100, apart=0, spread=0.1))
  config.weights.keypoints2d_all = 100.0  # 1 of Eq. 5, whose sum over M = 100 is a mean here


def mdn(config):
  """SMPL-MDN. Source: 3D Multi-bodies, supplement C, the best of its variants."""
  config.system = "smpl_mdn"
  config.mixture = ConfigDict(dict(components=100, variance=0.001, spread=0.1, learn=""))
  config.weights.nll = 0.001     # its weight is not given; a sum over 69 numbers of a variance of 0.001


def cvae(config):
  """SMPL-CVAE. Source: 3D Multi-bodies, supplement C; authors' code for the size of its latent."""
  config.system = "smpl_cvae"
  config.net.update(dict(latent=64, encoder_hidden=1024))
  config.weights.kl = 0.05       # its weight is not given


def get_config(mode="full"):
  wanted = set(mode.split(","))
  if odd := sorted(wanted - set(MODES)) or sorted(wanted - {"full", "smoke"})[1:]:
    raise ValueError(f"no mode {odd[0]!r} here: {', '.join(MODES)}; one of them, or with smoke")
  config = ConfigDict(dict(
      system="",
      seed=0,
      body="mannequin",
      mean_params="",
      supervision="spin",
      camera_convention="spin",  # what the network's (s, t) mean: s (X + t); or "eft": s X + t
      image_size=224,
      batch_size=48,
      duration="500000 steps",   # or epochs, examples
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
      warm_start="",             # a run of configs/spin.py, or of `python -m jhmr.convert --kind spin`; its baselines
                                 # have other heads: RUN:backbone
      stuck_after_s=0,
      # Rendered people come again every `examples`; 0: they never end.
      data=dict(source="stream", examples=0, share_2d_only=0.3, mocap="", input="rgb", num_workers=0, num_threads=8,
                max_bad_share=0.05),
      net=dict(backbone="resnet50", iterations=3, hidden=1024, dropout=0.5, activation="none", dtype="bfloat16",
               batch_norm="device", remat=False),
      # Source: 3D Multi-bodies, supplement D: Adam, from a rate of 1e-5.
      optim=dict(name="adam", learning_rate=1e-5, schedule="constant", warmup="0 steps", decay_every="", decay=0.1,
                 weight_decay=0.0, clip_norm=0.0),
      weights=ONE_BODY,
  ))
  {"mdn": mdn, "cvae": cvae}.get(next(iter(wanted & {"mdn", "cvae"}), ""), hypotheses)(config)
  if "released" in wanted:
    config.update(RELEASED)
  if "smoke" in wanted:
    config.update(dict(duration="2 steps", batch_size=8, image_size=64, body="mannequin_small", log_every=1,
                       eval_every=2, eval_batches=1, checkpoint_every=2))
    config.net.update(dict(backbone="resnet_tiny", hidden=32))
    if "hypotheses" in config.net:
      config.net.hypotheses = 5
    if "mixture" in config:
      config.mixture.components = 5
    if "latent" in config.net:
      config.net.update(dict(latent=4, encoder_hidden=32))
    if "released" in wanted:
      config.net.backbone, config.data.examples = "resnet18", 24
      config.optim.decay_every = "1 steps"
  return config
