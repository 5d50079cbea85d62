"""An RPN whose objectness says how well a place fits an object, not object or background (OLN, arXiv:2108.06753).

A classifier learns that unannotated objects are background. Here anchors on annotated objects alone teach, so nothing
is held against the others: neither those of names left out nor those that a set of partial labels has no boxes of.

Shape letters: N images, A anchors of an image.
"""

from __future__ import annotations

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes
from torch import Tensor

from ovdet.packable import packable


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The nearness of each anchor's center to that of its box (FCOS, arXiv:1904.01355), in [0, 1].

    The geometric mean of min / max of the distances to the left and right sides, and to the upper and lower ones; 0
    outside the box.

    Args:
        anchors: (..., 4), x0 y0 x1 y1.
        boxes: (..., 4), likewise.

    Returns:
        (...).
    """
    centers = (anchors[..., :2] + anchors[..., 2:]) / 2
    before, after = centers - boxes[..., :2], boxes[..., 2:] - centers
    ratios = torch.minimum(before, after).clamp(min=0) / torch.maximum(before, after).clamp(min=1e-6)
    return ratios.prod(-1).sqrt()


@packable
class LocalizationRPN(RPN):
    """detectron2's RPN, with the centerness of anchors on objects as what objectness learns.

    Its matcher should call no anchor background: `Matcher(thresholds=[0.3], labels=[-1, 1])`, and `positive_fraction`
    be 1. Anchors that are called background count in no loss.
    """

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """As detectron2's, `loss_rpn_cls` as the L1 distance of objectness and centerness, averaged over such anchors.

        It is 0 with a gradient path where there are none.
        """
        losses = super().losses(anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        logits = torch.cat(pred_objectness_logits, dim=1)  # (N, A)
        of_image, of_anchor = torch.nonzero(torch.stack(gt_labels) == 1, as_tuple=True)
        targets = centerness(Boxes.cat(anchors).tensor[of_anchor], torch.stack(gt_boxes)[of_image, of_anchor])
        distance = (logits[of_image, of_anchor].sigmoid() - targets).abs().sum() / max(len(targets), 1)
        losses["loss_rpn_cls"] = (distance + logits.sum() * 0) * self.loss_weight.get("loss_rpn_cls", 1.0)
        return losses
