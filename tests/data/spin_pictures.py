"""Pictures and boxes of which the authors' crops are recorded."""

import numpy as np

SIZE = 20


def all_of_them(num=8):
  """Yields (image [H, W, 3] uint8, labels [SIZE, SIZE] uint8, center [2], scale) of boxes in and partly out of it."""
  rng = np.random.default_rng(3)
  for _ in range(num):
    height, width = rng.integers(30, 60, 2)
    coarse = rng.integers(30, 220, (5, 5, 3)).astype(np.uint8)
    image = coarse[np.arange(height) * 5 // height][:, np.arange(width) * 5 // width]
    image = image + rng.integers(0, 20, (height, width, 1), dtype=np.uint8)
    labels = np.repeat(np.repeat(rng.integers(0, 7, (5, 5)), 4, 0), 4, 1).astype(np.uint8)
    yield image, labels, rng.uniform([0.2 * width, 0.2 * height], [0.8 * width, 0.8 * height]), rng.uniform(0.05, 0.3)
