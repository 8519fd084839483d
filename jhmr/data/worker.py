"""A worker process: rows of batches, asked for on stdin and answered on stdout, until stdin ends.

Stdin ends when the process that asks closes it or dies, however it dies; so no worker outlives it. JAX is not imported:
a worker holds no accelerator and little memory.
"""

import os
import pickle
import signal
import sys
import traceback

from jhmr.data import rows
from jhmr.errors import InputError


def main():
  """Answers requests (plan, {name: (shape, dtype)}, positions, indices) with [Bad] and then the arrays' bytes."""
  for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group: the asking process says when to stop
    signal.signal(number, signal.SIG_IGN)
  replies = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)  # what libraries print must not get between the answers
  try:
    while True:
      _answer(replies, *pickle.load(sys.stdin.buffer))
  except (EOFError, BrokenPipeError, pickle.UnpicklingError):  # nobody is there any more
    os._exit(0)  # at once: libraries' threads have nothing to finish


def _answer(replies, plan, shapes, positions, indices):
  out = rows.empty(shapes, len(positions))
  try:
    answer = rows.fill(plan, positions, indices, out)
  except InputError as e:
    answer, out = e, {}
  except Exception:  # a bug: its traceback is for the process that asked
    answer, out = RuntimeError(traceback.format_exc()), {}
  pickle.dump(answer, replies)
  for array in out.values():
    replies.write(memoryview(array).cast("B"))
  replies.flush()
