"""The IoU head: how well a box fits its object, whatever class that is (OLN's localization quality, arXiv:2108.06753).

A classifier learns that unannotated objects are background, novel ones among them. The IoU of a box with its object is
learned from boxes on annotated objects alone, so nothing is held against the others, and carries over to them.

Shape letters: R regions over all images, F region features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor, nn

from ovdet.packable import packable

MIN_IOU = 0.3  # a box below it is on no annotated object, perhaps on another one


@packable
class IoUHead(nn.Module):
    """Predicts the IoU of each proposal with its object."""

    def __init__(self, in_features: int, *, weight: float = 1.0) -> None:
        """
        Args:
            in_features: F of the box head.
            weight: of the loss.
        """
        super().__init__()
        self.linear = nn.Linear(in_features, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.weight = weight

    def forward(self, features: Tensor) -> Tensor:
        """(R, F) -> (R,), the logit of the IoU."""
        return self.linear(features.flatten(1)).float().squeeze(1)

    def losses(self, logits: Tensor, proposals: Sequence[Instances]) -> dict[str, Tensor]:
        """The L1 distance of IoUs, averaged over the proposals on objects; 0 with a gradient path where there are none.

        Args:
            logits: (R,) of forward.
            proposals: per image, with `proposal_boxes` and, where the image has objects, `gt_boxes` of the nearest.
        """
        overlaps = torch.cat([_overlaps(of_image) for of_image in proposals])  # (R,)
        chosen = overlaps >= MIN_IOU
        distance = (logits.sigmoid() - overlaps)[chosen].abs().sum() / max(int(chosen.sum()), 1)
        return {"loss_iou": self.weight * (distance + logits.sum() * 0)}


def _overlaps(proposals: Instances) -> Tensor:
    """(Ri,) IoU of each proposal with the object beside it; 0 without objects."""
    boxes = proposals.proposal_boxes
    if not len(boxes) or not proposals.has("gt_boxes"):
        return boxes.tensor.new_zeros(len(boxes))
    return matched_pairwise_iou(boxes, proposals.gt_boxes).nan_to_num()  # 0 / 0 of boxes without area


def geometric_mean_logits(first_logits: Tensor, second_logits: Tensor) -> Tensor:
    """The geometric mean of two probabilities, all as logits.

    Args:
        first_logits: (R,).
        second_logits: (R,).
    """
    log_mean = (F.logsigmoid(first_logits) + F.logsigmoid(second_logits)) / 2
    return log_mean - torch.log(-torch.expm1(log_mean.clamp(max=-1e-6)))
