"""Several processes as one run: joining them, noticing at once when one is lost, ending together.

    with distributed.session(options) as cluster:      # before anything counts devices
      ...                                              # cluster.index of cluster.count

TPU pods and SLURM are detected; elsewhere every process is told `--coordinator HOST:PORT --num_processes N
--process_id I`. Collectives say only that "a" connection broke, and the coordination service notices a lost process
after its heartbeats; so every process also keeps one idle connection to the first, whose end says who was lost.

Exit codes, besides those of `command`: 3 another process was lost or did not come, or a step never ended; 75
preempted (everything is saved). After both, run the same command again.
"""

import contextlib
import importlib.util
import logging
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NamedTuple

import jax
from jhmr.errors import InputError
import numpy as np

EXIT_PEER_LOST = 3
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
HEARTBEAT_S = 30     # after this the coordination service gives a silent process up, where there is no watch
_TOKEN = 16          # bytes that tell our connections from a stranger's
_GRACE_S = 10        # an error that comes from a lost peer waits this long for the watch to name it
_terminated = threading.Event()


class Cluster(NamedTuple):
  """Which of how many processes this one is."""
  index: int = 0
  count: int = 1


ALONE = Cluster()


class Options(NamedTuple):
  """How to find the other processes; empty: detect them."""
  coordinator: str = ""
  num_processes: int = 0
  process_id: int = -1


def detected(environ):
  """"slurm", "tpu" or "": what kind of cluster the environment (and an installed libtpu) speaks of."""
  if "SLURM_PROCID" in environ and int(environ.get("SLURM_NTASKS", "1")) > 1:
    return "slurm"
  on_tpu = environ.get("JAX_PLATFORMS", "tpu").startswith("tpu") and importlib.util.find_spec("libtpu")
  return "tpu" if on_tpu else ""


def join(options):
  """Joins the cluster, if there is one. Must come before anything counts devices. Returns a Cluster.

  Raises:
    InputError: when only some of the three options are given, or they make no sense together.
  """
  given = (bool(options.coordinator), options.num_processes > 0, options.process_id >= 0)
  seconds = dict(heartbeat_timeout_seconds=HEARTBEAT_S, shutdown_timeout_seconds=2 * HEARTBEAT_S)
  if any(given):
    if not all(given) or options.process_id >= options.num_processes:
      raise InputError(f"--coordinator {options.coordinator!r}, --num_processes {options.num_processes}, --process_id "
                       f"{options.process_id}: give all three, and a process_id below num_processes")
    if not options.coordinator.rpartition(":")[2].isdigit():
      raise InputError(f"--coordinator {options.coordinator!r}: give HOST:PORT")
    _initialize(options.coordinator, options.num_processes, options.process_id, **seconds)
  elif kind := detected(os.environ):
    try:
      _initialize(**seconds)
    except ValueError as error:  # a libtpu on a machine that is no part of a pod
      if kind == "slurm":
        raise
      logging.getLogger("jhmr").warning("no TPU pod found (%s): this host trains alone", error)
  return Cluster(jax.process_index(), jax.process_count())


def _initialize(*arguments, **seconds):
  try:
    jax.distributed.initialize(*arguments, **seconds)
  except RuntimeError as error:  # a process did not come in time
    _print(f"the processes did not find each other: {str(error).splitlines()[0]}")
    _end(EXIT_PEER_LOST)


@contextlib.contextmanager
def session(options=Options()):
  """Joins the cluster, and ends this process at once when another one is lost or the body fails.

  In a cluster an exception does not propagate: it is printed and the process ends without waiting for the others,
  since the usual exit would hang in a barrier that a failed process never lets anyone pass.
  """
  cluster = join(options)
  if cluster.count == 1:
    with _sigterm_noted():
      yield cluster
    return
  links = []
  try:
    _watch(cluster, options.coordinator.rpartition(":")[0], links)
    yield cluster
  except SystemExit:
    _part(links)
    raise
  except BaseException as error:  # pylint: disable=broad-except
    _end(_said(error))
  else:
    _part(links)


def preempted(cluster, step):
  """Whether the machine is about to be taken away (SIGTERM); true on every process at the same step."""
  if cluster.count == 1:
    return _terminated.is_set()
  from jax.experimental import multihost_utils  # jax's own notifier has taken the signal over
  return multihost_utils.reached_preemption_sync_point(step)


