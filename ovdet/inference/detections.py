"""Detections: what was found in one photo, and the shapes that other tools want it in.

Shape letters: R detections; H, W of the photo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one photo, best first.

    Attributes:
        boxes: (R, 4) float32 XYXY, pixels of the photo as given.
        scores: (R,) float32 in [0, 1].
        class_ids: (R,) int64, indices of the names that were asked for.
        labels: R of these names.
        size: (height, width) of the photo.
        masks: (R, H, W) bool, or None for a detector without masks.
        best_missed: name and score of the best detection that lies under its threshold; None where there is none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    labels: tuple[str, ...]
    size: tuple[int, int]
    masks: np.ndarray | None = None
    best_missed: tuple[str, float] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        """The detection at a place, as plain values: {"box": [x1, y1, x2, y2], "score", "label"}."""
        box = [round(value, 2) for value in self.boxes[index].tolist()]
        return {"box": box, "score": round(float(self.scores[index]), 4), "label": self.labels[index]}

    def __iter__(self) -> Iterator[dict]:
        """Each detection, as plain values."""
        return (self[index] for index in range(len(self)))

    def to_dict(self) -> dict:
        """The same as plain values: {"width", "height", "detections": [{"box", "score", "label"}]}."""
        height, width = self.size
        return {"width": width, "height": height, "detections": list(self)}

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`, with the labels as data["class_name"]."""
        from ovdet.integrations.supervision import to_supervision

        return to_supervision(self)
