"""From candidates to detections: the same that detectron2's `fast_rcnn_inference` finds, from the best score down.

NMS of a candidate looks only at better ones. So it is enough to look at the best few hundred of what may be a million
candidates, and at more of them as long as too few are left over. modeling/nms.py has the NMS itself.

Shape letters: R regions of one image, K classes, C candidates or detections of one image, best first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances, pairwise_ioa
from torch import Tensor
from torchvision.ops import box_iou

from ovdet.modeling.nms import few_candidates, nms_class_agnostic, nms_per_class, pairwise_iou
from ovdet.modeling.soft_nms import SoftNMS
from ovdet.modeling.topk import Candidates, topk_of_matrix

_FAR_SURER = 2

TopK = Callable[[float, int], Candidates]  # (threshold, number) -> the first `number` candidates above the threshold


def soft_nms_scores(boxes: Tensor, scores: Tensor, classes: Tensor, sigma: float) -> Tensor:
    """Soft-NMS: lower scores of detections that overlap with better ones of their class, often parts of these.

    The Gaussian of Bodla et al., arXiv:1704.04503, eq. 4, after NMS and by the largest overlap alone:
    score * exp(-IoU^2 / sigma).

    Args:
        boxes: (..., C, 4) XYXY.
        scores: (..., C), descending.
        classes: (..., C).
        sigma: positive; 0.5 in that paper.

    Returns:
        (..., C), in the same order.
    """
    same_class = classes[..., :, None] == classes[..., None, :]
    overlaps = (pairwise_iou(boxes).nan_to_num() * same_class).tril(-1)  # 0 / 0 of boxes without area
    # the padding is for C = 0; onnxruntime keeps an empty axis that is called -1
    largest = F.pad(overlaps, (1, 0)).amax(overlaps.dim() - 1)
    return scores * (-(largest**2) / sigma).exp()


def is_not_contained(boxes: Tensor, classes: Tensor, max_containment: float) -> Tensor:
    """Intersection-over-area filter: which detections do not lie within a better one of their class.

    Args:
        boxes: (C, 4) XYXY, best first.
        classes: (C,).
        max_containment: the largest share of its own area that may lie within one better box of its class; 1 keeps all.

    Returns:
        (C,) bool.
    """
    within = pairwise_ioa(Boxes(boxes), Boxes(boxes)).T  # (C, C), the share of a row's box within a column's
    same_class = classes[:, None] == classes
    return ~((within > max_containment) & same_class).tril(-1).any(1)


def is_not_outdone(boxes: Tensor, scores: Tensor, max_iou: float) -> Tensor:
    """Class-agnostic NMS that leaves both where two are likely: a rider and the motorcycle are boxed nearly alike.

    Args:
        boxes: (C, 4) XYXY.
        scores: (C,).
        max_iou: a box that overlaps more with one at least twice as sure, whatever their classes, is left out; 1 keeps
            all. Why 0.5 and twice: docs/lab/overlap.md.

    Returns:
        (C,) bool.
    """
    return ~((box_iou(boxes, boxes) > max_iou) & (scores[:, None] <= scores / _FAR_SURER)).any(1)


def postprocess_image(
    topk: TopK,
    boxes: Tensor,
    image_size: tuple[int, int],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    class_agnostic_nms: bool = False,
    soft_nms_sigma: float | None = None,
    soft_nms: SoftNMS | None = None,
    negative_class: int | None = None,
) -> Instances:
    """The detections of one image.

    Args:
        topk: gives the first candidates above a threshold; fewer than asked for only if there are no more.
        boxes: (R, 4), or (R, 4 K) for a box per class; XYXY, finite, pixels of the resized image.
        image_size: (height, width), to which boxes are clipped.
        score_threshold: detections score above it.
        nms_threshold: IoU, within [0, 1].
        max_detections: over all classes; all that there are if negative.
        class_agnostic_nms: NMS over all classes, which leaves one class to an object.
        soft_nms_sigma: of `soft_nms_scores`, which comes last; None leaves scores as they are, as detectron2 does.
        soft_nms: takes the place of NMS, within each class; None for NMS.
        negative_class: takes part in NMS, but is no detection; None for none.

    Returns:
        Instances with pred_boxes, scores, pred_classes, best first.
    """
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_size)
    boxes = clipped.tensor.view(len(boxes), boxes.shape[1] // 4, 4)
    if soft_nms is not None:
        return _detections(*_take_softly(soft_nms, topk, boxes, score_threshold, max_detections), image_size)
    nms = nms_class_agnostic if class_agnostic_nms else nms_per_class
    # NMS of the best candidates, of more as long as too few stay
    number, num_seen = 2 * max_detections + 1 if max_detections >= 0 else sys.maxsize - 1, 0
    while True:
        if num_seen <= number:
            num_seen = max(number, few_candidates(boxes.device)) + 1
            candidates = topk(score_threshold, num_seen)
            found = boxes[candidates.regions, candidates.classes if boxes.shape[1] > 1 else 0]  # (C, 4)
        keep = nms(found, candidates.scores, candidates.classes, nms_threshold, number)
        keep = keep if negative_class is None else keep[candidates.classes[keep] != negative_class]
        if 0 <= max_detections <= len(keep) or len(found) <= number:
            break
        number = max(2 * number, number * max_detections // max(len(keep), 1))  # as many more as the share that stays
    keep = keep[:max_detections] if max_detections >= 0 else keep
    found, scores, classes = found[keep], candidates.scores[keep], candidates.classes[keep]
    # Soft-NMS
    if soft_nms_sigma is not None:
        scores, order = soft_nms_scores(found, scores, classes, soft_nms_sigma).sort(descending=True, stable=True)
        order = order[scores > score_threshold]
        found, scores, classes = found[order], scores[: len(order)], classes[order]
    return _detections(found, scores, classes, image_size)


def _take_softly(
    soft_nms: SoftNMS, topk: TopK, boxes: Tensor, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS of the best candidates, of more as long as a candidate that was not seen might come first."""
    number = max(20 * max_detections, 1000) if max_detections >= 0 else sys.maxsize - 1
    while True:
        candidates = topk(score_threshold, number)
        found = boxes[candidates.regions, candidates.classes if boxes.shape[1] > 1 else 0]  # (C, 4)
        keep, scores = soft_nms(found, candidates.scores, candidates.classes, max_detections)
        is_all = len(found) < number
        is_full = len(keep) == max_detections > 0 and bool(scores[-1] >= candidates.scores[-1])
        if is_all or is_full or max_detections == 0:
            return found[keep], scores, candidates.classes[keep]
        number *= 4


def _detections(boxes: Tensor, scores: Tensor, classes: Tensor, image_size: tuple[int, int]) -> Instances:
    detections = Instances(image_size)
    detections.pred_boxes = Boxes(boxes)
    detections.scores = scores
    detections.pred_classes = classes
    return detections


def postprocess_images(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], **options
) -> list[Instances]:
    """detectron2's `fast_rcnn_inference`, for scores without a background column.

    Args:
        boxes: per image (R, 4) or (R, 4 K) XYXY, pixels of the resized image.
        scores: per image (R, K). Regions with a box or a score that is not finite are left out.
        image_sizes: per image (height, width).
        options: what `postprocess_image` takes by keyword.

    Returns:
        Per image what `postprocess_image` gives.
    """
    detections = []
    for box, score, image_size in zip(boxes, scores, image_sizes, strict=True):
        finite = torch.isfinite(box).all(1) & torch.isfinite(score.sum(1))  # a sum is a quick look at all of a row
        if not finite.all():
            finite = torch.isfinite(box).all(1) & torch.isfinite(score).all(1)
            box, score = box[finite], score[finite]
        detections.append(postprocess_image(partial(topk_of_matrix, score), box, image_size, **options))
    return detections
