"""What a COCO- or LVIS-format json says is on its photos, by photo."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovdet.errors import InputError


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a json; nobody writes into it.

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
        """Whether each photo is annotated for some classes only (LVIS)."""
        return any("neg_category_ids" in image for image in self.images.values())

    def has_masks(self, category_ids: Iterable[int]) -> bool:
        """Whether every object of these classes has a segmentation."""
        wanted = set(category_ids)
        return all(
            annotation.get("segmentation")
            for of_image in self.annotations.values()
            for annotation in of_image
            if annotation["category_id"] in wanted
        )


def load_ground_truth(path: str | Path) -> GroundTruth:
    """Read a COCO- or LVIS-format json.

    Raises:
        InputError: the file is missing, or not such a json.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"expected a COCO-format json, {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected a COCO-format json, {path} is not json: {error}") from error
    return index_ground_truth(content, str(path))


def index_ground_truth(content: Mapping[str, Any], source: str = "the ground truth") -> GroundTruth:
    """Put the lists of a COCO-format json in order; they are not copied.

    Args:
        content: with "images", "annotations" and "categories".
        source: where it is from, for messages.

    Raises:
        InputError: a list is missing, an id is given twice, or an annotation names what is not there.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            raise InputError(f"expected a COCO-format json with a list of {key}, {source} has none")
    _check_entries(content, source)
    images, categories = _by_id(content["images"], "image", source), _by_id(content["categories"], "category", source)
    annotations: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    check_known(annotations, images, f"annotations in {source} of its images, unknown image ids")
    used = {annotation["category_id"] for annotation in content["annotations"]}
    check_known(used, categories, f"annotations in {source} of its categories, unknown category ids")
    return GroundTruth(
        images,
        dict(annotations),
        {category_id: category["name"] for category_id, category in categories.items()},
        {category_id: entry["frequency"] for category_id, entry in categories.items() if "frequency" in entry},
    )


def _check_entries(content: Mapping[str, Any], source: str) -> None:
    def fits(entry: Any, *keys: str) -> bool:
        return isinstance(entry, Mapping) and all(key in entry for key in keys)

    if not all(fits(image, "id") for image in content["images"]):
        raise InputError(f"expected images with an id in {source}, one has none")
    if not all(fits(category, "id", "name") for category in content["categories"]):
        raise InputError(f"expected categories with an id and a name in {source}, one has none")
    for entry in content["annotations"]:
        if not fits(entry, "image_id", "category_id", "bbox") or len(entry["bbox"]) != 4:
            raise InputError(f"expected annotations with image_id, category_id and bbox in {source}, one has none")


def check_known(values: Iterable[Any], known: Mapping[Any, Any], expected: str) -> None:
    """Refuse ids that are not among the known ones.

    Raises:
        InputError: "expected <expected>: " and the first of them.
    """
    unknown = sorted({str(value) for value in values if value not in known})
    if unknown:
        more = f", ... ({len(unknown)} in all)" if len(unknown) > 5 else ""
        raise InputError(f"expected {expected}: {', '.join(unknown[:5])}{more}")


def _by_id(items: Sequence[Mapping[str, Any]], what: str, source: str) -> dict[Any, Mapping[str, Any]]:
    repeated = [str(value) for value, count in Counter(item["id"] for item in items).items() if count > 1]
    if repeated:
        raise InputError(f"expected each {what} id once in {source}, repeated: {', '.join(repeated[:5])}")
    return {item["id"]: item for item in sorted(items, key=lambda item: (isinstance(item["id"], str), item["id"]))}
