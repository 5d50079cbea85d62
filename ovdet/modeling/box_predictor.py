"""The box predictor: detectron2's, with its linear classifier replaced by projection + text classifier.

Shape letters: R regions over all images, F region features, D embedding width, S rows of ClassEmbeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from detectron2.layers import ShapeSpec, cross_entropy
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import _log_classification_stats
from detectron2.structures import Instances
from torch import Tensor, nn

from ovdet.modeling.embedding_heads import RegionProjection
from ovdet.modeling.text_classifier import SigmoidTextClassifier, TextClassifier
from ovdet.packable import packable

BACKGROUND = 2**31 - 1  # label of regions without an object, whatever the number of classes


@packable
class OpenVocabBoxPredictor(FastRCNNOutputLayers):
    """Class-agnostic boxes from region features, class logits from their projection into the text space.

    Box coding, box loss and the test-time numbers are detectron2's own.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        width: int,
        temperature: float = 0.01,
        projection: nn.Module | None = None,
        box_regressor: nn.Module | None = None,
        **box_options,
    ) -> None:
        """
        Args:
            input_shape: of the box head's output.
            width: D of the teacher's space.
            temperature: see TextClassifier.
            projection: (R, F) -> (R, D), unit norm; None takes one linear layer.
            box_regressor: (R, F) -> (R, 4), see modeling/box_regressors.py; None takes one linear layer.
            box_options: what FastRCNNOutputLayers takes (box2box_transform, test_score_thresh, loss_weight, ...).
        """
        super().__init__(input_shape, num_classes=1, cls_agnostic_bbox_reg=True, **box_options)
        self.in_features = self.cls_score.in_features
        del self.cls_score
        self.num_classes = BACKGROUND  # detectron2 takes labels below it for foreground
        self.projection = RegionProjection(self.in_features, width) if projection is None else projection
        if box_regressor is not None:
            self.bbox_pred = box_regressor
        self.classifier = TextClassifier(width, temperature=temperature)

    def embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F) -> region embeddings (R, D), unit norm, and box deltas (R, 4)."""
        features = features.flatten(1)
        return self.projection(features), self.bbox_pred(features)

    def forward(self, features: Tensor, class_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F) and (S, D) -> logits (R, S + 1), box deltas (R, 4)."""
        return self.predict(*self.embed(features), class_embeddings)

    def predict(self, embeddings: Tensor, deltas: Tensor, class_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """The output of `embed` and (S, D) -> the input of `losses`: logits (R, S + 1), box deltas (R, 4)."""
        return self.classifier(embeddings, class_embeddings), deltas

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """`loss_cls` and `loss_box_reg`, weighted.

        Args:
            predictions: of forward.
            proposals: per image, with `proposal_boxes`, `gt_classes` (row of ClassEmbeddings, or BACKGROUND), and
                `gt_boxes` where the image has objects.
        """
        logits, deltas = predictions
        labels = torch.cat([p.gt_classes for p in proposals])  # (R,)
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        matched = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        class_labels = labels.clamp(max=logits.shape[1] - 1)
        _log_classification_stats(logits, class_labels)
        losses = {
            "loss_cls": self.classification_loss(logits, class_labels),
            "loss_box_reg": self.box_reg_loss(boxes, matched, deltas, labels),
        }
        return {key: loss * self.loss_weight.get(key, 1.0) for key, loss in losses.items()}

    def classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(R, S + 1) logits, (R,) labels in [0, S] -> 0-dim: softmax cross-entropy, 0 for R = 0."""
        return cross_entropy(logits, labels, reduction="mean")


@packable
class FederatedBoxPredictor(OpenVocabBoxPredictor):
    """Sigmoid scores and the federated loss of LVIS (arXiv:1908.03195): a step punishes some absent classes, not all.

    Not every class of LVIS is annotated on every photo. A step's loss counts the classes of its own ground truth and
    others drawn by `class_weights` up to `loss_classes`; detectron2's own loss does it (CenterNet2, Detic). Only base
    classes are asked for while training. Detic keeps the novel columns with weight 0: they are never drawn, so the loss
    is the same.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        width: int,
        class_weights: Callable[[], Tensor],
        loss_classes: int = 50,
        temperature: float = 0.02,
        prior: float = 0.01,
        **box_options,
    ) -> None:
        """
        Args:
            input_shape: of the box head's output.
            width: D of the teacher's space.
            class_weights: gives (S,) weights to draw absent classes by, in the order of the training classes. Asked for
                at the first loss: a detector that is only run needs no training set.
            loss_classes: of a step, ground truth's included.
            temperature: see SigmoidTextClassifier.
            prior: see SigmoidTextClassifier.
            box_options: what OpenVocabBoxPredictor takes.
        """
        super().__init__(
            input_shape, width=width, use_sigmoid_ce=True, fed_loss_num_classes=loss_classes, **box_options
        )
        self.classifier = SigmoidTextClassifier(width, temperature=temperature, prior=prior)
        # not through detectron2's constructor, which would want the weights now and keep them in checkpoints
        self.use_fed_loss = True
        self._class_weights = class_weights

    @cached_property
    def fed_loss_cls_weights(self) -> Tensor:
        """(S,), read by detectron2's loss."""
        return self._class_weights().to(self.classifier.bias.device)

    def get_fed_loss_classes(
        self, gt_classes: Tensor, num_fed_loss_classes: int, num_classes: int, weight: Tensor
    ) -> Tensor:
        """detectron2's, but no more than can be drawn: few classes may be fewer than `loss_classes`."""
        if len(weight) != num_classes:
            raise ValueError(f"expected a weight per class, got {len(weight)} for {num_classes} classes")
        drawable = int(weight.count_nonzero())
        return super().get_fed_loss_classes(gt_classes, min(num_fed_loss_classes, drawable), num_classes, weight)

    def classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(R, S + 1) logits, (R,) labels in [0, S] -> 0-dim: federated binary cross-entropy."""
        return self.sigmoid_cross_entropy_loss(logits, labels) if len(labels) else logits.sum() * 0.0
