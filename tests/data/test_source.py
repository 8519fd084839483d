"""Streams and splits: rows of batches by process, padding, and settings that are wrong."""

import jax
import ml_collections
import numpy as np
import pytest

from jhmr.data import source
from jhmr.errors import InputError
import people


def config(batch_size=8, **data):
  return ml_collections.ConfigDict(dict(seed=3, batch_size=batch_size, image_size=64,
                                        data=dict(dict(source="stream", mocap=""), **data)))


def test_processes_share_each_global_batch():
  whole = source.open_source(config(), None)
  parts = [source.open_source(config(), None, p, 2) for p in range(2)]
  for i in (0, 5, 2**29):
    np.testing.assert_array_equal(np.concatenate([p.batch(i)["index"] for p in parts]), whole.batch(i)["index"])
  assert whole.batch(2**29)["index"].min() >= 0  # indices wrap, they do not overflow


def test_batches_do_not_overlap():
  stream = source.open_source(config(), None)
  seen = np.concatenate([stream.batch(i)["index"] for i in range(5)])
  np.testing.assert_array_equal(seen, np.arange(40))


def test_the_last_batch_of_a_split_is_padded():
  split = source.open_split(config(batch_size=100), None, "val")
  assert split.size == 512 and split.num_batches == 6
  batches = [split.batch(i) for i in range(6)]
  assert sum(b["mask"].sum() for b in batches) == 512 and batches[-1]["index"].max() == 511
  halves = [source.open_split(config(batch_size=100), None, "val", p, 2).batch(5) for p in range(2)]
  for name in ("index", "mask"):
    np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), batches[-1][name])


def test_the_stream_is_the_seeds_and_uses_the_settings():
  on_device = jax.jit(source.open_source(config(share_2d_only=1.0), None).on_device)
  batch = on_device(source.open_source(config(), None).batch(0), people.assets())
  assert not batch["has_pose"].any() and batch["keypoints2d"].any()
  other = people.examples(np.arange(16), people.SETTINGS)["keypoints2d"][:8]  # of seed 0
  assert np.abs(other - batch["keypoints2d"]).max() > 0.1


def test_settings_take_what_a_command_line_gives():
  chosen = source.settings(config(distance_m=[3, 4], share_far=0, views=2))
  assert chosen.distance_m == (3.0, 4.0) and chosen.share_far == 0.0 and chosen.views == 2 and chosen.image_size == 64


@pytest.mark.parametrize("data, says", [
    (dict(share_2donly=0.5), "did you mean config.data.share_2d_only"), (dict(share_far=2.0), "config.data.share_far"),
    (dict(distance_m="near"), "config.data.distance_m")])
def test_settings_that_mean_nothing_are_named(data, says):
  with pytest.raises(InputError, match=says):
    source.open_source(config(**data), None)


def test_unknown_splits_and_odd_batches_are_named():
  with pytest.raises(InputError, match="rendered splits are val, val_occluded, multiview"):
    source.open_split(config(), None, "test")
  with pytest.raises(InputError, match="does not divide over 3 processes"):
    source.open_source(config(), None, 0, 3)


def test_a_number_of_examples_makes_rendered_people_come_again_under_their_ids():
  stream = source.open_source(config(examples=20), None)
  seen = np.concatenate([stream.batch(i)["index"] for i in range(5)])
  np.testing.assert_array_equal(seen, np.arange(40) % 20)
  assert (stream.size, stream.epoch, stream.num_batches) == (20, 20, 3)
  assert source.open_source(config(), None).epoch == 0
  for number in (-1, "many"):
    with pytest.raises(InputError, match="config.data.examples"):
      source.open_source(config(examples=number), None)
