"""Geometry: the body model, joints, cameras, rendering. Knows no network and no data set."""
