"""Measures of a teacher before anything is trained: zero-shot and probe accuracy, robustness, coverage, maps."""
