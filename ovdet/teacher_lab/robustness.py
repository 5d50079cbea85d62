"""Robustness of a teacher: its accuracy on several sets of the same classes, and the drop from the first to each.

A drop is always between the same classes: those that both sets have, and they alone compete (as the CLIP paper counts
ImageNet's variants, arXiv:2103.00020, section 3.3). A linear probe that learned from the first set shows what a
classifier that was fitted to one kind of photo loses on another.

Shape letters: R objects, K classes, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ovdet.errors import InputError
from ovdet.teacher_lab.labeled import LabeledSet, with_classes
from ovdet.teacher_lab.probe import Labeled, accuracies, deal, fit_best, predict_probe
from ovdet.text.class_names import names_among

Predict = Callable[[Tensor, Sequence[int]], Tensor]  # embeddings (R, D), the classes that compete -> classes (R,)


@dataclass(frozen=True)
class Drop:
    """One classifier on one set, in [0, 1]; means over the classes."""

    accuracy: float
    reference: float  # on the first set, with the same classes

    @property
    def drop(self) -> float:
        """The drop from the first set to this one; negative for a gain."""
        return self.reference - self.accuracy


@dataclass(frozen=True)
class RobustnessRow:
    """A teacher's accuracy on one set beside the first one.

    Attributes:
        title: of the set.
        classes: that it has in common with the first.
        objects: of them.
        left_out: its classes that the first set does not have.
        by_classifier: "zero-shot" and, where there is one, "linear probe".
    """

    title: str
    classes: int
    objects: int
    left_out: tuple[str, ...]
    by_classifier: dict[str, Drop]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the drops."""
        values = asdict(self)
        for name, each in self.by_classifier.items():
            values["by_classifier"][name]["drop"] = each.drop
        return values


def zero_shot_classifier(class_embeddings: Tensor) -> Predict:
    """The nearest of class embeddings (K, D)."""

    def predict(embeddings: Tensor, among: Sequence[int]) -> Tensor:
        chosen = torch.as_tensor(among)
        return chosen[(embeddings @ class_embeddings[chosen].T).argmax(1)]

    return predict


def probe_classifier(train: Labeled, validation: Labeled) -> Predict:
    """A linear probe that learned from two parts, see probe.py."""
    model = fit_best(train, validation)[0]
    return lambda embeddings, among: predict_probe(model, embeddings, among)


def compare_sets(
    sets: Sequence[LabeledSet], embeddings: Sequence[Tensor], class_embeddings: Tensor, *, with_probe: bool = False
) -> list[RobustnessRow]:
    """Accuracy on each set, and the drop from the first.

    Args:
        sets: two or more; the first is the reference.
        embeddings: for each set (R, D).
        class_embeddings: (K, D) of the first set's classes.
        with_probe: also a linear probe that learned from the first set's training and validation part; of that set its
            test part alone is then counted.

    Raises:
        InputError: less than two sets, or one that has less than two classes in common with the first.
    """
    if len(sets) < 2:
        raise InputError(f"expected two sets or more to compare, got {len(sets)}")
    first, counted = sets[0], Labeled(embeddings[0], sets[0].labels)
    classifiers = {"zero-shot": zero_shot_classifier(class_embeddings)}
    if with_probe:
        train, validation, counted = deal(first, embeddings[0])
        classifiers["linear probe"] = probe_classifier(train, validation)
    rows = []
    for data, of_set in zip(sets, embeddings, strict=True):
        shared = names_among(first.names, data.names)
        if len(shared) < 2:
            raise InputError(f"expected two classes or more of {first.title} in {data.title}, got {len(shared)}")
        among = [first.names.index(name) for name in shared]
        aligned, objects = with_classes(data, first.names)
        mine = counted if data is first else Labeled(of_set[objects], aligned.labels)
        reference = counted.take(torch.isin(counted.labels, torch.tensor(among)).nonzero().squeeze(1))
        if not len(mine.labels) or not len(reference.labels):
            where = first.title if len(mine.labels) else data.title
            raise InputError(
                f"expected objects of the classes that {first.title} and {data.title} share in {where}, got none"
            )
        drops = {
            name: Drop(*(accuracies(predict(each.embeddings, among), each.labels)[0] for each in (mine, reference)))
            for name, predict in classifiers.items()
        }
        known = set(names_among(data.names, first.names))
        left_out = tuple(name for name in data.names if name not in known)
        rows.append(RobustnessRow(data.title, len(shared), len(mine.labels), left_out, drops))
    return rows
