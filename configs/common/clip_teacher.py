"""CLIP ViT-B/32 as ViLD uses it: its 63 prompts, width 512."""

from .teacher import name_embedder

teacher = dict(name="open_clip:ViT-B-32-quickgelu/openai", width=512, templates="vild", embeddings=None)
