"""Li and Lee's checkpoint, of TensorFlow 1, as the network of `systems/lift_mdn.py`.

All that `released.martinez` says of flags and statistics holds here too.
"""

from jhmr.errors import InputError
from jhmr.released import keys, martinez

INSIDE, read = martinez.INSIDE, martinez.read
CONFIG = "configs/lifting_baselines.py:mdn"
SYSTEMS, SETTINGS = ("lift_mdn",), martinez.SETTINGS


def settings(arrays):
  """What a file says of its sizes: keys of the config, "key=value" each."""
  components = keys.length(arrays, "linear_model/b6")
  return martinez.settings(arrays) + ((f"components={components}",) if components else ())


def convert(arrays, net, where):
  """As `martinez.convert`. Columns of the means have the component fastest, as ours.

  The number of components is that of the file, which `settings` tells the config.
  """
  count = keys.length(arrays, "linear_model/b6")
  if not count:
    raise InputError(f"{where!r} holds no weights of a mixture: give --kind martinez, or Li and Lee's checkpoint")
  heads = {"means": ("4", martinez.OUTPUTS * count), "sigma": ("5", count), "alpha": ("6", count)}
  return keys.converted(arrays, martinez.IGNORED, martinez.entries(net, heads), where, "Li and Lee's network",
                        (martinez.SAID,))
