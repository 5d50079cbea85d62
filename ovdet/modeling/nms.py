"""Non-maximum suppression within classes, over classes, and of proposals: bit-equal to torchvision's `batched_nms`.

`batched_nms` goes about it in one of two ways: for few candidates it moves the classes apart, adding an offset in
float32 that rounds the boxes; for many it takes one class after the other. Each is followed here, down to the last bit,
but for vocabularies so large that the offsets would round whole boxes away. Candidates of equal score keep their order;
so they do in `batched_nms`, except that its way for many candidates ends in a sort that is not stable.

Shape letters: R regions of one image, C candidates of one image, best first.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.layers import batched_nms
from torch import Tensor
from torchvision.ops import nms

# Up to so many candidates batched_nms may move the classes apart: on CPUs, and elsewhere. Beyond it never does.
_FEW_ON_CPU, _FEW = 1000, 25_000
_AT_ONCE = 4096  # boxes in one call of NMS, which is quadratic
_MARGIN = 1e-5  # of an IoU, wider than what float32 may err by for boxes of at least _MIN_SIDE
_MIN_SIDE = 0.01  # pixels
NMS_ROUNDS = 16  # of `nms_in_rounds`; 40 photos of COCO needed 12 at most
_FAR = 2**21  # pixels; float32 rounds to quarters of them beyond, and LVIS's classes on photos of 1333 end before it


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


def nms_class_agnostic(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, num_candidates: int) -> Tensor:
    """NMS among the first `num_candidates` candidates, whatever their classes.

    Args:
        boxes: (C, 4) XYXY.
        scores: (C,), descending.
        classes: (C,), unused.
        threshold: IoU above which the lower score goes, within [0, 1].
        num_candidates: how many.

    Returns:
        Indices into C of those that stay, ascending.
    """
    return nms(boxes[:num_candidates], scores[:num_candidates], threshold)


def nms_per_class(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, num_candidates: int) -> Tensor:
    """NMS among the first `num_candidates` candidates, within each class, as `batched_nms` of all candidates decides.

    Args:
        boxes: (C, 4) XYXY, coordinates of at least 0.
        scores: (C,), descending.
        classes: (C,).
        threshold: IoU above which the lower score goes, within [0, 1].
        num_candidates: how many; the answer may be about more.

    Returns:
        Indices into C of those that stay, ascending.
    """
    if len(boxes) <= few_candidates(boxes.device):
        return batched_nms(boxes, scores, _close_together(classes, boxes), threshold)
    boxes, scores, classes = boxes[:num_candidates], scores[:num_candidates], classes[:num_candidates]
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
    if ((sides != 0) & (sides < _MIN_SIDE)).any():
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


def nms_in_rounds(overlaps: Tensor, is_there: Tensor, rounds: int = NMS_ROUNDS) -> tuple[Tensor, Tensor]:
    """NMS of all boxes at once, in as many rounds as the longest chain of boxes that decide on each other.

    A box stays unless a better one that stays overlaps with it. That is true of one choice alone, the one of NMS. A
    round drops the boxes that overlap with a better one that stayed in the round before, beginning with all; each
    round settles one more link of each chain. A round that changes nothing has found the choice.

    Args:
        overlaps: (..., C, C) bool, which boxes do, and may, suppress each other; the best box first.
        is_there: (..., C) bool, which places hold a box.
        rounds: at least 1.

    Returns:
        (..., C) bool, those that stay, and (...,) bool, whether the rounds sufficed.
    """
    shape, number, size = is_there.shape, math.prod(is_there.shape[:-1]), is_there.shape[-1]
    by_better = overlaps.triu(1).mT.reshape(number, size, size).float()  # a row for each box
    there = keep = is_there.reshape(number, size, 1).float()
    with torch.autocast(keep.device.type, enabled=False):
        for _ in range(rounds):  # as numbers, for few operations: 1 is there, less 1 for each that suppresses
            before, keep = keep, torch.baddbmm(there, by_better, keep, alpha=-1).clamp(min=0)
    return keep.view(shape) > 0, (keep == before).view(shape).all(-1)


def pairwise_iou(boxes: Tensor) -> Tensor:
    """(..., C, 4) XYXY -> (..., C, C), as torchvision's NMS computes it; NaN for two boxes without area."""
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    first = torch.maximum(boxes[..., :, None, :2], boxes[..., None, :, :2])
    last = torch.minimum(boxes[..., :, None, 2:], boxes[..., None, :, 2:])
    sides = (last - first).clamp(min=0)
    common = sides[..., 0] * sides[..., 1]
    return common / (areas[..., :, None] + areas[..., None, :] - common)


def at_least_one(keep: Tensor) -> Tensor:
    """Indices as they are; tracing takes them for one at least."""
    if torch.compiler.is_exporting():
        torch._check(keep.shape[0] >= 1)  # sums over no regions are told apart in tracing, but need not be
    return keep


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(R, 4) XYXY -> the same within (height, width)."""
    x, y = boxes[:, 0::2].clamp(0, size[1]), boxes[:, 1::2].clamp(0, size[0])
    return torch.stack([x, y], dim=2).flatten(1)


def apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """Move the boxes of each group to a place of their own, so that one NMS serves all groups.

    Args:
        boxes: (R, 4) XYXY, not negative.
        groups: (R,) int64; small, or the boxes are rounded away.
    """
    reach = F.pad(boxes.flatten(), (0, 1)).amax(0) + 1  # the padding is for R = 0
    return boxes + (groups * reach)[:, None]
