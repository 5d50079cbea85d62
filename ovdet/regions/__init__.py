"""The region store: teacher embeddings of regions, computed once and read during training."""
