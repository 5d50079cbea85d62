"""Detections: what was found in one photo, and the shapes that other tools want it in.

Shape letters: R detections; H, W of the photo.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovdet.errors import InputError
from ovdet.inference.mask_formats import to_run_lengths, to_segmentation

if TYPE_CHECKING:
    import pandas
    import supervision


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections in one photo, best first: boxes, scores, labels, masks where the detector has them.

    Attributes:
        boxes: (R, 4) float32 XYXY, pixels of the photo as given.
        scores: (R,) float32 in [0, 1].
        class_ids: (R,) int64, indices of the names that were asked for.
        labels: R of these names.
        size: (height, width) of the photo.
        masks: (R, H, W) bool, or None for a detector without masks.
        best_missed: name and score of the best detection that lies under its threshold; None where there is none.
        unknown: names that were asked for and that the detector cannot know, see `ClassEmbeddings`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    labels: tuple[str, ...]
    size: tuple[int, int]
    masks: np.ndarray | None = None
    best_missed: tuple[str, float] | None = None
    unknown: tuple[str, ...] = ()

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
        """The same as plain values: {"width", "height", "detections": [{"box", "score", "label"}]}.

        Names that the detector cannot know are listed as "unknown", where there are any.
        """
        height, width = self.size
        unknown = {"unknown": list(self.unknown)} if self.unknown else {}
        return {"width": width, "height": height, **unknown, "detections": list(self)}

    def to_json(self) -> str:
        """`to_dict` as JSON on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_coco(self, image_id: int | str, category_ids: Mapping[str, int] | None = None) -> list[dict]:
        """COCO's result format, a dictionary a detection: image_id, category_id, bbox (x, y, width, height), score.

        Masks come as compressed run lengths (`segmentation`), as pycocotools has them in JSON.

        Args:
            image_id: of the photo, in the annotations that the results are about.
            category_ids: of the labels there; None counts the names that were asked for from 1.

        Raises:
            InputError: a label has no id.
        """
        if category_ids is not None and (odd := sorted(set(self.labels) - set(category_ids))):
            raise InputError(f"expected ids of all labels, got none of {odd[0]!r}")
        rows = []
        for place, label in enumerate(self.labels):
            x1, y1, x2, y2 = (float(value) for value in self.boxes[place])
            category = int(self.class_ids[place]) + 1 if category_ids is None else category_ids[label]
            box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            row = {"image_id": image_id, "category_id": category, "bbox": box, "score": self[place]["score"]}
            if self.masks is not None:
                row["segmentation"] = to_segmentation(to_run_lengths(self.masks[place]), *self.size)
            rows.append(row)
        return rows

    def to_pandas(self) -> pandas.DataFrame:
        """A row a detection: xmin, ymin, xmax, ymax (pixels), score, label, class_id.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError("expected pandas for a data frame, it is not installed: pip install pandas") from error
        sides = {name: self.boxes[:, place] for place, name in enumerate(("xmin", "ymin", "xmax", "ymax"))}
        scored = {"score": self.scores, "label": np.array(self.labels, dtype=object), "class_id": self.class_ids}
        return pandas.DataFrame({**sides, **scored})

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`, with the labels as data["class_name"]."""
        from ovdet.integrations.supervision import to_supervision

        return to_supervision(self)
