"""Flax modules. They know no body and no loss, and import nothing of ours."""
