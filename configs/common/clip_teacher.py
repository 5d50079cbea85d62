"""CLIP ViT-B/32 as ViLD uses it: its 63 prompts, width 512."""

from detectron2.config import LazyCall as L

from ovdet.text import NameEmbedder

teacher = dict(name="open_clip:ViT-B-32-quickgelu/openai", width=512, templates="vild", embeddings=None)
name_embedder = L(NameEmbedder)(
    teacher="${teacher.name}", width="${teacher.width}", templates="${teacher.templates}", file="${teacher.embeddings}"
)
