"""The teacher at test time, in the place of distilled embeddings: it looks at each image's best regions itself.

Shape letters: R regions of one image, M those that the teacher sees, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from ovdet.modeling.nms import select_regions
from ovdet.modeling.region_sources import RegionEmbedderFunction
from ovdet.modeling.scoring import Regions
from ovdet.packable import packable


@packable
class RegionTeacher:
    """The regions that a teacher sees, and their scores. No module: its weights never enter a checkpoint."""

    def __init__(
        self, embed_regions: RegionEmbedderFunction, *, max_regions: int = 1000, nms_threshold: float = 0.9
    ) -> None:
        """
        Args:
            embed_regions: (RGB image (3, H, W) in [0, 255], boxes (R, 4)) -> (R, D), unit norm.
            max_regions: M at most.
            nms_threshold: class-agnostic IoU above which the less object-like of two regions goes.
        """
        self.embed_regions = embed_regions
        self.max_regions = max_regions
        self.nms_threshold = nms_threshold

    def __call__(
        self, photo: Tensor, boxes: Tensor, objectness_logits: Tensor, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Look at the best of some regions.

        Args:
            photo: RGB (3, H, W) in [0, 255]; it may be larger than the network's input.
            boxes: (R, 4) XYXY in pixels of that input, finite.
            objectness_logits: (R,).
            image_size: (height, width) of that input.

        Returns:
            Indices (M,) into R, most object-like first, and their embeddings (M, D), unit norm.
        """
        keep = select_regions(boxes, objectness_logits, self.nms_threshold, self.max_regions)
        scale = boxes.new_tensor([photo.shape[2] / image_size[1], photo.shape[1] / image_size[0]]).repeat(2)
        return keep, self.embed_regions(photo, boxes[keep] * scale).to(boxes)


def look_again(
    teacher: Callable[..., tuple[Tensor, Tensor]], regions: Regions, image_size: tuple[int, int], photo: Tensor
) -> Regions:
    """The regions of an image that the teacher saw, with its embeddings in the place of the image branch's."""
    regions = regions.finite()
    regions = regions._replace(boxes=clip_boxes_to_image(regions.boxes, image_size))  # as it will see them
    keep, embeddings = teacher(photo, regions.boxes, regions.objectness_logits, image_size)
    return regions.take(keep)._replace(image=embeddings)
