"""A CVAT auto-annotation function: rectangles of any names, for `cvat-cli` and `cvat_sdk.auto_annotation`.

    cvat-cli task auto-annotate 137 --function-module ovdet.integrations.cvat \\
        -p names=str:"dog; puppy,red kite" --allow-unmatched-labels
"""

from __future__ import annotations

from typing import Any

import cvat_sdk.auto_annotation as cvataa
import cvat_sdk.models
from PIL import Image

from ovdet.errors import InputError
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.text.vocabulary import Vocabulary


class DetectionFunction:
    """An auto-annotation function for CVAT: `spec` lists the labels, `detect` finds them in a frame."""

    def __init__(self, predictor: OpenVocabPredictor, *, threshold: float | None = None) -> None:
        """
        Args:
            predictor: with default names, see `OpenVocabPredictor.set_vocabulary`; a task's labels match by name.
            threshold: lowest score where CVAT asks for none; None takes each name's own.
        """
        if not predictor.names:
            raise InputError("expected a predictor with names, got none: predictor.set_vocabulary(names)")
        self.predictor = predictor
        self.threshold = threshold
        labels = [cvataa.label_spec(name, number, type="rectangle") for number, name in enumerate(predictor.names)]
        self.spec = cvataa.DetectionFunctionSpec(labels=labels)

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[cvat_sdk.models.LabeledShapeRequest]:
        """Rectangles in pixels of the frame; CVAT's confidence threshold counts where it is given."""
        threshold = self.threshold if context.conf_threshold is None else context.conf_threshold
        found = self.predictor(image, threshold=threshold)
        rows = zip(found.class_ids.tolist(), found.boxes.tolist(), strict=True)
        return [cvataa.rectangle(label, box) for label, box in rows]


def create(names: str, model: str = "ovdet-lite", threshold: float | None = None, **options: Any) -> DetectionFunction:
    """The function for `cvat-cli --function-module ovdet.integrations.cvat`; arguments come from `-p NAME=TYPE:VALUE`.

    Args:
        names: with commas, synonyms with semicolons.
        model: see `OpenVocabPredictor.from_pretrained`.
        threshold: see DetectionFunction.
        options: of `OpenVocabPredictor.from_pretrained`: device, half, int8.
    """
    predictor = OpenVocabPredictor.from_pretrained(model, **options)
    predictor.set_vocabulary(Vocabulary.from_text(names))
    return DetectionFunction(predictor, threshold=threshold)
