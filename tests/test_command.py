"""Configs from the command line: what is right is taken, what is wrong is one line and exit code 2."""

import pytest

from jhmr import command
from jhmr.errors import InputError

CONFIG = """
from ml_collections import ConfigDict
def get_config(mode="full"):
  return ConfigDict({"batch_size": 8, "duration": "2" if mode == "smoke" else "100", "splits": ("val",),
                     "optim": {"learning_rate": 0.1, "name": "adam"}})
"""


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / "tiny.py"
  path.write_text(CONFIG)
  return str(path)


def test_overrides_and_mode_reach_the_config(config_file):
  config, workdir, _ = command.parse_config(
      ["x", "--config", config_file + ":smoke", "--config.optim.learning_rate=3", "--config.splits=('a', 'b')"])
  assert (config.duration, config.optim.learning_rate, config.splits) == ("2", 3.0, ("a", "b"))
  assert workdir.endswith("runs/tiny-smoke")


def test_workdir_is_taken(config_file, tmp_path):
  assert command.parse_config(["x", f"--config={config_file}", f"--workdir={tmp_path}/w"])[1] == f"{tmp_path}/w"


@pytest.mark.parametrize("arguments, said", [
    (["--config.batchsize=3"], "did you mean config.batch_size?"),
    (["--config.optim.learningrate=3"], "did you mean config.optim.learning_rate?"),
    (["--config.batch_size=many"], "batch_size"),
    (["--config.batch_size=1.5"], "batch_size"),
    (["--wrokdir=x"], "wrokdir"),
    (["stray"], "stray"),
])
def test_wrong_arguments_are_one_line(config_file, arguments, said):
  with pytest.raises(InputError) as error:
    command.parse_config(["x", f"--config={config_file}", *arguments])
  assert said in str(error.value)


@pytest.mark.parametrize("text, said", [
    ("def get_config(: pass", "invalid syntax"),
    ("x = 1", "get_config"),
    ("import nothing_of_this_name", "nothing_of_this_name"),
])
def test_a_file_that_is_no_config_is_one_line(tmp_path, text, said):
  (tmp_path / "bad.py").write_text(text)
  with pytest.raises(InputError) as error:
    command.parse_config(["x", f"--config={tmp_path}/bad.py"])
  assert said in str(error.value)


def test_missing_config_says_what_to_give(tmp_path):
  for arguments in ([], ["--config"], [f"--config={tmp_path}/absent.py"]):
    with pytest.raises(InputError, match="config"):
      command.parse_config(["x", *arguments])


def test_run_turns_input_errors_into_one_line_and_code_two(capsys):
  def main(argv):
    raise InputError("a\nb")
  with pytest.raises(SystemExit) as stop:
    command.run(main)
  assert stop.value.code == 2
  assert capsys.readouterr().err == "error: a b\n"


def test_run_lets_bugs_keep_their_traceback():
  with pytest.raises(ZeroDivisionError):
    command.run(lambda argv: 1 / 0)


def test_config_survives_json_and_other_configs_are_refused(config_file, tmp_path):
  config, _, _ = command.parse_config(["x", f"--config={config_file}"])
  (tmp_path / "config.json").write_text(command.to_json(config))
  old = command.read_config(str(tmp_path))
  assert old.splits == ("val",)
  command.check_resumable(config, old)
  config.duration = "200"  # a finished run may go on
  command.check_resumable(config, old)
  with config.unlocked():
    config.camera_convention = "spin"  # what older runs do not say
  command.check_resumable(config, old)
  config.camera_convention = "eft"
  with pytest.raises(InputError, match="camera_convention .there spin, here eft."):
    command.check_resumable(config, old)
  config.camera_convention, config.optim.learning_rate = "spin", 0.2
  with pytest.raises(InputError, match="optim.learning_rate .there 0.1, here 0.2."):
    command.check_resumable(config, old)


def test_damaged_or_missing_config_json_is_one_line(tmp_path):
  with pytest.raises(InputError, match="config.json is missing"):
    command.read_config(str(tmp_path))
  (tmp_path / "config.json").write_text('{"a": ')
  with pytest.raises(InputError, match="damaged"):
    command.read_config(str(tmp_path))
