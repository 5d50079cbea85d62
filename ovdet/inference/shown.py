"""Filters of detections: thresholds, and boxes that better ones outdo or contain.

Shape letters: K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Real

import torch
from detectron2.structures import Instances
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.modeling.postprocess import is_not_contained, is_not_outdone
from ovdet.text.class_names import nearest_name, normalize_class_name

Threshold = float | Mapping[str, float] | None

CLASS_AGNOSTIC_IOU, MAX_CONTAINMENT = 0.5, 0.9  # what is shown by default, docs/lab/overlap.md
LEARNED_THRESHOLD = 0.1  # where F1 is best with ten boxes a class on photos held out, docs/own_data.md


@dataclass(frozen=True)
class Shown:
    """Filters of the detections of a call; arguments as of `OpenVocabPredictor.__call__`.

    Raises:
        InputError: a number outside of [0, 1].
    """

    threshold: Threshold = None
    class_agnostic_iou: float = CLASS_AGNOSTIC_IOU
    max_containment: float = MAX_CONTAINMENT

    def __post_init__(self) -> None:
        given = asdict(self)
        if isinstance(self.threshold, Mapping):
            given.update({f"threshold of {name!r}": value for name, value in given.pop("threshold").items()})
        for what, value in given.items():
            if value is not None and not (isinstance(value, Real) and 0 <= value <= 1):
                raise InputError(f"expected a {what} between 0 and 1, got {value!r}")


def to_detections(instances: Instances, classes: ClassEmbeddings, shown: Shown) -> Detections:
    """Filtered detections in pixels of the photo, from the model's output for one photo.

    Args:
        instances: best first, on the CPU, in pixels of the photo.
        classes: that were asked for.
        shown: which of them to keep.
    """
    is_shown = instances.scores >= thresholds_of(classes, shown.threshold)[instances.pred_classes]
    best_missed = _best_missed(instances, is_shown, classes)
    instances = instances[is_shown]
    if shown.max_containment < 1:
        boxes, ids = instances.pred_boxes.tensor, instances.pred_classes
        instances = instances[is_not_contained(boxes, ids, shown.max_containment)]
    if shown.class_agnostic_iou < 1:
        boxes, scores = instances.pred_boxes.tensor, instances.scores
        instances = instances[is_not_outdone(boxes, scores, shown.class_agnostic_iou)]
    return Detections(
        boxes=instances.pred_boxes.tensor.float().numpy(),
        scores=instances.scores.float().numpy(),
        class_ids=instances.pred_classes.numpy(),
        labels=tuple(classes.names[index] for index in instances.pred_classes.tolist()),
        size=instances.image_size,
        masks=instances.pred_masks.numpy() if instances.has("pred_masks") else None,
        best_missed=best_missed,
        unknown=classes.unknown,
    )


def _best_missed(instances: Instances, is_shown: Tensor, classes: ClassEmbeddings) -> tuple[str, float] | None:
    """Name and score of the first detection that is not shown; they come best first."""
    missed = (~is_shown).nonzero()[:1, 0].tolist()
    return next(((classes.names[int(instances.pred_classes[i])], float(instances.scores[i])) for i in missed), None)


def thresholds_of(classes: ClassEmbeddings, threshold: Threshold = None) -> Tensor:
    """(K,) the lowest score to show of each class, see `OpenVocabPredictor.__call__`.

    Raises:
        InputError: a mapping has a name that is not asked for.
    """
    if threshold is not None and not isinstance(threshold, Mapping):
        return torch.full((len(classes.names),), threshold)
    lowest = _default_thresholds(classes)
    if not threshold:
        return lowest
    place = {normalize_class_name(name): index for index, name in enumerate(classes.names)}
    for name, value in threshold.items():
        if normalize_class_name(name) not in place:
            near = nearest_name(name, classes.names)
            raise InputError(f"expected thresholds of names that are asked for, got one of {name!r}{near}")
        lowest[place[normalize_class_name(name)]] = value
    return lowest


def _default_thresholds(classes: ClassEmbeddings) -> Tensor:
    """(K,) a class's own threshold, or see `default_threshold`."""
    defaults = torch.where(classes.is_trained_class.cpu(), default_threshold(True), default_threshold(False))
    if classes.learned is not None:
        defaults[classes.learned.class_ids.cpu()] = LEARNED_THRESHOLD
    return torch.where(classes.own_thresholds.isnan(), defaults, classes.own_thresholds)


def default_threshold(was_trained: bool) -> float:
    """A little below where F1 is best for trained names with `ovdet-lite`, 0.30 to 0.41. Other names score far lower,
    best at 0.03 to 0.09, where most of what is found is wrong (docs/results.md).

    Args:
        was_trained: whether the name is one of the classes that the detector was trained on.
    """
    return 0.3 if was_trained else 0.08
