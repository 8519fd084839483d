"""A TFDS data set of rendered people: what `data.synthetic` streams, as files that any loader can read.

A data set of photographs for `data.pipeline` is a builder like this one with the same `records.features`; labels it
does not have are zeros and flags.
"""

import jax
import jax.numpy as jnp
import tensorflow_datasets as tfds

from jhmr.data import records
from jhmr.data import synthetic

_BATCH = 16


class SyntheticPeople(tfds.core.GeneratorBasedBuilder):
  """TFDS asks for a class. `plan` says what to render; `report(split, done, total)` hears of progress."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None  # only for checksums of downloads; finding it needs a package that TFDS 4.9.10 forgets to require

  def __init__(self, *, assets, plan, description, report=lambda *_: None, **kwargs):
    """plan: {split: (number of examples, seed, synthetic.Settings)}."""
    self._assets, self._plan, self._description, self._report = assets, plan, description, report
    super().__init__(file_format="array_record", **kwargs)

  def _info(self):
    return self.dataset_info_from_configs(features=records.features(), description=self._description)

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in self._plan}

  def _generate_examples(self, split):
    total, seed, settings = self._plan[split]
    program = jax.jit(lambda assets, index: synthetic.examples(assets, seed, index, settings))
    for start in range(0, total, _BATCH):
      batch = jax.device_get(program(self._assets, jnp.arange(start, start + _BATCH)))
      for row in range(min(_BATCH, total - start)):
        yield start + row, records.encode(jax.tree.map(lambda x: x[row], batch))
      self._report(split, min(start + _BATCH, total), total)
