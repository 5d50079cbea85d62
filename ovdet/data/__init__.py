"""Data sets with base and novel classes: COCO jsons, images, the mapper, samplers, the leak check, synthetic data."""
