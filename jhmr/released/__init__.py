"""Weights the authors released: one file per family, which says which key goes where in our parameters.

Each gives
    INSIDE                                 under which keys of a checkpoint the weights may be, the first that is there
    CONFIG                                 config of the system they belong to; "" for a part of one
    SYSTEMS                                names of the systems whose network it is
    SETTINGS                               keys of the config that the weights decide, "key=value" each
    convert(arrays, net, where) -> Converted     {their key: array}, config.net, the file's name for messages
and may give
    settings(arrays) -> "key=value" each         keys of the config that a file itself decides, such as its sizes
    read(path, inside) -> {key: array}           of a file that is not torch's
    FILES                                        {key of the config: what file it should name, with such weights}

and no torch: `torch_file` reads torch's files without it, `tf_file` TensorFlow's, `keys` checks and fills.
"""

import importlib

KINDS = ("spin", "eft", "prohmr", "prohmr_skeleton", "graphcmr", "multibodies", "multibodies_prior", "wehrbein",
         "martinez", "mdn", "resnet", "vposer1", "vposer2")


def load(kind):
  """The module of a family of KINDS."""
  return importlib.import_module(f"jhmr.released.{kind}")
