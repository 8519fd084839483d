"""The open benchmark: trains a study's runs, measures what its paper claims, prints tables with 95 % intervals.

    python -m jhmr.study prohmr [--config configs/open_benchmark.py] [--workdir runs/open_benchmark]

Everything is trained on rendered people, so that anybody can check every number. Trained runs, and what was measured of
every image, stay in the workdir: the same command again goes on where it was interrupted. The tables go to
`<workdir>/<study>.md` and `.json`, plots to `<study>.png`.
"""

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import zlib
from typing import NamedTuple

import jax
from jhmr import checkpoint, command, evaluate, files, hypothesis_report, intervals, parallel, pictures, report
from jhmr.errors import InputError
import numpy as np

VERDICTS = {(True, True): "yes", (True, False): "the value, not its interval", (False, False): "no"}


class Table(NamedTuple):
  """Rows of text under a title."""
  title: str
  columns: tuple
  rows: list


class Claim(NamedTuple):
  """That a quantity is below a limit; `samples` [1 + resamples] as of `intervals.replicates`."""
  text: str
  unit: str
  samples: np.ndarray
  limit: float = 0.0


class Trained(NamedTuple):
  """A trained run, ready to be measured."""
  config: object
  system: object
  state: object
  assets: dict
  home: str         # its workdir


class Study(NamedTuple):
  """What a module of `jhmr.studies` gives."""
  runs: tuple       # modes of the config file
  settings: dict    # numbers that what is measured depends on
  measured: dict    # name -> function of `load`, which opens a run -> {name: [N, ...] or (numerator, denominator)}
  tables: object    # {name: what was measured} -> [Table]
  claims: object    # {name: what was measured} -> [Claim]
  figure: object    # {name: what was measured} -> uint8 [H, W, 3]
  prepare: object = None  # (config file, workdir, smoke) -> {run: options of its training}; before anything is trained


def studies():
  """Names of all studies."""
  folder = os.path.join(os.path.dirname(__file__), "studies")
  return sorted(m.name for m in pkgutil.iter_modules([folder]))


def train_runs(study, config_file, workdir, smoke):
  """Trains what is not finished; returns {run: workdir}."""
  homes, options = {}, study.prepare(config_file, workdir, smoke) if study.prepare else {}
  for run in study.runs:
    homes[run] = os.path.join(workdir, run)
    mode = f"{run},smoke" if smoke else run
    arguments = [f"--config={config_file}:{mode}", f"--workdir={homes[run]}", *options.get(run, ())]
    config, home, _ = command.parse_config(["study", *arguments])
    if not is_finished(config, home):
      done = subprocess.run([sys.executable, "-m", "jhmr.train", *arguments], check=False)
      if done.returncode:
        raise InputError(f"training {run} ended with exit code {done.returncode}, see above: mend that, and give the "
                         "same command again")
  return homes


def is_finished(config, workdir):
  """Whether a run of the same config reached its last step; durations in steps, as in the open benchmark."""
  if not os.path.exists(os.path.join(workdir, "config.json")):
    return False
  command.check_resumable(config, command.read_config(workdir))
  return f"{checkpoint.choose(workdir)[0]} steps" == config.duration


def load_run(workdir):
  """The Trained of a workdir: its last step, since a budget is compared, not the best of several checkpoints."""
  return Trained(*evaluate.load_run(workdir, checkpoint.choose(workdir)[0], lifting=True), workdir)


def score_split(trained, assets, split, make_scorer):
  """The rows of one split, on one device.

  Args:
    assets: those of `trained`, and more.
    make_scorer: (mapper, system) -> score(state, batches, assets), such as `best_of.make_scorer`.
  """
  mapper = parallel.make("pmap", jax.devices()[:1])
  opened = evaluate.open_splits(trained.config, assets, mapper, (split,), ("visible",))[split]
  score = make_scorer(mapper, trained.system)
  rows = score(mapper.replicate(trained.state), opened.batches, mapper.replicate(assets))
  opened.close()
  return rows


