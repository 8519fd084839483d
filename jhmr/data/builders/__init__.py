"""TFDS builders, one file each."""
