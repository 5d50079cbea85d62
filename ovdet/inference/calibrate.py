"""Calibrate a detector on annotated photos that it was not trained on; modeling/calibration.py says what that is.

Shape letters: N detections of all photos, K names of all jsons.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import LazyCall
from omegaconf import DictConfig
from torch import Tensor

from ovdet.data.dataset import CocoSubsets, check_sizes, load_coco_subsets
from ovdet.device import float32_by_default
from ovdet.errors import InputError
from ovdet.evaluation.calibration import cross_validated, fit_line
from ovdet.evaluation.thresholds import choose_threshold, match_detections
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.inference.shown import CLASS_AGNOSTIC_IOU, MAX_CONTAINMENT
from ovdet.modeling.calibration import ScoreCalibration
from ovdet.modeling.postprocess import is_not_contained, is_not_outdone
from ovdet.progress import show_progress
from ovdet.text.class_names import normalize_class_name

# detections that score less are nearly all wrong, and so many that they would shape the line of those that matter
LEAST_SCORE, LEAST_OTHER_SCORE = 0.03, 0.01
_KINDS = {True: "were trained on", False: "were not trained on"}


class PhotoDetections(NamedTuple):
    """Unfiltered detections of one photo, and what is there; class ids are indices into all names."""

    boxes: Tensor  # (N, 4) XYXY
    scores: np.ndarray  # (N,), before calibration
    class_ids: np.ndarray  # (N,)
    truth: Sequence[dict[str, Any]]  # COCO annotations

    def matched(self, kept: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(N,): 1 for a detection that found an object, else 0; -1 does not count.

        Args:
            kept: (N,) the detections, as indices.
            scores: of all.
        """
        corners, found = self.boxes.double().numpy()[kept], np.zeros(len(kept), dtype=np.int64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        for class_id in set(self.class_ids[kept].tolist()):
            mine = np.flatnonzero(self.class_ids[kept] == class_id)
            there = [each for each in self.truth if each["category_id"] == class_id]
            crowds = [int(each["iscrowd"]) for each in there]
            found[mine] = match_detections(boxes[mine], scores[kept][mine], [each["bbox"] for each in there], crowds)
        return found

    def shown(self, scores: np.ndarray) -> np.ndarray:
        """Indices of those that the predictor's filters leave of all, by these scores, best first."""
        order = np.argsort(-scores, kind="stable")
        boxes, ids = self.boxes[order], torch.from_numpy(self.class_ids[order])
        kept = is_not_contained(boxes, ids, MAX_CONTAINMENT)
        order, boxes = order[kept.numpy()], boxes[kept]
        return order[is_not_outdone(boxes, torch.from_numpy(scores[order]), CLASS_AGNOSTIC_IOU).numpy()]


@dataclass
class Measured:
    """Detections of several data sets.

    Attributes:
        names: K, in normal form.
        is_trained: of each, whether the detector was trained on it.
        photos: of all sets.
    """

    names: list[str] = field(default_factory=list)
    is_trained: list[bool] = field(default_factory=list)
    photos: list[PhotoDetections] = field(default_factory=list)


class Kind(NamedTuple):
    """Figures at the default threshold for one kind of names, each photo by a line that others gave.

    Attributes:
        threshold: the default of these names.
        names: how many.
        objects: how many.
        precision: share of the shown detections that find an object.
        recall: share of the objects that are found.
    """

    threshold: float
    names: int
    objects: int
    precision: float
    recall: float


@float32_by_default()
def measure(predictor: OpenVocabPredictor, sets: Sequence[CocoSubsets]) -> Measured:
    """Ask a detector for all names of each data set on its photos, and keep all that it finds.

    Args:
        predictor: uncalibrated.
        sets: see `read_set`.

    Raises:
        InputError: the detector does not say which names it was trained on, or names of one kind have no box.
    """
    asked, into = [], Measured()
    for data in sets:
        classes = predictor.embed(data.thing_classes)
        if classes.is_base is None:
            raise InputError("expected a detector that says which names it was trained on, this one does not")
        normal = [normalize_class_name(name) for name in data.thing_classes]
        for name, was in zip(normal, classes.is_trained_class.tolist(), strict=True):
            if name not in into.names:
                into.names.append(name)
                into.is_trained.append(was)
        asked.append((data, classes, [into.names.index(name) for name in normal]))
    objects = [(places, each) for data, _, places in asked for record in data.dicts for each in record["annotations"]]
    shown = {into.is_trained[places[each["category_id"]]] for places, each in objects if not each["iscrowd"]}
    for wanted, kind in _KINDS.items():
        if wanted not in shown:
            raise InputError(f"expected boxes of names that {kind} among all sets, to calibrate their scores, got none")

    def steps() -> Iterator[int]:
        for data, classes, places in asked:
            for record in data.dicts:
                seen = predictor.embed_photo(record["file_name"])
                with torch.inference_mode():
                    (output,) = predictor.model.score_images([seen.seen], [seen.size], classes=classes)
                truth = [{**each, "category_id": places[each["category_id"]]} for each in record["annotations"]]
                found = output["instances"].to("cpu")
                ids = np.asarray(places, dtype=np.int64)[found.pred_classes.numpy()]
                into.photos.append(PhotoDetections(found.pred_boxes.tensor, found.scores.double().numpy(), ids, truth))
                yield 1

    show_progress("detecting", steps(), sum(len(data.dicts) for data in sets))
    return into


def read_set(annotations: str | Path, images: str | Path) -> CocoSubsets:
    """A COCO-format json with all of its photos, for `measure`.

    Args:
        annotations: all things of its names have boxes.
        images: the folder of its photos.

    Raises:
        InputError: as of `load_coco_subsets`, or a photo of another size than the json says.
    """
    data = load_coco_subsets(annotations, images, filter_empty=False)
    check_sizes(data.dicts)
    return data


def fit_calibration(measured: Measured, precision: float) -> tuple[ScoreCalibration, dict[str, Kind]]:
    """Slopes and offsets; for trained names the lowest threshold that is precise enough, for others that of best F1.

    Args:
        measured: of names that were trained and of others.
        precision: of what is shown of trained names, within (0, 1].

    Returns:
        The calibration, and what its thresholds give: "trained", "other".

    Raises:
        InputError: names of one kind are missing, their scores tell nothing, or no threshold is that precise.
    """
    if not 0 < precision <= 1:
        raise InputError(f"expected a precision within (0, 1], got {precision}")
    scores, found, ids, photos = _flat(measured)
    is_trained = np.array(measured.is_trained, dtype=bool)
    num_classes = len(measured.names)
    probabilities, lines = np.zeros(len(scores)), []
    for wanted, kind in _KINDS.items():
        of_kind = is_trained[ids] == wanted
        if not found[of_kind].any():
            raise InputError(f"expected boxes of names that {kind}, to calibrate their scores, none of them was found")
        kept = of_kind & (found >= 0) & (scores >= (LEAST_SCORE if wanted else LEAST_OTHER_SCORE))
        options = dict(num_classes=num_classes, by_class=wanted)
        lines.append(fit_line(scores[kept], found[kept] > 0, ids[kept], **options))
        probabilities[kept] = cross_validated(scores[kept], found[kept] > 0, ids[kept], photos[kept], **options)
    trained, other = lines
    kinds = _choose_thresholds(measured, probabilities, precision)
    known = zip(measured.names, trained.class_offsets.tolist(), measured.is_trained, strict=True)
    offsets = {name: round(offset, 3) for name, offset, was in known if was and round(offset, 3)}
    numbers = (round(value, 4) for value in (trained.slope, trained.offset, other.slope, other.offset))
    return ScoreCalibration(*numbers, *(each.threshold for each in kinds.values()), offsets), kinds


def with_calibration(config: DictConfig, calibration: ScoreCalibration | None) -> DictConfig:
    """A copy of a detector's config with a calibration in the place of its own; None for none."""
    config = deepcopy(config)
    node = None if calibration is None else LazyCall(ScoreCalibration)(**asdict(calibration))
    config.model.roi_heads.calibration = node
    return config


def _flat(measured: Measured) -> tuple[np.ndarray, ...]:
    """Scores, found (1, 0, -1), class ids and photo of all detections, photo after photo."""
    parts = []
    for index, photo in enumerate(measured.photos):
        number = len(photo.scores)
        found = photo.matched(np.arange(number), photo.scores)
        parts.append((photo.scores, found, photo.class_ids, np.full(number, index)))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _choose_thresholds(measured: Measured, probabilities: np.ndarray, precision: float) -> dict[str, Kind]:
    """By kind of name the default threshold, and what it gives of what is shown."""
    parts, end = [], 0
    for photo in measured.photos:
        begin, end = end, end + len(photo.scores)
        own = probabilities[begin:end]
        kept = photo.shown(own)
        parts.append((own[kept], photo.matched(kept, own), photo.class_ids[kept]))
    scores, found, ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    is_trained = np.array(measured.is_trained, dtype=bool)
    objects = Counter(each["category_id"] for photo in measured.photos for each in photo.truth if not each["iscrowd"])
    kinds = {}
    for name, wanted, least in (("trained", True, precision), ("other", False, None)):
        of_kind = (found >= 0) & (is_trained[ids] == wanted)
        total = sum(number for index, number in objects.items() if is_trained[index] == wanted)
        threshold, *reached = choose_threshold(scores[of_kind], found[of_kind], total, least)
        if math.isnan(threshold):
            raise InputError(f"expected a threshold from which on {least:g} of trained names are right, there is none")
        threshold = math.floor(threshold * 1000) / 1000
        kinds[name] = Kind(threshold, int((is_trained == wanted).sum()), total, *reached)
    return kinds
