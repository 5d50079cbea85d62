"""COCO's average precision per class, and its mean over subsets of the classes.

pycocotools does the matching; what is added is the choice of classes and images, and that nothing given is changed.

Shapes: K classes, T = 10 IoU thresholds (0.50, 0.55, ..., 0.95), R = 101 recall levels.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovdet.errors import InputError

METRICS = ("AP", "AP50", "AP75")
ALL_AREAS = [0.0, 1e5**2]  # pycocotools' range "all"


def load_ground_truth(json_file: str) -> COCO:
    """pycocotools' index of a json, without its prints."""
    with _silent():
        return COCO(json_file)


def average_precision(
    ground_truth: COCO,
    detections: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
    iou_type: str = "bbox",
    max_detections: int = 100,
    image_ids: Iterable[Any] | None = None,
) -> dict[str, np.ndarray]:
    """Average precision of each class, as pycocotools computes it for these classes and images.

    Detections of other classes are left out before anything is counted (`max_detections` is per image and class).
    Annotations without `iscrowd` count as ordinary objects, without `area` as of their box's area.

    Args:
        ground_truth: COCO index; it is not changed.
        detections: COCO results: `image_id`, `category_id`, `score` and `bbox` (XYWH) or `segmentation` (RLE).
        category_ids: the K classes, ids of the json.
        iou_type: "bbox", or "segm" (masks; boxes are then not looked at).
        max_detections: per image and class, best first.
        image_ids: the images that count; None for all of the json.

    Returns:
        "AP" (mean over T), "AP50", "AP75": each (K,) float64 in percent, in the order of `category_ids`; nan for a
        class without ground truth, 0 for one without detections.

    Raises:
        InputError: an unknown or repeated class, a detection of an unknown image, masks that are not there.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"expected iou_type 'bbox' or 'segm', got {iou_type!r}")
    category_ids = [int(category_id) for category_id in category_ids]
    unknown = [category_id for category_id in category_ids if category_id not in ground_truth.cats]
    if unknown or not category_ids or len(set(category_ids)) != len(category_ids):
        raise InputError(f"expected class ids of the ground truth, each once, got {category_ids}; unknown: {unknown}")
    images = set(ground_truth.imgs if image_ids is None else image_ids)
    with _silent():
        truth = _select_truth(ground_truth, images, set(category_ids), iou_type)
        results = _select_results(ground_truth, truth, detections, set(category_ids), iou_type)
        engine = COCOeval(truth, results, iou_type)
        engine.params.catIds = category_ids
        engine.params.areaRng, engine.params.areaRngLbl = [ALL_AREAS], ["all"]
        engine.params.maxDets = [max_detections]
        engine.evaluate()
        engine.accumulate()
    precision = engine.eval["precision"][:, :, :, 0, 0]  # (T, R, K), classes sorted by id, -1 without ground truth
    precision = np.where(precision < 0, np.nan, precision) * 100.0
    order = np.argsort(np.argsort(category_ids))  # class k of the caller is column order[k]
    by_threshold = precision.mean(axis=1)[:, order]  # (T, K)
    return {"AP": by_threshold.mean(axis=0), "AP50": by_threshold[0], "AP75": by_threshold[5]}


def _select_truth(ground_truth: COCO, images: set[Any], categories: set[int], iou_type: str) -> COCO:
    """A COCO index of the chosen images and classes with annotations of its own: pycocotools writes into them."""
    annotations = [
        {"iscrowd": 0, "area": annotation["bbox"][2] * annotation["bbox"][3], **annotation}
        for annotation in ground_truth.anns.values()
        if annotation["image_id"] in images and annotation["category_id"] in categories
    ]
    if iou_type == "segm" and not all(annotation.get("segmentation") for annotation in annotations):
        raise InputError("expected ground truth with a segmentation in every annotation to evaluate masks")
    return _index(
        [image for image_id, image in ground_truth.imgs.items() if image_id in images],
        list(ground_truth.cats.values()),
        annotations,
    )


def _select_results(
    ground_truth: COCO, truth: COCO, detections: Sequence[Mapping[str, Any]], categories: set[int], iou_type: str
) -> COCO:
    """The detections of the chosen images and classes as a COCO index, in copies: loadRes writes into them."""
    strange = {detection["image_id"] for detection in detections} - set(ground_truth.imgs)
    if strange:
        raise InputError(f"expected detections on images of the ground truth, unknown image ids: {sorted(strange)[:5]}")
    key, other = ("bbox", "segmentation") if iou_type == "bbox" else ("segmentation", "bbox")
    kept = [
        {name: value for name, value in detection.items() if name != other}
        for detection in detections
        if detection["category_id"] in categories and detection["image_id"] in truth.imgs
    ]
    if not all(key in detection for detection in kept):
        raise InputError(f"expected detections with a {key} to evaluate {iou_type}")
    if not kept:  # loadRes fails on an empty list
        return _index(truth.dataset["images"], truth.dataset["categories"], [])
    return truth.loadRes(kept)


def _index(images: list[Any], categories: list[Any], annotations: list[Any]) -> COCO:
    index = COCO()
    index.dataset = {"images": images, "categories": categories, "annotations": annotations}
    index.createIndex()
    return index


def summarise_subsets(
    per_class: Mapping[str, np.ndarray], names: Sequence[str], subsets: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, float]]:
    """Means over subsets of the classes; the same numbers as pycocotools run on the subset's classes alone.

    Args:
        per_class: metric -> (K,) in percent, nan where a class has no ground truth (it does not count).
        names: the K class names.
        subsets: {"base": class names, "novel": ...}; names that are not among the K are passed over.

    Returns:
        {"all": {"AP": ..., "AP50": ..., "AP75": ..., "classes": number that counted}, "base": {...}, ...}, nan for the
        mean of nothing.
    """
    members = {"all": set(names), **{subset: set(of_subset) for subset, of_subset in subsets.items()}}
    summary = {}
    for subset, of_subset in members.items():
        chosen = np.array([name in of_subset for name in names], dtype=bool)
        values = {metric: array[chosen & ~np.isnan(array)] for metric, array in per_class.items()}
        summary[subset] = {
            metric: float(found.mean()) if found.size else float("nan") for metric, found in values.items()
        }
        summary[subset]["classes"] = int(max((found.size for found in values.values()), default=0))
    return summary


def _silent() -> contextlib.redirect_stdout[io.StringIO]:
    return contextlib.redirect_stdout(io.StringIO())
