"""What kind of data a run is about: bodies in images, or 3D poses from 2D ones."""

from jhmr.errors import InputError

BODIES, LIFTING = "bodies", "lifting"


def lifts(config):
  """Whether a config is about 2D poses and not images. Raises InputError for a config.task that does not exist."""
  task = config.get("task", BODIES)
  if task not in (BODIES, LIFTING):
    raise InputError(f"config.task is {task!r}: give {BODIES!r} or {LIFTING!r}")
  return task == LIFTING
