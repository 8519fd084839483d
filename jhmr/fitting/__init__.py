"""Bodies from keypoints and views by optimisation. Knows bodies, but no network: a prior comes in as a function."""
