"""Experiments: YAML parts put together, checked, and run."""
