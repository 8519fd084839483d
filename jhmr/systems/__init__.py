"""One paper, one file; each gives `build(config) -> state.System`."""
