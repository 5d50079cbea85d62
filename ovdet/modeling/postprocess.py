"""From candidates to detections: the same that detectron2's `fast_rcnn_inference` finds, from the best score down.

NMS of a candidate looks only at better ones. So it is enough to look at the best few hundred of what may be a million
candidates, and at more of them as long as too few are left over.

`fast_rcnn_inference` leaves NMS to torchvision's `batched_nms`, which goes about it in one of two ways: for few
candidates it moves the classes apart, adding an offset in float32 that rounds the boxes; for many it takes one class
after the other. Each is followed here, down to the last bit, but for vocabularies so large that the offsets would round
whole boxes away. Candidates of equal score keep the order of regions, then
of classes; so they do in `batched_nms`, except that its way for many candidates ends in a sort that is not stable.

Shape letters: R regions of one image, K classes of the present vocabulary, C candidates of one image, best first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances, pairwise_ioa
from torch import Tensor
from torchvision.ops import box_iou, nms

from ovdet.modeling.candidates import Candidates, best_candidates

# Up to so many candidates batched_nms may move the classes apart: on CPUs, and elsewhere. Beyond it never does.
_FEW_ON_CPU, _FEW = 1000, 25_000
_AT_ONCE = 4096  # boxes in one call of NMS, which is quadratic
_MARGIN = 1e-5  # of an IoU, wider than what float32 may err by for boxes of at least _LEAST_SIDE
_LEAST_SIDE = 0.01  # pixels
_FAR = 2**21  # pixels; float32 rounds to quarters of them beyond, and LVIS's classes on photos of 1333 end before it

# boxes (C, 4), scores (C,) descending, classes (C,), IoU threshold, reach -> indices of those that stay, ascending
Suppress = Callable[[Tensor, Tensor, Tensor, float, int], Tensor]


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


def nms_over_classes(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, reach: int) -> Tensor:
    """NMS among the first `reach` candidates, whatever their classes.

    Args:
        boxes: (C, 4) XYXY.
        scores: (C,), descending.
        classes: (C,), unused.
        threshold: IoU above which the lower score goes, within [0, 1].
        reach: of how many candidates it is asked.

    Returns:
        Indices into C of those that stay, ascending.
    """
    return nms(boxes[:reach], scores[:reach], threshold)


def nms_per_class(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, reach: int) -> Tensor:
    """NMS among the first `reach` candidates, within each class, as `batched_nms` of all candidates decides.

    Args:
        boxes: (C, 4) XYXY, coordinates of at least 0.
        scores: (C,), descending.
        classes: (C,).
        threshold: IoU above which the lower score goes, within [0, 1].
        reach: of how many candidates it is asked; the answer may be about more.

    Returns:
        Indices into C of those that stay, ascending.
    """
    if len(boxes) <= few_candidates(boxes.device):
        return batched_nms(boxes, scores, _close_together(classes, boxes), threshold)
    boxes, scores, classes = boxes[:reach], scores[:reach], classes[:reach]
    keep = _nms_at_once(boxes, scores, classes, threshold) if len(boxes) <= _AT_ONCE else None
    return _nms_in_turn(boxes, scores, classes, threshold) if keep is None else keep


def _close_together(classes: Tensor, boxes: Tensor) -> Tensor:
    """(C,), the classes' ranks where the boxes (C, 4) moved apart by the classes themselves would go too far."""
    if not len(classes) or classes.max() * (boxes.max() + 1) <= _FAR:
        return classes
    return classes.unique(return_inverse=True)[1]


def few_candidates(device: torch.device) -> int:
    """The most candidates of which `nms_per_class` must see all to decide like `batched_nms`."""
    return _FEW_ON_CPU if device.type == "cpu" else _FEW


