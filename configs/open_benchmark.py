"""The open benchmark's runs: every method on the same rendered people with the same budget, small enough for a CPU.

python -m jhmr.study prohmr                                                 # trains what is missing, prints the tables
python -m jhmr.study spin                                                   # and graphcmr, multibodies, lifting
python -m jhmr.train --config configs/open_benchmark.py:prohmr              # one of the runs
python -m jhmr.train --config configs/open_benchmark.py:prohmr,smoke        # two steps, for tests
Runs: hmr, prohmr, prohmr_without_mode; pose_vae; without any 3D label hmr_unpaired, spin_none, spin_static,
spin_static_smplify, spin, spin_25. All that fit begin with static fits, as in the paper, which the study makes.
Half as long, meshes: hmr_half; graphcmr; graphcmr_fc, without a graph; graphcmr_parts, graphcmr_iuv, of label images;
graphcmr_few, graphcmr_fc_few, of 1,000 people.
Half as long, but from the trained hmr (--config.warm_start=runs/open_benchmark/hmr): hmr_on; multibodies,
multibodies_no_reprojection; from its backbone (.../hmr:backbone), since their heads are others, and in full length:
smpl_mdn, smpl_cvae. Without images: joint_prior, for multibodies.
From 2D poses: lifting; for a shorter time lifting_short, and without parts of it lifting_unconditioned,
lifting_no_covariance, lifting_no_critic, lifting_no_best, lifting_k1, lifting_k10, lifting_k50; lift_martinez,
lift_mdn, lift_prohmr.
"""

from ml_collections import ConfigDict

SHARED = dict(
    seed=0,
    body="mannequin_small",
    mean_params="",
    image_size=64,
    batch_size=16,
    duration="6000 steps",
    splits=("val", "val_occluded"),
    eval_batches=0,
    log_every=200,
    eval_every=3000,
    checkpoint_every=500,
    keep=1,
    parallel="pmap",
    accumulate=1,
    ema=0.0,
    skip_bad_steps=0,
    warm_start="",
    stuck_after_s=0,
    # The quickstart's people, a third of them seen in part, so that there is something to be unsure of.
    data=dict(source="stream", share_2d_only=0.1, mocap="", input="rgb", photo=0.0, variety=0.0, facing_deg=60.0,
              share_occluded=0.1, share_truncated=0.3, roll_deg=3.0),
    optim=dict(name="adamw", learning_rate=1e-3, schedule="cosine", warmup="200 steps", decay_every="", decay=0.1,
               weight_decay=1e-4, clip_norm=50.0),
    critic_optim=dict(name="adamw", learning_rate=1e-4, weight_decay=1e-4))

HMR = dict(
    system="hmr",
    supervision="spin",
    camera_convention="spin",
    net=dict(backbone="resnet_tiny", iterations=3, hidden=256, dropout=0.0, activation="relu", dtype="float32",
             batch_norm="device", remat=False),
    weights=dict(keypoints2d=20.0, keypoints3d=400.0, pose=60.0, betas=0.3, vertices=0.0, camera=1.0,
                 adversarial=0.0))

PROHMR = dict(
    system="prohmr",
    train_samples=2,
    model_joints="prohmr44",
    net=dict(backbone="resnet_tiny", hidden=256, dtype="float32", batch_norm="device", remat=False,
             flow=dict(blocks=4, hidden=256, depth=2, dropout=0.0, legacy_lu=False)),
    weights=dict(keypoints2d_mode=0.01, keypoints2d_exp=0.001, keypoints3d_mode=0.05, keypoints3d_exp=0.0,
                 global_orient_mode=0.001, global_orient_exp=0.0, body_pose_mode=0.001, body_pose_exp=0.0,
                 betas=0.0005, nll=0.001, orthogonal=0.1, adversarial=0.0))

# Nothing but 2D keypoints is known of the images, which show 8,000 people again and again.
UNPAIRED = {"data": SHARED["data"] | dict(examples=8000, share_2d_only=1.0)}
# Source: HMR, unpaired: reprojection, and a critic that has seen poses of other people.
HMR_UNPAIRED = HMR | UNPAIRED | dict(
    supervision="hmr",
    weights=dict(keypoints2d=60.0, keypoints3d=0.0, pose=0.0, betas=0.0, vertices=0.0, camera=1.0, adversarial=1.0))
SPIN = UNPAIRED | dict(
    system="spin",
    pose_prior="",
    fits="",
    unpaired=True,
    fitting=dict(mode="in_the_loop", method="spin", steps=100, threshold=100.0, torso="annotated",
                 ignored=("op_neck", "op_right_hip", "op_left_hip", "right_hip", "left_hip")),
    keypoint_weights=dict(detected=0.0, annotated=1.0),
    net=HMR["net"],
    # Source: SPIN, authors' options.
    weights=dict(keypoints2d=300.0, keypoints3d=300.0, pose=60.0, betas=0.06, vertices=0.0, camera=60.0))

