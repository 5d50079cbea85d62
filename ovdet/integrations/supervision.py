"""Detections as roboflow's supervision has them, for its annotators, trackers, zones and sinks.

Shape letters: R detections of one image; H, W of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ovdet.errors import InputError

if TYPE_CHECKING:
    import supervision

    from ovdet.inference.detections import Detections


def to_supervision(detections: Detections, names: Sequence[str] | None = None) -> supervision.Detections:
    """Detections of one image as `supervision.Detections`, with the class names in `data["class_name"]`.

    Args:
        detections: boxes (R, 4) XYXY in pixels, scores (R,), class_ids (R,), labels, masks (R, H, W) or None.
        names: the classes that `class_id` shall count in, such as a `supervision.DetectionDataset`'s; None keeps
            the vocabulary's.

    Returns:
        R detections in the same order; arrays of their own.

    Raises:
        InputError: a label is not among the names.
    """
    import supervision  # most of a second, for those alone who draw or hand on

    class_ids = detections.class_ids
    if names is not None:
        places = {name: place for place, name in enumerate(names)}
        odd = sorted(set(detections.labels) - set(places))
        if odd:
            raise InputError(f"expected names with all labels of the detections, got none for {odd[0]!r}")
        class_ids = [places[label] for label in detections.labels]
    return supervision.Detections(
        xyxy=np.array(detections.boxes, dtype=np.float32).reshape(-1, 4),
        confidence=np.array(detections.scores, dtype=np.float32),
        class_id=np.array(class_ids, dtype=int),
        mask=None if detections.masks is None else np.array(detections.masks, dtype=bool),
        data={"class_name": np.array(detections.labels, dtype=str)},
    )
