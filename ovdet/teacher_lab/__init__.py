"""What a teacher knows, before anything is trained: zero-shot and probe accuracy, robustness, coverage, maps."""
