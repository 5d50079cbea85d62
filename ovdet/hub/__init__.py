"""Finding, loading and packing a trained detector."""
