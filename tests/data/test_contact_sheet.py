"""The contact sheet shows every example, and says in one line what is wrong with its arguments."""

import numpy as np
import pytest

from jhmr.data import contact_sheet
from jhmr.errors import InputError
import people


def test_every_example_has_a_panel_with_its_keypoints():
  batch = people.examples(np.arange(16), people.SETTINGS)
  drawn = contact_sheet.sheet(batch, panel_px=64, columns=8)
  plain = contact_sheet.sheet(batch | {"keypoints2d": np.zeros_like(batch["keypoints2d"])}, panel_px=64, columns=8)
  assert drawn.dtype == np.uint8 and drawn.shape[1] > 8 * 64 and drawn.shape[0] > 2 * 64
  changed = (drawn != plain).any(-1)
  for i in range(16):
    row, column = (drawn.shape[0] // 2) * (i // 8), (drawn.shape[1] // 8) * (i % 8)
    assert changed[row:row + 64, column:column + 64].sum() > 50, i


@pytest.mark.parametrize("arguments, says", [
    (["--out", "/no/such/folder/a.png"], "does not exist"), (["--out", "a.xyz"], "use .png or .jpg"),
    (["--out", "a.png", "--num", "0"], "at least 1"), (["--out", "a.png", "--image_size", "4"], "image_size")])
def test_wrong_arguments_are_named_before_anything_is_rendered(arguments, says, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=says):
    contact_sheet.main(["contact_sheet", *arguments])
  assert not list(tmp_path.iterdir())
