"""Scores as the share of detections that find an object: comparable between names, trained ones and others.

    calibrated = sigmoid(slope * logit(score) + offset)

(Platt scaling of the logit), slope and offset by whether a name was trained or learned, and offsets of single such
names besides. It rises with the score, so the order of a name's detections and its average precision stay. It comes
after NMS. `ovdet calibrate` finds the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from detectron2.structures import Instances
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.packable import packable
from ovdet.text.class_names import normalize_class_name

_NEAREST = 1e-6  # to 0 and 1 that a score is taken for


@packable
@dataclass(frozen=True)
class ScoreCalibration:
    """Slopes and offsets of a detector's scores, and the lowest calibrated score to show.

    Attributes:
        trained_slope: positive, of names that the detector was trained on or its expert learned, and of all where that
            is not known.
        trained_offset: likewise.
        other_slope: positive, of all other names.
        other_offset: likewise.
        threshold: the default lowest calibrated score to show of trained names, within [0, 1].
        other_threshold: likewise, of all other names: of these much of what is found is wrong at any threshold.
        name_offsets: added to trained_offset, by trained name in its normal form; 0 for the others.

    Raises:
        InputError: numbers that are none of these.
    """

    trained_slope: float
    trained_offset: float
    other_slope: float
    other_offset: float
    threshold: float
    other_threshold: float
    name_offsets: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name_offsets", dict(self.name_offsets))  # a config's node as plain values
        lines = (self.trained_slope, self.trained_offset, self.other_slope, self.other_offset)
        values = (*lines, *self.thresholds, *self.name_offsets.values())
        if odd := [each for each in values if not isinstance(each, (int, float)) or not math.isfinite(each)]:
            raise InputError(f"expected finite numbers of a calibration, got {odd[0]!r}")
        if not (self.trained_slope > 0 and self.other_slope > 0 and all(0 <= each <= 1 for each in self.thresholds)):
            numbers = lines + self.thresholds
            raise InputError(f"expected positive slopes and thresholds within [0, 1] of a calibration, got {numbers}")

    @property
    def thresholds(self) -> tuple[float, float]:
        """The default thresholds of trained names and of others."""
        return self.threshold, self.other_threshold

    def __call__(self, scores: Tensor, classes: ClassEmbeddings, class_ids: Tensor) -> Tensor:
        """Calibrated scores of detections, (N,).

        Args:
            scores: (N,) as the detector has them.
            classes: that were asked for.
            class_ids: (N,) of the detections, in [0, K). Those of learned classes keep their scores.
        """
        is_trained = classes.is_trained_class.to(scores.device)[class_ids]
        slopes = torch.where(is_trained, self.trained_slope, self.other_slope).to(scores)
        offsets = torch.where(is_trained, self.trained_offset, self.other_offset).to(scores)
        if self.name_offsets:
            of_class = {index: self._name_offset(classes, index) for index in class_ids[is_trained].unique().tolist()}
            offsets = offsets + offsets.new_tensor([of_class.get(index, 0.0) for index in class_ids.tolist()])
        calibrated = (slopes * scores.clamp(_NEAREST, 1 - _NEAREST).logit() + offsets).sigmoid()
        if classes.learned is None:
            return calibrated
        return torch.where(torch.isin(class_ids, classes.learned.class_ids.to(class_ids)), scores, calibrated)

    def _name_offset(self, classes: ClassEmbeddings, index: int) -> float:
        """Of the first of a class's name and synonyms that has one."""
        spoken = map(normalize_class_name, classes.spoken(index))
        return next((self.name_offsets[name] for name in spoken if name in self.name_offsets), 0.0)

    def of_instances(self, found: Instances, classes: ClassEmbeddings) -> Instances:
        """One image's detections, with scores and pred_classes -> the same with calibrated scores, best first."""
        scores, order = self(found.scores, classes, found.pred_classes).sort(descending=True, stable=True)
        found = found[order]
        found.scores = scores
        return found
