"""Label Studio's shapes: a project's label config, and detections as predictions. No package of theirs is needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import ParseError

from ovdet.errors import InputError

MASKS = "mask"  # the name of the tag BrushLabels, for detections with masks
_LONGEST = 1_000_000  # characters of a label config


@dataclass(frozen=True)
class LabelConfig:
    """Labels, synonyms and threshold of a Label Studio project.

    Attributes:
        from_name: of the tag RectangleLabels.
        to_name: of the tag Image.
        key: of a task's data, which has the photo's address.
        names: the labels.
        synonyms: of a label, by `predicted_values="car, truck"` of its tag.
        threshold: `model_score_threshold` of RectangleLabels; None where it does not say.
    """

    from_name: str
    to_name: str
    key: str
    names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]]
    threshold: float | None = None


def parse_label_config(text: str) -> LabelConfig:
    """Read a project's label config.

    Raises:
        InputError: no XML, or without RectangleLabels on an Image.
    """
    from defusedxml.ElementTree import fromstring

    if not isinstance(text, str) or len(text) > _LONGEST:
        raise InputError(f"expected a label config of at most {_LONGEST:,} characters")
    try:
        root = fromstring(text)
    except (ParseError, ValueError) as error:
        raise InputError(f"expected a label config in XML, it cannot be read: {error}") from error
    images = {tag.get("name"): tag.get("value", "") for tag in root.iter("Image")}
    control = next((tag for tag in root.iter("RectangleLabels") if tag.get("toName") in images), None)
    if control is None:
        raise InputError("expected a label config with RectangleLabels on an Image, got none")
    labels = [tag for tag in control.iter("Label") if tag.get("value")]
    if not labels:
        raise InputError("expected a label config with a Label in RectangleLabels, got none")
    threshold = control.get("model_score_threshold")
    try:
        number = None if threshold is None else float(threshold)
    except ValueError:
        number = math.nan
    if number is not None and math.isnan(number):
        raise InputError(f"expected model_score_threshold as a number, got {threshold!r}")
    return LabelConfig(
        from_name=control.get("name", "label"),
        to_name=control.get("toName"),
        key=images[control.get("toName")].removeprefix("$"),
        names=tuple(tag.get("value") for tag in labels),
        synonyms={tag.get("value"): found for tag in labels if (found := _listed(tag.get("predicted_values", "")))},
        threshold=None if number is None else min(max(number, 0.0), 1.0),
    )


def to_prediction(
    rows: Iterable[Mapping[str, Any]], width: int, height: int, *, model: str, from_name: str, to_name: str
) -> dict[str, Any]:
    """Detections of one photo as a prediction: boxes in percent of the upright photo, masks as brush regions.

    Args:
        rows: each {"box": [x1, y1, x2, y2] in pixels, "score", "label"}; with an "rle" (`to_brush_run_lengths`) it is
            a mask in the place of the box.
        width: of the photo.
        height: of it.
        model: its name, as Label Studio tells predictions apart.
        from_name: see LabelConfig.
        to_name: likewise.
    """
    results = []
    for number, row in enumerate(rows):
        rle = row.get("rle")
        kind = "rectanglelabels" if rle is None else "brushlabels"
        value = _rectangle(row["box"], width, height) if rle is None else {"format": "rle", "rle": rle}
        results.append(
            {
                "id": f"box{number}",
                "from_name": from_name if rle is None else MASKS,
                "to_name": to_name,
                "type": kind,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**value, kind: [row["label"]]},
                "score": row["score"],
            }
        )
    mean = sum(result["score"] for result in results) / max(len(results), 1)
    return {"model_version": model, "score": round(mean, 4), "result": results}


def _rectangle(box: Sequence[float], width: int, height: int) -> dict[str, float]:
    x1, y1, x2, y2 = box
    sides = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
    return {**{key: round(100 * side, 5) for key, side in sides.items()}, "rotation": 0}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
