"""What networks are shown: left and right can be told apart, what is hidden is black, and no example depends on it."""

import jax
import numpy as np
import pytest

from jhmr.body import joints
from jhmr.data import images
from jhmr.data import inputs
from jhmr.data import source
from jhmr.data import synthetic
from jhmr.errors import InputError
import people
from test_source import config

SIZE = 48
FLIP24 = np.array(joints.flip("smpl24"))


@jax.jit
def render(assets, index):
  """The same people twice: as parts with nothing in front, and as surface coordinates behind something."""
  settings = synthetic.Settings(image_size=SIZE, share_truncated=0.0)
  bare = synthetic.examples(assets, 0, index, settings._replace(share_occluded=0.0, input="parts"))
  behind = synthetic.examples(assets, 0, index, settings._replace(share_occluded=1.0, input="iuv"))
  needed = ("image", "parts", "iuv", "keypoints2d", "visible")
  return [{name: batch[name] for name in needed} for batch in (bare, behind)]


@pytest.fixture(scope="module")
def rendered():
  return [b | {"image": images.to_uint8(b["image"])} for b in jax.device_get(render(people.assets(), np.arange(24)))]


def test_colors_of_parts_are_far_apart_and_mirrored_ones_exchange_red_and_blue():
  colors = inputs.PALETTE.astype(int)
  apart = np.abs(colors[:, None] - colors[None]).max(-1)
  assert apart[~np.eye(25, dtype=bool)].min() >= 127 and not colors[0].any()
  np.testing.assert_array_equal(colors[1:][FLIP24], colors[1:, ::-1])
  red, blue = colors[1:, 0], colors[1:, 2]
  for side, more in (("left", red > blue), ("right", blue > red)):
    assert all(more[j] == name.startswith(side) for j, name in enumerate(joints.names("smpl24")))


@pytest.mark.parametrize("side", ["left", "right"])
def test_limbs_have_the_colors_of_their_side(rendered, side):
  more, less = (0, 2) if side == "left" else (2, 0)
  of_side = np.array([0, *(name.startswith(side) for name in joints.names("smpl24"))], bool)
  found = {"parts": [], "iuv": []}
  for limb in ("ankle", "knee", "wrist", "elbow"):
    k = joints.index("spin49", f"{side}_{limb}")
    for kind, batch in zip(found, rendered):
      for i in np.flatnonzero(batch["visible"][:, k]):
        x, y = ((batch["keypoints2d"][i, k, :2] + 1) / 2 * SIZE).astype(int)
        colors = batch["image"][i, max(0, y - 1):y + 2, max(0, x - 1):x + 2].astype(int)
        found[kind].append((colors[..., more] > colors[..., less]).any() if kind == "parts"
                           else of_side[colors[..., 0] // inputs.PART_STEP].any())
  assert all(len(hits) > 25 and np.mean(hits) > 0.95 for hits in found.values()), found


def test_what_is_hidden_or_nobody_is_black_and_the_rest_says_its_part(rendered):
  bare, behind = rendered
  np.testing.assert_array_equal(bare["image"], inputs.PALETTE[bare["parts"]])
  np.testing.assert_array_equal(behind["image"], behind["iuv"] * np.array([inputs.PART_STEP, 1, 1], np.uint8))
  np.testing.assert_array_equal(behind["iuv"][..., 0], behind["parts"])
  hidden = (bare["parts"] > 0) & (behind["parts"] == 0)
  assert 0.02 < hidden.sum() / (bare["parts"] > 0).sum() < 0.6
  assert not behind["image"][behind["parts"] == 0].any() and bare["image"][hidden].any(-1).all()


def test_surface_coordinates_run_through_every_part(rendered):
  for part in (1, 2, 3, 17, 18):  # pelvis, upper legs and arms
    u, v = rendered[0]["iuv"][rendered[0]["parts"] == part][:, 1:].T
    assert np.ptp(u) > 150 and np.ptp(v) > 150, part


def test_splits_show_the_input_of_the_run(monkeypatch):
  monkeypatch.setattr(synthetic, "examples", lambda assets, seed, index, settings: settings.input)
  settings = source.settings(config(input="iuv"))
  assert {synthetic.split_examples({}, name, np.arange(2), settings) for name in synthetic.splits()} == {"iuv"}


def test_an_input_that_there_is_not_is_named():
  with pytest.raises(InputError, match="config.data.input is 'depth': one of rgb, parts, iuv"):
    source.open_source(config(input="depth"), None)


def test_rgb_pays_nothing_for_the_other_inputs():
  """Its program does not even take the chart as an argument: what is made from it is dropped before XLA."""
  settings = synthetic.Settings(image_size=32)
  program = jax.jit(lambda assets: synthetic.examples(assets, 0, np.arange(2), settings)["image"])
  assert f"tensor<{len(people.assets()['surface'].faces)}x3x3xf32>" not in program.lower(people.assets()).as_text()
