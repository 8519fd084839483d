"""Runs of systems with several hypotheses, as their configs say them."""

import jax
from jhmr import optim, systems, train
import numpy as np
import pytest
import runs

CONFIG = str(runs.ROOT / "configs" / "multibodies.py")
OPEN = str(runs.ROOT / "configs" / "open_benchmark.py")
SYSTEM = {"full": "multibodies", "released": "multibodies", "mdn": "smpl_mdn", "cvae": "smpl_cvae"}


@pytest.mark.parametrize("mode", SYSTEM)
def test_every_mode_is_of_its_system_and_every_field_is_known(mode):
  for size in ("", ",smoke"):
    config = runs.config_of(config=f"{CONFIG}:{mode}{size}")
    assert config.system == SYSTEM[mode]
    systems.load(optim.resolve(config, config.data.examples))


def test_modes_that_do_not_go_together_are_named():
  for mode in ("other", "mdn,cvae", "released,mdn"):
    with pytest.raises(Exception, match="no mode"):
      runs.config_of(config=f"{CONFIG}:{mode}")


@pytest.mark.slow
def test_a_run_of_one_body_starts_one_of_many(tmp_path, data_set, finished_run, capsys):
  config = runs.config_of(*runs.light(data_set), "duration=1", "optim.learning_rate=0.0", "eval_every=1",
                          f"warm_start={finished_run}", config=f"{OPEN}:multibodies,smoke")
  state = train.train(config, str(tmp_path / "run"))
  assert f"of {finished_run}: net" in capsys.readouterr().out
  one = train.train(runs.config_of(*runs.light(data_set), "duration=2", "eval_every=2"), str(finished_run))
  jax.tree.map(np.testing.assert_array_equal, state.params["net"], one.params["net"])