def measure(name, study, homes, workdir):
  """What study.measured says of every image; read from the workdir when settings and the runs it opened are as then."""
  path, opened = os.path.join(workdir, "measured", f"{name}.npz"), {}
  settings = json.loads(json.dumps(study.settings))
  if os.path.exists(path):
    with np.load(path, allow_pickle=False) as f:
      made_of = json.loads(str(f["made_of"]))
      if made_of == {"settings": settings, "runs": {run: _checksums(homes[run]) for run in made_of.get("runs", ())}}:
        return unpacked({k: f[k] for k in f.files if k != "made_of"})
  report.say(f"measuring: {name}")

  def load(run):
    opened[run] = _checksums(homes[run])
    return load_run(homes[run])

  rows = study.measured[name](load)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with files.whole(path, "wb") as f:
    np.savez_compressed(f, made_of=json.dumps({"settings": settings, "runs": opened}), **packed(rows))
  return rows


def _checksums(home):
  """What tells one trained state from another: the listing of its checkpoint's files."""
  with open(os.path.join(home, "checkpoints", str(checkpoint.choose(home)[0]), "files.json"), "rb") as f:
    return zlib.crc32(f.read())


def packed(rows):
  """Ratios (numerator, denominator) as two arrays each."""
  flat = {}
  for name, value in rows.items():
    flat |= {f"{name}|above": value[0], f"{name}|below": value[1]} if isinstance(value, tuple) else {name: value}
  return flat


def unpacked(flat):
  """The opposite of `packed`."""
  rows = {name: value for name, value in flat.items() if "|" not in name}
  ratios = {name.split("|")[0] for name in flat if "|" in name}
  return rows | {name: (flat[f"{name}|above"], flat[f"{name}|below"]) for name in ratios}


def verdict(claim):
  """(whether the value holds, whether its whole interval does)."""
  found = intervals.interval(claim.samples)
  return bool(found["value"] < claim.limit), bool(found["high"] < claim.limit)


def claims_table(claims):
  """Every claim with what was measured and whether it came out."""
  of = lambda text, unit: f"{text} {unit}".strip()
  rows = [{"claim": c.text, "must be": of(f"< {c.limit:g}", c.unit), "measured": of(cell(c.samples), c.unit),
           "holds": VERDICTS[verdict(c)]} for c in claims]
  return Table("What was claimed", ("claim", "must be", "measured", "holds"), rows)


def cell(samples):
  """'71.3 [69.9, 72.8]' of samples [1 + resamples]."""
  return hypothesis_report.cell(intervals.as_json(samples))


def markdown(tables):
  """The tables as Markdown text."""
  lines = []
  for table in tables:
    line = lambda cells: "| " + " | ".join(cells) + " |"
    lines += [f"### {table.title}", "", line(table.columns), "|" + "---|" * len(table.columns)]
    lines += [line([str(row.get(c, "")) for c in table.columns]) for row in table.rows] + [""]
  return "\n".join(lines)


def main(argv):
  parser = argparse.ArgumentParser(prog="python -m jhmr.study", description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("study", help=f"one of {', '.join(studies())}")
  parser.add_argument("--config", default="configs/open_benchmark.py", help="the file of the study's runs")
  parser.add_argument("--workdir", default="runs/open_benchmark", help="where runs and results are kept")
  parser.add_argument("--smoke", action="store_true", help="two steps, few images: for tests")
  args = parser.parse_args(argv[1:])
  if args.study not in studies():
    raise InputError(f"no study {args.study!r}: the studies are {', '.join(studies())}")
  study = importlib.import_module(f"jhmr.studies.{args.study}").STUDY
  homes = train_runs(study, args.config, args.workdir, args.smoke)
  found = {name: measure(name, study, homes, args.workdir) for name in study.measured}
  claims = study.claims(found)
  tables = [claims_table(claims), *study.tables(found)]
  for table in tables:
    report.say(table.title)
    report.table(table.rows, table.columns)
  stem = os.path.join(args.workdir, args.study)
  with files.whole(stem + ".md") as f:
    f.write(markdown(tables))
  with files.whole(stem + ".json") as f:
    json.dump({"claims": [{"text": c.text, "unit": c.unit, "limit": c.limit, "holds": verdict(c)} | {
        k: float(v) for k, v in intervals.interval(c.samples).items()} for c in claims],
               "tables": [t._asdict() for t in tables]}, f, indent=2)
  pictures.write(stem + ".png", study.figure(found))
  report.say(f"tables and plots are in {stem}.md, .json and .png")


if __name__ == "__main__":
  command.run(main)
