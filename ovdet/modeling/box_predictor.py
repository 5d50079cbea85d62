"""The box predictor: detectron2's, with its linear classifier replaced by projection + text classifier.

With sigmoid scores, and LVIS's federated loss, it is FederatedBoxPredictor.

Shape letters: R regions over all images, F region features, D embedding width, K classes of the present vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor

from ovdet.modeling.text_classifier import RegionProjection, SigmoidTextClassifier, TextClassifier


class OpenVocabBoxPredictor(FastRCNNOutputLayers):
    """Class-agnostic boxes from the region features, class logits from their projection into the text space.

    Losses (softmax or sigmoid, federated or not), box coding and the test-time numbers are detectron2's own.
    """

    def __init__(self, input_shape: ShapeSpec, *, width: int, temperature: float = 0.01, **box_options) -> None:
        """
        Args:
            input_shape: of the box head's output.
            width: D of the teacher's space.
            temperature: see TextClassifier.
            box_options: what FastRCNNOutputLayers takes (box2box_transform, test_score_thresh, loss_weight, ...).
        """
        super().__init__(input_shape, num_classes=1, cls_agnostic_bbox_reg=True, **box_options)
        in_features = self.cls_score.in_features
        del self.cls_score
        self.projection = RegionProjection(in_features, width)
        self.classifier = TextClassifier(width, temperature=temperature)

    def set_vocabulary(self, class_embeddings: Tensor) -> None:
        """Take (K, D) class embeddings."""
        self.classifier.set_vocabulary(class_embeddings)
        self.num_classes = self.classifier.num_classes  # detectron2 reads the background's index from it

    def embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F) -> embeddings (R, D), unit norm, box deltas (R, 4)."""
        features = features.flatten(1)
        return self.projection(features), self.bbox_pred(features)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F) -> logits (R, K + 1), box deltas (R, 4)."""
        embeddings, deltas = self.embed(features)
        return self.classifier(embeddings), deltas


class FederatedBoxPredictor(OpenVocabBoxPredictor):
    """Sigmoid scores and the federated loss of LVIS (arXiv:1908.03195): a step punishes some absent classes, not all.

    Not every class of LVIS is annotated on every photo. A step's loss counts the classes of its own ground truth and
    others drawn by `class_weights` up to `loss_classes`; detectron2's own loss does it (CenterNet2, Detic). Only base
    names are in the vocabulary while training. Detic keeps the novel columns with weight 0: they are never drawn, so
    the loss is the same.
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
            class_weights: gives (K,) weights to draw absent classes by, in the order of the training vocabulary. Asked
                for at the first loss: a detector that is only run needs no training set.
            loss_classes: of a step, ground truth's included.
            temperature: see SigmoidTextClassifier.
            prior: see SigmoidTextClassifier.
            box_options: what FastRCNNOutputLayers takes.
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
        """(K,), read by detectron2's loss."""
        weights = self._class_weights().to(self.classifier.bias.device)
        if len(weights) != self.num_classes:
            raise ValueError(f"expected a weight per class, got {len(weights)} for {self.num_classes} classes")
        return weights

    def get_fed_loss_classes(
        self, gt_classes: Tensor, num_fed_loss_classes: int, num_classes: int, weight: Tensor
    ) -> Tensor:
        """detectron2's, but no more than can be drawn: a small vocabulary has fewer classes than `loss_classes`."""
        drawable = int(weight.count_nonzero())
        return super().get_fed_loss_classes(gt_classes, min(num_fed_loss_classes, drawable), num_classes, weight)

    def sigmoid_cross_entropy_loss(self, pred_class_logits: Tensor, gt_classes: Tensor) -> Tensor:
        """detectron2's, but for no regions 0 with a gradient path.

        Args:
            pred_class_logits: (R, K + 1).
            gt_classes: (R,) in [0, K]; K is background.
        """
        if len(gt_classes) == 0:
            return pred_class_logits.sum() * 0.0
        return super().sigmoid_cross_entropy_loss(pred_class_logits, gt_classes)
