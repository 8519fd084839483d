"""Starting `python -m jhmr.train` as a user would, in one process or several, on fake CPU devices."""

import json
import os
import pathlib
import socket
import subprocess
import sys

from jhmr import command

ROOT = pathlib.Path(__file__).parent.parent
QUICK = str(ROOT / "configs" / "open_benchmark.py") + ":hmr,smoke"
HMR = str(ROOT / "configs" / "hmr.py") + ":smoke"


def light(data_set):
  """Overrides under which a step compiles in seconds: people from disk, small crops, no length of the run in it."""
  return (f"data.source={data_set}", "image_size=32", "eval_every=100", "optim.schedule=constant")


def config_of(*overrides, config=QUICK):
  return command.parse_config(["x", f"--config={config}", *(f"--config.{o}" for o in overrides)])[0]


def start(workdir, *overrides, devices=1, config=QUICK, flags=(), quick=True):
  """One training process, its output in pipes; quick: compiled as tests are, in half the time, not as users' are."""
  flags_of_xla = f"{os.environ['XLA_FLAGS'] if quick else ''} --xla_force_host_platform_device_count={devices}"
  env = os.environ | {"XLA_FLAGS": flags_of_xla, "PYTHONUNBUFFERED": "1"}  # of two counts the last one counts
  arguments = [f"--config={config}", f"--workdir={workdir}", *(f"--config.{o}" for o in overrides), *flags]
  return subprocess.Popen([sys.executable, "-m", "jhmr.train", *arguments], cwd=ROOT, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def start_cluster(workdir, *overrides, processes=2, devices=2, config=QUICK, quick=True):
  """Processes on localhost that train together; a comparison with one process must not be quick, nor that one."""
  with socket.create_server(("localhost", 0)) as free:
    port = free.getsockname()[1]
  return [start(workdir, *overrides, devices=devices, config=config,
                flags=(f"--coordinator=localhost:{port}", f"--num_processes={processes}", f"--process_id={i}"),
                quick=quick)
          for i in range(processes)]


def finish(*processes, timeout=600):
  """[(return code, stdout, stderr)] once all have ended; kills what is left when something goes wrong."""
  try:
    outputs = [p.communicate(timeout=timeout) for p in processes]
    return [(p.returncode, *o) for p, o in zip(processes, outputs)]
  finally:
    for p in processes:
      p.kill()


def succeed(*processes):
  """As finish, but every process must end well; returns the outputs of the first."""
  results = finish(*processes)
  assert all(code == 0 for code, _, _ in results), [(code, err[-2000:]) for code, _, err in results]
  return results[0][1:]


def lines(workdir, file="metrics.jsonl"):
  return [json.loads(line) for line in (pathlib.Path(workdir) / file).read_text().splitlines()]
