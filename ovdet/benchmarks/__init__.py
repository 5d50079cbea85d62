"""Benchmarks of ovdet against a peer and a lower bound, for `ovdet benchmark` and tools/benchmark.py."""
