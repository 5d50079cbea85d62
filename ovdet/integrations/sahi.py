"""A detection model for SAHI: slices of large photos, `sahi.predict.get_sliced_prediction(image, detection_model)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sahi.models.base import DetectionModel
from sahi.prediction import ObjectPrediction

from ovdet.inference.detections import Detections
from ovdet.inference.predictor import OpenVocabPredictor


class OvdetDetectionModel(DetectionModel):
    """A predictor as SAHI wants it: `OvdetDetectionModel(text_labels=["dog"], confidence_threshold=0.3)`."""

    def __init__(self, *, text_labels: Sequence[str], model_path: str = "ovdet-lite", **options: Any) -> None:
        """
        Args:
            text_labels: names, as SAHI's other open-vocabulary models call them.
            model_path: see `OpenVocabPredictor.from_pretrained`.
            options: what sahi's DetectionModel takes; `model` may be a ready predictor.
        """
        self.text_labels = tuple(text_labels)
        super().__init__(model_path=model_path, **options)

    def load_model(self) -> None:
        """Load `model_path`."""
        self.set_model(OpenVocabPredictor.from_pretrained(self.model_path, device=str(self.device)))

    def set_model(self, model: OpenVocabPredictor, **more: Any) -> None:
        """Take a ready predictor."""
        self.model = model
        self._classes = model.embed(self.text_labels)
        self.category_mapping = {str(number): name for number, name in enumerate(self._classes.names)}

    def perform_inference(self, image: np.ndarray) -> None:
        """Detect in (H, W, 3) uint8 RGB."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        """Detect in several, with one pass of the network."""
        found = dict(classes=self._classes, threshold=self.confidence_threshold, channel_order="RGB")
        self._original_predictions = self.model.detect_batch(images, **found)

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[list[int | float]] | None = None,
        full_shape_list: list[list[int | float]] | None = None,
    ) -> None:
        """The last predictions as SAHI's, one list an image."""
        number = len(self._original_predictions)
        shifts = _for_each(shift_amount_list if shift_amount_list is not None else [0, 0], number)
        shapes = _for_each(full_shape_list, number)
        self._object_prediction_list_per_image = [
            _to_sahi(*each) for each in zip(self._original_predictions, shifts, shapes, strict=True)
        ]


def _for_each(values: Sequence | None, number: int) -> list:
    """One value for all images, or a list of one each."""
    if values is None or not isinstance(values[0], (list, tuple)):
        return [values] * number
    return list(values)


def _to_sahi(found: Detections, shift: Sequence[float], shape: Sequence[int] | None) -> list[ObjectPrediction]:
    height, width = found.size
    boxes = np.clip(found.boxes, 0, [width, height, width, height]).tolist()
    rows = zip(boxes, found.scores.tolist(), found.class_ids.tolist(), found.labels, strict=True)
    return [
        ObjectPrediction(
            bbox=box,
            category_id=number,
            category_name=label,
            score=score,
            shift_amount=list(shift),
            full_shape=[height, width] if shape is None else list(shape),
        )
        for box, score, number, label in rows
        if box[2] > box[0] and box[3] > box[1]
    ]
