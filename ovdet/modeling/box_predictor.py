"""The box predictor: detectron2's, with its linear classifier replaced by projection + text classifier.

Shape letters: R regions over all images, F region features, D embedding width, K classes of the present vocabulary.
"""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor

from ovdet.modeling.text_classifier import RegionProjection, TextClassifier


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

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F) -> logits (R, K + 1), box deltas (R, 4)."""
        features = features.flatten(1)
        return self.classifier(self.projection(features)), self.bbox_pred(features)