def _nms_at_once(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor | None:
    """NMS of all classes in one call, or None where it may not decide like one call for each.

    The classes are moved apart in float64, which leaves the IoUs as they are to about 1e-7. Whoever decides by an IoU
    within the margin of that decides nothing else than both a stricter and a laxer threshold, if these two agree.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    if ((sides != 0) & (sides < _LEAST_SIDE)).any():
        return None
    rank = classes.unique(return_inverse=True)[1]
    apart = boxes.double() + (rank * (boxes.max().double() + 1))[:, None]
    strict, lax = (nms(apart, scores.double(), threshold + margin) for margin in (-_MARGIN, _MARGIN))
    return strict if torch.equal(strict, lax) else None


def _nms_in_turn(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """NMS of one class after the other."""
    order = classes.argsort(stable=True)
    counts = classes[order].unique_consecutive(return_counts=True)[1].tolist()
    parts = zip(order.split(counts), boxes[order].split(counts), scores[order].split(counts), strict=True)
    return torch.cat([index[nms(b, s, threshold)] for index, b, s in parts]).sort().values


def soft_nms_scores(boxes: Tensor, scores: Tensor, classes: Tensor, decay: float) -> Tensor:
    """Lower the scores of detections that overlap with better ones of their class: they are often parts of these.

    The Gaussian of Soft-NMS (Bodla et al., arXiv:1704.04503, eq. 4), after NMS and by the largest overlap alone:
    score * exp(-IoU^2 / decay).

    Args:
        boxes: (C, 4) XYXY.
        scores: (C,), descending.
        classes: (C,).
        decay: sigma of that paper, which has 0.5; positive.

    Returns:
        (C,), in the same order.
    """
    same_class = classes[:, None] == classes
    overlaps = (box_iou(boxes, boxes).nan_to_num() * same_class).tril(-1)  # 0 / 0 of boxes without area
    largest = F.pad(overlaps, (1, 0)).amax(1)  # the padding is for C = 0
    return scores * (-(largest**2) / decay).exp()


def intersection_over_area_filter(boxes: Tensor, classes: Tensor, share: float) -> Tensor:
    """Which detections to show: of those that lie within a better one of their class, most are parts of its object.

    Args:
        boxes: (C, 4) XYXY, best first.
        classes: (C,).
        share: of its own area; a box of which more lies within one better box of its class is left out. 1 keeps all.

    Returns:
        (C,) booleans.
    """
    within = pairwise_ioa(Boxes(boxes), Boxes(boxes)).T  # (C, C), the share of a row's box within a column's
    same_class = classes[:, None] == classes
    return ~((within > share) & same_class).tril(-1).any(1)


def postprocess_image(
    best: Callable[[float, int], Candidates],
    boxes: Tensor,
    image_size: tuple[int, int],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    suppress: Suppress = nms_per_class,
    soft_nms_sigma: float | None = None,
) -> Instances:
    """The detections of one image.

    Args:
        best: (threshold, number) -> the first `number` candidates above the threshold; fewer only if there are no more.
        boxes: (R, 4), or (R, 4 K) for a box per class; XYXY, finite, pixels of the resized image.
        image_size: (height, width), to which boxes are clipped.
        score_threshold: detections score above it.
        nms_threshold: IoU, within [0, 1].
        max_detections: over all classes; all that there are if negative.
        suppress: nms_per_class or nms_over_classes.
        soft_nms_sigma: of `soft_nms_scores`, which comes last; None leaves scores as they are, as detectron2 does.

    Returns:
        Instances with pred_boxes, scores, pred_classes, best first.
    """
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_size)
    boxes = clipped.tensor.view(len(boxes), boxes.shape[1] // 4, 4)
    reach = 2 * max_detections + 1 if max_detections >= 0 else sys.maxsize - 1
    while True:
        candidates = best(score_threshold, max(reach, few_candidates(boxes.device)) + 1)
        found = boxes[candidates.regions, candidates.classes if boxes.shape[1] > 1 else 0]  # (C, 4)
        keep = suppress(found, candidates.scores, candidates.classes, nms_threshold, reach)
        if 0 <= max_detections <= len(keep) or len(found) <= reach:
            break
        reach = max(2 * reach, reach * max_detections // max(len(keep), 1))  # as many more as the share that stays asks
    keep = keep[:max_detections] if max_detections >= 0 else keep
    found, scores, classes = found[keep], candidates.scores[keep], candidates.classes[keep]
    if soft_nms_sigma is not None:
        scores, order = soft_nms_scores(found, scores, classes, soft_nms_sigma).sort(descending=True, stable=True)
        order = order[scores > score_threshold]
        found, scores, classes = found[order], scores[: len(order)], classes[order]
    detections = Instances(image_size)
    detections.pred_boxes = Boxes(found)
    detections.scores = scores
    detections.pred_classes = classes
    return detections


def detect(
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
        detections.append(postprocess_image(partial(best_candidates, score), box, image_size, **options))
    return detections
