"""Where batches come from: rendered people, and data sets on disk."""
