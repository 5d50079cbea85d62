"""Training objectives that align region embeddings with an image-level teacher, one file each."""
