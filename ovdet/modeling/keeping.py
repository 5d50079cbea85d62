"""ROI heads that are fine-tuned on names of one's own and keep what the detector knew before.

Learning without forgetting (arXiv:1606.09282): on regions of the user's photos that show no annotated object, the heads
of before, frozen, say what should stay: scores of the other names, embeddings and boxes.

Shape letters: R regions over all images, F features, D embedding width, S names that are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.modeling.box_predictor import BACKGROUND
from ovdet.modeling.roi_heads import OpenVocabROIHeads, SampledRegions
from ovdet.objectives.l1_distillation import l1_distillation_loss
from ovdet.objectives.score_distillation import score_distillation_loss
from ovdet.packable import packable

_SAME = 0.999  # cosine of a name that is trained and therefore not kept


class FrozenHeads(NamedTuple):
    """The box head and box predictor of a detector before its fine-tuning, and the names whose scores are kept.

    Attributes:
        box_head: (R, C, P, P) -> (R, F), without gradients.
        box_predictor: OpenVocabBoxPredictor, likewise.
        names: (S, D), unit norm.
    """

    box_head: nn.Module
    box_predictor: nn.Module
    names: Tensor


@packable
class KeepingROIHeads(OpenVocabROIHeads):
    """OpenVocabROIHeads with losses that keep other names' scores; the same at test time."""

    def __init__(
        self,
        *,
        frozen: Callable[[OpenVocabROIHeads], FrozenHeads] | None = None,
        keep_weight: float = 1.0,
        **parts,
    ) -> None:
        """
        Args:
            frozen: these heads -> the heads before fine-tuning, on the same device, see engine/frozen.py; None keeps
                nothing: plain fine-tuning, or a detector that is not trained.
            keep_weight: of the three losses.
            parts: what OpenVocabROIHeads takes.
        """
        super().__init__(**parts)
        self.frozen = frozen
        self.keep_weight = keep_weight

    def _predictor_losses(
        self, sampled: SampledRegions, proposals: list[Instances], classes: ClassEmbeddings
    ) -> dict[str, Tensor]:
        losses = super()._predictor_losses(sampled, proposals, classes)
        if self.frozen is not None:
            losses.update(self._keeping_losses(self.frozen(self), sampled, proposals, classes))
        return losses

    def _keeping_losses(
        self,
        frozen: FrozenHeads,
        sampled: SampledRegions,
        proposals: list[Instances],
        classes: ClassEmbeddings,
    ) -> dict[str, Tensor]:
        """`loss_keep_scores`, `loss_keep_embeddings`, `loss_keep_boxes`, on regions that show no annotated object."""
        names = frozen.names[(frozen.names @ classes.embeddings.to(frozen.names).t()).amax(1) < _SAME]
        is_other = torch.cat([each.gt_classes for each in proposals]) == BACKGROUND  # (R,)
        with torch.no_grad():
            expected, expected_deltas = frozen.box_predictor.embed(frozen.box_head(sampled.pooled[is_other]))
            expected_logits = frozen.box_predictor.classifier(expected, names)
        embeddings, deltas = sampled.embeddings[is_other], sampled.deltas[is_other]
        logits = self.box_predictor.classifier(embeddings, names)
        boxes = F.smooth_l1_loss(deltas.float(), expected_deltas.float(), reduction="sum")
        losses = {
            "loss_keep_scores": score_distillation_loss(logits, expected_logits),
            "loss_keep_embeddings": l1_distillation_loss(embeddings, expected),
            "loss_keep_boxes": boxes / max(len(deltas), 1),
        }
        return {key: self.keep_weight * loss for key, loss in losses.items()}
