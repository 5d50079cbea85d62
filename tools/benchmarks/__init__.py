"""Timings of ours, of a peer and of the limit in one run; tools/benchmark.py is their command line."""
