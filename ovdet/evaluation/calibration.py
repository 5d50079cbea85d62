"""From scores of detections and whether each found an object to slopes and offsets that make scores comparable.

Shape letters: N detections of all photos, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from ovdet.errors import InputError

_NEAREST = 1e-6  # to 0 and 1 that a score is taken for
_FREE = 100.0  # scale of the logits, which leaves their slope all but unregularized
_CLASS_SCALE = 0.5  # of a class's indicator: how far single classes move from the common offset (docs/lab/scores.md)


class Line(NamedTuple):
    """Log-odds of finding an object: slope * logit(score) + offset, and each class's own offset besides, (K,)."""

    slope: float
    offset: float
    class_offsets: np.ndarray

    def __call__(self, scores: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
        """(N,) scores, (N,) class ids in [0, K) -> (N,) probabilities."""
        return 1 / (1 + np.exp(-(self.slope * logits(scores) + self.offset + self.class_offsets[class_ids])))


def logits(scores: np.ndarray) -> np.ndarray:
    """(N,) scores in [0, 1] -> (N,)."""
    scores = np.clip(scores, _NEAREST, 1 - _NEAREST)
    return np.log(scores) - np.log1p(-scores)


def fit_line(
    scores: np.ndarray, found: np.ndarray, class_ids: np.ndarray, num_classes: int, *, by_class: bool = True
) -> Line:
    """A logistic regression of `found` on the scores' logits.

    Args:
        scores: (N,).
        found: (N,) bool.
        class_ids: (N,) in [0, K).
        num_classes: K.
        by_class: whether classes have offsets of their own, which are regularized: few detections, small offsets.

    Raises:
        InputError: no detection finds an object, or all do, or they score no higher for it.
    """
    if len(set(found.tolist())) < 2:
        raise InputError("expected detections that find an object and others that find none, got one kind alone")
    columns = [logits(scores)[:, None] * _FREE]
    columns += [np.eye(num_classes)[class_ids] * _CLASS_SCALE] if by_class else []
    model = LogisticRegression(max_iter=2000).fit(np.concatenate(columns, axis=1), found)
    weights = model.coef_[0]
    offsets = weights[1:] * _CLASS_SCALE if by_class else np.zeros(num_classes)
    line = Line(float(weights[0] * _FREE), float(model.intercept_[0]), offsets)
    if not line.slope > 0:
        raise InputError("expected detections that score higher where they find an object, they do not")
    return line


def cross_validated(
    scores: np.ndarray,
    found: np.ndarray,
    class_ids: np.ndarray,
    photos: np.ndarray,
    num_classes: int,
    *,
    folds: int = 5,
    by_class: bool = True,
) -> np.ndarray:
    """(N,) probabilities, those of each photo by a line that was fitted to other photos.

    Args:
        scores: (N,).
        found: (N,) bool.
        class_ids: (N,).
        photos: (N,) index of each one's photo.
        num_classes: K.
        folds: parts into which photos are divided.
        by_class: see `fit_line`.

    Raises:
        InputError: as of `fit_line`.
    """
    probabilities = np.zeros(len(scores))
    for fold in range(folds):
        left_out = photos % folds == fold
        kept = ~left_out
        line = fit_line(scores[kept], found[kept], class_ids[kept], num_classes, by_class=by_class)
        probabilities[left_out] = line(scores[left_out], class_ids[left_out])
    return probabilities
