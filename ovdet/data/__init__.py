"""Datasets with base / novel subsets, the reader of photos, the mapper, stored regions, drawn data."""
