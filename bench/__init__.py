"""Benchmarks: `python -m bench NAME`. Every number comes from one run beside its peers."""