SPIN_STATIC = SPIN | {"fitting": SPIN["fitting"] | {"mode": "static"}}

GRAPHCMR = dict(
    system="graphcmr",
    supervision="paper",
    train="joint",
    pyramid="",
    model_joints="graphcmr24",
    net=dict(backbone="resnet_tiny", mesh="graph", layers=2, channels=64, hidden=256, start="mean", dtype="float32",
             batch_norm="device", remat=False, conv="auto", determinant="nearest"),
    weights=dict(vertices=1.0, keypoints2d=1.0, keypoints3d=0.0, smpl_vertices=1.0, smpl_keypoints2d=1.0,
                 smpl_keypoints3d=0.0, pose=1.0, betas=0.1))

POSE_VAE = dict(
    system="pose_vae",
    batch_size=128,
    duration="2000 steps",
    jitter_rad=0.05,
    net=dict(version=2, hidden=512, latent=32, dropout=0.1),
    weights=dict(kl=0.005, vertices=0.0, rotations=2.0, joints=2.0))

JOINT_PRIOR = dict(
    system="joint_prior",
    batch_size=512,
    duration="2000 steps",
    jitter_m=0.01,
    net=dict(dim=72, couplings=20, hidden=128, dropout=0.0),
    weights=dict(nll=1.0))

MULTIBODIES = dict(
    system="multibodies",
    supervision="spin",
    camera_convention="spin",
    prior="",
    supervise_first=False,
    quantise="paper",
    net=HMR["net"] | dict(hypotheses=100, apart=1, spread=0.1),
    weights={n: w for n, w in HMR["weights"].items() if n != "adversarial"} | dict(keypoints2d_all=100.0))

_OF_BODY = {n: w for n, w in HMR["weights"].items() if n != "adversarial"}
SMPL_MDN = dict(
    system="smpl_mdn",
    supervision="spin",
    camera_convention="spin",
    # Of the paper's 100 means with a variance of 0.001 most never learn in so few steps; that was worse in everything.
    mixture=dict(components=25, variance=0.01, spread=0.1, learn=""),
    net=HMR["net"],
    weights=_OF_BODY | dict(nll=0.01))

SMPL_CVAE = dict(
    system="smpl_cvae",
    supervision="spin",
    camera_convention="spin",
    net=HMR["net"] | dict(latent=16, encoder_hidden=256),
    weights=_OF_BODY | dict(kl=0.05))

# Poses in place of images. Source: Wehrbein et al. 2021, section 4.2, at a quarter of the width, with two updates of
# the critic in place of five and fewer samples; what its table 4 compares is trained for a shorter time, with half of
# the paper's samples.
POSES = {n: v for n, v in SHARED.items() if n not in ("body", "mean_params", "image_size")} | dict(
    task="lifting",
    lift_stats="",
    splits=("val", "val_hard"),
    eval_every=2000,
    data=dict(source="stream", people=20000, val=2000, val_hard=1000))
_ADAM = dict(name="adam", learning_rate=1e-3, b1=0.5, b2=0.9, schedule="cosine", warmup="100 steps", decay_every="",
             decay=0.1, weight_decay=0.0, clip_norm=0.0)
LIFTING = POSES | dict(
    system="cinn_lifting",
    batch_size=320,
    duration="10000 steps",
    hypotheses=32,
    top_k=5,
    critic_steps=2,
    mmd="paper",
    clip=15.0,
    mode_first=True,
    net=dict(blocks=8, hidden=256, condition=True, condition_hidden=256, features=56, clamp=2.0, dtype="float32"),
    critic=dict(hidden=100, chain_hidden=250, penalty=10.0),
    optim=_ADAM,
    critic_optim=dict(_ADAM, schedule="constant"),
    weights=dict(keypoints2d=1.0, mmd=10.0, deterministic=4.0, best=4.0, covariance=750.0, generator=1.0))
_SLOW = dict(learning_rate=3e-4)
SHORT = LIFTING | dict(duration="2000 steps", hypotheses=100, optim=LIFTING["optim"] | _SLOW,
                       critic_optim=LIFTING["critic_optim"] | _SLOW)
NO_CRITIC = dict(critic_steps=0, batch_size=64, weights=LIFTING["weights"] | dict(generator=0.0))
LIFT_ONE = POSES | dict(
    batch_size=256,
    duration="6000 steps",
    missing=0,
    net=dict(hidden=512, blocks=2, dropout=0.25, max_norm=True, batch_norm="device"),
    optim=dict(_ADAM, b1=0.9, b2=0.999))
