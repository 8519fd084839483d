"""One paper, one file; each gives `build(config) -> state.System`."""

import importlib
import os
import pkgutil

from jhmr.errors import InputError


def load(config):
  """The System of `config.system`: the name in the config is the name of the file beside this one."""
  known = sorted(m.name for m in pkgutil.iter_modules([os.path.dirname(__file__)]))
  if config.system not in known:
    raise InputError(f"config.system is {config.system!r}: the systems are {', '.join(known)}")
  return importlib.import_module(f"jhmr.systems.{config.system}").build(config)
