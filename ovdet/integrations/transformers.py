"""A predictor that is called like transformers' zero-shot-object-detection pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.photo import Photo
from ovdet.inference.predictor import OpenVocabPredictor


class ZeroShotObjectDetection:
    """`detector(image, candidate_labels=["cat", "remote control"])`, as `pipeline("zero-shot-object-detection")`.

    Programs that were written for that pipeline run with a predictor of ovdet instead.
    """

    def __init__(self, predictor: OpenVocabPredictor) -> None:
        """
        Args:
            predictor: that detects; its negatives and filters are its defaults.
        """
        self.predictor = predictor

    def __call__(
        self,
        image: Photo | Mapping[str, Any] | Sequence[Photo | Mapping[str, Any]],
        candidate_labels: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        *,
        threshold: float = 0.1,
        top_k: int | None = None,
    ) -> list[dict] | list[list[dict]]:
        """Detect names in one image or several.

        Args:
            image: one (arrays are BGR, as OpenCV reads them), a list of them, or {"image", "candidate_labels"}.
            candidate_labels: names, as a list or with commas between; a list of lists for images with names each.
            threshold: lowest score.
            top_k: at most so many of the best for each image.

        Returns:
            Best first: {"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, boxes in whole pixels; a list of
            such lists for a list of images.

        Raises:
            InputError: no names, or as of `OpenVocabPredictor.__call__`.
        """
        if not isinstance(image, (list, tuple)):
            return self._one(image, candidate_labels, threshold, top_k)
        own = isinstance(candidate_labels, Sequence) and any(not isinstance(each, str) for each in candidate_labels)
        labels = list(candidate_labels) if own else [candidate_labels] * len(image)
        if len(labels) != len(image):
            raise InputError(f"expected names for each of {len(image)} images, got {len(labels)} lists of names")
        return [self._one(each, names, threshold, top_k) for each, names in zip(image, labels, strict=True)]

    def _one(
        self, image: Photo | Mapping[str, Any], names: str | Sequence[str] | None, threshold: float, top_k: int | None
    ) -> list[dict]:
        if isinstance(image, Mapping):
            image, names = image["image"], image.get("candidate_labels", names)
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",") if name.strip()]
        if not names:
            raise InputError("expected candidate_labels, got none")
        return to_pipeline(self.predictor(image, names, threshold=threshold))[:top_k]


def to_pipeline(found: Detections) -> list[dict]:
    """Detections in the shape of transformers' pipeline: corners in whole pixels, cut off as there."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    corners = [dict(zip(keys, map(int, box), strict=True)) for box in found.boxes.tolist()]
    rows = zip(found.scores.tolist(), found.labels, corners, strict=True)
    return [{"score": score, "label": label, "box": box} for score, label, box in rows]