LIFT_MARTINEZ = LIFT_ONE | dict(system="martinez", weights=dict(pose3d=1.0))
LIFT_MDN = LIFT_ONE | dict(system="lift_mdn", components=5, sets="means", weights=dict(nll=1.0, prior=1.0))
LIFT_PROHMR = LIFT_ONE | dict(
    system="prohmr_lift",
    inputs="lift16",
    train_samples=2,
    noise_m=0.005,
    net=dict(hidden=512, blocks=2, dropout=0.25, batch_norm="device",
             flow=dict(blocks=4, hidden=256, depth=2, dropout=0.25, legacy_lu=False)),
    weights=dict(nll=0.001, joints_mode=1.0, joints_exp=0.0))

HALF = dict(duration="3000 steps")
FEW = {"data": SHARED["data"] | dict(examples=1000)}
# Source: 3D Multi-bodies, supplement, D: a trained HMR first, which goes on with M heads.
ON = HALF | {"optim": SHARED["optim"] | dict(learning_rate=3e-4)}

# Source: ProHMR, table 5: the regression losses on the mode are left out, those on samples stay.
WITHOUT_MODE = {name: 0.0 for name in PROHMR["weights"] if name.endswith("_mode")}
RUNS = {"hmr": HMR, "prohmr": PROHMR,
        "prohmr_without_mode": PROHMR | {"weights": PROHMR["weights"] | WITHOUT_MODE},
        "hmr_unpaired": HMR_UNPAIRED, "spin": SPIN, "spin_25": SPIN | {"fitting": SPIN["fitting"] | {"steps": 25}},
        "spin_none": SPIN | {"fitting": SPIN["fitting"] | {"mode": "none"}},
        "spin_static": SPIN_STATIC, "spin_static_smplify": SPIN_STATIC, "pose_vae": POSE_VAE,
        "joint_prior": JOINT_PRIOR, "hmr_on": HMR | ON, "multibodies": MULTIBODIES | ON,
        "multibodies_no_reprojection": MULTIBODIES | ON | {"weights": MULTIBODIES["weights"] | dict(
            keypoints2d_all=0.0)},
        "smpl_mdn": SMPL_MDN, "smpl_cvae": SMPL_CVAE,
        "hmr_half": HMR | HALF, "graphcmr": GRAPHCMR | HALF,
        "graphcmr_fc": GRAPHCMR | HALF | {"net": GRAPHCMR["net"] | {"mesh": "fc"}},
        "graphcmr_few": GRAPHCMR | HALF | FEW,
        "graphcmr_fc_few": GRAPHCMR | HALF | FEW | {"net": GRAPHCMR["net"] | {"mesh": "fc"}},
        "graphcmr_parts": GRAPHCMR | HALF | {"data": SHARED["data"] | {"input": "parts"}},
        "lifting": LIFTING, "lifting_short": SHORT,
        "lifting_unconditioned": SHORT | {"net": LIFTING["net"] | dict(condition=False)},
        "lifting_no_covariance": SHORT | {"weights": LIFTING["weights"] | dict(covariance=0.0)},
        "lifting_no_best": SHORT | {"weights": LIFTING["weights"] | dict(best=0.0)},
        "lifting_no_critic": SHORT | NO_CRITIC, "lifting_k1": SHORT | dict(top_k=1),
        "lifting_k10": SHORT | dict(top_k=10), "lifting_k50": SHORT | dict(top_k=50),
        "lift_martinez": LIFT_MARTINEZ, "lift_mdn": LIFT_MDN, "lift_prohmr": LIFT_PROHMR,
        "graphcmr_iuv": GRAPHCMR | HALF | {"data": SHARED["data"] | {"input": "iuv"}}}


def get_config(mode="prohmr"):
  wanted = mode.split(",")
  run = "prohmr" if wanted == ["smoke"] else wanted[0]
  if run not in RUNS:
    raise ValueError(f"no run {run!r}: the runs are {', '.join(RUNS)}")
  config = ConfigDict(RUNS[run] if "task" in RUNS[run] else SHARED | RUNS[run])
  if "smoke" in wanted:
    config.update(dict(duration="2 steps", batch_size=8, log_every=1, eval_every=2, eval_batches=1,
                       checkpoint_every=2, splits=("val",)))
    config.net.hidden = 32
    config.optim.warmup = "0 steps"
    if "fitting" in config:
      config.data.examples, config.fitting.steps = 24, 3
    if "task" in config:
      config.data.update(dict(people=64, val=16, val_hard=8))
    if run.startswith("lifting"):
      config.update(dict(batch_size=8 * (2 * config.critic_steps + 1), hypotheses=8, top_k=min(config.top_k, 2)))
      config.net.update(dict(blocks=2, condition_hidden=16, features=8))
      config.critic.update(dict(hidden=8, chain_hidden=16))
    if "channels" in config.net:
      config.net.update(dict(layers=1, channels=32))
    if "flow" in config.net:
      config.net.flow.update(dict(blocks=2, hidden=32))
  return config
