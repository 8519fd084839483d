"""Rates of our pieces of work beside those of their peers."""
