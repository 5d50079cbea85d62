"""Benchmarks of ovdet against a peer and a lower bound; tools/benchmark.py is their command line."""
