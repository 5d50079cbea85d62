"""Linear probe of a teacher's embeddings, as in the CLIP paper (Radford et al., arXiv:2103.00020, appendix A.3).

Logistic regression by L-BFGS, at most 1,000 iterations. The strength of the L2 regularization is swept on a validation
part over [1e-6, 1e6] in 96 steps: 1e-6, 1e-4, ..., 1e6 first, then the interval around the best is halved down to 8
steps a decade. The final fit is on training and validation part together.

scikit-learn's C is what is swept; it is inverse to the strength.

Shape letters: R objects, K classes, D embedding width.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovdet.errors import InputError
from ovdet.progress import track
from ovdet.teacher_lab.labeled import LabeledSet, split_photos, with_classes

STEPS_A_DECADE, DECADES = 8, 12  # of the sweep
_FIRST_STEP = 2 * STEPS_A_DECADE
_MAX_ITERATIONS = 1000
SHOTS = (1, 2, 4, 8, 16)
SHARES = (0.5, 0.2, 0.3)  # of the photos of each class: training, validation, test
_MOST_VALIDATION_SHOTS = 4
_FEWEST_PHOTOS = 3


class Labeled(NamedTuple):
    """Embeddings and their classes.

    Attributes:
        embeddings: (R, D), unit norm.
        labels: (R,) int64.
    """

    embeddings: Tensor
    labels: Tensor

    def take(self, objects: Tensor) -> Labeled:
        """These of the objects."""
        return Labeled(self.embeddings[objects], self.labels[objects])

    def joined(self, other: Labeled) -> Labeled:
        """These and the other's objects."""
        return Labeled(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


@dataclass(frozen=True)
class ProbeRow:
    """Accuracy on the test part, in [0, 1], of one number of photos to learn from.

    Attributes:
        shots: objects of each class; None for all there are, 0 for zero-shot.
        objects: of a class that were learned from, in the mean over the classes.
        top1: mean over the classes, one number for each seed.
        top1_over_objects: the share of the objects that are right, one number for each seed.
        strengths: the C that the sweep chose, one for each seed.
    """

    shots: int | None
    objects: float
    top1: tuple[float, ...]
    top1_over_objects: tuple[float, ...]
    strengths: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """The mean of `top1` over the seeds."""
        return statistics.fmean(self.top1)

    @property
    def spread(self) -> float:
        """Standard deviation of `top1` over the seeds; 0 for one."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with mean and spread."""
        return {**asdict(self), "mean": self.mean, "spread": self.spread}


def fit_linear_probe(train: Labeled, strength: float) -> Any:
    """scikit-learn's LogisticRegression, fitted by L-BFGS.

    Args:
        train: of two classes or more.
        strength: C, the inverse of the strength of the regularization.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, solver="lbfgs", max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():  # weak regularization takes more iterations; one shot looks like a regression
        warnings.simplefilter("ignore", UserWarning)
        return model.fit(train.embeddings.double().numpy(), train.labels.numpy())


def predict_probe(model: Any, embeddings: Tensor, among: Sequence[int] | None = None) -> Tensor:
    """The class (R,) that a fitted probe gives each of (R, D).

    Args:
        model: see `fit_linear_probe`.
        embeddings: of R objects, which may be 0.
        among: the classes that compete; None for all that it learned.
    """
    classes = torch.from_numpy(np.asarray(model.classes_)).long()
    if not len(embeddings):
        return classes[:0]
    scores = torch.from_numpy(model.decision_function(embeddings.double().numpy()))
    if scores.dim() == 1:  # of two classes: that of the second
        scores = torch.stack([-scores, scores], dim=1)
    if among is not None:
        scores[:, ~torch.isin(classes, torch.as_tensor(among))] = -torch.inf
    return classes[scores.argmax(1)]


def accuracies(predicted: Tensor, labels: Tensor) -> tuple[float, float]:
    """Top-1 as the mean over the classes that occur, and over objects: (R,), (R,) -> two numbers in [0, 1].

    Raises:
        InputError: there are no objects.
    """
    if not len(labels):
        raise InputError("expected an object or more to test with, got none")
    right = (predicted == labels).double()
    means = [float(right[labels == label].mean()) for label in labels.unique()]
    return statistics.fmean(means), float(right.mean())


def sweep(score: Callable[[float], float]) -> float:
    """The C in [1e-6, 1e6] with the highest score, by the CLIP paper's search; of equal ones the smallest.

    Args:
        score: C -> accuracy on the validation part.
    """
    last = DECADES * STEPS_A_DECADE
    scores: dict[int, float] = {}

    def strength(place: int) -> float:
        return 10.0 ** (place / STEPS_A_DECADE - DECADES / 2)

    def look(places: Sequence[int]) -> int:
        scores.update((place, score(strength(place))) for place in places if place not in scores and 0 <= place <= last)
        return max(sorted(scores), key=scores.__getitem__)

    best, step = look(range(0, last + 1, _FIRST_STEP)), _FIRST_STEP
    while step > 1:
        step //= 2
        best = look((best - step, best + step))
    return strength(best)


def choose_strength(train: Labeled, validation: Labeled) -> float:
    """The C by which a probe of the training part is best on the validation part, in the mean over its classes.

    Raises:
        InputError: one class alone to learn from, or nothing to validate with.
    """
    if len(train.labels.unique()) < 2:
        raise InputError(f"expected two classes or more to learn from, got {len(train.labels.unique())}")

    def score(strength: float) -> float:
        predicted = predict_probe(fit_linear_probe(train, strength), validation.embeddings)
        return accuracies(predicted, validation.labels)[0]

    return sweep(score)


def fit_best(train: Labeled, validation: Labeled) -> tuple[Any, float]:
    """The probe of both parts together with the C that the sweep chose, and that C.

    Raises:
        InputError: as of `choose_strength`.
    """
    strength = choose_strength(train, validation)
    return fit_linear_probe(train.joined(validation), strength), strength


def pick_shots(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Numbers of at most so many random objects of each class, in order; (R,) -> int64."""
    generator = torch.Generator().manual_seed(seed)
    picked = []
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        picked.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(picked).sort().values if picked else torch.zeros(0, dtype=torch.long)


def few_shot(
    train: Labeled, validation: Labeled, test: Labeled, shots: Sequence[int] = SHOTS, seeds: Sequence[int] = (0, 1, 2)
) -> list[ProbeRow]:
    """Probes on few objects of each class; the last row is of all.

    For k shots the sweep sees min(k, 4) objects of each class of the validation part, as CoOp does (arXiv:2109.01134),
    and the final fit is on the k shots alone. Numbers of which no class has more than of the one before are left out.

    Args:
        train: the part that shots are drawn from.
        validation: that of the sweep.
        test: what is counted.
        shots: of each class.
        seeds: one draw each.

    Raises:
        InputError: as of `choose_strength`, or nothing to test with.
    """
    counts = torch.bincount(train.labels)
    largest = int(counts.max()) if len(counts) else 0
    usable = [number for place, number in enumerate(shots) if place == 0 or shots[place - 1] < largest]
    draws = [(number, seed) for number in usable for seed in seeds]
    found: dict[int, list[tuple[float, float, float]]] = {}
    learned: dict[int, float] = {}
    for number, seed in track(draws, "probes", transient=True):
        few = train.take(pick_shots(train.labels, number, seed))
        seen = validation.take(pick_shots(validation.labels, min(number, _MOST_VALIDATION_SHOTS), seed))
        strength = choose_strength(few, seen)
        model = fit_linear_probe(few, strength)  # without the validation part: k shots are k
        found.setdefault(number, []).append((*_tested(model, test), strength))
        learned[number] = len(few.labels) / len(few.labels.unique())
    rows = [ProbeRow(number, learned[number], *_columns(each)) for number, each in found.items()]
    model, strength = fit_best(train, validation)
    objects = (len(train.labels) + len(validation.labels)) / len(model.classes_)
    return [*rows, ProbeRow(None, objects, *_columns([(*_tested(model, test), strength)]))]


def _tested(model: Any, test: Labeled) -> tuple[float, float]:
    return accuracies(predict_probe(model, test.embeddings), test.labels)


def _columns(each: Sequence[tuple[float, float, float]]) -> list[tuple[float, ...]]:
    return [tuple(column) for column in zip(*each, strict=True)]


def zero_shot_row(class_embeddings: Tensor, test: Labeled) -> ProbeRow:
    """The nearest of class embeddings (K, D), as a row of the probes' table."""
    predicted = (test.embeddings @ class_embeddings.T).argmax(1)
    over_classes, over_objects = accuracies(predicted, test.labels)
    return ProbeRow(0, 0.0, (over_classes,), (over_objects,))


def with_enough_photos(data: LabeledSet) -> tuple[LabeledSet, list[str]]:
    """The set without the classes that are in less than 3 photos: one for training, validation and test each.

    Returns:
        What is left, and the names of the classes that are not.

    Raises:
        InputError: less than two classes are left.
    """
    photos = torch.zeros(len(data.names), dtype=torch.long)
    for photo in data.photos:
        photos[photo.labels.unique()] += 1
    enough = (photos >= _FEWEST_PHOTOS).tolist()
    kept = [name for name, each in zip(data.names, enough, strict=True) if each]
    if len(kept) < 2:
        raise InputError(
            f"expected two classes or more with {_FEWEST_PHOTOS} photos each to learn, validate and test with, "
            f"got {len(kept)} of {len(data.names)} in {data.title}"
        )
    left_out = [name for name, each in zip(data.names, enough, strict=True) if not each]
    return with_classes(data, kept)[0], left_out


def deal(data: LabeledSet, embeddings: Tensor, seed: int = 0) -> tuple[Labeled, Labeled, Labeled]:
    """Training, validation and test part of a set's embeddings (R, D); no photo is in two."""
    labeled = Labeled(embeddings, data.labels)
    train, validation, test = (labeled.take(part) for part in split_photos(data, SHARES, seed))
    return train, validation, test
