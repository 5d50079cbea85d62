"""Sources of the distillation regions of a training step: two of them, one interface.

A source takes the batch and returns, per image, Instances with `proposal_boxes` (M, 4) in pixels of the network's
input and `teacher_embeddings` (M, D), unit norm. M may be 0.

Shape letters: M regions of one image, R proposals of one image, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.errors import InputError
from ovdet.modeling.nms import select_regions

RegionEmbedderFunction = Callable[
    [Tensor, Tensor], Tensor
]  # RGB image (3, H, W) in [0, 255], boxes (R, 4) -> (R, D), unit norm


class StoredRegions:
    """The regions that the mapper took from a region store and moved with the image."""

    def __call__(self, batched_inputs: list[dict], photos: list[Tensor], proposals: list[Instances]) -> list[Instances]:
        if not all("regions" in inputs for inputs in batched_inputs):
            raise InputError("expected the mapper to give 'regions' for each photo, got none: give it a region_store")
        return [inputs["regions"].to(photo.device) for inputs, photo in zip(batched_inputs, photos, strict=True)]


class OnlineRegions:
    """The teacher itself, on the step's own photos: some base ground truth, the rest drawn from the best proposals."""

    def __init__(
        self,
        embed_crops: RegionEmbedderFunction,
        *,
        max_regions: int = 32,
        ground_truth_share: float = 0.5,
        nms_threshold: float = 0.7,
    ) -> None:
        """
        Args:
            embed_crops: (RGB image (3, H, W) in [0, 255], boxes (R, 4)) -> (R, D), unit norm.
            max_regions: M at most.
            ground_truth_share: how much of M ground truth may take; the rest is drawn at random from the 4 M most
                object-like proposals, so that other objects than the base classes' are seen too.
            nms_threshold: IoU above which the less object-like of two proposals is left out.
        """
        self.embed_crops = embed_crops
        self.max_regions = max_regions
        self.max_known = int(max_regions * ground_truth_share)
        self.nms_threshold = nms_threshold

    @torch.no_grad()
    def __call__(self, batched_inputs: list[dict], photos: list[Tensor], proposals: list[Instances]) -> list[Instances]:
        return [self._embed(*parts) for parts in zip(batched_inputs, photos, proposals, strict=True)]

    def _embed(self, inputs: dict, photo: Tensor, proposals: Instances) -> Instances:
        known = _draw(inputs["instances"].gt_boxes.tensor.to(photo.device), self.max_known)
        found = proposals.proposal_boxes.tensor.detach()
        best = select_regions(found, proposals.objectness_logits, self.nms_threshold, 4 * self.max_regions)
        boxes = torch.cat([known, _draw(found[best], self.max_regions - len(known))])
        regions = Instances(proposals.image_size)
        regions.proposal_boxes = Boxes(boxes)
        regions.teacher_embeddings = self.embed_crops(photo, boxes)
        return regions


def _draw(boxes: Tensor, number: int) -> Tensor:
    """(R, 4) -> at most `number` of the rows, at random."""
    return boxes[torch.randperm(len(boxes), device=boxes.device)[:number]]
