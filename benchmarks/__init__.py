"""Measurements, by room. `python -m benchmarks` lists and runs those that a machine without a GPU can take."""
