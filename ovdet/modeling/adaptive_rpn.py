"""An RPN whose anchors are assigned by the statistics of each object (ATSS, arXiv:1912.02424), not by fixed overlaps.

Of each object the anchors whose centers are nearest are candidates, some of each level. Those whose overlap reaches the
mean plus the standard deviation of all candidates' are foreground, so that an object which anchors fit badly, a small
or a long one, has some too. All others are background.

Shape letters: A anchors of an image, on all levels; G objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_iou

from ovdet.errors import InputError
from ovdet.packable import packable


def adaptive_assignment(anchors: Sequence[Tensor], boxes: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Tell foreground anchors, and the object of each (arXiv:1912.02424, algorithm 1).

    Args:
        anchors: of each level (An, 4) XYXY; A in all.
        boxes: (G, 4) XYXY.
        candidates: of each object on each level, at most.

    Returns:
        (A,) bool; and indices of objects (A,), of which those of foreground anchors count. An anchor that two objects
        claim is that one's that it overlaps more.
    """
    joined = torch.cat(list(anchors))
    if not len(boxes):
        return joined.new_zeros(len(joined), dtype=torch.bool), joined.new_zeros(len(joined), dtype=torch.long)
    overlaps = box_iou(boxes, joined)  # (G, A)
    centers = [(each[:, :2] + each[:, 2:]) / 2 for each in (boxes, joined)]
    near, first = [], 0
    for distances in torch.cdist(*centers).split([len(each) for each in anchors], dim=1):
        count = min(candidates, distances.shape[1])
        near.append(distances.topk(count, dim=1, largest=False).indices + first)
        first += distances.shape[1]
    near = torch.cat(near, dim=1)  # (G, candidates on all levels)
    of_near = overlaps.gather(1, near)
    least = of_near.mean(1, keepdim=True) + of_near.std(1, keepdim=True, correction=int(near.shape[1] > 1))
    x, y = centers[1][near].unbind(2)
    is_inside = (x > boxes[:, :1]) & (y > boxes[:, 1:2]) & (x < boxes[:, 2:3]) & (y < boxes[:, 3:])
    claimed = torch.where((of_near >= least) & is_inside, of_near, -1.0)
    claims = torch.full_like(overlaps, -1.0).scatter_(1, near, claimed)
    best, index = claims.max(0)
    return best >= 0, index


@packable
class AdaptiveRPN(RPN):
    """detectron2's RPN with ATSS's assignment; its anchor_matcher is not asked."""

    def __init__(self, *, candidates: int = 9, **standard) -> None:
        """
        Args:
            candidates: places whose anchors are candidates of an object, on each level; 9 in ATSS.
            standard: what detectron2's RPN takes.

        Raises:
            InputError: no candidates.
        """
        if candidates < 1:
            raise InputError(f"expected one candidate or more of an object, got {candidates}")
        super().__init__(**standard)
        self.candidates = candidates

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As detectron2's: labels 1, 0 or -1 (not sampled) of each image's anchors (A,), and their objects (A, 4)."""
        levels = [each.tensor for each in anchors]
        candidates = self.candidates * self.anchor_generator.num_anchors[0]
        labels, matched = [], []
        for instances in gt_instances:
            boxes = instances.gt_boxes.tensor
            is_object, index = adaptive_assignment(levels, boxes, candidates)
            labels.append(self._subsample_labels(is_object.to(torch.int8)))
            matched.append(boxes[index] if len(boxes) else boxes.new_zeros(len(index), 4))
        return labels, matched
