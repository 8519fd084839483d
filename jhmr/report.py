"""What a run says: stdout lines, metrics.jsonl, timing.jsonl, TensorBoard event files, and a log of every process.

Only process 0 writes the reports; every process has <workdir>/logs/process_<i>.log. metrics.jsonl holds what a run
computes, the same for every run of a config; timing.jsonl what it took this time.
"""

import collections
import json
import logging
import os
import sys
from typing import NamedTuple

from jhmr import files
import numpy as np

LOG = logging.getLogger("jhmr")


def _to_console(record):
  line = record.getMessage()
  if record.levelno < logging.WARNING:
    print(line, flush=True)
  else:
    print(f"{record.levelname.lower()}: {line}", file=sys.stderr, flush=True)


_console = logging.Handler()
_console.emit = _to_console
LOG.setLevel(logging.INFO)
LOG.propagate = False
LOG.addHandler(_console)
_early = collections.deque(maxlen=100)  # warnings from before there is a log, which then has them too
_keep_early = logging.Handler(logging.WARNING)
_keep_early.emit = _early.append
LOG.addHandler(_keep_early)


class Report(NamedTuple):
  workdir: str
  events: object      # tensorboardX writer; None on processes that write no reports
  num_steps: int


def open_log(workdir, index):
  """Sends what this process says to its log as well; to the console the others only say why they end."""
  os.makedirs(os.path.join(workdir, "logs"), exist_ok=True)
  handler = logging.FileHandler(os.path.join(workdir, "logs", f"process_{index}.log"))
  handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
  LOG.removeHandler(_keep_early)
  while _early:
    handler.handle(_early.popleft())
  LOG.addHandler(handler)
  _console.setLevel(logging.INFO if index == 0 else logging.ERROR)
  return handler


def close_log(handler):
  LOG.removeHandler(handler)
  LOG.addHandler(_keep_early)
  handler.close()
  _console.setLevel(logging.INFO)


def open_report(workdir, start_step, num_steps, main=True):
  """Opens the reports of a run that goes on from start_step; what an interrupted run wrote beyond it is dropped."""
  if not main:
    return Report(workdir, None, num_steps)
  from tensorboardX import SummaryWriter  # protobuf: only the process that writes reports pays for it
  for name in ("metrics.jsonl", "timing.jsonl"):
    _truncate(os.path.join(workdir, name), start_step)
  return Report(workdir, SummaryWriter(os.path.join(workdir, "events"), purge_step=start_step + 1), num_steps)


def _truncate(path, last_step):
  """Keeps the lines of steps up to last_step, so that no step is there twice after a resume."""
  if not os.path.isfile(path):
    return
  with open(path) as f:
    kept = [line for line in f if line.endswith("\n") and json.loads(line)["step"] <= last_step]
  with files.whole(path) as f:
    f.writelines(kept)


def scalars(report, step, kind, values, file="metrics.jsonl"):
  """Writes {name: number} of one step to a file of lines and the event file; `kind` is "train", a split's name, ..."""
  if report.events is None:
    return
  values = {k: float(v) for k, v in values.items()}
  with open(os.path.join(report.workdir, file), "a") as f:
    f.write(json.dumps({"step": step, "kind": kind} | values) + "\n")
  for name, value in values.items():
    report.events.add_scalar(f"{kind}/{name}", value, step)


def has_scores(report, step):
  """Whether metrics.jsonl has a row of `step` that is not of training."""
  path = os.path.join(report.workdir, "metrics.jsonl")
  if not os.path.isfile(path):
    return False
  with open(path) as f:
    return any(row["step"] == step and row["kind"] != "train" for row in map(json.loads, f))


def progress(report, step, metrics, pace):
  """One line: step, loss terms, and what `pace` says of speed and time left."""
  terms = "  ".join(f"{k} {float(v):.4g}" for k, v in metrics.items())
  say(f"step {step}/{report.num_steps}  {terms}  [{pace}]")


def picture(report, step, name, image):
  """Writes one uint8 RGB image [H, W, 3] to the event file."""
  if report.events is not None:
    report.events.add_image(name, np.asarray(image), step, dataformats="HWC")


def flush(report):
  """Puts events on disk; called at each checkpoint, or a killed run would lack those before it."""
  if report.events is not None:
    report.events.flush()


def close(report):
  if report.events is not None:
    report.events.close()


def clock(seconds):
  """3725 -> '1:02:05'."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def say(line):
  LOG.info("%s", line)


def warn(line):
  LOG.warning("%s", line)


def table(rows, columns):
  """Prints rows (dicts) under aligned columns; numbers with three decimals at most."""
  text = lambda v: f"{v:.4g}" if isinstance(v, float) else "-" if v is None else str(v)
  cells = [[text(row.get(c)) for c in columns] for row in rows]
  widths = [max(len(c), *(len(row[i]) for row in cells)) if cells else len(c) for i, c in enumerate(columns)]
  for row in [list(columns), *cells]:
    say("  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths))))
