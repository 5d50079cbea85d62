"""Pseudo-labels: a data set's own annotations, and what a detector finds on its photos of names that it does not have.

Annotations that come from a detector have a score. Training on several data sets (data/mixture.py) takes them for
objects, and takes nothing for background that has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.ops import box_convert, box_iou

from ovdet.data.mixture import common_name, load_synonyms
from ovdet.inference.label_formats import coco_annotation
from ovdet.inference.labels import LabeledPhoto

_SAME_OBJECT = 0.7  # IoU from which on a box is of an object that has a name already


def add_pseudo_labels(content: Mapping[str, Any], photos: Mapping[str, LabeledPhoto]) -> dict[str, Any]:
    """A COCO-format json with what was found of names that it does not have.

    Left out are names that mean the same as one of its own, and boxes of objects that have a box.

    Args:
        content: of the json; it is not changed.
        photos: by `file_name`, with what was found on them, best first.

    Returns:
        The json's images, annotations and categories; new annotations, with a score, and new categories behind them.
    """
    synonyms = load_synonyms()
    own = {common_name(each["name"], synonyms) for each in content["categories"]}
    found = {box.label for photo in photos.values() for box in photo.detections}
    new = sorted(name for name in found if common_name(name, synonyms) not in own)
    first = max((each["id"] for each in content["categories"]), default=0) + 1
    ids = {name: first + place for place, name in enumerate(new)}
    by_image: dict[Any, list[Sequence[float]]] = {}
    for each in content["annotations"]:
        by_image.setdefault(each["image_id"], []).append(each["bbox"])
    annotations = list(content["annotations"])
    number = max((each["id"] for each in annotations if isinstance(each["id"], int)), default=0)
    for image in content["images"]:
        photo = photos.get(image["file_name"])
        boxes = [box for box in photo.detections if box.label in ids] if photo is not None else []
        has_own = _has_a_box([box.box for box in boxes], by_image.get(image["id"], ()))
        for box, had in zip(boxes, has_own, strict=True):
            if had:
                continue
            number += 1
            row = {"id": number, "image_id": image["id"], "category_id": ids[box.label]}
            annotations.append({**row, **coco_annotation(box, photo)})
    categories = [*content["categories"], *({"id": ids[name], "name": name} for name in new)]
    return {**content, "annotations": annotations, "categories": categories}


def _has_a_box(boxes: Sequence[Sequence[float]], own: Sequence[Sequence[float]]) -> list[bool]:
    """Tell which boxes XYXY are of an object that has a box, XYWH."""
    if not boxes or not own:
        return [False] * len(boxes)
    ready = box_convert(torch.tensor(own, dtype=torch.float64), "xywh", "xyxy")
    return box_iou(torch.tensor(boxes, dtype=torch.float64), ready).amax(1).ge(_SAME_OBJECT).tolist()