def agree(cluster, value):
  """The first process's integer, on every process."""
  if cluster.count == 1:
    return int(value)
  from jax.experimental import multihost_utils
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def first_rows(cluster, batch, num):
  """The first `num` rows of a global batch, the same on every process, from each one's rows {name: [local, ...]}."""
  head = {k: np.asarray(v[:num]) for k, v in batch.items()}
  if cluster.count == 1:
    return head
  from jax.experimental import multihost_utils
  owners = range(min(cluster.count, -(-num // len(next(iter(batch.values()))))))  # the processes that have these rows
  parts = [multihost_utils.broadcast_one_to_all(head, is_source=cluster.index == p) for p in owners]
  return {k: np.concatenate([np.asarray(part[k]) for part in parts])[:num] for k in head}


def shared(cluster, tree):
  """The first process's arrays, on every process, so that all go on from the same numbers."""
  if cluster.count == 1:
    return tree
  from jax.experimental import multihost_utils
  return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree))


@contextlib.contextmanager
def _sigterm_noted():
  """SIGTERM is remembered for `preempted` instead of ending the process; only the main thread can ask for that."""
  _terminated.clear()
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, lambda *_: _terminated.set())
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
    _terminated.clear()


def _said(error):
  """Prints an exception as `command.run` does, after the watch had time to name a lost peer; returns the exit code."""
  if isinstance(error, InputError):
    _print(" ".join(str(error).split()))
    return 2
  if isinstance(error, KeyboardInterrupt):
    _print("interrupted")
    return 130
  time.sleep(_GRACE_S)
  _print("".join(traceback.format_exception(error)))
  return 1


def _print(text):
  logging.getLogger("jhmr").error("%s", text)


def _end(code):
  logging.shutdown()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)  # not sys.exit: its barrier waits for a process that is gone


def _lost(index):
  _print(f"process {index} was lost: it ended, was killed, or its host is gone (see its own log); "
         "run the same command again, it resumes from the last checkpoint")
  _end(EXIT_PEER_LOST)


def _watch(cluster, host, links):
  """Starts the thread that waits for a peer's end; adds this process's connections to `links`."""
  from jax.experimental import multihost_utils
  server, card = None, np.zeros(320, np.uint8)
  if cluster.index == 0:
    server = socket.create_server(("", 0), backlog=cluster.count)
    text = f"{secrets.token_hex(_TOKEN // 2)} {server.getsockname()[1]} {host or socket.gethostname()}".encode()
    card[:len(text)] = np.frombuffer(text, np.uint8)
  token, port, host = bytes(multihost_utils.broadcast_one_to_all(card)).rstrip(b"\0").decode().split()
  if cluster.index == 0:
    target, arguments = _serve, (server, token.encode(), links)
  else:
    try:
      links.append(socket.create_connection((host, int(port)), timeout=20))
    except OSError as error:
      logging.getLogger("jhmr").warning("cannot watch process 0 at %s (%s): a lost process shows after %d s", host,
                                        error, HEARTBEAT_S)
      return
    links[0].settimeout(None)
    _keep_alive(links[0])
    links[0].sendall(token.encode() + cluster.index.to_bytes(4, "big"))
    target, arguments = _listen, (links[0],)
  threading.Thread(target=target, args=arguments, daemon=True, name="jhmr-watch").start()


def _keep_alive(link):
  """A host that vanished without a word is noticed within half a minute."""
  link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
    if hasattr(socket, name):
      link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _received(link, size=5):
  try:
    return link.recv(size)
  except OSError:
    return b""


def _serve(server, token, links):
  """On process 0: waits for the end of any connection and tells the others whose it was."""
  selector = selectors.DefaultSelector()
  selector.register(server, selectors.EVENT_READ)
  while True:
    for key, _ in selector.select():
      if key.fileobj is server:
        link, _ = server.accept()
        link.settimeout(5)
        hello = _received(link, _TOKEN + 4)
        if hello[:_TOKEN] != token or len(hello) != _TOKEN + 4:
          link.close()
          continue
        link.settimeout(None)
        _keep_alive(link)
        links.append(link)
        selector.register(link, selectors.EVENT_READ, int.from_bytes(hello[_TOKEN:], "big"))
      elif word := _received(key.fileobj):
        if word == b"bye!!":
          selector.unregister(key.fileobj)
      else:
        for other in links:
          with contextlib.suppress(OSError):
            other.sendall(b"L" + key.data.to_bytes(4, "big"))
        _lost(key.data)


def _listen(link):
  """On the others: waits for process 0 to end or to name who was lost."""
  word = _received(link)
  if word != b"bye!!":
    _lost(int.from_bytes(word[1:], "big"))  # an empty word: process 0 itself


def _part(links):
  """A clean end: the watch is told, and everybody waits for everybody."""
  for link in links:
    with contextlib.suppress(OSError):
      link.sendall(b"bye!!")
  with contextlib.suppress(Exception):  # all is done and saved, whatever becomes of the others now
    jax.distributed.shutdown()
