"""Image-level vision-language models behind one protocol, and the regions cut out for them."""

from ovdet.teachers.base import Teacher, load_teacher
from ovdet.teachers.crops import RegionEmbedder, crop_regions, embed_region_batch, embed_regions, normalise_crops

__all__ = [
    "RegionEmbedder",
    "Teacher",
    "crop_regions",
    "embed_region_batch",
    "embed_regions",
    "load_teacher",
    "normalise_crops",
]
