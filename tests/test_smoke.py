"""Every experiment's smoke run ends well, as the README and the configs say it."""

import pytest

import runs


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted((runs.ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_the_smoke_run_of(tmp_path, data_set, config):
  """The quickstart's as it is, on rendered people; the others, which are for data sets, from one."""
  overrides = () if config.stem == "quickstart" else (f"data.source={data_set}", "splits=('val',)")
  out, _ = runs.succeed(runs.start(tmp_path / "run", *overrides, config=f"{config}:smoke"))
  assert "mean pose" in out and (tmp_path / "run" / "predictions.png").is_file()
  assert [r["step"] for r in runs.lines(tmp_path / "run") if r["kind"] == "train"] == [1, 2]
