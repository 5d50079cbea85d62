"""Detectors that other projects published, as model folders."""
