"""What every `python -m jhmr.<command>` shares: exit codes, configs from the command line, and how two configs differ.

Exit codes: 0 done, 1 a bug (with its traceback), 2 something the user can mend (one line), 130 interrupted; those of
training with several processes or on machines that may be taken away are in `distributed`.
"""

import difflib
import json
import os
import sys
from typing import NamedTuple

from absl import flags
from jhmr import distributed
from jhmr.errors import InputError
import ml_collections
from ml_collections import config_flags

EXIT_INPUT = 2
WORKDIR = "{workdir}"  # in a config.json: the folder it is in, wherever that was moved to
# May differ between a run and its resumption: they change what is reported and when, not what is learnt,
# except duration, which lets a finished run go on.
FREE_ON_RESUME = ("duration", "eval_batches", "log_every", "eval_every", "checkpoint_every", "keep", "parallel",
                  "skip_bad_steps", "warm_start", "stuck_after_s", "data.num_workers", "data.num_threads",
                  "data.max_bad_share")


_OPTIONS = "--config, --workdir, --config.key=value, --profile, --coordinator, --num_processes and --process_id"


class Options(NamedTuple):
  """What the command line says besides the config."""
  profile: bool
  cluster: distributed.Options


def run(main):
  """Runs main(argv) as a command: an InputError becomes one line on stderr and exit code 2."""
  try:
    sys.exit(main(sys.argv) or 0)
  except InputError as error:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    sys.exit(EXIT_INPUT)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def parse_config(argv):
  """Reads `--config FILE[:MODE] [--workdir DIR] [--config.key=value ...]` and the options of a training run.

  Returns:
    (config, workdir, options); config is a locked ConfigDict, workdir defaults to runs/<config name>[-<mode>].
  Raises:
    InputError: for an unknown flag or key (with the nearest one that exists), a file that is not a config,
      or a value of the wrong type.
  """
  _help_wanted(argv)
  path = _config_path(argv)
  if path is None:
    raise InputError("no config given: add --config FILE, for example --config configs/quickstart.py")
  file, _, mode = path.partition(":")
  if not os.path.isfile(file):
    raise InputError(f"config {file!r} does not exist: give the path of a file such as configs/quickstart.py")
  _check_keys(argv, file, flatten(_parse([argv[0], f"--config={path}"], path).config))
  values = _parse(argv, path)
  name = os.path.splitext(os.path.basename(file))[0] + (f"-{mode}" if mode else "")
  cluster = distributed.Options(values.coordinator, values.num_processes, values.process_id)
  return values.config, os.path.abspath(values.workdir or os.path.join("runs", name)), Options(values.profile, cluster)


def _parse(argv, path):
  sys.modules.pop("config_config", None)  # ml_collections would load this file into the namespace of the last one
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", None, "the experiment: FILE.py[:MODE]", flag_values=values, sys_argv=argv)
  flags.DEFINE_string("workdir", None, "where everything is written; default runs/<config name>", flag_values=values)
  flags.DEFINE_boolean("profile", False, "write a trace of a few steps to <workdir>/profile", flag_values=values)
  flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0; TPU pods and SLURM are detected", flag_values=values)
  flags.DEFINE_integer("num_processes", 0, "how many processes train together", flag_values=values)
  flags.DEFINE_integer("process_id", -1, "which of them this is", flag_values=values)
  try:
    rest = values(argv)
    if not isinstance(values.config, ml_collections.ConfigDict):  # absl reads the file and its overrides here
      raise TypeError("get_config() is missing or does not return a ConfigDict")
  except flags.UnrecognizedFlagError as error:
    raise InputError(f"{error}: options are {_OPTIONS}") from error
  except Exception as error:  # the config file is the user's code: it may raise anything
    raise InputError(f"config {path!r}: {(str(error).splitlines() or [repr(error)])[-1]}") from error
  if len(rest) > 1:
    raise InputError(f"unexpected argument {rest[1]!r}: options are {_OPTIONS}")
  return values


def _check_keys(argv, file, known):
  """Every --config.key must be a key of the file: a bare AttributeError is what ml_collections would say."""
  for arg in argv[1:]:
    key = arg.lstrip("-").split("=")[0].removeprefix("noconfig.").removeprefix("config.")
    if arg.startswith(("--config.", "--noconfig.")) and key not in known:
      close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
      raise InputError(f"config.{key} is not a key of {file}: did you mean config.{close[0]}?")


def _help_wanted(argv):
  if any(a in ("-h", "--help") for a in argv[1:]):
    print(parse_config.__doc__.split("\n")[0])
    print("Exit codes: 0 done, 2 wrong input (one line says what), 130 interrupted. The same command resumes a run.")
    sys.exit(0)


def _config_path(argv):
  for i, arg in enumerate(argv):
    if arg in ("--config", "-config"):
      return argv[i + 1] if i + 1 < len(argv) else None
    if arg.startswith(("--config=", "-config=")):
      return arg.split("=", 1)[1]
  return None


def flatten(config, prefix=""):
  """{"optim.learning_rate": 1e-4, ...} of a nested config or dict."""
  flat = {}
  for key, value in config.items():
    nested = isinstance(value, (dict, ml_collections.ConfigDict))
    flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
  return flat


def to_json(config):
  """The config as JSON text, keys sorted: what `config.json` beside the checkpoints holds."""
  return json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True) + "\n"


def read_config(workdir):
  """The config a run was started with, from its config.json, files in the run's own folder by their absolute path.

  Raises:
    InputError: when there is none to read.
  """
  path = os.path.join(workdir, "config.json")
  if not os.path.isfile(path):
    raise InputError(f"{workdir!r} holds no run (config.json is missing): give the --workdir of a finished training")
  try:
    with open(path) as f:
      found = _tuples(json.load(f))
    if "mean_params" in found:
      found["mean_params"] = found["mean_params"].replace(WORKDIR, os.path.abspath(workdir))
    return ml_collections.FrozenConfigDict(found)
  except (ValueError, TypeError, AttributeError) as error:
    raise InputError(f"{path} is damaged ({error}): restore it, or train again into a new workdir") from error


OLDER = {"camera_convention": "spin", "data.input": "rgb"}  # what runs did before their configs said so


def check_resumable(config, old):
  """Raises InputError, naming the keys, when a run cannot go on under another config."""
  new, old = flatten(json.loads(to_json(config))), flatten(old)
  for one, other in ((new, old), (old, new)):
    for key, value in OLDER.items():
      if key in one:
        other.setdefault(key, value)
  same = lambda k: k in new and k in old and _tuples(new[k]) == _tuples(old[k])
  odd = [k for k in sorted(set(new) | set(old)) if not same(k) and k not in FREE_ON_RESUME]
  if odd:
    shown = ", ".join(f"{k} (there {old.get(k, 'absent')}, here {new.get(k, 'absent')})" for k in odd[:3])
    more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
    raise InputError(f"the workdir holds a run of another config: {shown}{more} differ; give another --workdir")


def _tuples(value):
  """JSON has no tuples; configs have no lists."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def image_size(text, least=1):
  """"W,H" of --image-size in pixels -> (W, H), each at least `least`. Raises InputError for anything else."""
  sides = [side.strip() for side in text.split(",")]
  if len(sides) != 2 or not all(s.isascii() and s.isdecimal() and least <= int(s[:9]) <= 1e5 for s in sides):
    raise InputError(f"--image-size {text!r}: give W,H in pixels, such as 1280,960")
  return tuple(map(int, sides))
