"""The open benchmark: one file a study, which says what is trained, measured and claimed; `jhmr.study` runs them."""
