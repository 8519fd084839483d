"""What a run says: stdout lines, metrics.jsonl, TensorBoard event files."""

import json
import os
import time
from typing import NamedTuple

import numpy as np


class Report(NamedTuple):
  workdir: str
  events: object      # tensorboardX writer
  num_steps: int
  marks: list         # [(step, monotonic seconds)]: when the clock started; after the first step, which compiles


def open_report(workdir, start_step, num_steps):
  """Opens the reports of a run that goes on from start_step; what an interrupted run wrote beyond it is dropped."""
  from tensorboardX import SummaryWriter  # protobuf: only the process that writes reports pays for it
  _truncate(os.path.join(workdir, "metrics.jsonl"), start_step)
  events = SummaryWriter(os.path.join(workdir, "events"), purge_step=start_step + 1)
  return Report(workdir, events, num_steps, [])


def _truncate(path, last_step):
  """Keeps the lines of steps up to last_step, so that no step is there twice after a resume."""
  if not os.path.isfile(path):
    return
  with open(path) as f:
    kept = [line for line in f if line.endswith("\n") and json.loads(line)["step"] <= last_step]
  with open(path + ".tmp", "w") as f:
    f.writelines(kept)
  os.replace(path + ".tmp", path)


def scalars(report, step, kind, values):
  """Writes {name: number} of one step to metrics.jsonl and the event file; `kind` is "train" or a split's name."""
  values = {k: float(v) for k, v in values.items()}
  with open(os.path.join(report.workdir, "metrics.jsonl"), "a") as f:
    f.write(json.dumps({"step": step, "kind": kind} | values) + "\n")
  for name, value in values.items():
    report.events.add_scalar(f"{kind}/{name}", value, step)


def progress(report, step, metrics):
  """One stdout line: step, loss terms, steps per second and the time left."""
  terms = "  ".join(f"{k} {float(v):.4g}" for k, v in metrics.items())
  say(f"step {step}/{report.num_steps}  {terms}  [{pace(report, step)}]")


def pace(report, step):
  """'2.50 steps/s, 0:03:20 left', counted from the end of the first step, which compiles."""
  report.marks or report.marks.append((step, time.monotonic()))
  first, since = report.marks[0]
  if step == first:
    return "compiled"
  rate = (step - first) / max(time.monotonic() - since, 1e-9)
  return f"{rate:.2f} steps/s, {clock((report.num_steps - step) / rate)} left"


def picture(report, step, name, image):
  """Writes one uint8 RGB image [H, W, 3] to the event file."""
  report.events.add_image(name, np.asarray(image), step, dataformats="HWC")


def close(report):
  report.events.close()


def clock(seconds):
  """3725 -> '1:02:05'."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def say(line):
  print(line, flush=True)


def table(rows, columns):
  """Prints rows (dicts) under aligned columns; numbers with three decimals at most."""
  text = lambda v: f"{v:.4g}" if isinstance(v, float) else "-" if v is None else str(v)
  cells = [[text(row.get(c)) for c in columns] for row in rows]
  widths = [max(len(c), *(len(row[i]) for row in cells)) if cells else len(c) for i, c in enumerate(columns)]
  for row in [list(columns), *cells]:
    say("  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths))))
