"""jhmr: 3D human bodies from images in JAX, with every hypothesis an ambiguous image allows."""
