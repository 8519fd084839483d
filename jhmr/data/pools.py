"""Who fills the rows of batches: threads of this process, or worker processes.

Threads start at once and share memory, but Python lets one of them at a time parse labels, so they feed a few cores;
worker processes feed as many as there are. Rows come back through pipes, which need no shared memory to clean up.
"""

import atexit
import concurrent.futures
import contextlib
import fcntl
import logging
import os
import pickle
import queue
import subprocess
import sys
from typing import Callable, NamedTuple

from jhmr.data import rows
from jhmr.errors import InputError

_COMMAND = "import sys; sys.path[:] = {path!r}; from jhmr.data import worker; worker.main()"
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_PIPE_BYTES = 1 << 20
_PATIENCE_S = 10.0
_shared = {}  # number of worker processes -> [Pool, how many use it]: training and evaluation take turns


class Pool(NamedTuple):
  """Fills rows in parallel."""
  submit: Callable  # (plan, positions, indices, out, first) -> Future of what `rows.fill` returns
  close: Callable   # () -> None, ends the threads or processes; calling it again does nothing
  size: int         # rows filled at a time


def none():
  """A Pool of nobody: rows are filled when their batch is asked for, by who asks."""

  def submit(*task):
    future = concurrent.futures.Future()
    try:
      future.set_result(rows.fill(*task))
    except InputError as e:
      future.set_exception(e)
    return future

  return Pool(submit, lambda: None, 0)


def threads(num_threads):
  """A Pool of threads of this process."""
  executor = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix="jhmr-data")
  submit = lambda *task: executor.submit(rows.fill, *task)
  return Pool(submit, lambda: executor.shutdown(cancel_futures=True), num_threads)


def processes(num_workers):
  """A Pool of worker processes, started when they are first needed; the same one for all who ask for this number."""
  if num_workers not in _shared:
    _shared[num_workers] = [_start(num_workers), 0]
  entry = _shared[num_workers]
  entry[1] += 1

  def release():
    entry[1] -= 1
    if not entry[1]:
      del _shared[num_workers]
      entry[0].close()

  once = contextlib.ExitStack()
  once.callback(release)
  return entry[0]._replace(close=once.close)


def _start(num_workers):
  executor = concurrent.futures.ThreadPoolExecutor(num_workers, thread_name_prefix="jhmr-data")  # one for each process
  idle = queue.LifoQueue()
  for _ in range(num_workers):
    idle.put(None)  # not started yet

  def close():
    executor.shutdown(cancel_futures=True)
    while not idle.empty():
      _stop(idle.get())
    atexit.unregister(close)

  atexit.register(close)
  return Pool(lambda *task: executor.submit(_fill, idle, *task), close, num_workers)


def _fill(idle, plan, positions, indices, out, first):
  """`rows.fill` by a worker. One that dies (of memory, mostly) is started again, once for the same rows."""
  worker = idle.get()
  try:
    for turn in range(2):
      worker = worker or _launch()
      try:
        return _ask(worker, plan, positions, indices, out, first)
      except (EOFError, OSError, pickle.UnpicklingError) as e:
        code, worker = _stop(worker), None
        died = f"a data worker died (exit code {code}) over records {list(indices)} of split {plan.split!r}"
        if turn:
          raise InputError(f"{died}, twice: lower config.data.num_workers if memory is short, "
                           "or take these records out") from e
        logging.getLogger("jhmr.data").warning("%s: another takes its place", died)
  finally:
    idle.put(worker)


def _launch():
  command = [sys.executable, "-c", _COMMAND.format(path=sys.path)]
  worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | _ENVIRONMENT)
  if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux: room for several pictures, so that a worker need not wait to be read
    with contextlib.suppress(OSError):
      fcntl.fcntl(worker.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
  return worker


def _ask(worker, plan, positions, indices, out, first):
  shapes = {name: (array.shape[1:], array.dtype.str) for name, array in out.items()}
  pickle.dump((plan, shapes, positions, indices), worker.stdin)
  worker.stdin.flush()
  answer = pickle.load(worker.stdout)
  if isinstance(answer, Exception):
    raise answer
  for array in out.values():
    place = memoryview(array[first:first + len(positions)]).cast("B")
    if worker.stdout.readinto(place) < len(place):
      raise EOFError
  return answer


def _stop(worker):
  """Ends a worker; returns its exit code."""
  if worker is None:
    return None
  with contextlib.suppress(OSError):  # it may be gone, with a request unread
    worker.stdin.close()
  worker.stdout.close()
  try:
    return worker.wait(_PATIENCE_S)
  except subprocess.TimeoutExpired:
    worker.kill()
    return worker.wait()
