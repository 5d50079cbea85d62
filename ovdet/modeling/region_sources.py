"""Where the distillation regions of a training step come from: two sources, one interface.

A source takes the batch and returns, per image, Instances with `proposal_boxes` (M, 4) in pixels of the network's
input and `teacher_embeddings` (M, D), unit norm. M may be 0.

Shape letters: M regions of one image, R proposals of one image, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.modeling.postprocess import select_regions

CropEmbedder = Callable[[Tensor, Tensor], Tensor]  # RGB image (3, H, W) in [0, 255], boxes (R, 4) -> (R, D), unit norm


class StoredRegions:
    """The regions that the mapper took from a region store and moved with the image."""

    def __call__(self, batched_inputs: list[dict], photos: list[Tensor], proposals: list[Instances]) -> list[Instances]:
        if not all("regions" in inputs for inputs in batched_inputs):
            raise ValueError("expected the mapper to give 'regions' for each photo, got none: give it a region_store")
        return [inputs["regions"].to(photo.device) for inputs, photo in zip(batched_inputs, photos, strict=True)]


class OnlineRegions:
    """The teacher itself, on the step's own photos: base ground truth and the most object-like proposals."""

    def __init__(self, embed_crops: CropEmbedder, *, max_regions: int = 32, nms_threshold: float = 0.7) -> None:
        """
        Args:
            embed_crops: (RGB image (3, H, W) in [0, 255], boxes (R, 4)) -> (R, D), unit norm.
            max_regions: M at most, ground truth included.
            nms_threshold: IoU above which the less object-like of two boxes is left out.
        """
        self.embed_crops = embed_crops
        self.max_regions = max_regions
        self.nms_threshold = nms_threshold

    @torch.no_grad()
    def __call__(self, batched_inputs: list[dict], photos: list[Tensor], proposals: list[Instances]) -> list[Instances]:
        return [self._embed(*parts) for parts in zip(batched_inputs, photos, proposals, strict=True)]

    def _embed(self, inputs: dict, photo: Tensor, proposals: Instances) -> Instances:
        known = inputs["instances"].gt_boxes.tensor.to(photo.device)  # base classes only, first by their score
        boxes = torch.cat([known, proposals.proposal_boxes.tensor.detach()])
        logits = torch.cat([known.new_full((len(known),), 1e4), proposals.objectness_logits.detach().float()])
        keep = select_regions(boxes, logits, self.nms_threshold, self.max_regions)
        regions = Instances(proposals.image_size)
        regions.proposal_boxes = Boxes(boxes[keep])
        regions.teacher_embeddings = self.embed_crops(photo, boxes[keep])
        return regions
