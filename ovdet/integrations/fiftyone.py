"""A model for FiftyOne: `dataset.apply_model(OvdetModel(predictor, ["dog"]), label_field="predictions")`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.models import Model

from ovdet.inference.detections import Detections
from ovdet.inference.predictor import OpenVocabPredictor


class OvdetModel(Model):
    """A predictor and the names that it is asked for, as FiftyOne applies models to datasets."""

    def __init__(
        self, predictor: OpenVocabPredictor, classes: Sequence[str], *, threshold: float | None = None
    ) -> None:
        """
        Args:
            predictor: that detects.
            classes: names, as FiftyOne calls them.
            threshold: lowest score; None takes each name's own. `confidence_thresh` of `apply_model` comes on top.
        """
        self.predictor = predictor
        self.threshold = threshold
        self._embedded = predictor.embed(classes)
        self._preprocess = False

    @property
    def media_type(self) -> str:
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """Photos have sizes of their own, so FiftyOne gives them one by one."""
        return True

    @property
    def transforms(self) -> None:
        return None

    @property
    def preprocess(self) -> bool:
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    def predict(self, arg: np.ndarray) -> fo.Detections:
        """(H, W, 3) uint8 RGB -> detections, boxes relative to the photo."""
        found = self.predictor(arg, classes=self._embedded, threshold=self.threshold, channel_order="RGB")
        return to_fiftyone(found)

    def predict_all(self, args: Sequence[Any]) -> list[fo.Detections]:
        """As `predict`, of several."""
        return [self.predict(arg) for arg in args]


def to_fiftyone(found: Detections) -> fo.Detections:
    """Detections with boxes as x, y, width, height relative to the photo."""
    height, width = found.size
    corners = found.boxes / np.array([width, height, width, height])
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    rows = zip(boxes, found.scores.tolist(), found.labels, strict=True)
    return fo.Detections(
        detections=[fo.Detection(label=label, bounding_box=box, confidence=score) for box, score, label in rows]
    )
