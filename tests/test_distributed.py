"""Several processes train as one does; one that is lost ends the others with its name."""

import contextlib
import os
import signal
import socket
import threading
import time

import jax
import numpy as np
import pytest

from jhmr import checkpoint, distributed
from jhmr.errors import InputError
import runs


@pytest.mark.parametrize("environ, kind", [
    ({}, ""), ({"JAX_PLATFORMS": "cpu"}, ""),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, "slurm"),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, ""), ({"SLURM_NTASKS": "4"}, "")])  # an allocation without srun
def test_a_cluster_is_detected_from_the_environment(environ, kind):
  assert distributed.detected(environ) == kind


@pytest.mark.parametrize("options", [("host", 2, 0), ("host:one", 2, 0)])
def test_a_coordinator_without_a_port_is_refused(options):
  with pytest.raises(InputError, match="give HOST:PORT"):
    distributed.join(distributed.Options(*options))


@pytest.mark.parametrize("options", [("host:1", 0, -1), ("", 2, 0), ("host:1", 2, 2), ("host:1", 2, -1)])
def test_half_a_cluster_is_refused(options):
  with pytest.raises(InputError, match="give all three"):
    distributed.join(distributed.Options(*options))


@pytest.fixture
def watched(monkeypatch):
  """A server of the watch with two peers' connections, and who it says was lost."""
  lost, heard = [], threading.Event()
  never = threading.Event()
  monkeypatch.setattr(distributed, "_lost", lambda index: (lost.append(index), heard.set(), never.wait()))
  server, links, token = socket.create_server(("localhost", 0)), [], b"t" * 16
  threading.Thread(target=distributed._serve, args=(server, token, links), daemon=True).start()
  peers = []
  for index in (1, 2):
    peers.append(socket.create_connection(server.getsockname()))
    peers[-1].sendall(token + index.to_bytes(4, "big"))
  while len(links) < 2:
    time.sleep(0.01)
  yield peers, lost, heard
  for peer in peers:
    with contextlib.suppress(OSError):
      peer.sendall(b"bye!!")
  time.sleep(0.2)
  server.close()


def test_the_watch_names_the_peer_that_vanished_to_everybody(watched):
  peers, lost, heard = watched
  peers[1].close()
  assert heard.wait(5) and lost == [2]
  assert peers[0].recv(5) == b"L" + (2).to_bytes(4, "big")


def test_the_watch_lets_peers_leave_and_strangers_knock(watched):
  peers, lost, heard = watched
  with socket.create_connection(peers[0].getpeername()) as stranger:
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
  peers[0].sendall(b"bye!!")
  time.sleep(0.2)
  peers[0].close()
  assert not heard.wait(0.5) and not lost


def test_sigterm_is_a_wish_inside_a_session_and_an_end_outside():
  before = signal.getsignal(signal.SIGTERM)
  with distributed.session() as cluster:
    assert not distributed.preempted(cluster, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert distributed.preempted(cluster, 2)
  assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.long
def test_two_processes_of_two_devices_are_one_of_four(tmp_path, data_set):
  overrides = (*runs.light(data_set), "duration=6", "eval_every=3", "checkpoint_every=6", "eval_batches=0")
  runs.succeed(runs.start(tmp_path / "one", *overrides, devices=4, config=runs.HMR, quick=False))
  one = checkpoint.load_for_inference(str(tmp_path / "one"), 6)[0]
  for kind in ("pmap", "shard_map"):
    workdir = tmp_path / kind
    runs.succeed(*runs.start_cluster(workdir, *overrides, f"parallel={kind}", config=runs.HMR, quick=False))
    two = checkpoint.load_for_inference(str(workdir), 6)[0]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(runs.lines(tmp_path / "one"), runs.lines(workdir), strict=True):
      assert a.keys() == b.keys() and (a["step"], a["kind"]) == (b["step"], b["kind"])
      if a["kind"] == "val":
        assert [f"{a[k]:.4g}" for k in a if k != "kind"] == [f"{b[k]:.4g}" for k in b if k != "kind"]
      else:
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    assert {p.name for p in (workdir / "logs").glob("*.log")} == {"process_0.log", "process_1.log"}
  # A checkpoint of two processes goes on in one, of another number of devices.
  out, _ = runs.succeed(runs.start(tmp_path / "pmap", *overrides, "duration=7", devices=1, config=runs.HMR))
  assert "resumed at step 6" in out


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_with_its_name_and_the_run_goes_on(tmp_path, data_set, victim):
  overrides = (*runs.light(data_set), "duration=100000", "log_every=1", "checkpoint_every=5", "batch_size=8")
  both = runs.start_cluster(tmp_path / "run", *overrides, devices=1)
  for line in both[0].stdout:
    if line.startswith("step 12/"):
      break
  both[victim].kill()
  killed = time.monotonic()
  drain = threading.Thread(target=both[0].stdout.read)
  drain.start()
  survivor = both[1 - victim]
  survivor.wait(timeout=60)
  assert time.monotonic() - killed < 60
  said = survivor.stderr.read()
  # When process 0 goes, jax may abort (134) before our line's exit code: the launchers try again after either.
  assert survivor.returncode in ((distributed.EXIT_PEER_LOST,) if victim else (distributed.EXIT_PEER_LOST, -6)), said
  assert f"process {victim} was lost" in said, said[-3000:]
  drain.join()
  steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
  assert steps and steps[-1] >= 5
  again = runs.start_cluster(tmp_path / "run", *overrides, f"duration={steps[-1] + 2}", devices=1)
  out, _ = runs.succeed(*again)
  assert f"resumed at step {steps[-1]}" in out


@pytest.mark.long
def test_preemption_of_one_process_saves_everything_and_ends_both(tmp_path, data_set):
  overrides = (*runs.light(data_set), "duration=100000", "log_every=1", "checkpoint_every=100000")
  both = runs.start_cluster(tmp_path / "run", *overrides, devices=1)
  for line in both[0].stdout:
    if line.startswith("step 3/"):
      break
  both[1].send_signal(signal.SIGTERM)
  results = runs.finish(*both, timeout=120)
  assert [code for code, _, _ in results] == [distributed.EXIT_PREEMPTED] * 2, results
  assert "is saved" in results[0][1]
  last = runs.lines(tmp_path / "run")[-1]["step"]
  assert (tmp_path / "run" / "checkpoints" / str(last)).is_dir()
