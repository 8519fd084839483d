"""Every experiment's smoke run ends well, as the README and the configs say it."""

import pytest

import runs


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted((runs.ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_the_smoke_run_of(tmp_path, config):
  out, _ = runs.succeed(runs.start(tmp_path / "run", config=f"{config}:smoke"))
  assert "mean pose" in out and (tmp_path / "run" / "predictions.png").is_file()
  assert [r["step"] for r in runs.lines(tmp_path / "run") if r["kind"] == "train"] == [1, 2]
