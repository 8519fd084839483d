"""VPoser's two releases as the network of `systems/pose_vae.py`: `released/vposer1.py` and `vposer2.py` say which.

1 is a bare state dict (`snapshots/TR00_E096.pt`), 2 a PyTorch-Lightning file (`snapshots/V02_05_*.ckpt`) with the
trainer's body model beside the network. Their latents mean different things.
"""

import re

from jhmr.errors import InputError
from jhmr.nn import pose_vae
from jhmr.released import keys

INSIDE = ("state_dict",)
CONFIG = "configs/pose_vae.py"
SYSTEMS = ("pose_vae",)
NET = "net"  # of the TrainState
IGNORED = {"num_batches_tracked": re.compile(r".*\.num_batches_tracked"),
           "the trainer's body model": re.compile(r"bm_train\..*")}
_PREFIX = "vp_model."
# Names of our layers and theirs.
_NAMES = {
    1: {name: f"bodyprior_{theirs}" for name, theirs in (
        ("enc_bn1", "enc_bn1"), ("enc_fc1", "enc_fc1"), ("enc_bn2", "enc_bn2"), ("enc_fc2", "enc_fc2"),
        ("enc_mean", "enc_mu"), ("enc_std", "enc_logvar"), ("dec_fc1", "dec_fc1"), ("dec_fc2", "dec_fc2"),
        ("dec_out", "dec_out"))},
    2: {"enc_bn1": "encoder_net.1", "enc_fc1": "encoder_net.2", "enc_bn2": "encoder_net.4", "enc_fc2": "encoder_net.6",
        "enc_fc3": "encoder_net.7", "enc_mean": "encoder_net.8.mu", "enc_std": "encoder_net.8.logvar",
        "dec_fc1": "decoder_net.0", "dec_fc2": "decoder_net.3", "dec_out": "decoder_net.5"}}
_FIRST = {version: names["dec_fc1"] + ".weight" for version, names in _NAMES.items()}  # tells whose a file is


def convert(arrays, net, where):
  """Their weights in our trees, once every key was checked.

  Args:
    arrays: {their key: array}.
    net: config.net; its version says which release this should be.
    where: the file, for messages.
  Returns:
    Converted.
  Raises:
    InputError: when keys or shapes are not those of such a network.
  """
  arrays = {name.removeprefix(_PREFIX): value for name, value in arrays.items()}
  other = 3 - net.version
  if _FIRST[other] in arrays and _FIRST[net.version] not in arrays:
    raise InputError(f"{where!r} holds release {other} of VPoser, not {net.version}: give --kind vposer{other}")
  return keys.converted(arrays, IGNORED, entries(net.version, net.hidden, net.latent), where,
                        f"release {net.version} of VPoser")


def entries(version, hidden=512, latent=32):
  """Every array of the network.

  Source: authors' `human_body_prior`, `train/vposer_smpl.py` as of CVPR 2019 (1), `models/vposer_model.py` (2).
  """
  pose = 3 * pose_vae.NUM_JOINTS
  sizes = {"enc_fc1": (pose, hidden), "enc_fc2": (hidden, hidden), "enc_fc3": (hidden, hidden),
           "enc_mean": (hidden, latent), "enc_std": (hidden, latent), "dec_fc1": (latent, hidden),
           "dec_fc2": (hidden, hidden), "dec_out": (hidden, 2 * pose)}
  found = []
  for ours, theirs in _NAMES[version].items():
    if "_bn" in ours:
      found += keys.batch_norm((NET, ours), theirs, pose if ours == "enc_bn1" else hidden)
    else:
      found += keys.dense(("params", NET, ours), theirs, *sizes[ours])
  return found
