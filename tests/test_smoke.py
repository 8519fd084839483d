"""Every experiment's smoke run ends well, as the README and the configs say it."""

import pytest

from jhmr import train
import runs

MODES = [f"{path.stem}:smoke" for path in sorted((runs.ROOT / "configs").glob("*.py")) if path.stem != "quickstart"]
MODES += [f"multibodies:{mode},smoke" for mode in ("released", "mdn", "cvae")]
MODES += ["lifting_baselines:prohmr,smoke"]
LONG = ("prohmr:smoke", "prohmr_rendered:smoke", "multibodies:released,smoke", "multibodies:mdn,smoke")  # like others


def ended_well(workdir, out):
  assert "mean pose" in out and (workdir / "predictions.png").is_file()
  assert [r["step"] for r in runs.lines(workdir) if r["kind"] == "train"] == [1, 2]


@pytest.mark.slow
def test_the_quickstart_on_rendered_people_as_users_start_it(tmp_path):
  out, _ = runs.succeed(runs.start(tmp_path / "run", config=str(runs.ROOT / "configs" / "quickstart.py") + ":smoke"))
  ended_well(tmp_path / "run", out)


@pytest.mark.parametrize("mode", [pytest.param(m, marks=getattr(pytest.mark, "long" if m in LONG else "slow"))
                                  for m in MODES])
def test_the_smoke_run_of(tmp_path, data_set, pose_file, capsys, mode):
  name, _, rest = mode.partition(":")
  source = pose_file if name.startswith("lifting") else data_set
  config = runs.config_of(f"data.source={source}", "splits=('val',)", config=f"{runs.ROOT}/configs/{name}.py:{rest}")
  train.train(config, str(tmp_path / "run"))
  ended_well(tmp_path / "run", capsys.readouterr().out)
