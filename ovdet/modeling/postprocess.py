"""From scored regions to detections.

Shape letters: R regions of one image, K classes of the present vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import nms


def select_regions(boxes: Tensor, objectness_logits: Tensor, nms_threshold: float, max_regions: int) -> Tensor:
    """Class-agnostic NMS on objectness, then the best `max_regions` (the crop baseline's step in arXiv:2104.13921).

    Args:
        boxes: (R, 4) XYXY.
        objectness_logits: (R,).
        nms_threshold: IoU above which the less object-like box goes.
        max_regions: how many stay at most.

    Returns:
        Indices into R, most object-like first.
    """
    return nms(boxes.float(), objectness_logits.float(), nms_threshold)[:max_regions]


def detect(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
) -> list[Instances]:
    """Threshold, per-class NMS, top-k, for each image: detectron2's `fast_rcnn_inference` on class-agnostic boxes.

    Args:
        boxes: per image (R, 4) XYXY, pixels of the resized image.
        scores: per image (R, K), without a background column.
        image_sizes: per image (height, width), to which boxes are clipped.
        score_threshold: detections score above it.
        nms_threshold: IoU within one class.
        max_detections: per image, over all classes.

    Returns:
        Per image, Instances with pred_boxes, scores, pred_classes, best first.
    """
    # fast_rcnn_inference drops the last column, which is the background's
    with_background = [torch.cat([s, s.new_zeros(len(s), 1)], dim=1) for s in scores]
    instances, _ = fast_rcnn_inference(
        list(boxes), with_background, list(image_sizes), score_threshold, nms_threshold, max_detections
    )
    return instances
