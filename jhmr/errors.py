"""The one error a user is meant to see. Imports nothing."""


class InputError(ValueError):
  """Something the user gave us is wrong: a file, a flag, an image, a config key.

  The message is one line: what is wrong, where, and what to do about it. Commands print it
  and exit with code 2 (`jhmr.command.run`); everything else is a bug and keeps its traceback.
  """
