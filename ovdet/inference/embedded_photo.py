"""A photo's regions and their embeddings, kept to be asked again and again."""

from __future__ import annotations

from dataclasses import dataclass

from ovdet.modeling.region_embedding import EmbeddedImage


@dataclass(frozen=True, eq=False)
class EmbeddedPhoto:
    """Regions of a photo and their embeddings, which answer any number of questions.

    Attributes:
        seen: its regions.
        size: (height, width) of the photo.
    """

    seen: EmbeddedImage
    size: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        seen = self.seen
        tensors = {
            id(each): each for each in (seen.boxes, seen.objectness_logits, seen.features, *(seen.regions or ()))
        }
        return sum(each.element_size() * each.nelement() for each in tensors.values() if each is not None)
