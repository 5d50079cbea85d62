"""Thresholds of classes from detections on annotated photos, and false alarms on photos without the class.

Shape letters: N detections of one class over all photos, K classes.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ovdet.errors import InputError
from ovdet.evaluation.ground_truth import GroundTruth

IOU = 0.5  # from which on a detection finds an object
Boxes = Sequence[Sequence[float]]


class Suggestion(NamedTuple):
    """A class's threshold and what it gives on the photos that it was chosen on.

    Attributes:
        threshold: the lowest score that counts; NaN without objects or detections that reach the wanted precision.
        precision: share of these detections that find an object, in [0, 1].
        recall: share of the objects that are found, in [0, 1].
        objects: number of them.
        false_alarms: share of the photos without the class on which something scores so high; NaN without such photos.
    """

    threshold: float
    precision: float
    recall: float
    objects: int
    false_alarms: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 without either."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def match_detections(boxes: Boxes, scores: Sequence[float], objects: Boxes, is_crowd: Sequence[int]) -> np.ndarray:
    """For each of a photo's detections of one class whether it finds an object, by COCO's rule at IoU 0.5.

    Args:
        boxes: XYWH.
        scores: of these; better ones choose first.
        objects: XYWH.
        is_crowd: of the objects; crowds may be found many times, and then do not count.

    Returns:
        In the order of the boxes: 1 found an object, 0 none, -1 does not count.
    """
    found = np.zeros(len(boxes), dtype=np.int64)
    if not len(boxes) or not len(objects):
        return found
    overlaps = mask_util.iou(np.asarray(boxes, float), np.asarray(objects, float), list(is_crowd))  # (N, objects)
    order = sorted(range(len(objects)), key=lambda index: is_crowd[index])  # crowds are looked at last
    taken: set[int] = set()
    for box in np.argsort(-np.asarray(scores, float), kind="stable"):
        best, best_iou = -1, IOU
        for index in order:
            if index in taken or (best >= 0 and not is_crowd[best] and is_crowd[index]):
                continue
            if overlaps[box, index] >= best_iou:
                best, best_iou = index, overlaps[box, index]
        if best >= 0:
            found[box] = -1 if is_crowd[best] else 1
            taken |= set() if is_crowd[best] else {best}
    return found


def choose_threshold(
    scores: np.ndarray, found: np.ndarray, num_objects: int, precision: float | None = None
) -> tuple[float, float, float]:
    """Threshold, precision and recall of the best F1, or of the most recall at a wanted precision.

    Args:
        scores: (N,).
        found: (N,) 1 where an object was found, 0 where not.
        num_objects: of the class.
        precision: the least that is wanted, within (0, 1]; None for the best F1.

    Returns:
        (NaN, 0, 0) where no detection gives what is wanted.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(found[order])
    if not num_objects or not len(scores) or not hits[-1]:
        return math.nan, 0.0, 0.0
    is_last = np.append(scores[1:] < scores[:-1], True)  # detections of one score go together
    counts = np.arange(1, len(scores) + 1)
    precisions, recalls = hits / counts, hits / num_objects
    value = 2 * hits / (counts + num_objects) if precision is None else np.where(precisions >= precision, recalls, -1.0)
    value = np.where(is_last, value, -1.0)
    best = int(value.argmax())
    if value[best] <= 0:
        return math.nan, 0.0, 0.0
    return float(scores[best]), float(precisions[best]), float(recalls[best])


def threshold_between(scores: np.ndarray) -> float:
    """The threshold that parts scores into two groups of least variance within (Otsu, 1979), without any labels.

    Args:
        scores: (N,).

    Returns:
        The middle between both groups; NaN where there are no two different scores.
    """
    scores = np.sort(np.asarray(scores, dtype=float))
    if not len(scores) or scores[0] == scores[-1]:
        return math.nan
    below = np.arange(1, len(scores))  # how many are in the lower group
    sums = scores.cumsum()
    lower, upper = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(scores) - below)
    between = below * (len(scores) - below) * (upper - lower) ** 2  # times a constant, the variance between the groups
    best = int(np.where(np.diff(scores) > 0, between, -1.0).argmax())
    return float(scores[best] + scores[best + 1]) / 2


def suggest_thresholds(
    truth: GroundTruth,
    detections: Iterable[Mapping[str, Any]],
    category_ids: Sequence[int],
    *,
    precision: float | None = None,
    thresholds: Sequence[float] | None = None,
) -> list[Suggestion]:
    """Each class's threshold, and the rate of photos without the class on which something reaches it.

    Args:
        truth: all photos of it count.
        detections: COCO results.
        category_ids: of K classes.
        precision: see `choose_threshold`.
        thresholds: K ready ones to describe instead of chosen ones.

    Raises:
        InputError: a precision outside of (0, 1].
    """
    if precision is not None and not 0 < precision <= 1:
        raise InputError(f"expected a precision above 0 and up to 1, got {precision}")
    by_class: dict[int, dict[Any, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for detection in detections:
        by_class[detection["category_id"]][detection["image_id"]].append(detection)
    objects: dict[int, dict[Any, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for image_id, of_image in truth.annotations.items():
        for annotation in of_image:
            objects[annotation["category_id"]][image_id].append(annotation)
    return [
        _suggest(truth, by_class[each], objects[each], precision, None if thresholds is None else thresholds[place])
        for place, each in enumerate(category_ids)
    ]


def _suggest(
    truth: GroundTruth,
    detections: Mapping[Any, Sequence[Mapping[str, Any]]],
    objects: Mapping[Any, Sequence[Mapping[str, Any]]],
    precision: float | None,
    given: float | None,
) -> Suggestion:
    """Of one class; detections and objects by photo."""
    scores, found = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for image_id, of_image in detections.items():
        there = objects.get(image_id, ())
        of_photo = [each["score"] for each in of_image]
        crowds = [int(each.get("iscrowd") or 0) for each in there]
        found.append(match_detections([d["bbox"] for d in of_image], of_photo, [a["bbox"] for a in there], crowds))
        scores.append(np.asarray(of_photo, float))
    scores, found = np.concatenate(scores), np.concatenate(found)
    scores, found = scores[found >= 0], found[found >= 0]
    number = sum(not each.get("iscrowd") for there in objects.values() for each in there)
    if given is None:
        threshold, reached, recall = choose_threshold(scores, found, number, precision)
    else:
        hits, count = found[scores >= given].sum(), (scores >= given).sum()
        threshold, reached, recall = given, float(hits / max(count, 1)), float(hits / max(number, 1))
    without = [image_id for image_id in truth.images if image_id not in objects]
    alarms = sum(any(each["score"] >= threshold for each in detections.get(image_id, ())) for image_id in without)
    rate = alarms / len(without) if without and not math.isnan(threshold) else math.nan
    return Suggestion(threshold, reached, recall, number, rate)


def suggestions_csv(names: Sequence[str], suggestions: Sequence[Suggestion]) -> str:
    """A line for each class: threshold, precision, recall, F1, objects, false alarms on photos without it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["class", "threshold", "precision", "recall", "F1", "objects", "false alarms"])
    for name, each in zip(names, suggestions, strict=True):
        values = (each.threshold, each.precision, each.recall, each.f1)
        numbers = ["" if math.isnan(value) else f"{value:.4f}" for value in (*values, each.false_alarms)]
        writer.writerow([name, *numbers[:4], each.objects, numbers[4]])
    return stream.getvalue()
