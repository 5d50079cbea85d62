"""The annotated objects of a COCO- or LVIS-format json, by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovdet.data.coco import CocoJson, check_coco, listed, read_coco_json
from ovdet.errors import InputError


@dataclass(frozen=True)
class GroundTruth:
    """The annotated objects of a json; nobody writes into it.

    Attributes:
        images: by image id, in the order of the ids, which is the order that decides between equal scores.
        annotations: by image id, in the order of the json; images without an object are not in it.
        names: class name by category id, in the order of the ids.
        frequencies: LVIS's "r", "c" or "f" by category id; empty where the json has none.
    """

    images: Mapping[Any, Mapping[str, Any]]
    annotations: Mapping[Any, Sequence[Mapping[str, Any]]]
    names: Mapping[int, str]
    frequencies: Mapping[int, str]

    @property
    def is_federated(self) -> bool:
        """Whether each image is annotated for some classes only (LVIS)."""
        return any("neg_category_ids" in image for image in self.images.values())

    def has_masks(self, category_ids: Iterable[int]) -> bool:
        """Whether every object of these classes has a segmentation."""
        chosen = set(category_ids)
        return all(
            annotation.get("segmentation")
            for of_image in self.annotations.values()
            for annotation in of_image
            if annotation["category_id"] in chosen
        )


def load_ground_truth(path: str | Path) -> GroundTruth:
    """Read a COCO- or LVIS-format json.

    Raises:
        InputError: as of `read_coco_json`.
    """
    return _by_image(read_coco_json(path))


def index_ground_truth(content: Mapping[str, Any], source: str = "the ground truth") -> GroundTruth:
    """As `load_ground_truth`, of a json that is read already; its lists are not copied.

    Args:
        content: with "images", "annotations" and "categories".
        source: where it is from, for messages.

    Raises:
        InputError: as of `check_coco`.
    """
    return _by_image(check_coco(content, source))


def _by_image(coco: CocoJson) -> GroundTruth:
    annotations: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in coco.annotations:
        annotations[annotation["image_id"]].append(annotation)
    return GroundTruth(coco.images, dict(annotations), coco.names, coco.frequencies)


def check_known(values: Iterable[Any], known: Mapping[Any, Any], expected: str) -> None:
    """Refuse ids that are not among the known ones.

    Raises:
        InputError: "expected <expected>: " and the first of them.
    """
    unknown = sorted({str(value) for value in values if value not in known})
    if unknown:
        raise InputError(f"expected {expected}: {listed(unknown)}")
