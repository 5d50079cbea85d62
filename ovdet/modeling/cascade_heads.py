"""A cascade of open-vocabulary heads (Cascade R-CNN, arXiv:1712.00726): each stage refines the boxes of the one before.

A class's score is the mean over the stages' sigmoids; boxes are the last stage's.

Shape letters: R regions over all images (Ri of image i), D embedding width, T stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.modeling.box_predictor import BACKGROUND
from ovdet.modeling.region_embedding import pool, with_boxes
from ovdet.modeling.roi_heads import OfPhotos, OpenVocabROIHeads
from ovdet.modeling.text_classifier import MeanSigmoidBranch, SigmoidTextClassifier
from ovdet.packable import packable

_NOT_IN_A_CASCADE = ("objectives", "image_branch", "region_teacher", "iou_head")


@packable
class CascadeOpenVocabROIHeads(OpenVocabROIHeads):
    """OpenVocabROIHeads whose `box_head` and `box_predictor` are the last of T stages."""

    def __init__(
        self,
        *,
        earlier_heads: Sequence[nn.Module],
        earlier_predictors: Sequence[nn.Module],
        later_matchers: Sequence[Callable],
        **last,
    ) -> None:
        """
        Args:
            earlier_heads: T - 1 box heads.
            earlier_predictors: T - 1 box predictors with sigmoid scores, as the last one has.
            later_matchers: T - 1, of the second stage and those after it; `proposal_matcher` is the first stage's.
            last: what OpenVocabROIHeads takes, without a teacher or an image branch.
        """
        super().__init__(**last)
        if not len(earlier_heads) == len(earlier_predictors) == len(later_matchers) > 0:
            counts = [len(parts) for parts in (earlier_heads, earlier_predictors, later_matchers)]
            raise InputError(f"expected a head, a predictor and a matcher for each further stage, got {counts}")
        if given := [name for name in _NOT_IN_A_CASCADE if last.get(name)]:
            raise InputError(f"expected a cascade of text branches alone, got {given[0]}")
        self.earlier_heads = nn.ModuleList(earlier_heads)
        self.earlier_predictors = nn.ModuleList(earlier_predictors)
        self.later_matchers = list(later_matchers)
        classifiers = [predictor.classifier for _, predictor in self.stages]
        if not all(isinstance(classifier, SigmoidTextClassifier) for classifier in classifiers):
            raise InputError("expected a cascade of sigmoid classifiers, got a softmax in it")

    @property
    def stages(self) -> list[tuple[nn.Module, nn.Module]]:
        """T pairs of box head and box predictor."""
        return [*zip(self.earlier_heads, self.earlier_predictors, strict=True), *super().stages]

    def text_branch(self, text: Tensor) -> MeanSigmoidBranch:
        """(R, T D), the stages' embeddings side by side -> the mean of their scores."""
        parts = text.split(self.box_predictor.classifier.width, dim=1)
        pairs = zip(self.stages, parts, strict=True)
        return MeanSigmoidBranch([predictor.classifier.branch(part) for (_, predictor), part in pairs])

    def _box_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
        classes: ClassEmbeddings,
        given: OfPhotos,
    ) -> dict[str, Tensor]:
        losses, boxes = {}, []
        for stage, (box_head, predictor) in enumerate(self.stages):
            if stage:
                proposals = [with_boxes(*pair) for pair in zip(proposals, boxes, strict=True)]
                proposals = [
                    match_to_targets(moved, of_image, self.later_matchers[stage - 1])
                    for moved, of_image in zip(proposals, targets, strict=True)
                ]
            # losses are added, so the shared features learn from their mean
            pooled = _ScaleGradient.apply(pool(self, features, proposals), 1 / len(self.stages))
            embeddings, deltas = predictor.embed(box_head(pooled))
            predictions = predictor.predict(embeddings, deltas, classes.embeddings)
            boxes = [box.detach() for box in predictor.predict_boxes(predictions, proposals)]
            with get_event_storage().name_scope(f"stage{stage}"):
                of_stage = predictor.losses(predictions, proposals)
            losses.update({f"{key}_stage{stage}": loss for key, loss in of_stage.items()})
        return losses


@torch.no_grad()
def match_to_targets(proposals: Instances, targets: Instances, matcher: Callable) -> Instances:
    """The proposals that have an area, with `gt_classes` and `gt_boxes` of the objects that they match.

    Args:
        proposals: of one image, with `proposal_boxes`.
        targets: its objects, with `gt_boxes` and `gt_classes`.
        matcher: detectron2's, (G, Ri) IoU -> objects (Ri,) and labels (Ri,), 0 for background.
    """
    matched = Instances(proposals.image_size)
    boxes = proposals.proposal_boxes
    matched.proposal_boxes = boxes[boxes.nonempty()]
    matched.objectness_logits = proposals.objectness_logits[boxes.nonempty()]
    index, labels = matcher(pairwise_iou(targets.gt_boxes, matched.proposal_boxes))
    if not len(targets):
        matched.gt_classes = torch.full_like(index, BACKGROUND)
        matched.gt_boxes = Boxes(torch.zeros_like(matched.proposal_boxes.tensor))
        return matched
    matched.gt_classes = targets.gt_classes[index].masked_fill(labels == 0, BACKGROUND)
    matched.gt_boxes = targets.gt_boxes[index]
    return matched
